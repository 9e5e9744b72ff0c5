//! Where the tables of tenants are, and whether all of them are there (spec: control-database 1 and 2).
//!
//! What comes in: a connection. What goes out: their [`Place`], and sentences for the operator. What always holds: what exists is never
//! changed nor dropped, only added to; an addition that is one of the original's migrations is noted under its number, so that the
//! original does not add it a second time; a database that a newer original has migrated is left alone. What could not be added is read
//! as its default. (`tests/database/control_database`.) Deliberately absent: rows.

use super::rows::store_error;
use crate::control::database::connect::describe;
use crate::control::database::quote::identifier;
use crate::control::store::StoreError;
use crate::limits;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

/// The schema that holds the tables, and the names that lead there whatever the search path is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Place {
    schema: String,
}

impl Place {
    /// The schema that is used where nothing says another.
    const DEFAULT: &str = "_realtime";

    fn new(schema: String) -> Self {
        Self { schema }
    }

    fn table(&self, name: &str) -> String {
        format!("{}.{name}", identifier(&self.schema))
    }

    pub(super) fn tenants(&self) -> String {
        self.table("tenants")
    }

    pub(super) fn extensions(&self) -> String {
        self.table("extensions")
    }

    pub(super) fn flags(&self) -> String {
        self.table("feature_flags")
    }
}

/// What one of the original's migrations adds, where we know it.
struct Addition {
    version: i64,
    /// Something that is there when it has been made: a column as `table.column`, or a constraint by its name.
    makes: &'static str,
    sql: &'static str,
}

/// What was added since the release whose databases are the oldest that we bring up to date.
const ADDITIONS: [Addition; 6] = [
    Addition {
        version: 20_251_204_170_944,
        makes: "jwt_secret_or_jwt_jwks_required",
        sql: include_str!("../../../migrations/control/keys_required.sql"),
    },
    Addition {
        version: 20_260_209_232_800,
        makes: "tenants.client_presence_window_ms",
        sql: include_str!("../../../migrations/control/presence_windows.sql"),
    },
    Addition {
        version: 20_260_304_000_000,
        makes: "tenants.presence_enabled",
        sql: include_str!("../../../migrations/control/presence_enabled.sql"),
    },
    Addition {
        version: 20_260_422_000_000,
        makes: "tenants.feature_flags",
        sql: include_str!("../../../migrations/control/feature_flags.sql"),
    },
    Addition {
        version: 20_260_709_151_810,
        makes: "feature_flags.rollout_percentage",
        sql: include_str!("../../../migrations/control/rollouts.sql"),
    },
    Addition {
        version: 20_260_805_000_000,
        makes: "tenants.gcm_migrated_at",
        sql: include_str!("../../../migrations/control/gcm_migrated_at.sql"),
    },
];

/// The tables as the release leaves them that [`ADDITIONS`] begin after.
const BASE: &str = include_str!("../../../migrations/control/base.sql");

/// The last migration of that release.
const NEWEST_OF_BASE: i64 = 20_250_926_223_044;

/// The last migration that we know.
const NEWEST: i64 = 20_260_805_000_000;

/// All of the original's migrations up to [`NEWEST`]: what a database of ours says it has had.
const VERSIONS: [i64; 33] = [
    20_210_706_140_551,
    20_220_329_161_857,
    20_220_410_212_326,
    20_220_506_102_948,
    20_220_527_210_857,
    20_220_815_211_129,
    20_220_815_215_024,
    20_220_818_141_501,
    20_221_018_173_709,
    20_221_102_172_703,
    20_221_223_010_058,
    20_230_110_180_046,
    20_230_810_220_907,
    20_230_810_220_924,
    20_231_024_094_642,
    20_240_306_114_423,
    20_240_418_082_835,
    20_240_625_211_759,
    20_240_704_172_020,
    20_240_902_173_232,
    20_241_106_103_258,
    20_250_424_203_323,
    20_250_613_072_131,
    20_250_711_044_927,
    20_250_811_121_559,
    NEWEST_OF_BASE,
    20_251_204_170_944,
    20_251_218_000_543,
    20_260_209_232_800,
    20_260_304_000_000,
    20_260_422_000_000,
    20_260_709_151_810,
    NEWEST,
];

/// Finds the tables, makes them where there are none, and adds what they lack. `is_led` when a query of the operator's has said where to
/// look. The sentences are warnings.
///
/// # Errors
///
/// [`StoreError`] when there are no tables and none can be made, or the database does not answer.
pub(super) async fn prepare(
    client: &mut Client,
    is_led: bool,
) -> Result<(Place, Vec<String>), StoreError> {
    let place = locate(client, is_led).await?;
    let survey = Survey::take(client, &place).await?;
    if !survey.has_tables {
        create(client, &place).await?;
        return Ok((place, Vec::new()));
    }
    let mut notes = Vec::new();
    for addition in survey.lacks() {
        if let Err(error) = add(client, &place, addition).await {
            notes.push(format!(
                "the control database lacks {} (schema {}), which cannot be added: {}. Its default is used instead",
                addition.makes,
                place.schema,
                describe(&error)
            ));
            if client.is_closed() {
                return Err(store_error(&error));
            }
        }
    }
    Ok((place, notes))
}

/// The schema of the tables that the search path leads to; where it leads to none, the one in which they belong.
async fn locate(client: &Client, is_led: bool) -> Result<Place, StoreError> {
    let sql = "select n.nspname::text from pg_catalog.pg_class t \
         join pg_catalog.pg_namespace n on n.oid = t.relnamespace \
         join pg_catalog.pg_class e on e.oid = to_regclass('extensions') and e.relnamespace = t.relnamespace \
         where t.oid = to_regclass('tenants') and exists (select from pg_catalog.pg_attribute a \
           where a.attrelid = t.oid and a.attname = 'external_id' and not a.attisdropped)";
    if let Some(schema) = first_text(client, sql).await? {
        return Ok(Place::new(schema));
    }
    if !is_led {
        return Ok(Place::new(Place::DEFAULT.to_owned()));
    }
    // The query may name a schema that is not there yet.
    let sql = "select coalesce(current_schema()::text, \
         (select name from unnest(string_to_array(replace(current_setting('search_path'), '\"', ''), ',')) with ordinality as p (part, at), \
         trim(p.part) as name where name not in ('', '$user', 'pg_catalog') order by at limit 1))";
    let schema = first_text(client, sql).await?;
    Ok(Place::new(
        schema.unwrap_or_else(|| Place::DEFAULT.to_owned()),
    ))
}

async fn first_text(client: &Client, sql: &str) -> Result<Option<String>, StoreError> {
    let rows = client.query_typed(sql, &[]).await;
    let rows = rows.map_err(|error| store_error(&error))?;
    match rows.first() {
        None => Ok(None),
        Some(row) => row.try_get(0).map_err(|error| store_error(&error)),
    }
}

/// What is there.
struct Survey {
    has_tables: bool,
    /// Columns as `table.column`, and names of constraints.
    present: Vec<String>,
    /// The original's migrations that were noted. None where they are noted nowhere.
    versions: Option<Vec<i64>>,
}

impl Survey {
    async fn take(client: &Client, place: &Place) -> Result<Self, StoreError> {
        let failed = |error: tokio_postgres::Error| store_error(&error);
        let sql = "select c.relname::text || '.' || a.attname::text from pg_catalog.pg_class c \
             join pg_catalog.pg_namespace n on n.oid = c.relnamespace \
             join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped \
             where n.nspname = $1 and c.relkind in ('r', 'p', 'v') \
             and c.relname in ('tenants', 'extensions', 'feature_flags', 'schema_migrations') \
             union all select o.conname::text from pg_catalog.pg_constraint o \
             join pg_catalog.pg_namespace n on n.oid = o.connamespace where n.nspname = $1";
        let rows = client
            .query_typed(sql, &[(&place.schema, Type::TEXT)])
            .await
            .map_err(failed)?;
        let present = rows.iter().map(|row| row.try_get(0));
        let present: Vec<String> = present.collect::<Result<_, _>>().map_err(failed)?;
        let has = |name: &str| present.iter().any(|one| one == name);
        let versions = if has("schema_migrations.version") {
            let sql = format!(
                "select version::bigint from {}",
                place.table("schema_migrations")
            );
            let rows = client.query_typed(&sql, &[]).await.map_err(failed)?;
            let versions = rows.iter().map(|row| row.try_get(0));
            Some(versions.collect::<Result<_, _>>().map_err(failed)?)
        } else {
            None
        };
        Ok(Self {
            has_tables: has("tenants.external_id") && has("extensions.tenant_external_id"),
            present,
            versions,
        })
    }

    /// What is to be added: of a database that is at least as new as the base, and that nobody newer than we has migrated.
    fn lacks(&self) -> Vec<&'static Addition> {
        let versions = self.versions.as_deref().unwrap_or_default();
        let newest = versions.iter().max().copied().unwrap_or(NEWEST_OF_BASE);
        if !(NEWEST_OF_BASE..=NEWEST).contains(&newest) {
            return Vec::new();
        }
        let lacks = |addition: &&Addition| {
            !versions.contains(&addition.version)
                && !self.present.iter().any(|one| one == addition.makes)
        };
        ADDITIONS.iter().filter(lacks).collect()
    }
}

/// Only one process at a time changes the schema, or writes tenants at its start: the ASCII codes of "tenants".
pub(super) const ADVISORY_LOCK: i64 = 0x74_656e_616e_7473;

fn preamble(place: &Place) -> String {
    format!(
        "set local lock_timeout = {}; set local statement_timeout = {}; select pg_catalog.pg_advisory_xact_lock({ADVISORY_LOCK}); \
         set local search_path = {}, pg_catalog",
        limits::MIGRATION_LOCK_TIMEOUT.as_millis(),
        limits::MIGRATION_STATEMENT_TIMEOUT.as_millis(),
        identifier(&place.schema)
    )
}

/// Makes everything, in one transaction.
async fn create(client: &mut Client, place: &Place) -> Result<(), StoreError> {
    let failed = |error: tokio_postgres::Error| match store_error(&error) {
        StoreError::Refused { error } => StoreError::Refused {
            error: format!(
                "the tables of tenants cannot be made in schema {}: {error}. Let DB_USER create there, or make the schema as somebody who \
                 may: create schema {} authorization the_user",
                place.schema,
                identifier(&place.schema)
            ),
        },
        error => error,
    };
    let transaction = client.transaction().await.map_err(failed)?;
    transaction
        .batch_execute(&preamble(place))
        .await
        .map_err(failed)?;
    // Another process may have had the lock, and made everything.
    if Survey::take(transaction.client(), place).await?.has_tables {
        return transaction.commit().await.map_err(failed);
    }
    let mut sql = String::new();
    let exists = "select 'there' from pg_catalog.pg_namespace where nspname = $1";
    let rows = transaction
        .query_typed(exists, &[(&place.schema, Type::TEXT)])
        .await
        .map_err(failed)?;
    if rows.is_empty() {
        sql = format!("create schema {};", identifier(&place.schema));
    }
    sql.push_str(BASE);
    for addition in &ADDITIONS {
        sql.push_str(addition.sql);
    }
    transaction.batch_execute(&sql).await.map_err(failed)?;
    note(&transaction, &VERSIONS).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)
}

/// Adds one thing, and notes it.
async fn add(
    client: &mut Client,
    place: &Place,
    addition: &Addition,
) -> Result<(), tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    transaction.batch_execute(&preamble(place)).await?;
    let Ok(survey) = Survey::take(transaction.client(), place).await else {
        // Whatever it was comes again with the next statement.
        return transaction.commit().await;
    };
    let is_lacking = survey
        .lacks()
        .iter()
        .any(|lacking| lacking.version == addition.version);
    if is_lacking {
        transaction.batch_execute(addition.sql).await?;
        if survey.versions.is_some() {
            note(&transaction, &[addition.version]).await?;
        }
    }
    transaction.commit().await
}

async fn note(
    transaction: &tokio_postgres::Transaction<'_>,
    versions: &[i64],
) -> Result<(), tokio_postgres::Error> {
    let sql = "insert into schema_migrations (version, inserted_at) \
         select version, now() at time zone 'UTC' from unnest($1) as version on conflict (version) do nothing";
    let noted = transaction
        .execute_typed(sql, &[(&versions, Type::INT8_ARRAY)])
        .await;
    noted.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn survey(present: &[&str], versions: Option<&[i64]>) -> Survey {
        Survey {
            has_tables: true,
            present: present.iter().map(|name| (*name).to_owned()).collect(),
            versions: versions.map(<[i64]>::to_vec),
        }
    }

    fn lacking(survey: &Survey) -> Vec<i64> {
        let lacks = survey.lacks();
        lacks.iter().map(|addition| addition.version).collect()
    }

    #[test]
    fn all_versions_are_there_once_and_in_order() {
        assert!(VERSIONS.is_sorted());
        assert!(
            ADDITIONS
                .iter()
                .all(|addition| VERSIONS.contains(&addition.version))
        );
        assert_eq!((VERSIONS[25], VERSIONS[32]), (NEWEST_OF_BASE, NEWEST));
    }

    #[test]
    fn what_is_lacking_is_planned_and_nothing_else() {
        let all: Vec<i64> = ADDITIONS.iter().map(|addition| addition.version).collect();
        assert_eq!(lacking(&survey(&[], Some(&VERSIONS[..26]))), all);
        assert_eq!(lacking(&survey(&[], None)), all, "made by hand");
        assert!(
            lacking(&survey(&[], Some(&VERSIONS))).is_empty(),
            "it was taken away by somebody"
        );
        assert!(
            lacking(&survey(&[], Some(&VERSIONS[..25]))).is_empty(),
            "older than the base"
        );
        let newer = [&VERSIONS[..26], &[NEWEST + 1]].concat();
        assert!(
            lacking(&survey(&[], Some(&newer))).is_empty(),
            "a newer original's"
        );
        let some = survey(
            &["tenants.presence_enabled", "tenants.x"],
            Some(&VERSIONS[..27]),
        );
        assert_eq!(lacking(&some), [&all[1..2], &all[3..]].concat());
    }

    #[test]
    fn names_are_quoted() {
        assert_eq!(
            Place::new("a\"b".to_owned()).tenants(),
            "\"a\"\"b\".tenants"
        );
    }
}
