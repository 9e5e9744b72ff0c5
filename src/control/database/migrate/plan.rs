//! Which steps a database needs, and whether we may execute them.
//!
//! What comes in: a [`Survey`]. What goes out: a [`Plan`], or the sentence that says why there is none. What always holds: a step is
//! planned only where something that it creates is missing, so what exists is never dropped nor rewritten
//! (`nothing_is_planned_where_everything_exists`); of a database that upstream migrated only guarded additions are made
//! (`seed_gets_additions_only`). Deliberately absent: waiting; everything here is a function of values.

use super::error::{MigrationError, Privilege};
use super::steps::{NEWEST_UPSTREAM, Needs, SEND_ADDS_ID, STEPS, Step};
use super::survey::Survey;

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The steps, in their order.
    pub(super) steps: Vec<&'static Step>,
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
    let mut steps: Vec<&Step> = STEPS
        .iter()
        .filter(|step| is_needed(step, survey))
        .collect();
    let mut notes = notes(survey);
    if !survey.may_create_in_database {
        let before = steps.len();
        steps.retain(|step| step.needs != Needs::Publication);
        if steps.len() < before {
            notes.push(format!(
                "publication supabase_realtime is missing, so no table has Postgres Changes; let somebody who may execute: \
                 create publication supabase_realtime; or grant create on database {} to {};",
                quoted(&survey.database),
                quoted(&survey.user)
            ));
        }
    }
    let missing = missing_privileges(&steps, survey);
    if missing.is_empty() {
        Ok(Plan { steps, notes })
    } else {
        Err(MigrationError::Privileges {
            user: survey.user.clone(),
            database: survey.database.clone(),
            missing,
        })
    }
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
        return Err(MigrationError::Unusable(format!(
            "realtime.schema_migrations goes up to version {}, but there is no table realtime.messages. Drop schema realtime, so that it \
             is set up anew",
            survey
                .upstream_versions
                .last()
                .expect("it was checked not to be empty")
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
    let is_outdated = step.name == "send" && !survey.upstream_versions.contains(&SEND_ADDS_ID);
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
                        "grant usage on schema realtime to anon, authenticated, service_role"
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
                if step.name == "send" && survey.has("function send/4") && !survey.owns_send {
                    lack(
                        "only the owner of realtime.send may replace it",
                        format!(
                            "alter function realtime.send(jsonb, text, text, boolean) owner to {user}"
                        ),
                    );
                }
            }
            Needs::Publication => {}
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
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}
