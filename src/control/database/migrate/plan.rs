//! Which steps a database needs, and whether we may execute them.
//!
//! What comes in: a [`Survey`]. What goes out: a [`Plan`], or the sentence that says why there is none. What always holds: a step is
//! planned only where something that it creates is missing, so what exists is never dropped nor rewritten
//! (`nothing_is_planned_where_everything_exists`); of a database that upstream migrated only guarded additions are made
//! (`of_upstreams_database_only_additions_are_planned`). Deliberately absent: waiting; everything here is a function of values.

use super::error::{MigrationError, Privilege};
use super::steps::{Needs, PUBLICATION, SEND, SEND_IS_CURRENT, STEPS, Step};
use super::survey::Survey;
use super::versions::{NEWEST_UPSTREAM, SEND_ADDS_ID};
use crate::control::database::quote::identifier;

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The steps, in their order.
    pub(super) steps: Vec<&'static Step>,
    /// Afterwards the schema is as upstream's migrations leave it, and may be recorded as theirs.
    pub(super) equals_upstreams: bool,
    /// What works without us but not as it could, in sentences for the operator.
    pub(super) notes: Vec<String>,
}

/// The oldest version that works, as `server_version_num` counts.
const OLDEST_SERVER: i32 = 140_000;

/// Plans for this database.
///
/// # Errors
///
/// [`MigrationError`] without anything having been tried.
pub(super) fn plan(survey: &Survey) -> Result<Plan, MigrationError> {
    if survey.server_version < OLDEST_SERVER {
        return Err(MigrationError::TooOld(survey.server_version));
    }
    usable(survey)?;
    let steps: Vec<&Step> = STEPS
        .iter()
        .filter(|step| is_needed(step, survey))
        .collect();
    let mut notes = notes(survey);
    // It is the operator's (spec: tenant-database 5.4): said once, when the database is set up.
    if !steps.is_empty() && !survey.has(PUBLICATION) {
        notes.push(
            "publication supabase_realtime is missing, so no table has Postgres Changes; let somebody who may execute: \
             create publication supabase_realtime;"
                .to_owned(),
        );
    }
    let missing = missing_privileges(&steps, survey);
    if missing.is_empty() {
        Ok(Plan {
            equals_upstreams: equals_upstreams(survey),
            steps,
            notes,
        })
    } else {
        Err(MigrationError::Privileges {
            user: survey.user.clone(),
            database: survey.database.clone(),
            missing,
        })
    }
}

/// Whether the schema will be as upstream's migrations leave it: nothing of it is there yet, we may do everything, and everybody exists
/// who gets a grant (spec: tenant-database 5.4).
fn equals_upstreams(survey: &Survey) -> bool {
    let is_of_schema = |object: &String| {
        ["type ", "relation ", "column ", "function ", "current "]
            .iter()
            .any(|kind| object.starts_with(kind) && object != "relation schema_migrations")
    };
    survey.is_superuser
        && !survey.is_upstreams()
        && !survey.present.iter().any(is_of_schema)
        && ["postgres", "dashboard_user"]
            .iter()
            .all(|role| survey.has(&format!("role {role}")))
}

/// Whether what is there can be built upon.
fn usable(survey: &Survey) -> Result<(), MigrationError> {
    let has_messages = survey.has("relation messages");
    if has_messages && !survey.messages_are_partitioned {
        return Err(MigrationError::Unusable(
            "realtime.messages is no partitioned table: what set it up is older than late 2024. Bring it up to date with a current \
             Supabase Realtime, or drop schema realtime"
                .to_owned(),
        ));
    }
    if survey.is_upstreams() && !has_messages {
        let newest = survey.upstream_versions.last();
        let newest = newest
            .map(|newest| format!(" up to {newest}"))
            .unwrap_or_default();
        return Err(MigrationError::Unusable(format!(
            "realtime.schema_migrations has upstream's versions{newest}, but there is no table realtime.messages. Drop schema realtime, \
             so that it is set up anew"
        )));
    }
    Ok(())
}

fn is_needed(step: &Step, survey: &Survey) -> bool {
    let is_missing = step.creates.iter().any(|object| !survey.has(object));
    if !survey.is_upstreams() {
        return is_missing;
    }
    // Whatever a newer upstream has made of it is fine: what works there works with us.
    let newest = survey.upstream_versions.last().copied().unwrap_or_default();
    if !step.is_for_upstreams || newest >= NEWEST_UPSTREAM {
        return false;
    }
    let is_outdated = step.name == "send"
        && survey.may_read_upstream
        && !survey.has(SEND_IS_CURRENT)
        && !survey.upstream_versions.contains(&SEND_ADDS_ID);
    is_missing || is_outdated
}

fn missing_privileges(steps: &[&'static Step], survey: &Survey) -> Vec<Privilege> {
    let mut missing = Vec::new();
    if survey.is_superuser {
        return missing;
    }
    let mut lack = |what: &str, statement: String| {
        let privilege = Privilege {
            what: what.to_owned(),
            statement,
        };
        if !missing.contains(&privilege) {
            missing.push(privilege);
        }
    };
    let user = quoted(&survey.user);
    if !steps.is_empty() && survey.is_upstreams() && !survey.may_read_upstream {
        lack(
            "it says which migrations of upstream's ran",
            format!("grant select, insert on realtime.schema_migrations to {user}"),
        );
    }
    for step in steps {
        match step.needs {
            Needs::Roles => {
                for (role, attributes) in ROLES {
                    // Before 16 only superusers make roles that bypass policies, from then on also who bypasses them.
                    let bypasses = attributes.contains("bypassrls");
                    let may = survey.may_create_roles
                        && (!bypasses
                            || (survey.server_version >= 160_000 && survey.bypasses_policies));
                    if !may && !survey.has(&format!("role {role}")) {
                        lack(
                            "tokens name this role",
                            format!(
                                "create role {role} nologin {attributes}; grant {role} to {user}"
                            ),
                        );
                    }
                }
            }
            Needs::Schema if !survey.has("schema") => {
                if !survey.may_create_in_database {
                    lack(
                        "schema realtime does not exist",
                        format!("create schema realtime authorization {user}"),
                    );
                }
            }
            Needs::Schema => {
                if !survey.owns_schema {
                    lack(
                        "clients' roles have to see the schema",
                        "grant usage on schema realtime to anon, authenticated, service_role; \
                         grant all on schema realtime to supabase_realtime_admin with grant option"
                            .to_owned(),
                    );
                }
            }
            Needs::Messages => {
                let owner = survey.messages_owner.as_deref();
                if let (Some(owner), false) = (owner, survey.owns_messages) {
                    lack(
                        "only the owner of realtime.messages may change it",
                        format!("grant {} to {user}", quoted(owner)),
                    );
                }
            }
            Needs::Nothing => {
                if survey.has("schema") && !survey.may_create_in_schema {
                    lack(
                        "tables and functions of realtime are missing",
                        format!("grant create, usage on schema realtime to {user}"),
                    );
                }
                if step.name == "send" && survey.has(SEND) && !survey.owns_send {
                    lack(
                        "only the owner of realtime.send may replace it",
                        format!(
                            "alter function realtime.send(jsonb, text, text, boolean) owner to {user}"
                        ),
                    );
                }
            }
        }
    }
    missing
}

/// The roles of `010_roles.sql`.
const ROLES: [(&str, &str); 4] = [
    ("anon", "noinherit"),
    ("authenticated", "noinherit"),
    ("service_role", "noinherit bypassrls"),
    ("supabase_realtime_admin", "noinherit"),
];

/// What an operator should know whether or not there is something to do.
fn notes(survey: &Survey) -> Vec<String> {
    let mut notes = Vec::new();
    let user = quoted(&survey.user);
    if !survey.foreign_roles.is_empty() {
        notes.push(format!(
            "private channels cannot be authorized for the roles of their tokens; let somebody who may execute: grant {} to {user};",
            survey.foreign_roles.join(", ")
        ));
    }
    if !survey.may_replicate && !survey.is_superuser {
        notes.push(format!(
            "rows of realtime.messages cannot be streamed; let a superuser execute: alter role {user} replication;"
        ));
    }
    if !is_utc(&survey.time_zone) {
        notes.push(format!(
            "sessions of this database are in time zone {}, not UTC: rows that are inserted into realtime.messages without \
             realtime.send get the wrong day. Execute: alter database {} set timezone to 'UTC';",
            survey.time_zone,
            quoted(&survey.database)
        ));
    }
    notes
}

fn is_utc(zone: &str) -> bool {
    [
        "UTC",
        "GMT",
        "Etc/UTC",
        "Etc/GMT",
        "UCT",
        "Etc/UCT",
        "Zulu",
        "Etc/Zulu",
        "Universal",
        "Etc/Universal",
        "Greenwich",
        "Etc/Greenwich",
    ]
    .iter()
    .any(|known| known.eq_ignore_ascii_case(zone))
}

/// A name as it stands in a statement: quoted where it has to be.
fn quoted(name: &str) -> String {
    let is_plain = name.bytes().enumerate().all(|(index, byte)| {
        byte.is_ascii_lowercase() || byte == b'_' || (index > 0 && byte.is_ascii_digit())
    });
    if is_plain && !name.is_empty() && name != "user" {
        name.to_owned()
    } else {
        identifier(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A PostgreSQL 15 of ours with everything in it.
    fn complete() -> Survey {
        let objects = STEPS.iter().flat_map(|step| step.creates);
        Survey {
            server_version: 150_004,
            user: "realtime".to_owned(),
            database: "app".to_owned(),
            may_create_in_database: true,
            may_create_in_schema: true,
            owns_schema: true,
            messages_owner: Some("realtime".to_owned()),
            owns_messages: true,
            messages_are_partitioned: true,
            owns_send: true,
            may_replicate: true,
            time_zone: "UTC".to_owned(),
            present: objects.map(|object| (*object).to_owned()).collect(),
            ..Survey::default()
        }
    }

    fn without(objects: &[&str]) -> Survey {
        let mut survey = complete();
        for object in objects {
            assert!(
                survey.present.remove(*object),
                "{object} is created by nobody"
            );
        }
        survey
    }

    fn upstreams(versions: &[i64], missing: &[&str]) -> Survey {
        let mut survey = without(missing);
        survey
            .present
            .insert("relation schema_migrations".to_owned());
        survey.may_read_upstream = true;
        survey.upstream_versions = versions.iter().copied().collect();
        survey
    }

    fn names(survey: &Survey) -> Vec<&'static str> {
        let plan = plan(survey).unwrap_or_else(|error| panic!("{error}"));
        plan.steps.iter().map(|step| step.name).collect()
    }

    #[test]
    fn nothing_is_planned_where_everything_exists() {
        assert_eq!(names(&complete()), [""; 0]);
        assert_eq!(plan(&complete()).unwrap().notes, [""; 0]);
    }

    #[test]
    fn steps_are_planned_by_what_is_missing() {
        for step in STEPS {
            for object in step.creates {
                let mut survey = without(&[object]);
                survey.is_superuser = true;
                assert_eq!(names(&survey), [step.name], "{object}");
            }
        }
    }

    #[test]
    fn steps_are_in_the_order_of_their_files() {
        assert!(STEPS.is_sorted_by_key(|step| step.number));
        for step in STEPS {
            assert!(
                !step.is_for_upstreams || !step.sql.contains("drop "),
                "{}",
                step.name
            );
        }
    }

    #[test]
    fn of_upstreams_database_only_additions_are_planned() {
        let check = |versions: &[i64], missing: &[&str], expected: &[&str]| {
            assert_eq!(names(&upstreams(versions, missing)), expected);
        };
        let additions = [
            "column binary_payload",
            "function send_binary(bytea, text, text, bool)",
        ];
        check(
            &[SEND_ADDS_ID],
            &additions,
            &["binary_payload", "send_binary"],
        );
        check(
            &[SEND_ADDS_ID],
            &["relation subscription", "type action"],
            &[],
        );
        check(&[SEND_ADDS_ID - 1], &[], &["send"]);
        check(&[SEND_ADDS_ID - 1, NEWEST_UPSTREAM], &additions, &[]);
        check(&[NEWEST_UPSTREAM + 1], &additions, &[]);
        // An empty table of versions is nobody's.
        check(&[], &["relation subscription"], &["subscription"]);
        let mut replaced = upstreams(&[SEND_ADDS_ID - 1], &[]);
        replaced.present.insert(SEND_IS_CURRENT.to_owned());
        assert_eq!(names(&replaced), [""; 0]);
    }

    #[test]
    fn closed_bookkeeping_matters_only_when_there_is_something_to_do() {
        let closed = |missing: &[&str]| Survey {
            may_read_upstream: false,
            ..upstreams(&[], missing)
        };
        assert_eq!(names(&closed(&["relation subscription"])), [""; 0]);
        let error = plan(&closed(&["column binary_payload"])).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("grant select, insert on realtime.schema_migrations to realtime;"),
            "{error}"
        );
    }

    #[test]
    fn missing_privileges_are_named_with_their_statement() {
        let check = |change: fn(&mut Survey), missing: &[&str], expected: &str| {
            let mut survey = without(missing);
            change(&mut survey);
            let text = plan(&survey).unwrap_err().to_string();
            assert!(text.contains(expected), "{text}");
            survey.is_superuser = true;
            assert!(plan(&survey).is_ok());
        };
        check(
            |_| {},
            &["role anon"],
            "create role anon nologin noinherit; grant anon to realtime;",
        );
        let bypassing = "create role service_role nologin noinherit bypassrls;";
        check(
            |survey| survey.may_create_roles = true,
            &["role service_role"],
            bypassing,
        );
        check(
            |survey| {
                survey.may_create_roles = true;
                survey.bypasses_policies = true;
            },
            &["role service_role"],
            bypassing,
        );
        check(
            |survey| survey.may_create_in_database = false,
            &["schema"],
            "create schema realtime authorization realtime;",
        );
        check(
            |survey| survey.owns_schema = false,
            &["usage anon"],
            "grant usage on schema realtime to anon,",
        );
        check(
            |survey| survey.may_create_in_schema = false,
            &["function topic()"],
            "grant create, usage on schema realtime to realtime;",
        );
        check(
            |survey| {
                survey.owns_messages = false;
                survey.messages_owner = Some("Their Admin".to_owned());
            },
            &["column binary_payload"],
            "grant \"Their Admin\" to realtime;",
        );
    }

    #[test]
    fn who_bypasses_policies_makes_such_roles_from_16_on() {
        let mut survey = without(&["role service_role"]);
        survey.may_create_roles = true;
        survey.bypasses_policies = true;
        survey.server_version = 160_001;
        assert_eq!(names(&survey), ["roles"]);
    }

    #[test]
    fn publication_is_the_operators_and_missed_once() {
        let said = |survey: &Survey| {
            let notes = plan(survey).unwrap().notes;
            let mut notes = notes.iter();
            notes.any(|note| note.contains("create publication supabase_realtime;"))
        };
        assert!(!said(&complete()), "everything is set up already");
        let mut steps = STEPS.iter();
        let step = steps.find(|step| step.name == "send_binary").unwrap();
        let mut survey = without(step.creates);
        assert_eq!(names(&survey), ["send_binary"]);
        assert!(said(&survey));
        survey.present.insert(PUBLICATION.to_owned());
        assert!(!said(&survey));
    }

    #[test]
    fn only_a_schema_that_is_all_ours_equals_upstreams() {
        let check = |change: fn(&mut Survey), expected: bool| {
            let mut survey = complete();
            survey.is_superuser = true;
            survey
                .present
                .retain(|object| object.starts_with("role ") || object == "schema");
            for role in ["role postgres", "role dashboard_user"] {
                survey.present.insert(role.to_owned());
            }
            change(&mut survey);
            assert_eq!(plan(&survey).unwrap().equals_upstreams, expected);
        };
        check(|_| {}, true);
        check(|survey| survey.is_superuser = false, false);
        check(
            |survey| assert!(survey.present.remove("role dashboard_user")),
            false,
        );
        check(
            |survey| assert!(survey.present.insert("function topic()".to_owned())),
            false,
        );
        check(
            |survey| assert!(survey.present.insert("type action".to_owned())),
            false,
        );
        // An empty table of versions, as upstream's migrations begin.
        check(
            |survey| {
                survey
                    .present
                    .insert("relation schema_migrations".to_owned());
                survey.may_read_upstream = true;
            },
            true,
        );
    }

    #[test]
    fn versions_before_14_are_refused() {
        let check = |server_version: i32, works: bool| {
            let survey = Survey {
                server_version,
                ..complete()
            };
            assert_eq!(plan(&survey).is_ok(), works, "{server_version}");
        };
        check(130_022, false);
        check(140_000, true);
        check(170_006, true);
    }

    #[test]
    fn names_are_quoted_where_they_have_to_be() {
        let check = |name: &str, expected: &str| assert_eq!(quoted(name), expected);
        check("realtime", "realtime");
        check("a_1", "a_1");
        check("1a", "\"1a\"");
        check("", "\"\"");
        check("user", "\"user\"");
        check("Postgres", "\"Postgres\"");
        check("a\"b", "\"a\"\"b\"");
        check("a-b", "\"a-b\"");
    }

    #[test]
    fn utc_has_many_names() {
        assert!(
            ["UTC", "utc", "Etc/UTC", "GMT", "Zulu"]
                .iter()
                .all(|zone| is_utc(zone))
        );
        assert!(
            !["Europe/London", "UTC+1", ""]
                .iter()
                .any(|zone| is_utc(zone))
        );
    }
}
