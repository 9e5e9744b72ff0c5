//! A PostgreSQL cluster, a server before it, and a database and a tenant for each test.
//!
//! The databases are copies of one that the server has made its schema in, so that a test begins with its own statements and
//! not with those of the migrations, which every replication slot of the cluster would have to read.

use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};

use crate::cases::Context;
use crate::postgres::{self, Cluster, Database, Kind};
use crate::server::{self, Server, Setup};
use crate::{message_of, migrate};

use super::ears::Ears;
use super::sql::Sql;

/// A server that is started by the first test that needs it, and what it will have.
pub struct World {
    pub setup: Setup,
    tenants: Vec<Tenant>,
    running: OnceLock<Result<Running, String>>,
}

/// What a tenant has that others do not.
#[derive(Default)]
pub struct Tenant {
    /// Of its database.
    pub settings: Value,
    /// Attributes of its own.
    pub limits: Value,
}

/// A started server and its tenants' databases, by the number of the test.
pub struct Running {
    setup: Setup,
    pub server: Server,
    databases: Vec<Database>,
}

/// Where one test happens.
pub struct Place<'a> {
    pub setup: Setup,
    pub server: &'a Server,
    pub tenant: String,
    pub database: &'a Database,
}

impl World {
    pub fn new(setup: Setup, tenants: Vec<Tenant>) -> Self {
        Self {
            setup,
            tenants,
            running: OnceLock::new(),
        }
    }

    /// The server and its databases; the error is why there are none.
    pub fn running(&self) -> Result<&Running, String> {
        let start = || {
            panic::catch_unwind(AssertUnwindSafe(|| self.start()))
                .map_err(|panic| message_of(&*panic))
        };
        self.running
            .get_or_init(start)
            .as_ref()
            .map_err(Clone::clone)
    }

    fn start(&self) -> Running {
        let count = self.tenants.len();
        // Two slots, two walsenders and a handful of sessions a tenant, and the tests' own.
        let settings = [
            format!("max_replication_slots = {}", 3 * count + 10),
            format!("max_wal_senders = {}", 3 * count + 10),
            format!("max_connections = {}", 12 * count + 50),
        ];
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let cluster = Arc::new(Cluster::start_with(postgres::ADMIN, &settings));
        let original = original(&cluster, self.setup);
        let databases = cluster.copies(&original, count);
        let tenants: Vec<Value> = self
            .tenants
            .iter()
            .zip(&databases)
            .enumerate()
            .map(|(index, (tenant, database))| described(&name(index), tenant, database))
            .collect();
        Running {
            setup: self.setup,
            server: Server::start(self.setup, &tenants, &[]),
            databases,
        }
    }
}

impl Running {
    /// Where test number `index` happens.
    pub fn place(&self, index: usize) -> Place<'_> {
        Place {
            setup: self.setup,
            server: &self.server,
            tenant: name(index),
            database: &self.databases[index],
        }
    }
}

impl Place<'_> {
    /// What clients of this tenant are made with.
    pub fn context(&self) -> Context<'_> {
        Context {
            server: self.server,
            setup: self.setup,
            tenant: self.tenant.clone(),
        }
    }

    /// A client of this tenant.
    pub fn ears(&self, vsn: &str) -> Ears {
        Ears::new(&self.context(), vsn)
    }

    /// A session in its database.
    pub fn sql(&self) -> Sql {
        Sql::open(self.database)
    }
}

/// A tenant as the management API describes it, with limits that these tests do not meet.
pub fn described(name: &str, tenant: &Tenant, database: &Database) -> Value {
    let mut limits = json!({
        "max_joins_per_second": 10_000, "max_events_per_second": 100_000, "max_channels_per_client": 10_000,
    });
    for (key, value) in tenant.limits.as_object().into_iter().flatten() {
        limits[key] = value.clone();
    }
    limits["extensions"] = database.extensions(&tenant.settings);
    server::tenant(name, &limits)
}

/// A database that the server has made its schema in, with the table of the probe.
pub fn original(cluster: &Arc<Cluster>, setup: Setup) -> Database {
    let database = cluster.database(Kind::Empty);
    let tenant = described("original", &Tenant::default(), &database);
    let server = Server::start(setup, &[tenant], &[]);
    migrate(&server, "original");
    drop(server);
    // The server makes no publication; each test makes its own.
    database.sql(
        "create schema probe;
         create table probe.mark (id int primary key generated always as identity);
         grant usage on schema probe to anon, authenticated, service_role;
         grant select on probe.mark to anon, authenticated, service_role;",
    );
    database
}

/// A row of this table is a probe.
pub const PROBE: &str = "insert into probe.mark default values";

fn name(index: usize) -> String {
    format!("changes-{index}")
}
