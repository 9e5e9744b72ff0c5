//! Presence: state and diffs, and the order between them (spec: websocket-protocol 8).

use super::world::{Client, Setup, World, generous};
use super::{closed, join_ok, ok, pushed, shut_down};
use serde_json::{Value, json};
use std::time::Duration;

const TOPIC: &str = "realtime:a";

/// A way for a client to go.
type End = fn(&mut World, Client);

fn enabled(key: &str) -> Value {
    json!({"presence": {"enabled": true, "key": key}})
}

fn track(payload: &Value) -> Value {
    json!(["1", "5", TOPIC, "presence", {"type": "presence", "event": "track", "payload": payload}])
}

fn untrack() -> Value {
    json!(["1", "6", TOPIC, "presence", {"type": "presence", "event": "untrack"}])
}

/// The payload of the only `presence_diff` among these frames.
fn diff(frames: &[Value]) -> Value {
    let diffs: Vec<&Value> = frames
        .iter()
        .filter(|frame| frame[3] == "presence_diff")
        .collect();
    assert_eq!(diffs.len(), 1, "{frames:?}");
    assert_eq!(
        diffs[0].as_array().unwrap()[..3],
        [json!(null), json!(null), json!(TOPIC)]
    );
    diffs[0][4].clone()
}

#[test]
fn the_state_comes_once_behind_the_reply_and_only_if_asked_for() {
    for shards in 1..=3 {
        let mut world = World::of(shards);
        let tracker = world.connect(0, 2);
        world.join(tracker, "1", TOPIC, &enabled("k"));
        let empty = pushed("1", TOPIC, "presence_state", &json!({}));
        assert_eq!(world.reads(tracker), [join_ok("1", TOPIC), empty]);
        world.send(tracker, &track(&json!({"n": 1})));
        let joins = diff(&world.reads(tracker))["joins"].clone();
        assert_eq!(joins["k"]["metas"][0]["n"], 1);
        for shard in 0..shards {
            let reader = world.connect(shard, 2);
            world.join(reader, "1", TOPIC, &enabled("r"));
            let state = pushed("1", TOPIC, "presence_state", &joins);
            assert_eq!(world.reads(reader), [join_ok("1", TOPIC), state]);
            let other = world.connect(shard, 2);
            world.join(other, "1", TOPIC, &json!({}));
            assert_eq!(world.reads(other), [join_ok("1", TOPIC)]);
        }
    }
}

#[test]
fn a_presence_goes_through_join_update_and_leave() {
    for shards in 1..=3 {
        let mut world = World::of(shards);
        let tracker = world.member(0, 2, TOPIC, &enabled("k"));
        let readers: Vec<Client> = (0..shards)
            .map(|shard| world.member(shard, 2, TOPIC, &json!({})))
            .collect();
        let step = |world: &mut World, message: &Value, msg_ref: &str| {
            world.send(tracker, message);
            let read = world.reads(tracker);
            assert!(read.contains(&ok("1", msg_ref, TOPIC)), "{read:?}");
            let diff = diff(&read);
            for &reader in &readers {
                let frames = world.read(reader);
                assert_eq!(frames.len(), 1);
                assert_eq!(self::diff(&frames), diff, "{shards} shards");
            }
            diff
        };
        let first = step(&mut world, &track(&json!({"n": 1})), "5");
        let one = first["joins"]["k"]["metas"][0].clone();
        assert_eq!((&one["n"], &first["leaves"]), (&json!(1), &json!({})));
        let second = step(&mut world, &track(&json!({"n": 2})), "5");
        let two = second["joins"]["k"]["metas"][0].clone();
        assert_eq!(two["phx_ref_prev"], one["phx_ref"]);
        assert_eq!(second["leaves"], json!({"k": {"metas": [one]}}));
        let last = step(&mut world, &untrack(), "6");
        assert_eq!(
            last,
            json!({"joins": {}, "leaves": {"k": {"metas": [two]}}})
        );
    }
}

#[test]
fn what_changes_nothing_is_answered_and_nobody_hears_of_it() {
    let mut world = World::of(2);
    let tracker = world.member(0, 2, TOPIC, &enabled("k"));
    let reader = world.member(1, 2, TOPIC, &json!({}));
    world.send(tracker, &untrack());
    assert_eq!(world.reads(tracker), [ok("1", "6", TOPIC)]);
    world.send(tracker, &track(&json!({"a": 1, "b": 2})));
    world.run();
    world.read(tracker);
    world.read(reader);
    let again = r#"["1","5","realtime:a","presence",{"event":"TRACK","payload":{"b":2, "a":1}}]"#;
    world.write_frame(tracker, 1, again.as_bytes());
    world.send(
        tracker,
        &json!(["1", "7", TOPIC, "presence", {"payload": {}}]),
    );
    assert_eq!(
        world.reads(tracker),
        [ok("1", "5", TOPIC), ok("1", "7", TOPIC)]
    );
    assert_eq!(world.read(reader), Vec::<Value>::new());
    world.send(
        tracker,
        &json!(["1", "8", TOPIC, "presence", {"event": "track", "payload": 5}]),
    );
    world.send(
        tracker,
        &json!(["1", "9", TOPIC, "presence", {"event": "dance"}]),
    );
    let error = |msg_ref: &str, response: Value| json!(["1", msg_ref, TOPIC, "phx_reply", {"status": "error", "response": response}]);
    let expected = [
        error(
            "8",
            json!({"reason": "Presence track payload must be a map"}),
        ),
        error("9", json!({})),
    ];
    assert_eq!(world.reads(tracker), expected);
}

/// Spec 8.2 and 5.9: whichever way a channel ends, its presence leaves.
#[test]
fn a_presence_leaves_with_its_channel_however_that_ends() {
    let ends: [(&str, End); 6] = [
        ("leave", |world, client| {
            world.send(client, &json!(["1", "7", TOPIC, "phx_leave", {}]));
        }),
        ("crash", |world, client| {
            world.broadcast(client, "7", TOPIC, &json!(1))
        }),
        ("join again", |world, client| {
            world.join(client, "7", TOPIC, &json!({}))
        }),
        ("close", |world, client| world.send_close(client, 1000)),
        ("fin", |world, client| world.fin(client)),
        ("reset", |world, client| world.reset(client)),
    ];
    for shards in 1..=3 {
        for (how, end) in ends {
            let mut world = World::of(shards);
            let tracker = world.member(0, 2, TOPIC, &enabled("k"));
            let reader = world.member(shards - 1, 2, TOPIC, &enabled("r"));
            world.send(tracker, &track(&json!({})));
            let joined = diff(&world.reads(reader))["joins"].clone();
            end(&mut world, tracker);
            let left = diff(&world.reads(reader));
            assert_eq!(
                left,
                json!({"joins": {}, "leaves": joined}),
                "{how}, {shards} shards"
            );
            let late = world.connect(0, 2);
            world.join(late, "1", TOPIC, &enabled("l"));
            let empty = pushed("1", TOPIC, "presence_state", &json!({}));
            assert_eq!(world.reads(late), [join_ok("1", TOPIC), empty], "{how}");
        }
    }
}

/// A state is a place among the diffs: what comes before is in it, what comes behind is not.
#[test]
fn a_state_comes_in_its_place_among_the_diffs() {
    for shards in 1..=3 {
        for (owner, reader_shard) in
            (0..shards).flat_map(|owner| (0..shards).map(move |other| (owner, other)))
        {
            let mut world = World::of(shards);
            let topic = world.topic_of(owner);
            let reader = world.connect(reader_shard, 2);
            let tracker = world.member(owner, 2, &topic, &enabled("t"));
            let late = world.connect(owner, 2);
            for n in 0..5 {
                // In one turn sockets are read in the order they connected: the track comes behind the join, and another join
                // behind the track, so that the diff goes out before the turn ends.
                let join_ref = n.to_string();
                world.join(reader, &join_ref, &topic, &enabled("r"));
                let track = json!({"event": "track", "payload": {"n": n}});
                world.send(tracker, &json!(["1", "5", topic, "presence", track]));
                world.join(late, &join_ref, &topic, &json!({}));
                let mut view: Option<Value> = None;
                for frame in world.reads(reader) {
                    match (frame[3].as_str().unwrap(), &mut view) {
                        ("presence_state", None) => view = Some(frame[4].clone()),
                        ("presence_state", Some(_)) => panic!("a second state"),
                        ("presence_diff", Some(view)) => view["t"] = frame[4]["joins"]["t"].clone(),
                        _ => {}
                    }
                }
                let seen = view.expect("a state")["t"]["metas"][0]["n"].clone();
                assert_eq!(
                    seen, n,
                    "owner {owner} of {shards}, reader on {reader_shard}"
                );
            }
        }
    }
}

/// The first channel's state is still under way when the second one of the same topic is in.
#[test]
fn a_channel_gets_no_state_that_was_asked_for_by_the_one_before() {
    for turns in 0..6 {
        let mut world = World::of(2);
        let topic = world.topic_of(1);
        world.member(0, 2, &topic, &json!({}));
        let client = world.connect(0, 2);
        world.run();
        world.join(client, "1", &topic, &enabled("k"));
        world.steps(turns);
        world.join(client, "2", &topic, &enabled("k"));
        let read = world.reads(client);
        let mut states = read.iter().filter(|frame| frame[3] == "presence_state");
        let last = pushed("2", &topic, "presence_state", &json!({}));
        assert_eq!(states.next_back(), Some(&last), "after {turns} turns");
        assert!(
            states.all(|state| state[0] == "1"),
            "after {turns} turns: {read:?}"
        );
    }
}

#[test]
fn members_without_presence_get_diffs_and_may_track() {
    let mut world = World::of(2);
    let tracker = world.member(0, 2, TOPIC, &json!({}));
    let v1 = world.member(1, 1, TOPIC, &json!({}));
    world.send(tracker, &track(&json!({"n": 1})));
    let diff = diff(&world.reads(tracker));
    let (key, _) = diff["joins"].as_object().unwrap().iter().next().unwrap();
    assert_eq!(key.len(), 36, "a key that nobody chose is a UUID: {key}");
    let expected = json!({"topic": TOPIC, "event": "presence_diff", "payload": diff, "ref": null});
    assert_eq!(world.read(v1), [expected]);
}

#[test]
fn one_key_of_two_channels_has_two_metas_the_oldest_first() {
    let mut world = World::of(3);
    for shard in 0..3 {
        let client = world.member(shard, 2, TOPIC, &enabled("k"));
        world.send(client, &track(&json!({"n": shard})));
        world.run();
    }
    let reader = world.connect(1, 2);
    world.join(reader, "1", TOPIC, &enabled("r"));
    let read = world.reads(reader);
    let metas = read[1][4]["k"]["metas"].as_array().unwrap().clone();
    assert!(
        metas
            .iter()
            .map(|meta| meta["n"].as_u64().unwrap())
            .eq(0..3),
        "{metas:?}"
    );
}

#[test]
fn the_sixth_presence_call_in_thirty_seconds_ends_the_channel() {
    let limited = || {
        let mut setup = Setup::new(1);
        setup.tenants[0].client_presence_calls_max = 5;
        let mut world = World::new(setup);
        let client = world.member(0, 2, TOPIC, &enabled("k"));
        (world, client)
    };
    let call = |world: &mut World, client: Client, n: u32| {
        world.send(client, &track(&json!({"n": n})));
        world.reads(client)
    };
    let (mut world, client) = limited();
    for n in 0..5 {
        assert!(call(&mut world, client, n).contains(&ok("1", "5", TOPIC)));
    }
    let last = call(&mut world, client, 5);
    let text = "Client presence rate limit exceeded";
    let without_diffs: Vec<Value> = last
        .into_iter()
        .filter(|frame| frame[3] != "presence_diff")
        .collect();
    assert_eq!(without_diffs, shut_down("1", TOPIC, text));

    let (mut world, client) = limited();
    for n in 0..12 {
        assert!(
            call(&mut world, client, n).contains(&ok("1", "5", TOPIC)),
            "{n}"
        );
        if n % 5 == 4 {
            world.advance(Duration::from_secs(30));
        }
    }
}

#[test]
fn too_large_a_track_ends_the_channel() {
    let mut limits = generous();
    limits.payload_bytes_max = 1500;
    let mut world = World::new(Setup {
        tenants: vec![limits],
        ..Setup::new(2)
    });
    let client = world.member(0, 2, TOPIC, &enabled("k"));
    let reader = world.member(1, 2, TOPIC, &json!({}));
    world.send(client, &track(&json!({"x": "y".repeat(1500)})));
    let text = "Track message size exceeded";
    assert_eq!(world.reads(client), shut_down("1", TOPIC, text));
    assert_eq!(world.read(reader), Vec::<Value>::new());
}

#[test]
fn a_tracker_that_leaves_hears_of_nothing_behind_its_phx_close() {
    for shards in 1..=3 {
        let mut world = World::of(shards);
        let client = world.member(0, 2, TOPIC, &enabled("k"));
        world.member(shards - 1, 2, TOPIC, &json!({}));
        world.send(client, &track(&json!({})));
        world.reads(client);
        world.send(client, &json!(["1", "7", TOPIC, "phx_leave", {}]));
        assert_eq!(
            world.reads(client),
            [ok("1", "7", TOPIC), closed("1", TOPIC)]
        );
    }
}

/// In one turn, some join, some track and some leave, in turn: everybody's view is right, and those who were there before get one
/// delivery and not one per event.
#[test]
fn a_storm_on_one_topic_is_one_delivery_a_turn() {
    const STORM: usize = 60;
    for (shards, others) in [(1, 0), (2, 1)] {
        let mut world = World::of(shards);
        let topic = world.topic_of(0);
        let trackers: Vec<Client> = (0..STORM)
            .map(|n| world.member(others, 2, &topic, &enabled(&format!("t{n}"))))
            .collect();
        let joiners: Vec<Client> = (0..STORM).map(|_| world.connect(others, 2)).collect();
        let witness = world.member(0, 2, &topic, &enabled("w"));
        world.run();
        for &client in trackers.iter().chain([&witness]) {
            world.reads(client);
        }
        let before = world.figures(0).1.coalesced.get();
        for (n, (&tracker, &joiner)) in trackers.iter().zip(&joiners).enumerate() {
            let meta = json!({"event": "track", "payload": {"n": n}});
            world.send(tracker, &json!(["1", "5", topic, "presence", meta]));
            world.join(joiner, "1", &topic, &enabled("j"));
        }
        let seen = view(&world.reads(witness), json!({}));
        assert_eq!(seen.as_object().unwrap().len(), STORM);
        for &joiner in &joiners {
            let read = world.reads(joiner);
            let state = read.iter().position(|frame| frame[3] == "presence_state");
            let state = state.expect("a state");
            assert_eq!(view(&read[state + 1..], read[state][4].clone()), seen);
            let diffs = read[..state]
                .iter()
                .filter(|frame| frame[3] == "presence_diff");
            assert!(others > 0 || diffs.count() == 0, "a diff before the state");
        }
        if others == 0 {
            // The reply to a track and the diffs of the turn: two buffers a tracker, and none of the witness.
            let coalesced = world.figures(0).1.coalesced.get() - before;
            assert!(coalesced <= 4 * STORM as u64, "{coalesced} buffers");
        }

        let before = world.figures(0).1.coalesced.get();
        for &tracker in &trackers {
            world.send(tracker, &json!(["1", "9", topic, "phx_leave", {}]));
        }
        assert_eq!(view(&world.reads(witness), seen), json!({}));
        for (n, &tracker) in trackers.iter().enumerate() {
            let read = world.reads(tracker);
            let leaves = |key: &str| read.iter().any(|frame| !frame[4]["leaves"][key].is_null());
            assert!(read.contains(&ok("1", "9", &topic)), "{read:?}");
            if others == 0 {
                assert!(
                    n == 0 || leaves(&format!("t{}", n - 1)),
                    "what came before it"
                );
                assert!(!leaves(&format!("t{}", n + 1)), "what came behind it");
            }
        }
        if others == 0 {
            let coalesced = world.figures(0).1.coalesced.get() - before;
            assert!(coalesced <= 6 * STORM as u64, "{coalesced} buffers");
        }
    }
}

/// What a client makes of diffs: metas by their references.
fn view(frames: &[Value], mut state: Value) -> Value {
    for frame in frames.iter().filter(|frame| frame[3] == "presence_diff") {
        for (key, left) in frame[4]["leaves"].as_object().unwrap() {
            if state[key] == *left {
                state.as_object_mut().unwrap().remove(key);
            }
        }
        for (key, joined) in frame[4]["joins"].as_object().unwrap() {
            state[key] = joined.clone();
        }
    }
    state
}

/// A state that is shared by those who asked for it says the same as a small one that is copied.
#[test]
fn a_large_state_is_whole_in_both_serializers() {
    let mut world = World::of(1);
    let text = "x".repeat(crate::limits::SHARED_PAYLOAD_BYTES_MIN);
    let tracker = world.member(0, 2, TOPIC, &enabled("k"));
    world.send(tracker, &track(&json!({"text": text})));
    let joins = diff(&world.reads(tracker))["joins"].clone();
    assert_eq!(joins["k"]["metas"][0]["text"], text.as_str());
    let readers: Vec<Client> = [2, 1, 2].map(|vsn| world.connect(0, vsn)).to_vec();
    for &reader in &readers {
        world.join(reader, "1", TOPIC, &enabled("r"));
    }
    for &reader in &readers {
        let read = world.reads(reader);
        let payloads = read.iter().map(|frame| match world.vsn(reader) {
            1 => (&frame["event"], &frame["payload"]),
            _ => (&frame[3], &frame[4]),
        });
        let states: Vec<&Value> = payloads
            .filter(|(event, _)| **event == "presence_state")
            .map(|(_, payload)| payload)
            .collect();
        assert_eq!(states, [&joins]);
    }
}

/// The first member that speaks the other serializer has a topic sealed in the middle of a turn.
#[test]
fn no_diff_overtakes_the_state_of_a_turn_that_is_sealed_early() {
    let mut world = World::of(1);
    // In one turn sockets are read in the order they connected.
    let reader = world.connect(0, 2);
    let sender = world.member(0, 2, TOPIC, &json!({}));
    let other = world.connect(0, 1);
    let tracker = world.member(0, 2, TOPIC, &enabled("t"));
    world.run();
    world.join(reader, "1", TOPIC, &enabled("r"));
    world.broadcast(sender, "9", TOPIC, &json!({"id": 1}));
    world.join(other, "1", TOPIC, &json!({}));
    world.send(tracker, &track(&json!({"n": 1})));
    let read = world.reads(reader);
    let state = read.iter().position(|frame| frame[3] == "presence_state");
    let (before, rest) = read.split_at(state.expect("a state"));
    assert!(before.iter().all(|frame| frame[3] != "presence_diff"));
    let seen = view(&rest[1..], rest[0][4].clone());
    assert_eq!(seen["t"]["metas"][0]["n"], 1, "{read:?}");
}
