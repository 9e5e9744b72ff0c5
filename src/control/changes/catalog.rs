//! What a tenant's database says of its tables and roles now (spec: postgres-changes 5.3).
//!
//! What comes in: oids of tables with the roles that are asked about; names of publications. What goes out: [`TableNow`] for each table
//! that exists, and [`Published`]. What always holds: every [`Catalog::look`] asks the database, in one round trip, because a verdict
//! by what was true a second ago may leak a row; an answer that reads as the one before is the same `Rc`, so that whoever has built
//! something on it can tell by its pointer (`an_answer_that_did_not_change_is_the_same`). Deliberately absent: what the replication
//! stream says of a table, which is how it was then.

use super::snapshot::Snapshot;
use crate::control::replication::Lsn;
use crate::limits;
use rustc_hash::FxHashMap;
use serde::Deserialize;
use std::cell::RefCell;
use std::rc::Rc;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, Row, SimpleQueryMessage, Statement};

/// A table at the moment it was asked for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TableNow {
    /// Its `pg_class.oid`.
    pub oid: u32,
    /// Its schema.
    pub schema: Box<str>,
    /// Its name.
    pub name: Box<str>,
    /// Whether row level security is on.
    pub is_rls_enabled: bool,
    /// Its live columns, in the order of their numbers.
    pub columns: Vec<ColumnNow>,
    /// Its primary key, in its own order; empty without one.
    pub key: Vec<KeyPart>,
    /// What each of the roles that were asked about may do.
    pub roles: FxHashMap<Rc<str>, RoleNow>,
    /// Its stored generated columns, as far as anybody may compute them.
    pub generated: Vec<GeneratedNow>,
}

/// A column that PostgreSQL computes from others of its row. Only such are named whose computing runs nothing that a user of the database
/// has written: functions of PostgreSQL's own, and those in C, which only superusers bring.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct GeneratedNow {
    /// Its name.
    pub column: Box<str>,
    /// How it is computed: an expression of the column's type in which its sources stand by their names, without a table's.
    pub sql: Box<str>,
    /// The columns that it is computed from: their names, and their types as they stand in SQL; of domains, the base types.
    pub sources: Box<[(Box<str>, Box<str>)]>,
}

/// A column of a [`TableNow`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ColumnNow {
    /// Its name.
    pub name: Box<str>,
    /// `pg_attribute.attnum`.
    pub number: i16,
    /// Its `pg_type.oid`.
    pub type_oid: u32,
    /// Its type's modifier; -1 for none.
    pub type_modifier: i32,
    /// Its type as clients read it: `pg_type.typname`.
    pub type_name: Box<str>,
    /// Its place in the primary key, from 0; none for a column outside of it.
    pub key_place: Option<u16>,
    /// Whether equal texts are equal bytes: false for nondeterministic collations.
    pub is_deterministic: bool,
}

/// A column of a primary key, as SQL that finds rows by it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeyPart {
    /// Its name.
    pub column: Box<str>,
    /// Its type without a modifier, quoted, with its schema.
    pub type_sql: Box<str>,
    /// The operator that the key's index calls equality, with its schema.
    pub equality_sql: Box<str>,
    /// Whether that operator may see rows before policies have been asked. Under policies only such operators use the index.
    pub is_leakproof: bool,
}

/// A role and a table.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RoleNow {
    /// Whether there is such a role. Never of superusers and the server's own user, who see everything: a token that names them is
    /// refused as if there were none (spec: README, security).
    pub exists: bool,
    /// Which columns it may select, in the order of [`TableNow::columns`].
    pub may_select: Vec<bool>,
    /// Whether no row is hidden from it: row level security is off, or policies do not count for it and it may use the schema. That a row
    /// is still there does not follow.
    pub sees_all_rows: bool,
}

/// What a publication publishes, without the schemas `realtime` and `_realtime`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Published {
    /// Whether there is one of that name. Without it the rest is empty.
    pub exists: bool,
    /// Whether it publishes inserts.
    pub inserts: bool,
    /// Whether it publishes updates.
    pub updates: bool,
    /// Whether it publishes deletes.
    pub deletes: bool,
    /// Its tables, sorted by schema and name.
    pub tables: Vec<PublishedTable>,
    /// Where the log ended: what was committed before that was seen.
    pub position: Lsn,
}

/// A table of a publication.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PublishedTable {
    /// Its `pg_class.oid`.
    pub oid: u32,
    /// Its schema.
    pub schema: Box<str>,
    /// Its name.
    pub name: Box<str>,
}

/// What a look has shown.
#[derive(Clone, Debug)]
pub struct Look {
    /// The transactions that were over before it: this look has seen them, and so does every question that follows.
    pub snapshot: Snapshot,
    /// The tables that are there, by oid; views and the like are none.
    pub tables: FxHashMap<u32, Rc<TableNow>>,
}

/// Asks for tables, and remembers what the last answer read.
#[derive(Debug, Default)]
pub struct Catalog {
    /// Of the connection that was asked last. Names of statements are never used twice in a process: one of another connection is
    /// unknown there, never another statement.
    statement: RefCell<Option<Statement>>,
    known: RefCell<FxHashMap<u32, Known>>,
}

/// An answer as it was read, and what it says.
#[derive(Debug)]
struct Known {
    text: Box<str>,
    table: Rc<TableNow>,
}

impl Catalog {
    /// What is true now of these tables for these roles.
    ///
    /// # Errors
    ///
    /// What the database or the connection said. Nothing is known then, and nothing may be delivered.
    pub async fn look(&self, client: &Client, tables: &[(u32, &[Rc<str>])]) -> Result<Look, Error> {
        let oids: Vec<u32> = tables.iter().map(|(oid, _)| *oid).collect();
        let pairs = tables
            .iter()
            .flat_map(|(oid, roles)| roles.iter().map(|role| (*oid, role.as_ref())));
        let (of, roles): (Vec<u32>, Vec<&str>) = pairs.unzip();
        let (snapshot, rows) = match self.ask(client, &oids, &of, &roles).await {
            // It was prepared on a connection that is gone, or the connection has forgotten it.
            Err(error) if is_forgotten(&error) => {
                self.statement.take();
                self.ask(client, &oids, &of, &roles).await?
            }
            outcome => outcome?,
        };
        let tables: Result<_, Error> = rows.iter().map(|row| self.read(row)).collect();
        Ok(Look {
            snapshot,
            tables: tables?,
        })
    }

    async fn ask(
        &self,
        client: &Client,
        oids: &[u32],
        of: &[u32],
        roles: &[&str],
    ) -> Result<(Snapshot, Vec<Row>), Error> {
        let known = self.statement.borrow().clone();
        let statement = match known {
            Some(statement) => statement,
            None => {
                let types = [Type::OID_ARRAY, Type::OID_ARRAY, Type::TEXT_ARRAY];
                let statement = client.prepare_typed(LOOK, &types).await?;
                self.statement.replace(Some(statement.clone()));
                statement
            }
        };
        // With a plan of its own for each call, planning would take longer than the answer. Enqueued in one poll, as everything that
        // shares a connection with others. The path makes expressions name everything that is not PostgreSQL's with its schema.
        let parameters: [&(dyn ToSql + Sync); 3] = [&oids, &of, &roles];
        let begin = format!(
            "begin; set local plan_cache_mode = force_generic_plan; set local search_path = pg_catalog; select {}",
            Snapshot::SQL
        );
        let (begun, rows, _) = tokio::join!(
            biased;
            client.simple_query(&begin),
            client.query(&statement, &parameters),
            client.batch_execute("commit"),
        );
        let snapshot = begun?.into_iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
            _ => None,
        });
        let snapshot = snapshot.expect("PostgreSQL prints snapshots as it documents");
        Ok((snapshot, rows?))
    }

    fn read(&self, row: &Row) -> Result<(u32, Rc<TableNow>), Error> {
        let (oid, text): (u32, &str) = (row.try_get(0)?, row.try_get(1)?);
        let mut known = self.known.borrow_mut();
        if let Some(last) = known.get(&oid)
            && *last.text == *text
        {
            return Ok((oid, Rc::clone(&last.table)));
        }
        let said: Said<'_> =
            serde_json::from_str(text).expect("PostgreSQL writes what its statement says");
        let table = Rc::new(said.table(oid));
        if known.len() >= limits::CHANGES_TABLES_KNOWN_MAX {
            known.clear();
        }
        let entry = Known {
            text: text.into(),
            table: Rc::clone(&table),
        };
        known.insert(oid, entry);
        Ok((oid, table))
    }
}

fn is_forgotten(error: &Error) -> bool {
    let codes = [
        &SqlState::INVALID_SQL_STATEMENT_NAME,
        // "cached plan must not change result type": a catalog of another shape after an upgrade in between.
        &SqlState::FEATURE_NOT_SUPPORTED,
    ];
    error.code().is_some_and(|code| codes.contains(&code))
}

/// What `publication` publishes now.
///
/// # Errors
///
/// What the database or the connection said.
pub async fn publication(client: &Client, name: &str) -> Result<Published, Error> {
    let rows = client
        .query_typed(PUBLICATION, &[(&name, Type::TEXT)])
        .await?;
    let mut published = Published::default();
    for row in &rows {
        published.exists = true;
        published.inserts = row.try_get(0)?;
        published.updates = row.try_get(1)?;
        published.deletes = row.try_get(2)?;
        published.position = end_of_record(row.try_get::<_, &str>(6)?.parse().unwrap_or_default());
        if let Some(oid) = row.try_get(3)? {
            published.tables.push(PublishedTable {
                oid,
                schema: row.try_get::<_, &str>(4)?.into(),
                name: row.try_get::<_, &str>(5)?.into(),
            });
        }
    }
    Ok(published)
}

/// Where the last record ends when the next one would begin here: behind the header of a page, if the last one has filled the page before.
/// Nothing that is flushed or sent reaches that far until there is another record.
fn end_of_record(next: Lsn) -> Lsn {
    let within_page = next.0 % WAL_PAGE_BYTES;
    if WAL_HEADERS_BYTES.contains(&within_page) {
        Lsn(next.0 - within_page)
    } else {
        next
    }
}

/// PostgreSQL's `XLOG_BLCKSZ`. Where it is another one, a position is now and then some bytes too far, and is waited for a little longer.
const WAL_PAGE_BYTES: u64 = 8192;

/// Its headers of pages: of the first one of a segment, and of all others.
const WAL_HEADERS_BYTES: [u64; 2] = [40, 24];

/// One row for each table. A key that is checked at the end of transactions only is none to wal2json. Whether policies count is decided as PostgreSQL's `check_enable_rls` does: not where they are off, not for
/// BYPASSRLS, not for the owner and those with its privileges unless they are forced.
const LOOK: &str = "select c.oid, pg_catalog.json_build_object( \
    'schema', n.nspname, 'name', c.relname, 'is_rls_enabled', c.relrowsecurity, \
    'columns', (select pg_catalog.json_agg(pg_catalog.json_build_array( \
            a.attname, a.attnum, a.atttypid::pg_catalog.int8, a.atttypmod, t.typname, coalesce(l.collisdeterministic, true)) order by a.attnum) \
        from pg_catalog.pg_attribute a join pg_catalog.pg_type t on t.oid = a.atttypid \
        left join pg_catalog.pg_collation l on l.oid = a.attcollation \
        where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped), \
    'key', (select pg_catalog.json_agg(q.part order by k.place) \
        from pg_catalog.pg_index i cross join lateral pg_catalog.generate_series(0, i.indnkeyatts - 1) k(place) \
        cross join lateral (select pg_catalog.json_build_array(a.attname, pg_catalog.format('%I.%I', tn.nspname, t.typname), \
                pg_catalog.format('operator(%I.%s)', pn.nspname, o.oprname), p.proleakproof) as part \
            from pg_catalog.pg_attribute a \
            join pg_catalog.pg_type t on t.oid = a.atttypid join pg_catalog.pg_namespace tn on tn.oid = t.typnamespace \
            join pg_catalog.pg_opclass s on s.oid = i.indclass[k.place] \
            join pg_catalog.pg_amop m on m.amopfamily = s.opcfamily and m.amoplefttype = s.opcintype \
                and m.amoprighttype = s.opcintype and m.amopstrategy = 3 \
            join pg_catalog.pg_operator o on o.oid = m.amopopr join pg_catalog.pg_namespace pn on pn.oid = o.oprnamespace \
            join pg_catalog.pg_proc p on p.oid = o.oprcode \
            where a.attrelid = c.oid and a.attnum = i.indkey[k.place] limit 1) q \
        where i.indrelid = c.oid and i.indisprimary and i.indimmediate), \
    'generated', (select pg_catalog.json_agg(pg_catalog.json_build_object('column', a.attname, \
            'sql', pg_catalog.format('(%s)::%s', pg_catalog.pg_get_expr(d.adbin, d.adrelid), pg_catalog.format_type(a.atttypid, a.atttypmod)), \
            'sources', u.sources) order by a.attnum) \
        from pg_catalog.pg_attribute a \
        join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum \
        cross join lateral (select \
                coalesce(pg_catalog.json_agg(pg_catalog.json_build_array(s.attname, pg_catalog.format_type( \
                    coalesce(b.oid, t.oid), case when b.oid is null then s.atttypmod else t.typtypmod end)) order by s.attnum) \
                    filter (where s.attnum is not null), '[]') as sources, \
                coalesce(pg_catalog.bool_and(case x.refclassid \
                    when 'pg_catalog.pg_class'::pg_catalog.regclass then x.refobjid = c.oid and (x.refobjsubid = a.attnum or s.attnum is not null and coalesce(b.typtype, t.typtype) in ('b', 'e') \
                        and not exists (select from pg_catalog.pg_type e where e.oid = coalesce(b.typelem, t.typelem) and e.typtype not in ('b', 'e'))) \
                    when 'pg_catalog.pg_type'::pg_catalog.regclass then (select y.typtype in ('b', 'e') \
                            and not exists (select from pg_catalog.pg_type e where e.oid = y.typelem and e.typtype not in ('b', 'e')) \
                        from pg_catalog.pg_type y where y.oid = x.refobjid) \
                    when 'pg_catalog.pg_collation'::pg_catalog.regclass then true \
                    when 'pg_catalog.pg_proc'::pg_catalog.regclass then (select l.lanname in ('c', 'internal') \
                        from pg_catalog.pg_proc f join pg_catalog.pg_language l on l.oid = f.prolang where f.oid = x.refobjid) \
                    when 'pg_catalog.pg_operator'::pg_catalog.regclass then (select l.lanname in ('c', 'internal') \
                        from pg_catalog.pg_operator o join pg_catalog.pg_proc f on f.oid = o.oprcode \
                        join pg_catalog.pg_language l on l.oid = f.prolang where o.oid = x.refobjid) \
                    else false end), true) as is_harmless \
            from pg_catalog.pg_depend x \
            left join pg_catalog.pg_attribute s on x.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass and x.refobjid = c.oid \
                and s.attrelid = x.refobjid and s.attnum = x.refobjsubid and s.attnum > 0 and s.attnum <> a.attnum \
            left join pg_catalog.pg_type t on t.oid = s.atttypid \
            left join pg_catalog.pg_type b on t.typtype = 'd' and b.oid = t.typbasetype \
            where (x.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass and x.objid = d.oid) \
                or (x.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and x.objid = c.oid and x.objsubid = a.attnum)) u \
        where a.attrelid = c.oid and a.attnum > 0 and a.attgenerated = 's' and not a.attisdropped and u.is_harmless), \
    'roles', (select pg_catalog.json_agg(pg_catalog.json_build_array(w.role, r.oid is not null, \
            r.oid is not null and (not c.relrowsecurity or (pg_catalog.has_schema_privilege(r.oid, c.relnamespace, 'usage') \
                and (r.rolbypassrls or (not c.relforcerowsecurity and pg_catalog.pg_has_role(r.oid, c.relowner, 'usage'))))), \
            (select pg_catalog.string_agg(case when pg_catalog.has_column_privilege(r.oid, c.oid, a.attnum, 'select') then '1' else '0' end, '' \
                order by a.attnum) \
             from pg_catalog.pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped)) order by w.role) \
        from rows from (pg_catalog.unnest($2), pg_catalog.unnest($3)) w(of, role) \
        left join pg_catalog.pg_roles r on r.rolname = w.role and not r.rolsuper and r.rolname <> session_user \
        where w.of = c.oid))::pg_catalog.text \
    from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace \
    where c.oid = any($1) and c.relkind in ('r', 'p')";

/// One row for each table; one without a table where there are none; no row without a publication.
const PUBLICATION: &str = "select p.pubinsert, p.pubupdate, p.pubdelete, t.oid, t.schemaname::pg_catalog.text, t.tablename::pg_catalog.text, \
        (case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_replay_lsn() else pg_catalog.pg_current_wal_insert_lsn() end)::pg_catalog.text \
    from pg_catalog.pg_publication p left join ( \
        select c.oid, l.pubname, l.schemaname, l.tablename from pg_catalog.pg_publication_tables l \
        join pg_catalog.pg_namespace n on n.nspname = l.schemaname \
        join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = l.tablename \
        where l.schemaname not in ('realtime', '_realtime')) t on t.pubname = p.pubname \
    where p.pubname = $1 order by t.schemaname collate \"C\", t.tablename collate \"C\"";

/// The answer of [`LOOK`].
#[derive(Deserialize)]
struct Said<'a> {
    schema: Box<str>,
    name: Box<str>,
    is_rls_enabled: bool,
    columns: Option<Vec<SaidColumn>>,
    key: Option<Vec<SaidPart>>,
    generated: Option<Vec<GeneratedNow>>,
    #[serde(borrow)]
    roles: Option<Vec<SaidRole<'a>>>,
}

/// Column, type, equality, whether that is leakproof.
type SaidPart = (Box<str>, Box<str>, Box<str>, bool);

/// Name, whether it exists, whether it sees all rows, a digit for each column: 1 for one that it may select.
type SaidRole<'a> = (Box<str>, bool, bool, Option<&'a str>);

/// Name, number, type, its modifier, its name, whether its collation is deterministic.
type SaidColumn = (Box<str>, i16, u32, i32, Box<str>, bool);

impl Said<'_> {
    fn table(self, oid: u32) -> TableNow {
        let key = self.key.unwrap_or_default();
        let place = |name: &str| key.iter().position(|(column, ..)| **column == *name);
        let columns = self.columns.unwrap_or_default().into_iter();
        let columns = columns.map(
            |(name, number, type_oid, type_modifier, type_name, is_deterministic)| ColumnNow {
                key_place: place(&name).and_then(|place| u16::try_from(place).ok()),
                name,
                number,
                type_oid,
                type_modifier,
                type_name,
                is_deterministic,
            },
        );
        let columns: Vec<ColumnNow> = columns.collect();
        let roles = self.roles.unwrap_or_default().into_iter();
        let roles = roles.map(|(name, exists, sees_all_rows, may_select)| {
            let may_select = may_select.unwrap_or_default().bytes();
            let role = RoleNow {
                exists,
                may_select: may_select.map(|letter| letter == b'1').collect(),
                sees_all_rows,
            };
            (Rc::from(name), role)
        });
        TableNow {
            oid,
            schema: self.schema,
            name: self.name,
            is_rls_enabled: self.is_rls_enabled,
            columns,
            roles: roles.collect(),
            generated: self.generated.unwrap_or_default(),
            key: key
                .into_iter()
                .map(|(column, type_sql, equality_sql, is_leakproof)| KeyPart {
                    column,
                    type_sql,
                    equality_sql,
                    is_leakproof,
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_ends_before_the_header_of_the_next_page() {
        let check = |next, expected| assert_eq!(end_of_record(Lsn(next)), Lsn(expected));
        check(0, 0);
        check(3 * 8192 + 24, 3 * 8192);
        check(16 * 1024 * 1024 + 40, 16 * 1024 * 1024);
        check(3 * 8192 + 48, 3 * 8192 + 48);
        check(3 * 8192 - 8, 3 * 8192 - 8);
    }
}
