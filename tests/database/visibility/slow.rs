//! Policies that take long: what is lost by it, and who waits.

use std::sync::Arc;
use std::time::Duration;

use realtime::control::changes::visibility::Check;
use realtime::control::clock;
use realtime::limits;
use tokio::time::Instant;

use super::{ORDERS, WAITING, World, all_letters, check, keys, letters, reason, user};
use crate::postgres::{Cluster, Database};
use crate::world::until;

tests![
    a_slow_policy_loses_what_it_is_slow_on,
    a_batch_that_takes_long_is_answered_whole,
    a_policy_that_never_ends_holds_up_one_batch,
    a_stall_of_one_table_is_not_repeated,
    a_slow_connection_holds_up_nobody_else,
    what_is_given_up_is_cancelled,
];

/// The shorter time of the database counts for connections that are opened from here on.
fn hurry(database: &Database, timeout: &str) {
    database.sql(&format!(
        "alter database {} set statement_timeout = '{timeout}'",
        database.name
    ));
}

async fn a_slow_policy_loses_what_it_is_slow_on(cluster: Arc<Cluster>) {
    let world = World::new(&cluster, 1, &format!(
        "{ORDERS} create function slow(id int) returns bool language sql volatile as $$ select case when id = 5 and auth.uid()::text like '%1' then pg_sleep(30) is null else true end $$;
         create policy slowly on orders as restrictive using (slow(id))"
    )).await;
    hurry(&world.database, "300 ms");
    let table = world.table("orders").await;
    let checks: Vec<Check> = (0..4)
        .map(|number| check(&table, "authenticated", &user(number), &keys(1..=8)))
        .collect();
    let verdicts = world.visible(checks).await;
    let seen = all_letters(&verdicts);
    assert_eq!(seen, ["nnnnnnnn", "ynyn-nyn", "nynynyny", "nnnnnnnn"]);
    assert!(reason(&verdicts[1][4]).contains("57014"), "{verdicts:?}");
}

async fn a_batch_that_takes_long_is_answered_whole(cluster: Arc<Cluster>) {
    let world = World::new(&cluster, 1, &format!(
        "{ORDERS} create function slow() returns bool language sql volatile as $$ select pg_sleep(0.2) is not null $$;
         create policy slowly on orders as restrictive using (slow())"
    )).await;
    let table = world.table("orders").await;
    let own = |number: usize| keys([number]);
    let checks: Vec<Check> = (0..60)
        .map(|number| {
            check(
                &table,
                "authenticated",
                &user(1 + number % 2),
                &own(1 + number % 2),
            )
        })
        .collect();
    let began = clock::now();
    let verdicts = world.visible(checks).await;
    let took = clock::now().duration_since(began);
    assert!(took > limits::VISIBILITY_TIMEOUT, "{took:?}");
    assert!(
        verdicts.iter().all(|verdicts| letters(verdicts) == "y"),
        "{verdicts:?}"
    );
}

async fn a_policy_that_never_ends_holds_up_one_batch(cluster: Arc<Cluster>) {
    let world = World::new(&cluster, 2, &format!(
        "{ORDERS} create function slow() returns bool language sql volatile as $$ select case when auth.uid()::text like '%01' then pg_sleep(60) is null else true end $$;
         create policy slowly on orders as restrictive using (slow())"
    )).await;
    let table = world.table("orders").await;
    let ask = async || {
        let checks: Vec<Check> = (0..20)
            .map(|number| check(&table, "authenticated", &user(number), &keys(1..=4)))
            .collect();
        let began = clock::now();
        let verdicts = world.visible(checks).await;
        let took = clock::now().duration_since(began);
        for (number, verdicts) in verdicts.iter().enumerate() {
            match number {
                1 => {}
                2 => assert_eq!(letters(verdicts), "nyny"),
                _ => assert_eq!(letters(verdicts), "nnnn", "{number}"),
            }
        }
        (letters(&verdicts[1]), took)
    };
    let (seen, took) = ask().await;
    assert!(seen.starts_with('-') && !seen.contains('y'), "{seen}");
    assert!(took > limits::VISIBILITY_SLOW_TIMEOUT * 2, "{took:?}");
    for _ in 0..2 {
        let (seen, took) = ask().await;
        assert!(seen.starts_with('-'), "{seen}");
        assert!(took < limits::VISIBILITY_SLOW_TIMEOUT * 2, "{took:?}");
    }
    world.database.sql("drop policy slowly on orders");
    for _ in 0..4 {
        assert_eq!(ask().await.0, "ynyn");
    }
    assert_eq!(world.checkers.measures().given_up.get(), 0);
}

async fn a_stall_of_one_table_is_not_repeated(cluster: Arc<Cluster>) {
    let world = World::new(&cluster, 1, &format!(
        "{ORDERS} create table stuck (id int primary key); insert into stuck values (1); grant select on stuck to authenticated;
         alter table stuck enable row level security; create function slow() returns bool language sql volatile as $$ select pg_sleep(60) is null $$;
         create policy slowly on stuck using (slow())"
    )).await;
    let (stuck, orders) = (world.table("stuck").await, world.table("orders").await);
    let ask = async || {
        let mut checks: Vec<Check> = (0..100)
            .map(|number| check(&stuck, "authenticated", &user(number), &keys([1])))
            .collect();
        checks.push(check(&orders, "authenticated", &user(2), &keys([1, 2])));
        let began = clock::now();
        let verdicts = world.visible(checks).await;
        let seen = all_letters(&verdicts);
        (seen, clock::now().duration_since(began))
    };
    let (seen, took) = ask().await;
    assert!(took >= limits::VISIBILITY_TIMEOUT, "{took:?}");
    // Those that were not reached are asked again with their batch.
    assert_eq!((&*seen[0], &*seen[99], &*seen[100]), ("-", "?", "??"));
    // Whoever was being asked then is as late as the one before.
    assert_eq!(seen[1], "-");
    for _ in 0..2 {
        let (seen, took) = ask().await;
        assert!(seen[..100].iter().all(|seen| seen == "-"), "{seen:?}");
        assert_eq!(seen[100], "ny");
        assert!(took < limits::VISIBILITY_SLOW_TIMEOUT * 3, "{took:?}");
    }
}

async fn a_slow_connection_holds_up_nobody_else(cluster: Arc<Cluster>) {
    let world = World::new(&cluster, 2, &format!("{ORDERS} {WAITING}")).await;
    let table = world.table("orders").await;
    world.lock().await;
    let slow = world.visible(vec![check(&table, "authenticated", &user(1), &keys([1]))]);
    let quick = async {
        world.check_waits().await;
        for _ in 0..3 {
            assert_eq!(world.ask(&table, &user(2), &keys([1, 2])).await, "ny");
        }
        assert_eq!(world.backends("and wait_event = 'advisory'"), "1");
        world.unlock().await;
    };
    let (slow, ()) = tokio::join!(slow, quick);
    assert_eq!(letters(&slow[0]), "y");
}

async fn what_is_given_up_is_cancelled(cluster: Arc<Cluster>) {
    let world = World::new(&cluster, 1, &format!("{ORDERS} {WAITING}")).await;
    let table = world.table("orders").await;
    world.lock().await;
    let slow = || {
        vec![
            check(&table, "authenticated", &user(2), &keys([2])),
            check(&table, "authenticated", &user(1), &keys([1])),
        ]
    };
    let gone = async |since: Instant| {
        until("the backend is gone", async || world.backends("") == "0").await;
        // Not because its own time was up.
        let after = clock::now().duration_since(since);
        assert!(after < limits::VISIBILITY_STATEMENT_TIMEOUT, "{after:?}");
    };
    let began = clock::now();
    let deadline = began + Duration::from_millis(500);
    let verdicts = world.checkers.visible_until(slow(), deadline).await;
    assert_eq!(reason(&verdicts[1][0]), "there was no answer in time");
    assert!(clock::now().duration_since(deadline) < Duration::from_secs(1));
    gone(began).await;
    // The same when nobody waits for the answer any more.
    let began = clock::now();
    let call = world.visible(slow());
    tokio::select! {
        _ = call => panic!("it was answered"),
        () = world.check_waits() => {}
    }
    gone(began).await;
    assert_eq!(world.checkers.measures().given_up.get(), 2);
    world.unlock().await;
    assert_eq!(letters(&world.visible(slow()).await[1]), "y");
}
