//! Sockets whose tenant is not known here, and may be known elsewhere (spec: websocket-protocol 1.1, control-database 6).

use super::world::{Setup, World, generous, tenant, token};
use super::{heartbeat, heartbeat_ok};
use crate::connection::ConnectionId;
use crate::limits;
use crate::mail::Mail;
use serde_json::{Value, json};
use shards::Options;
use std::sync::Arc;
use std::time::Duration;

fn world() -> World {
    World::new(Setup {
        seeks_tenants: true,
        ..Setup::new(1)
    })
}

/// Who is sought for whom; they have to be told.
fn sought(world: &mut World) -> Vec<(String, ConnectionId)> {
    world.run();
    let letters = std::mem::take(&mut world.letters);
    let seeks = letters.into_iter().filter_map(|letter| match letter {
        Mail::Seek(seek) => Some((seek.external_id, seek.connection)),
        _ => None,
    });
    seeks.collect()
}

fn not_found() -> Value {
    json!({"status": "404", "body": r#"{"error":"Tenant not found"}"#})
}

#[test]
fn a_tenant_that_is_found_gets_its_socket_with_everything_it_has_sent() {
    let mut world = world();
    let client = world.connect_with(0, 2, 1, &token(1000));
    let seeks = sought(&mut world);
    assert_eq!(seeks.len(), 1);
    assert_eq!((seeks[0].0.as_str(), world.reads(client)), ("t1", vec![]));
    // A client that does not wait for its answer.
    world.send(client, &heartbeat("1"));
    world.run();
    let found = tenant(1, generous(), 1);
    world.tell(|| Mail::Tenant(Arc::clone(&found)));
    world.tell(|| Mail::Sought(seeks[0].1));
    assert_eq!(world.reads(client), [heartbeat_ok("1")]);
    // The next one need not be sought.
    let next = world.connect_with(0, 2, 1, &token(1000));
    assert_eq!(sought(&mut world), []);
    world.send(next, &heartbeat("1"));
    assert_eq!(world.reads(next), [heartbeat_ok("1")]);
}

#[test]
fn a_tenant_that_is_not_found_is_refused_as_ever() {
    let mut world = world();
    let client = world.connect_with(0, 2, 1, &token(1000));
    let seeks = sought(&mut world);
    world.tell(|| Mail::Sought(seeks[0].1));
    assert_eq!(world.reads(client), Vec::<Value>::new(), "it is delayed");
    world.advance(Duration::from_secs(2));
    assert_eq!(world.reads(client), [not_found()]);
    assert_eq!(world.remains()[0], 0);
    // It is asked for again: nobody remembers that it was missing.
    world.connect_with(0, 2, 1, &token(1000));
    assert_eq!(sought(&mut world).len(), 1);
}

#[test]
fn an_answer_that_does_not_come_is_a_refusal() {
    let mut world = world();
    let client = world.connect_with(0, 2, 1, &token(1000));
    world.advance(limits::HEAD_TIMEOUT + Duration::from_secs(4));
    assert_eq!(world.reads(client), [not_found()]);
    // When it comes all the same, there is nobody.
    let seeks = sought(&mut world);
    world.tell(|| Mail::Sought(seeks[0].1));
    assert_eq!(world.remains()[0], 0);
}

#[test]
fn more_than_the_bound_are_refused_unasked() {
    let options = Options {
        connections_max: 2 * limits::SEEKING_SOCKETS_MAX,
        ..Setup::new(1).options
    };
    let mut world = World::new(Setup {
        options,
        seeks_tenants: true,
        ..Setup::new(1)
    });
    for _ in 0..limits::SEEKING_SOCKETS_MAX {
        world.connect_with(0, 2, 1, &token(1000));
    }
    let seeks = sought(&mut world);
    assert_eq!(seeks.len(), limits::SEEKING_SOCKETS_MAX);
    let beyond = world.connect_with(0, 2, 1, &token(1000));
    assert_eq!(sought(&mut world), []);
    world.advance(Duration::from_secs(2));
    assert_eq!(world.reads(beyond), [not_found()]);
    // One that hangs up makes room, and so does one that is answered.
    let gone = world.connect_with(0, 2, 0, &token(1000));
    world.reset(gone);
    world.tell(|| Mail::Sought(seeks[0].1));
    world.connect_with(0, 2, 1, &token(1000));
    assert_eq!(sought(&mut world).len(), 1);
}

#[test]
fn who_hangs_up_or_sends_too_much_is_not_waited_for() {
    let mut world = world();
    let client = world.connect_with(0, 2, 1, &token(1000));
    assert_eq!(sought(&mut world).len(), 1);
    world.reset(client);
    world.run();
    assert_eq!(world.remains()[0], 0);
    let eager = world.connect_with(0, 2, 1, &token(1000));
    assert_eq!(sought(&mut world).len(), 1);
    world.write(eager, &vec![0; limits::HEAD_BYTES_MAX]);
    world.advance(Duration::from_secs(2));
    assert_eq!(world.reads(eager), [not_found()]);
}

#[test]
fn who_sends_too_much_is_refused_also_where_the_tenant_is_known_by_now() {
    let mut world = world();
    let eager = world.connect_with(0, 2, 1, &token(1000));
    assert_eq!(sought(&mut world).len(), 1);
    let found = tenant(1, generous(), 1);
    world.tell(|| Mail::Tenant(Arc::clone(&found)));
    world.write(eager, &vec![0; limits::HEAD_BYTES_MAX]);
    world.advance(Duration::from_secs(2));
    assert_eq!(world.reads(eager), [not_found()]);
    assert_eq!(world.remains()[0], 0);
}

#[test]
fn only_unknown_tenants_are_sought() {
    let mut world = world();
    let client = world.connect_with(0, 2, 0, "no token");
    assert_eq!(sought(&mut world), []);
    world.advance(Duration::from_secs(2));
    assert!(!world.reads(client).is_empty(), "it is refused");
    // Where nobody else stores tenants, nobody is asked.
    let mut alone = World::of(1);
    alone.connect_with(0, 2, 7, &token(1000));
    assert_eq!(sought(&mut alone), []);
}
