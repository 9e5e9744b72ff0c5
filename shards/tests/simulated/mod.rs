//! The runtime on the simulated kernel: many seeds, every fault, and a handler that checks what it is promised.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::time::Duration;

use shards::sim::{Faults, PeerId, Sim};
use shards::{Close, Closed, ConnectionId, Handler, Io, LocalBytes, Options, Peer, ShardId};

use crate::probe::{Do, Letter, Probe, Told, flood};

/// An echo that knows the promises of `Handler` and keeps a diary.
#[derive(Default)]
struct Strict {
    live: HashMap<ConnectionId, Stage>,
    diary: Vec<String>,
    in_turn: bool,
}

#[derive(Copy, Clone, Eq, PartialEq, Debug)]
enum Stage {
    Open,
    Detaching,
}

impl Strict {
    fn note(&mut self, io: &Io<'_, ConnectionId>, what: &str, id: ConnectionId) {
        self.in_turn = true;
        self.diary.push(format!(
            "{} {what} {}.{}",
            io.now().0,
            id.index(),
            id.generation()
        ));
    }

    fn end(&mut self, id: ConnectionId) -> Stage {
        self.live
            .remove(&id)
            .expect("an end comes once, and only of what began")
    }
}

impl Handler for Strict {
    type Mail = ConnectionId;

    fn on_accept(&mut self, io: &mut Io<'_, ConnectionId>, id: ConnectionId) {
        self.note(io, "accept", id);
        assert!(
            self.live.insert(id, Stage::Open).is_none(),
            "an id is used once"
        );
    }

    fn on_bytes(&mut self, io: &mut Io<'_, ConnectionId>, id: ConnectionId, bytes: &mut [u8]) {
        self.note(io, "bytes", id);
        assert!(
            self.live.contains_key(&id),
            "bytes of a connection that is gone"
        );
        assert!(!bytes.is_empty(), "nothing arrived");
        if bytes.contains(&b'!') {
            self.end(id);
            io.close(id, Close::Flush);
        } else if bytes.contains(&b'$') {
            self.end(id);
            io.send(id, LocalBytes::from(bytes.to_vec()));
            io.close(id, Close::Final);
        } else if bytes.contains(&b'#') {
            self.end(id);
            io.close(id, Close::Abort);
        } else if bytes.contains(&b'*') {
            for id in self.live.keys() {
                io.send(*id, LocalBytes::from(bytes.to_vec()));
            }
            if bytes.contains(&b'.') {
                io.stop();
            }
        } else {
            // In two buffers, so that they are coalesced.
            let (head, tail) = bytes.split_at(bytes.len() / 2);
            io.send(id, LocalBytes::from(head.to_vec()));
            let queued = io.send(id, LocalBytes::from(tail.to_vec()));
            assert!(queued >= bytes.len());
        }
        if bytes.contains(&b'>') && self.live.get(&id) == Some(&Stage::Open) {
            self.live.insert(id, Stage::Detaching);
            io.detach(id);
        }
    }

    fn on_close(&mut self, io: &mut Io<'_, ConnectionId>, id: ConnectionId, _why: Closed) {
        self.note(io, "close", id);
        self.end(id);
        assert_eq!(io.queued_bytes(id), 0);
        io.mail(Peer::Control, id);
    }

    fn on_detached(&mut self, io: &mut Io<'_, ConnectionId>, id: ConnectionId, socket: OwnedFd) {
        self.note(io, "detached", id);
        assert_eq!(self.end(id), Stage::Detaching);
        let id = io.adopt(socket).expect("there is room");
        assert!(
            self.live.insert(id, Stage::Open).is_none(),
            "an id is used once"
        );
    }

    fn on_mail(&mut self, _io: &mut Io<'_, ConnectionId>, _from: Peer, _mail: ConnectionId) {}

    fn on_timer(&mut self, _io: &mut Io<'_, ConnectionId>, _key: u64) {}

    fn on_visit(&mut self, _io: &mut Io<'_, ConnectionId>, _id: ConnectionId) {}

    fn on_stalled(&mut self, _io: &mut Io<'_, ConnectionId>, id: ConnectionId) {
        assert!(self.live.contains_key(&id));
    }

    fn on_turn_end(&mut self, io: &mut Io<'_, ConnectionId>) {
        assert_eq!(io.connection_count(), self.live.len());
        self.in_turn = false;
    }
}

fn strict(seed: u64, faults: Faults) -> Sim<Strict> {
    Sim::new(seed, faults, 2, |_| Strict::default())
}

/// Bytes that tell nobody to do anything, of a length by the seed.
fn text(seed: u64, n: usize) -> Vec<u8> {
    (0..(seed as usize * 37 + n * 1013) % 9000 + 1)
        .map(|at| b'a' + (at % 26) as u8)
        .collect()
}

fn connect(sim: &mut Sim<Strict>, count: u16) -> Vec<PeerId> {
    (0..count).map(|n| sim.connect(ShardId(n % 2))).collect()
}

#[test]
fn every_seed_echoes_every_byte() {
    for seed in 0..300 {
        let mut sim = strict(seed, Faults::lossless());
        let peers = connect(&mut sim, 6);
        let mut back = vec![Vec::new(); peers.len()];
        for round in 0..5 {
            for (n, peer) in peers.iter().enumerate() {
                let text = text(seed, n);
                let from = text.len() * round / 5;
                let to = text.len() * (round + 1) / 5;
                sim.peer(*peer).write(&text[from..to]);
                sim.steps(n);
                back[n].extend(sim.peer(*peer).read());
            }
        }
        // Time, for listeners that wait after an error.
        sim.advance(Duration::from_secs(20));
        for (n, peer) in peers.iter().enumerate() {
            back[n].extend(sim.peer(*peer).read());
            assert!(
                back[n] == text(seed, n),
                "seed {seed}, peer {n}: {} bytes",
                back[n].len()
            );
            sim.peer(*peer).fin();
        }
        sim.advance(Duration::from_secs(20));
        assert!(
            peers.iter().all(|peer| sim.peer(*peer).is_ended()),
            "seed {seed}"
        );
        assert!(
            (0..2).all(|shard| sim.handler(ShardId(shard)).live.is_empty()),
            "seed {seed}"
        );
        let closed = std::iter::from_fn(|| sim.control.receive()).count();
        assert_eq!(closed, peers.len(), "seed {seed}");
    }
}

#[test]
fn no_seed_and_no_fault_breaks_a_promise() {
    for seed in 0..300 {
        let mut sim = strict(seed, Faults::all());
        let peers = connect(&mut sim, 20);
        let mut back = vec![Vec::new(); peers.len()];
        for (n, peer) in peers.iter().enumerate() {
            sim.peer(*peer).write(&text(seed, n));
            sim.steps(seed as usize % 7);
            match n % 5 {
                4 if n % 2 == 0 => sim.peer(*peer).write(b"$"),
                0 => sim.peer(*peer).write(b"!"),
                1 => sim.peer(*peer).write(b"#"),
                2 => sim.peer(*peer).fin(),
                3 if n % 2 == 0 => sim.peer(*peer).reset(),
                3 => sim.peer(*peer).write(b">"),
                _ => {}
            }
            back[n].extend(sim.peer(*peer).read());
        }
        sim.advance(Duration::from_secs(60));
        for (n, peer) in peers.iter().enumerate() {
            back[n].extend(sim.peer(*peer).read());
            let last = if n % 5 == 4 { b"$" } else { b">" };
            let sent = [text(seed, n), last.to_vec()].concat();
            assert!(sent.starts_with(&back[n]), "seed {seed}, peer {n}");
            if n % 5 <= 2 || (n % 5 == 4 && n % 2 == 0) {
                assert!(
                    sim.peer(*peer).is_ended() || sim.peer(*peer).is_reset(),
                    "seed {seed}, peer {n}"
                );
            }
        }
        for peer in &peers {
            sim.peer(*peer).reset();
        }
        sim.advance(Duration::from_secs(60));
    }
}

#[test]
fn a_peer_that_said_its_last_word_gets_every_byte_and_an_end() {
    for seed in 0..300 {
        let options = Options {
            shards: 2,
            linger: Duration::from_secs(3600),
            ..Options::default()
        };
        let mut sim = Sim::with_options(seed, Faults::lossless(), options, |_| Strict::default());
        let peers = connect(&mut sim, 6);
        let mut back = vec![Vec::new(); peers.len()];
        for (n, peer) in peers.iter().enumerate() {
            sim.peer(*peer).write(&text(seed, n));
            sim.steps(n);
            sim.peer(*peer).write(b"$");
            if n % 3 == 0 {
                sim.peer(*peer).fin();
            }
            back[n].extend(sim.peer(*peer).read());
        }
        // Far less than the linger.
        sim.advance(Duration::from_secs(20));
        for (n, peer) in peers.iter().enumerate() {
            back[n].extend(sim.peer(*peer).read());
            assert!(
                !sim.peer(*peer).is_reset(),
                "seed {seed}, peer {n}: nothing was left unread"
            );
            assert!(sim.peer(*peer).is_closed(), "seed {seed}, peer {n}");
            let sent = [text(seed, n), b"$".to_vec()].concat();
            assert!(back[n] == sent, "seed {seed}, peer {n}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut sim = strict(seed, Faults::all());
        for (n, peer) in connect(&mut sim, 8).into_iter().enumerate() {
            sim.peer(peer).write(&text(seed, n));
        }
        sim.advance(Duration::from_secs(20));
        [0, 1].map(|shard| sim.handler(ShardId(shard)).diary.clone())
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

/// A probe on a simulated kernel without faults, one shard, one connection.
fn probed(change: impl FnOnce(&mut Options)) -> (Sim<Probe>, PeerId, ConnectionId) {
    let mut options = Options {
        shards: 1,
        ..Options::default()
    };
    change(&mut options);
    let mut sim = Sim::with_options(1, Faults::none(), options, |_| Probe::default());
    let peer = sim.connect(ShardId(0));
    sim.run_until_idle();
    match told(&mut sim).pop() {
        Some(Told::Accepted(id)) => (sim, peer, id),
        other => panic!("not accepted: {other:?}"),
    }
}

fn told(sim: &mut Sim<Probe>) -> Vec<Told> {
    let letters = std::iter::from_fn(|| sim.control.receive());
    letters
        .filter_map(|(_, letter)| {
            if let Letter::Told(told) = letter {
                Some(told)
            } else {
                None
            }
        })
        .collect()
}

fn order(sim: &mut Sim<Probe>, order: Do) {
    sim.control.send(ShardId(0), Letter::Do(order));
    sim.run_until_idle();
}

#[test]
fn a_reader_is_stalled_after_exactly_the_time_without_progress() {
    let (mut sim, peer, id) = probed(|options| options.stall_after = Duration::from_secs(30));
    order(&mut sim, Do::Flood { id, buffers: 2000 });
    sim.advance(Duration::from_secs(20));
    // Reading a little is progress.
    assert!(!sim.peer(peer).read().is_empty());
    sim.advance(Duration::from_secs(29));
    assert!(told(&mut sim).is_empty());
    sim.advance(Duration::from_secs(2));
    assert!(matches!(told(&mut sim)[..], [Told::Stalled(stalled, _)] if stalled == id));
    sim.advance(Duration::from_secs(31));
    assert!(
        matches!(told(&mut sim)[..], [Told::Stalled(..)]),
        "said again after as long again"
    );
    order(
        &mut sim,
        Do::FloodAndReplace {
            id,
            buffers: 0,
            last: b"bye".to_vec(),
        },
    );
    assert!(!sim.peer(peer).is_ended());
    sim.advance(Duration::from_secs(7));
    assert!(
        sim.peer(peer).is_ended() || !sim.peer(peer).read().is_empty(),
        "cut off after the linger"
    );
    sim.advance(Duration::from_secs(100));
    assert!(
        told(&mut sim).is_empty(),
        "nothing is said of what was closed"
    );
}

#[test]
fn a_trickle_does_not_keep_a_closing_socket_for_ever() {
    let (mut sim, peer, id) = probed(|options| options.linger = Duration::from_secs(3));
    order(
        &mut sim,
        Do::FloodAndFlush {
            id,
            buffers: 100_000,
        },
    );
    let mut seconds = 0;
    while !sim.peer(peer).is_ended() {
        sim.peer(peer).read();
        sim.advance(Duration::from_secs(1));
        seconds += 1;
        assert!(seconds < 40, "cut off after ten lingers");
    }
    assert!(seconds >= 30, "not before: {seconds}");
}

#[test]
fn visits_come_at_the_second_asked_for_however_far() {
    let (mut sim, _, id) = probed(|_| {});
    for seconds in [1, 5, 63, 64, 65, 200] {
        order(&mut sim, Do::VisitIn { id, seconds });
        sim.advance(Duration::from_millis(u64::from(seconds) * 1000 - 1));
        assert!(told(&mut sim).is_empty(), "{seconds} s: too early");
        sim.advance(Duration::from_millis(1));
        assert!(
            matches!(told(&mut sim)[..], [Told::Visited(_, 0)]),
            "{seconds} s"
        );
        sim.advance(Duration::from_secs(70));
        assert!(
            told(&mut sim).is_empty(),
            "a visit clears the other requests"
        );
    }
}

fn thousands(count: u16) -> (Sim<Strict>, Vec<PeerId>) {
    let options = Options {
        shards: 1,
        connections_max: count.into(),
        ..Options::default()
    };
    let mut sim = Sim::with_options(1, Faults::default(), options, |_| Strict::default());
    let peers = (0..count).map(|_| sim.connect(ShardId(0))).collect();
    sim.run_until_idle();
    (sim, peers)
}

/// What the kernel then makes of it, before the sockets are closed, is its own.
#[test]
fn the_last_turn_sends_to_thousands() {
    let (mut sim, peers) = thousands(9_000);
    sim.peer(peers[0]).write(b"*.");
    sim.run_until_idle();
    assert!(sim.is_stopped(ShardId(0)));
    assert_eq!(sim.metrics(ShardId(0)).sends.get(), 9_000);
}

/// What comes in while thousands are sent to is answered before the last of them has been.
#[test]
fn a_fan_out_to_thousands_lets_others_in() {
    const OF_A_TURN: u64 = 4_096;
    let (mut sim, peers) = thousands(9_000);
    let sends = |sim: &Sim<Strict>| sim.metrics(ShardId(0)).sends.get();
    sim.peer(peers[0]).write(b"*");
    while sends(&sim) == 0 {
        assert!(sim.step());
    }
    assert_eq!(sends(&sim), OF_A_TURN);
    sim.peer(peers[0]).write(b"in between");
    sim.step();
    let diary = &sim.handler(ShardId(0)).diary;
    assert_eq!(
        diary.iter().filter(|line| line.contains("bytes")).count(),
        2
    );
    assert_eq!(sends(&sim), 2 * OF_A_TURN);
    sim.run_until_idle();
    assert_eq!(sim.peer(peers[0]).read(), b"*in between");
    for &peer in &peers[1..] {
        assert_eq!(sim.peer(peer).read(), b"*");
    }
}

/// What comes in while letters for thousands wait is answered before the last of them has been taken.
#[test]
fn letters_that_lead_to_much_let_others_in() {
    const OF_A_TURN: u64 = 65_536;
    let (mut sim, peer, id) = probed(|_| {});
    let before = sim.metrics(ShardId(0)).mail_received.get();
    let buffers = 1_000;
    for _ in 0..80 {
        let letter = Letter::Do(Do::Trickle { id, buffers });
        sim.control.send(ShardId(0), letter);
    }
    let taken = |sim: &Sim<Probe>| sim.metrics(ShardId(0)).mail_received.get() - before;
    assert!(sim.step());
    assert_eq!(taken(&sim), OF_A_TURN.div_ceil(buffers.into()));
    sim.peer(peer).write(b"in between");
    sim.run_until_idle();
    assert_eq!(taken(&sim), 80);
    let mut read = Vec::new();
    while read.len() < 80 * buffers as usize + 10 {
        let before = read.len();
        read.extend(sim.peer(peer).read());
        assert!(read.len() > before, "no more than {before} bytes came");
        sim.run_until_idle();
    }
    let place = read.iter().position(|byte| *byte != 1);
    assert_eq!(place, Some(66 * buffers as usize));
}

#[test]
fn shards_sleep_when_there_is_nothing_to_do() {
    let (mut sim, _, id) = probed(|_| {});
    order(&mut sim, Do::VisitIn { id, seconds: 60 });
    told(&mut sim);
    let (before, _) = turns(&mut sim);
    sim.advance(Duration::from_secs(59));
    let (after, _) = turns(&mut sim);
    assert!(
        after - before <= 8,
        "{} turns in an idle minute",
        after - before
    );
}

/// Turns of shard 0, and turns in which it held input back.
fn turns(sim: &mut Sim<Probe>) -> (u64, u64) {
    order(sim, Do::Turns);
    let turns = told(sim).iter().find_map(|told| match told {
        Told::Turns { turns, held, .. } => Some((*turns, *held)),
        _ => None,
    });
    turns.expect("an answer")
}

#[test]
fn a_flood_of_mail_stops_input_until_it_is_through() {
    let mut sim = Sim::new(3, Faults::none(), 2, |_| Probe::default());
    let peer = sim.connect(ShardId(0));
    sim.run_until_idle();
    sim.control.send(
        ShardId(0),
        Letter::Do(Do::Burst {
            to: 1,
            letters: 2000,
        }),
    );
    sim.peer(peer).write(&flood(300));
    sim.run_until_idle();
    let mut numbers = Vec::new();
    let mut back = Vec::new();
    while numbers.len() < 2000 || back.len() < flood(300).len() {
        let before = numbers.len() + back.len();
        for told in told(&mut sim) {
            match told {
                Told::Numbered(n) => numbers.push(n),
                Told::Accepted(_) => {}
                other => panic!("not asked for: {other:?}"),
            }
        }
        back.extend(sim.peer(peer).read());
        sim.run_until_idle();
        assert!(
            numbers.len() + back.len() > before,
            "stuck at {} and {}",
            numbers.len(),
            back.len()
        );
    }
    assert!(numbers.into_iter().eq(0..2000));
    assert!(back == flood(300));
    assert!(turns(&mut sim).1 > 0, "input was held back meanwhile");
}
