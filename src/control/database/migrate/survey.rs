//! What a tenant's database holds and lets us do, read from its catalogs in one or two round trips.
//!
//! What comes in: a connection. What goes out: a [`Survey`], plain values that [`super::plan`] decides from. What always holds: nothing
//! is changed, and no table of the users is touched (`survey_reads_catalogs_only` reads the statement). Deliberately absent: decisions.

use std::collections::BTreeSet;
use tokio_postgres::GenericClient;

/// A tenant's database as its catalogs show it.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// `server_version_num`: 150004 is 15.4.
    pub server_version: i32,
    /// Who we are.
    pub user: String,
    /// Where we are.
    pub database: String,
    /// We may do anything.
    pub is_superuser: bool,
    /// `CREATEROLE`.
    pub may_create_roles: bool,
    /// `BYPASSRLS`.
    pub bypasses_policies: bool,
    /// `REPLICATION`.
    pub may_replicate: bool,
    /// `CREATE` on the database: schemas and publications.
    pub may_create_in_database: bool,
    /// `CREATE` and `USAGE` on schema `realtime`.
    pub may_create_in_schema: bool,
    /// We have the rights of the owner of schema `realtime`.
    pub owns_schema: bool,
    /// The owner of `realtime.messages`, if it exists.
    pub messages_owner: Option<String>,
    /// We have that owner's rights.
    pub owns_messages: bool,
    /// `realtime.messages` is partitioned.
    pub messages_are_partitioned: bool,
    /// We have the rights of the owner of `realtime.send`.
    pub owns_send: bool,
    /// We may read `realtime.schema_migrations`, which exists.
    pub may_read_upstream: bool,
    /// We may note a version in it.
    pub may_record_upstream: bool,
    /// Roles of tokens that exist and that we may not become.
    pub foreign_roles: Vec<String>,
    /// The zone of our sessions when nobody sets one.
    pub time_zone: String,
    /// What exists of what the steps create, in their words: `function send(jsonb, text, text, bool)`, with types as `pg_type` names
    /// them, those of other schemas than `pg_catalog` with their schema.
    pub present: BTreeSet<String>,
    /// The versions in it.
    pub upstream_versions: BTreeSet<i64>,
}

const SURVEY: &str = "
with wanted(role) as (values ('anon'), ('authenticated'), ('service_role'), ('supabase_realtime_admin'), ('postgres'), ('dashboard_user')),
objects(name) as (
  select 'role ' || rolname from pg_catalog.pg_roles join wanted on role = rolname
  union all select 'schema' from pg_catalog.pg_namespace where nspname = 'realtime'
  union all select 'usage ' || rolname from pg_catalog.pg_namespace s, pg_catalog.pg_roles u
    where s.nspname = 'realtime' and u.rolname in (select role from wanted) and pg_catalog.has_schema_privilege(u.oid, s.oid, 'usage')
  union all select 'administration of the schema' from pg_catalog.pg_namespace s, pg_catalog.pg_roles u
    where s.nspname = 'realtime' and u.rolname = 'supabase_realtime_admin'
      and pg_catalog.has_schema_privilege(u.oid, s.oid, 'create with grant option')
  union all select 'default privileges' where not exists (
    select from pg_catalog.pg_roles where rolname in ('postgres', 'dashboard_user') and rolname <> current_user
  ) or exists (
    select from pg_catalog.pg_default_acl d join pg_catalog.pg_namespace s on s.oid = defaclnamespace
    where s.nspname = 'realtime' and pg_catalog.pg_get_userbyid(defaclrole) = current_user
  )
  union all select 'type ' || typname from pg_catalog.pg_type t join pg_catalog.pg_namespace s on s.oid = typnamespace
    where s.nspname = 'realtime' and typname in ('action', 'equality_op', 'user_defined_filter', 'wal_column', 'wal_rls')
  union all select 'relation ' || relname from pg_catalog.pg_class c join pg_catalog.pg_namespace s on s.oid = relnamespace
    where s.nspname = 'realtime' and relname in ('messages', 'messages_inserted_at_topic_index', 'subscription', 'schema_migrations')
  union all select 'column ' || attname from pg_catalog.pg_attribute a join pg_catalog.pg_class c on c.oid = attrelid
    join pg_catalog.pg_namespace s on s.oid = relnamespace
    where s.nspname = 'realtime' and relname = 'messages' and attnum > 0 and not attisdropped
  union all select 'function ' || proname || '(' || coalesce((
      select pg_catalog.string_agg(case ts.nspname when 'pg_catalog' then '' else ts.nspname || '.' end || typname, ', ' order by position)
      from pg_catalog.unnest(proargtypes) with ordinality as a (argument, position)
      join pg_catalog.pg_type t on t.oid = argument join pg_catalog.pg_namespace ts on ts.oid = typnamespace
    ), '') || ')'
    from pg_catalog.pg_proc p join pg_catalog.pg_namespace s on s.oid = pronamespace where s.nspname = 'realtime'
  union all select 'current function send' from pg_catalog.pg_proc p join pg_catalog.pg_namespace s on s.oid = pronamespace
    where s.nspname = 'realtime' and proname = 'send' and pg_catalog.oidvectortypes(proargtypes) = 'jsonb, text, text, boolean'
      and prosrc like '%WarnSendingBroadcastMessage%'
  union all select 'publication ' || pubname from pg_catalog.pg_publication where pubname = 'supabase_realtime'
)
select
  pg_catalog.current_setting('server_version_num')::int as server_version,
  current_user::text as user_name,
  pg_catalog.current_database()::text as database_name,
  r.rolsuper as is_superuser,
  r.rolcreaterole as may_create_roles,
  r.rolbypassrls as bypasses_policies,
  r.rolreplication as may_replicate,
  pg_catalog.has_database_privilege(pg_catalog.current_database(), 'create') as may_create_in_database,
  coalesce(pg_catalog.has_schema_privilege(s.oid, 'create') and pg_catalog.has_schema_privilege(s.oid, 'usage'), false) as may_create_in_schema,
  coalesce(pg_catalog.pg_has_role(s.nspowner, 'usage'), false) as owns_schema,
  pg_catalog.pg_get_userbyid(m.relowner)::text as messages_owner,
  coalesce(pg_catalog.pg_has_role(m.relowner, 'usage'), false) as owns_messages,
  coalesce(m.relkind = 'p', false) as messages_are_partitioned,
  coalesce((
    select pg_catalog.pg_has_role(p.proowner, 'usage') from pg_catalog.pg_proc p
    where p.pronamespace = s.oid and p.proname = 'send' and pg_catalog.oidvectortypes(p.proargtypes) = 'jsonb, text, text, boolean'
  ), false) as owns_send,
  coalesce(pg_catalog.has_table_privilege(v.oid, 'insert'), false) as may_record_upstream,
  coalesce(pg_catalog.has_table_privilege(v.oid, 'select') and s.oid is not null and pg_catalog.has_schema_privilege(s.oid, 'usage'), false)
    as may_read_upstream,
  array(
    select o.rolname::text from pg_catalog.pg_roles o
    where o.rolname in ('anon', 'authenticated', 'service_role') and not pg_catalog.pg_has_role(o.oid, 'member')
    order by 1
  ) as foreign_roles,
  (select reset_val from pg_catalog.pg_settings where name = 'TimeZone') as time_zone,
  array(select name from objects) as present
from pg_catalog.pg_roles r
left join pg_catalog.pg_namespace s on s.nspname = 'realtime'
left join pg_catalog.pg_class m on m.relnamespace = s.oid and m.relname = 'messages'
left join pg_catalog.pg_class v on v.relnamespace = s.oid and v.relname = 'schema_migrations' and v.relkind = 'r'
where r.rolname = current_user";

const UPSTREAM_VERSIONS: &str = "select version from realtime.schema_migrations";

impl Survey {
    /// Reads the catalogs; the second round trip is for databases with upstream's bookkeeping only.
    ///
    /// # Errors
    ///
    /// What PostgreSQL, or the way to it, said.
    pub async fn take(client: &impl GenericClient) -> Result<Self, tokio_postgres::Error> {
        let row = client.query_typed_one(SURVEY, &[]).await?;
        let present: Vec<String> = row.try_get("present")?;
        let mut upstream_versions = BTreeSet::new();
        let may_read_upstream = row.try_get("may_read_upstream")?;
        if may_read_upstream {
            for row in client.query_typed(UPSTREAM_VERSIONS, &[]).await? {
                upstream_versions.insert(row.try_get(0)?);
            }
        }
        Ok(Self {
            server_version: row.try_get("server_version")?,
            user: row.try_get("user_name")?,
            database: row.try_get("database_name")?,
            is_superuser: row.try_get("is_superuser")?,
            may_create_roles: row.try_get("may_create_roles")?,
            bypasses_policies: row.try_get("bypasses_policies")?,
            may_replicate: row.try_get("may_replicate")?,
            may_create_in_database: row.try_get("may_create_in_database")?,
            may_create_in_schema: row.try_get("may_create_in_schema")?,
            owns_schema: row.try_get("owns_schema")?,
            messages_owner: row.try_get("messages_owner")?,
            owns_messages: row.try_get("owns_messages")?,
            messages_are_partitioned: row.try_get("messages_are_partitioned")?,
            owns_send: row.try_get("owns_send")?,
            may_read_upstream,
            may_record_upstream: row.try_get("may_record_upstream")?,
            foreign_roles: row.try_get("foreign_roles")?,
            time_zone: row.try_get("time_zone")?,
            present: present.into_iter().collect(),
            upstream_versions,
        })
    }

    /// Whether this object exists, in the words of the steps.
    #[must_use]
    pub fn has(&self, object: &str) -> bool {
        self.present.contains(object)
    }

    /// Whether upstream's migrations ran here; so it is assumed where its bookkeeping is closed to us.
    #[must_use]
    pub fn is_upstreams(&self) -> bool {
        self.has("relation schema_migrations")
            && !(self.may_read_upstream && self.upstream_versions.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survey_reads_catalogs_only() {
        let words: Vec<&str> = SURVEY.split_whitespace().collect();
        let sources = words
            .windows(2)
            .filter(|pair| ["from", "join"].contains(&pair[0]));
        for source in sources.map(|pair| pair[1].trim_matches(['(', ')', ','])) {
            let is_own = ["wanted", "objects"].contains(&source);
            assert!(is_own || source.starts_with("pg_catalog."), "{source}");
        }
    }
}
