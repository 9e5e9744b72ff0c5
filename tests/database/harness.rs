//! The harness itself: a cluster starts, stops and ends, and its databases are what they are said to be.

use std::path::Path;
use std::sync::Arc;

use crate::postgres::{ADMIN, Cluster, Kind};

tests![
    each_test_has_a_database_of_its_own,
    a_supabase_database_has_roles_and_publication,
    a_plain_database_has_neither,
    an_empty_database_has_only_the_roles,
    a_cluster_comes_back_on_its_port,
    a_cluster_is_gone_with_its_handle,
];

async fn each_test_has_a_database_of_its_own(cluster: Arc<Cluster>) {
    let (one, other) = (cluster.database(Kind::Empty), cluster.database(Kind::Empty));
    assert_ne!(one.name, other.name);
    one.sql("create table mine ()");
    assert_eq!(other.sql("select to_regclass('mine') is null"), "t");
}

const ROLES: &str =
    "select count(*) from pg_roles where rolname in ('anon', 'authenticated', 'service_role')";
const PUBLICATIONS: &str = "select count(*) from pg_publication";
const SCHEMAS: &str = "select count(*) from pg_namespace where nspname in ('auth', 'extensions', 'realtime', '_realtime')";

async fn a_supabase_database_has_roles_and_publication(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Supabase);
    assert_eq!(database.sql(ROLES), "3");
    assert_eq!(database.sql(PUBLICATIONS), "1");
    assert_eq!(database.sql(SCHEMAS), "4");
    // A project's owner is no superuser, and logs in with the password.
    let client = database.client("postgres").await;
    let row = client
        .query_one("select usesuper, current_setting('timezone') from pg_user where usename = current_user", &[])
        .await
        .expect("it is a statement");
    assert!(!row.get::<_, bool>(0));
    assert_eq!(row.get::<_, String>(1), "UTC");
    assert_eq!(database.settings().user, ADMIN);
}

async fn a_plain_database_has_neither(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Plain);
    assert_ne!(database.port, cluster.port());
    for count in [ROLES, PUBLICATIONS, SCHEMAS] {
        assert_eq!(database.sql(count), "0", "{count}");
    }
    assert_eq!(
        database.sql("select count(*) from pg_roles where rolcanlogin"),
        "1"
    );
}

async fn an_empty_database_has_only_the_roles(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Empty);
    assert_eq!(database.sql(ROLES), "3");
    assert_eq!(database.sql(PUBLICATIONS), "0");
    assert_eq!(database.sql(SCHEMAS), "0");
}

async fn a_cluster_comes_back_on_its_port(_: Arc<Cluster>) {
    let cluster = Cluster::start_with(ADMIN, &["max_wal_senders = 3"]);
    let address = (std::net::Ipv4Addr::LOCALHOST, cluster.port());
    cluster.stop();
    assert!(std::net::TcpStream::connect(address).is_err());
    cluster.start_again();
    assert!(std::net::TcpStream::connect(address).is_ok());
    let database = Arc::new(cluster).database(Kind::Empty);
    assert_eq!(database.sql("show max_wal_senders"), "3");
    assert_eq!(database.sql("show wal_level"), "logical");
}

async fn a_cluster_is_gone_with_its_handle(_: Arc<Cluster>) {
    let cluster = Cluster::start_with(ADMIN, &[]);
    let (folder, address) = (
        cluster.folder().to_owned(),
        (std::net::Ipv4Addr::LOCALHOST, cluster.port()),
    );
    assert!(Path::new(&folder).exists());
    drop(cluster);
    assert!(!Path::new(&folder).exists());
    assert!(std::net::TcpStream::connect(address).is_err());
}
