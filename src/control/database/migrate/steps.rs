//! The steps that set up schema `realtime`: the files of `migrations/tenant`, and what each of them brings into being.

/// One step: an SQL file that is executed where something of what it creates is missing.
#[derive(Debug)]
pub(super) struct Step {
    /// The number in front of its file's name, and in `realtime.rs_schema_migrations`.
    pub(super) number: i64,
    /// The rest of its file's name.
    pub(super) name: &'static str,
    /// The file.
    pub(super) sql: &'static str,
    /// What exists after it, in the words of a survey. It is needed while one of them is missing.
    pub(super) creates: &'static [&'static str],
    /// What it needs beyond the right to create in the schema.
    pub(super) needs: Needs,
    /// It may be applied to a database that upstream migrated: it adds, and whatever it adds is guarded.
    pub(super) is_for_upstreams: bool,
    /// The version of upstream's that leaves the database exactly as this step does, where executing both would fail.
    pub(super) upstream_version: Option<i64>,
}

/// What a step may do only with the right to.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Needs {
    /// To create roles, one of which bypasses policies.
    Roles,
    /// To create the schema, or to grant its use.
    Schema,
    /// To create in the schema.
    Nothing,
    /// The rights of the owner of `realtime.messages`.
    Messages,
}

macro_rules! step {
    ($number:literal, $name:literal, $needs:ident, [$($creates:literal),* $(,)?], $upstreams:literal, $version:expr) => {
        Step {
            number: $number,
            name: $name,
            sql: include_str!(concat!("../../../../migrations/tenant/0", stringify!($number), "_", $name, ".sql")),
            creates: &[$($creates),*],
            needs: Needs::$needs,
            is_for_upstreams: $upstreams,
            upstream_version: $version,
        }
    };
}

/// All steps, in their order.
pub(super) const STEPS: &[Step] = &[
    step!(
        10,
        "roles",
        Roles,
        [
            "role anon",
            "role authenticated",
            "role service_role",
            "role supabase_realtime_admin"
        ],
        false,
        None
    ),
    step!(
        20,
        "schema",
        Schema,
        [
            "schema",
            "usage anon",
            "usage authenticated",
            "usage service_role",
            "administration of the schema"
        ],
        false,
        None
    ),
    step!(
        21,
        "default_privileges",
        Nothing,
        ["default privileges"],
        false,
        None
    ),
    step!(
        30,
        "types",
        Nothing,
        [
            "type action",
            "type equality_op",
            "type user_defined_filter",
            "type wal_column",
            "type wal_rls"
        ],
        false,
        None
    ),
    step!(40, "messages", Nothing, ["relation messages"], false, None),
    step!(
        41,
        "binary_payload",
        Messages,
        ["column binary_payload"],
        true,
        Some(20_260_514_120_000)
    ),
    step!(
        42,
        "replay_index",
        Messages,
        ["relation messages_inserted_at_topic_index"],
        true,
        Some(20_250_905_041_441)
    ),
    step!(50, "topic", Nothing, ["function topic()"], true, None),
    step!(
        51,
        "send",
        Nothing,
        ["function send(jsonb, text, text, bool)"],
        true,
        None
    ),
    step!(
        52,
        "send_binary",
        Nothing,
        ["function send_binary(bytea, text, text, bool)"],
        true,
        None
    ),
    step!(
        53,
        "broadcast_changes",
        Nothing,
        ["function broadcast_changes(text, text, text, text, text, record, record, text)"],
        true,
        None
    ),
    step!(
        60,
        "to_regrole",
        Nothing,
        ["function to_regrole(text)"],
        false,
        None
    ),
    step!(
        61,
        "cast",
        Nothing,
        ["function cast(text, regtype)"],
        false,
        None
    ),
    step!(
        62,
        "subscription_check_filters",
        Nothing,
        ["function subscription_check_filters()"],
        false,
        None
    ),
    step!(
        63,
        "subscription",
        Nothing,
        ["relation subscription"],
        false,
        None
    ),
    step!(
        70,
        "check_equality_op",
        Nothing,
        ["function check_equality_op(realtime.equality_op, regtype, text, text)"],
        false,
        None
    ),
    step!(
        71,
        "check_equality_op_negated",
        Nothing,
        ["function check_equality_op(realtime.equality_op, regtype, text, text, bool)"],
        false,
        None
    ),
    step!(
        72,
        "is_visible_through_filters",
        Nothing,
        [
            "function is_visible_through_filters(realtime._wal_column, realtime._user_defined_filter)"
        ],
        false,
        None
    ),
    step!(
        73,
        "build_prepared_statement_sql",
        Nothing,
        ["function build_prepared_statement_sql(text, regclass, realtime._wal_column)"],
        false,
        None
    ),
    step!(
        74,
        "apply_rls",
        Nothing,
        ["function apply_rls(jsonb, int4)"],
        false,
        None
    ),
    step!(
        75,
        "wal2json_escape_identifier",
        Nothing,
        ["function wal2json_escape_identifier(text)"],
        false,
        None
    ),
    step!(
        76,
        "quote_wal2json",
        Nothing,
        ["function quote_wal2json(regclass)"],
        false,
        None
    ),
    step!(
        77,
        "list_changes",
        Nothing,
        ["function list_changes(name, name, int4, int4)"],
        false,
        None
    ),
];

/// In a survey: there is the publication that Supabase's databases have.
pub(super) const PUBLICATION: &str = "publication supabase_realtime";

/// In a survey: there is a `realtime.send`.
pub(super) const SEND: &str = "function send(jsonb, text, text, bool)";

/// In a survey: `realtime.send` is ours, or upstream's of 2026.
pub(super) const SEND_IS_CURRENT: &str = "current function send";

#[cfg(test)]
mod tests {
    use super::*;

    /// Superusers call these, wherever their search path leads (PostgreSQL 14 lets everybody create in `public`). They may not set a path
    /// of their own: it would change how types are printed.
    #[test]
    fn functions_name_the_schema_of_what_they_call() {
        const GRAMMAR: [&str; 4] = ["array", "coalesce", "nullif", "row"];
        let is_of_name =
            |character: char| character.is_ascii_alphanumeric() || "_.\"".contains(character);
        let mut functions = 0;
        for step in STEPS.iter().filter(|step| (50..80).contains(&step.number)) {
            let Some((_, rest)) = step.sql.split_once("as $$\n") else {
                continue;
            };
            functions += 1;
            let (body, _) = rest.split_once("\n$$;").expect("the body ends");
            for (position, _) in body.match_indices('(') {
                let before = &body[..position];
                let name = &before[before.trim_end_matches(is_of_name).len()..];
                let is_qualified = name.starts_with("pg_catalog.") || name.starts_with("realtime.");
                assert!(
                    name.is_empty() || is_qualified || GRAMMAR.contains(&name),
                    "{}: {name}",
                    step.name
                );
            }
        }
        assert_eq!(functions, 15);
    }
}
