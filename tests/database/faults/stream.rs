//! Faults between a row of `realtime.messages` and the members of its topic: whatever happens to the stream, a committed row is
//! delivered once, in order, within a bounded time.

use std::ops::Range;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::{Fixture, RECOVERY, eventually, kill};
use crate::clock;
use crate::faults::peer::Peer;
use crate::postgres::{ADMIN, Cluster, Database, Kind};

tests![
    rows_sent_while_the_stream_is_killed_arrive_once_and_in_order,
    a_dropped_publication_is_made_again,
    a_publication_of_other_tables_is_made_right,
    a_slot_taken_by_somebody_else_delays_rows_only,
    used_up_slots_delay_rows_only,
    used_up_wal_senders_delay_rows_only,
    a_hundred_thousand_rows_of_one_transaction_arrive,
    a_hundred_megabytes_of_one_transaction_are_not_held,
];

/// Sends a numbered message in a transaction of its own for each of `numbers`, from the database.
fn send(database: &Database, topic: &str, numbers: Range<u32>) {
    let statements: Vec<String> = numbers
        .map(|n| format!("select realtime.send('{{\"n\": {n}}}', 'e', '{topic}', true);"))
        .collect();
    database.sql(&statements.join("\n"));
}

/// The messages arrive, each once and in order, and no others. The first may be late.
#[track_caller]
fn expect(peer: &mut Peer, topic: &str, numbers: Range<u32>, within: Duration) {
    let deadline = clock::now() + within;
    for number in numbers {
        let Some(heard) = peer.broadcast(topic, clock::left(deadline)) else {
            panic!("{number} did not arrive within {within:?}");
        };
        assert_eq!(
            heard["payload"]["n"], number,
            "in place of {number} came {heard}"
        );
    }
    let more = peer.broadcast(topic, Duration::from_millis(500));
    assert!(more.is_none(), "and then came {more:?}");
}

async fn rows_sent_while_the_stream_is_killed_arrive_once_and_in_order(cluster: Arc<Cluster>) {
    let fixture = Fixture::warm(&cluster);
    let mut peer = fixture.peer();
    peer.join_streamed("realtime:rows");
    for round in 0..4 {
        let first = round * 100;
        send(&fixture.faulty, "rows", first..first + 50);
        // Once between two rows, and from then on while others are sent.
        if round < 3 {
            assert!(kill(&fixture.faulty, "realtime_replication_connection") > 0 || round > 0);
        } else {
            kill(&fixture.faulty, "realtime%");
        }
        send(&fixture.faulty, "rows", first + 50..first + 100);
        expect(&mut peer, "realtime:rows", first..first + 100, RECOVERY);
    }
    fixture.other_is_fine();
}

async fn a_dropped_publication_is_made_again(cluster: Arc<Cluster>) {
    let fixture = Fixture::warm(&cluster);
    let mut peer = fixture.peer();
    peer.join_streamed("realtime:rows");
    send(&fixture.faulty, "rows", 0..10);
    fixture
        .faulty
        .sql("drop publication supabase_realtime_messages_publication");
    send(&fixture.faulty, "rows", 10..20);
    expect(&mut peer, "realtime:rows", 0..20, RECOVERY);
    eventually("the publication is there again", RECOVERY, || {
        fixture.faulty.sql(PUBLISHED) == "realtime.messages"
    });
    send(&fixture.faulty, "rows", 20..30);
    expect(&mut peer, "realtime:rows", 20..30, RECOVERY);
}

/// The tables that were named when the publication was made.
const PUBLISHED: &str = "select string_agg(prrelid::regclass::text, ',') from pg_publication_rel r \
    join pg_publication p on p.oid = r.prpubid where p.pubname = 'supabase_realtime_messages_publication'";

async fn a_publication_of_other_tables_is_made_right(cluster: Arc<Cluster>) {
    let database = cluster.database(Kind::Supabase);
    database.sql(
        "create table public.other (id int primary key); \
         create publication supabase_realtime_messages_publication for table public.other",
    );
    let fixture = Fixture::warm_with(&cluster, database, &json!({}));
    let mut peer = fixture.peer();
    peer.join_streamed("realtime:rows");
    assert_eq!(fixture.faulty.sql(PUBLISHED), "realtime.messages");
    send(&fixture.faulty, "rows", 0..10);
    expect(&mut peer, "realtime:rows", 0..10, RECOVERY);
}

/// The slot by which this database's rows are streamed now.
fn slot(database: &Database) -> String {
    database.sql(
        "select slot_name from pg_replication_slots where database = current_database() and active",
    )
}

async fn a_slot_taken_by_somebody_else_delays_rows_only(_: Arc<Cluster>) {
    // Names of slots are the whole cluster's: here nobody else has a reason to have any.
    let own = Arc::new(Cluster::start_with(ADMIN, &[]));
    let fixture = Fixture::warm(&own);
    let mut peer = fixture.peer();
    peer.join_streamed("realtime:rows");
    let name = slot(&fixture.faulty);
    assert!(!name.is_empty());
    // Somebody who is quicker than the server: one statement ends the stream, waits for the slot's end, and takes the name.
    fixture.faulty.sql(&format!(
        "do $$ begin \
           perform pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = '{name}'; \
           while exists (select from pg_replication_slots where slot_name = '{name}') loop perform pg_sleep(0.001); end loop; \
         end $$; \
         select 1 from pg_create_physical_replication_slot('{name}')"
    ));
    send(&fixture.faulty, "rows", 0..20);
    expect(&mut peer, "realtime:rows", 0..20, RECOVERY);
    // Somebody else's slot is none of the server's business.
    let theirs = format!(
        "select count(*) from pg_replication_slots where slot_name = '{name}' and slot_type = 'physical'"
    );
    assert_eq!(fixture.faulty.sql(&theirs), "1");
    fixture
        .faulty
        .sql(&format!("select pg_drop_replication_slot('{name}')"));
    send(&fixture.faulty, "rows", 20..40);
    expect(&mut peer, "realtime:rows", 20..40, RECOVERY);
    assert_eq!(peer.join("realtime:another"), Ok(()));
}

async fn used_up_slots_delay_rows_only(cluster: Arc<Cluster>) {
    let own = Arc::new(Cluster::start_with(ADMIN, &["max_replication_slots = 1"]));
    let database = own.database(Kind::Supabase);
    database.sql("select pg_create_physical_replication_slot('of_somebody_else')");
    let fixture = Fixture::warm_with(&cluster, database, &json!({}));
    let mut peer = fixture.peer();
    assert_eq!(peer.join("realtime:rows"), Ok(()));
    eventually("the lack is logged", RECOVERY, || {
        fixture
            .server
            .log()
            .contains("ReplicationMaxWalSendersReached")
    });
    send(&fixture.faulty, "rows", 0..20);
    expect(&mut peer, "realtime:rows", 0..20, RECOVERY);
    fixture
        .faulty
        .sql("select pg_drop_replication_slot('of_somebody_else')");
    send(&fixture.faulty, "rows", 20..40);
    expect(&mut peer, "realtime:rows", 20..40, RECOVERY);
    fixture.other_is_fine();
}

async fn used_up_wal_senders_delay_rows_only(cluster: Arc<Cluster>) {
    let own = Arc::new(Cluster::start_with(ADMIN, &["max_wal_senders = 1"]));
    let database = own.database(Kind::Supabase);
    let mut only_one = WalSender::open(&database);
    let fixture = Fixture::warm_with(&cluster, database, &json!({}));
    let mut peer = fixture.peer();
    assert_eq!(peer.join("realtime:rows"), Ok(()));
    eventually("the lack is logged", RECOVERY, || {
        fixture
            .server
            .log()
            .contains("ReplicationMaxWalSendersReached")
    });
    send(&fixture.faulty, "rows", 0..20);
    expect(&mut peer, "realtime:rows", 0..20, RECOVERY);
    only_one.close();
    send(&fixture.faulty, "rows", 20..40);
    expect(&mut peer, "realtime:rows", 20..40, RECOVERY);
    fixture.other_is_fine();
}

/// A replication connection that does nothing.
struct WalSender(Child);

impl WalSender {
    fn open(database: &Database) -> Self {
        let connection = format!("dbname={} replication=database", database.name);
        let mut psql = database.cluster.psql_command(&connection);
        let child = psql
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("psql comes with PostgreSQL");
        let senders = "select count(*) from pg_stat_get_wal_senders()";
        let sender = Self(child);
        // It is in that list from its first statement on; its process is in this one at once.
        let processes = "select count(*) from pg_stat_activity where backend_type = 'walsender'";
        eventually("the connection is there", RECOVERY, || {
            database.sql(processes) == "1" || database.sql(senders) == "1"
        });
        sender
    }

    fn close(&mut self) {
        // It ends with its input.
        drop(self.0.stdin.take());
        self.0.wait().expect("it was started");
    }
}

impl Drop for WalSender {
    fn drop(&mut self) {
        self.close();
    }
}

/// More than any queue between a row and a socket holds.
const ROWS: u32 = 100_000;

/// Between so many topics they are dealt out, because a socket that cannot keep up is closed for it.
const TOPICS: u32 = 20;

async fn a_hundred_thousand_rows_of_one_transaction_arrive(cluster: Arc<Cluster>) {
    let fixture = Fixture::warm(&cluster);
    let topics: Vec<String> = (0..TOPICS)
        .map(|number| format!("realtime:{number}"))
        .collect();
    let mut peers: Vec<Peer> = topics.iter().map(|_| fixture.peer()).collect();
    for (peer, topic) in peers.iter_mut().zip(&topics) {
        peer.join_streamed(topic);
    }
    fixture.faulty.sql(&format!(
        "insert into realtime.messages (topic, extension, event, payload, private) \
         select n % {TOPICS}, 'broadcast', 'e', jsonb_build_object('n', n), true \
         from generate_series(0, {ROWS} - 1) as n"
    ));
    let start = clock::now();
    for number in 0..ROWS {
        let index = usize::try_from(number % TOPICS).expect("there are few");
        let heard = peers[index].broadcast(&topics[index], RECOVERY);
        let heard = heard
            .unwrap_or_else(|| panic!("{number} did not arrive\n{}", fixture.server.log_end()));
        assert_eq!(heard["payload"]["n"], number);
    }
    assert!(start.elapsed() < 3 * RECOVERY, "{:?}", start.elapsed());
    fixture.other_is_fine();
}

async fn a_hundred_megabytes_of_one_transaction_are_not_held(cluster: Arc<Cluster>) {
    let fixture = Fixture::warm(&cluster);
    let mut peer = fixture.peer();
    peer.join_streamed("realtime:last");
    let before_kib = fixture.server.memory_kib("VmHWM");
    // Nobody hears the rows but the last one: what a slow socket may hold does not count here.
    fixture.faulty.sql(&format!(
        "insert into realtime.messages (topic, extension, event, payload, private) \
         select case n when {ROWS} then 'last' else 'unheard' end, 'broadcast', 'e', \
           jsonb_build_object('n', n, 'filler', repeat('x', 1000)), true \
         from generate_series(1, {ROWS}) as n"
    ));
    let heard = peer.broadcast("realtime:last", RECOVERY);
    assert_eq!(heard.expect("the last row arrives")["payload"]["n"], ROWS);
    let grown_kib = fixture.server.memory_kib("VmHWM") - before_kib;
    assert!(
        grown_kib < 64 * 1024,
        "{grown_kib} KiB for {ROWS} kB of rows"
    );
    fixture.other_is_fine();
}
