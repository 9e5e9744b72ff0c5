//! The runtime against real kernels: the same tests on `io_uring`, on `io_uring` as kernels before 6.8 have it, and on
//! epoll, and nothing in them that could tell which one it is. The handler is a probe: it echoes, does what letters from the test say, and reports what happens
//! to it.

mod probe;
mod simulated;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::channel;
use std::time::Duration;

use probe::{Bench, Do, Kernel, Told};
use shards::{Closed, DriverKind, Options, ShardId};

/// Makes a test of a function for each kernel.
macro_rules! on_every_kernel {
    ($($name:ident)*) => {
        mod uring { $(#[test] fn $name() { super::$name(super::Kernel::Uring); })* }
        mod uring_of_old { $(#[test] fn $name() { super::$name(super::Kernel::UringOfOld); })* }
        mod epoll { $(#[test] fn $name() { super::$name(super::Kernel::Epoll); })* }
    };
}

on_every_kernel! {
    bytes_come_back_whatever_the_split
    a_large_backlog_arrives_whole_and_in_order
    many_connections_are_served_at_once
    what_is_written_at_once_is_taken_in_one_turn
    more_input_than_there_are_buffers_starves_nobody
    short_lives_never_meet_each_other
    a_fin_and_a_reset_are_told_apart_and_told_once
    flush_sends_everything_and_then_half_closes
    final_sends_everything_and_leaves_no_socket_behind
    a_closing_socket_is_cut_off_after_the_linger
    replace_sends_the_last_bytes_instead_of_the_queue
    abort_ends_a_socket_that_never_reads
    a_slow_reader_is_reported_as_stalled_and_not_the_others
    a_detached_socket_keeps_every_byte_and_can_be_adopted_elsewhere
    shards_and_control_exchange_letters_in_order
    full_mailboxes_lose_nothing
    held_input_comes_through_when_the_mail_has_gone
    letters_that_control_does_not_take_hold_up_no_input
    a_visit_comes_in_its_second_and_timers_in_their_millisecond
    a_full_shard_accepts_again_after_a_close
    a_connection_over_the_limit_is_closed
}

fn bytes_come_back_whatever_the_split(kernel: Kernel) {
    let bench = Bench::start(kernel, 1, |_| {});
    let text: Vec<u8> = (0..50_000_u32).flat_map(u32::to_le_bytes).collect();
    for split in [1_usize, 7, 1000, 2048, 4096, 65_536] {
        let text = &text[..text.len().min(split * 3000)];
        let mut socket = bench.connect();
        let mut writer = socket.try_clone().expect("a second handle");
        let sent = text.to_vec();
        let thread = std::thread::spawn(move || {
            for part in sent.chunks(split) {
                writer.write_all(part).expect("the shard reads");
            }
            writer.shutdown(Shutdown::Write).expect("still open");
        });
        let mut back = Vec::new();
        socket.read_to_end(&mut back).expect("the shard echoes");
        thread.join().expect("the writer is done");
        assert!(
            back == text,
            "split {split}: {} of {} bytes",
            back.len(),
            text.len()
        );
    }
    bench.stop();
}

fn a_large_backlog_arrives_whole_and_in_order(kernel: Kernel) {
    let mut bench = Bench::start(kernel, 1, |_| {});
    let (mut socket, id) = bench.connect_known();
    // 3,000 buffers of different sizes, queued in one turn, more than any socket buffer takes.
    bench.send(0, Do::Flood { id, buffers: 3000 });
    let expected = probe::flood(3000);
    let mut got = vec![0; expected.len()];
    socket.read_exact(&mut got).expect("everything arrives");
    assert!(got == expected, "bytes are out of order");
    bench.stop();
}

fn many_connections_are_served_at_once(kernel: Kernel) {
    let bench = Bench::start(kernel, 2, |_| {});
    let mut sockets: Vec<TcpStream> = (0..300).map(|_| bench.connect()).collect();
    for round in 0..3_u8 {
        for (n, socket) in sockets.iter_mut().enumerate() {
            socket
                .write_all(&[round, n as u8])
                .expect("the shard reads");
        }
        for (n, socket) in sockets.iter_mut().enumerate() {
            let mut back = [0; 2];
            socket.read_exact(&mut back).expect("the shard echoes");
            assert_eq!(back, [round, n as u8]);
        }
    }
    bench.stop();
}

fn what_is_written_at_once_is_taken_in_one_turn(kernel: Kernel) {
    const ROUNDS: u64 = 50;
    let mut bench = Bench::start(kernel, 1, |_| {});
    let (mut socket, _) = bench.connect_known();
    // 64 messages of 300 bytes: ten receive buffers, one turn, one send back.
    let text = [7; 64 * 300];
    for _ in 0..ROUNDS {
        socket.write_all(&text).expect("the shard reads");
        let mut back = vec![0; text.len()];
        socket.read_exact(&mut back).expect("the shard echoes");
        assert!(back == text);
    }
    bench.send(0, Do::Turns);
    let Told::Turns { sends, .. } = bench.expect(|told| matches!(told, Told::Turns { .. })) else {
        return;
    };
    // The kernel may split a write or two.
    assert!(
        sends <= ROUNDS + ROUNDS / 5,
        "{sends} sends for {ROUNDS} writes"
    );
    bench.stop();
}

fn more_input_than_there_are_buffers_starves_nobody(kernel: Kernel) {
    let mut bench = Bench::start(kernel, 1, |_| {});
    // Three times what the receive buffers of a shard hold, all at once.
    let mut sockets: Vec<TcpStream> = (0..300).map(|_| bench.connect()).collect();
    let text: Vec<u8> = (0..5000_u32).flat_map(u32::to_le_bytes).collect();
    for socket in &mut sockets {
        socket.write_all(&text).expect("the kernel takes it");
    }
    for socket in &mut sockets {
        let mut back = vec![0; text.len()];
        socket.read_exact(&mut back).expect("the shard echoes");
        assert!(back == text);
    }
    assert_eq!(bench.count(0), 300);
    bench.stop();
}

fn short_lives_never_meet_each_other(kernel: Kernel) {
    let bench = Bench::start(kernel, 2, |_| {});
    for n in 0..600_u32 {
        let mut socket = bench.connect();
        socket.write_all(&n.to_le_bytes()).expect("the shard reads");
        match n % 3 {
            // Gone before the answer comes.
            0 => continue,
            // Broken before the answer comes.
            1 => socket2::SockRef::from(&socket)
                .set_linger(Some(Duration::ZERO))
                .expect("a socket option"),
            _ => {
                socket.shutdown(Shutdown::Write).expect("still open");
                let mut back = Vec::new();
                socket.read_to_end(&mut back).expect("the shard echoes");
                assert_eq!(back, n.to_le_bytes());
            }
        }
    }
    bench.stop();
}

fn a_fin_and_a_reset_are_told_apart_and_told_once(kernel: Kernel) {
    let mut bench = Bench::start(kernel, 1, |_| {});
    let (socket, fin) = bench.connect_known();
    drop(socket);
    bench.expect(|told| matches!(told, Told::Closed(id, Closed::Peer) if *id == fin));
    let (socket, reset) = bench.connect_known();
    socket2::SockRef::from(&socket)
        .set_linger(Some(Duration::ZERO))
        .expect("a socket option");
    drop(socket);
    bench.expect(
        |told| matches!(told, Told::Closed(id, Closed::Reset(libc::ECONNRESET)) if *id == reset),
    );
    assert_eq!(bench.count(0), 0);
    bench.stop_after(|told| assert!(!matches!(told, Told::Closed(..)), "told twice: {told:?}"));
}

fn flush_sends_everything_and_then_half_closes(kernel: Kernel) {
    let mut bench = Bench::start(kernel, 1, |_| {});
    let (mut socket, id) = bench.connect_known();
    bench.send(0, Do::FloodAndFlush { id, buffers: 500 });
    let mut got = vec![0];
    socket.read_exact(&mut got).expect("the flood has begun");
    // Input that nobody reads must not turn into a reset that overtakes the flood.
    socket.write_all(&[1; 100_000]).expect("the shard discards");
    socket.read_to_end(&mut got).expect("a FIN, not a reset");
    assert!(got == probe::flood(500), "{} bytes", got.len());
    drop(socket);
    bench.stop_after(|told| {
        assert!(
            !matches!(told, Told::Closed(..)),
            "no call after close: {told:?}"
        )
    });
}

fn final_sends_everything_and_leaves_no_socket_behind(kernel: Kernel) {
    let mut bench = Bench::start(kernel, 1, |options| {
        options.connections_max = 1;
        options.linger = Duration::from_secs(3600);
    });
    let mut before = Vec::new();
    for _ in 0..5 {
        // There is room for one, so the one before is gone, although its peer keeps its end open.
        let (mut socket, id) = bench.connect_known();
        bench.send(0, Do::FloodAndFinal { id, buffers: 2000 });
        let mut got = Vec::new();
        socket.read_to_end(&mut got).expect("a FIN, not a reset");
        assert!(got == probe::flood(2000), "{} bytes", got.len());
        before.push(socket);
    }
    bench.send(0, Do::Turns);
    let told = bench.expect(|told| matches!(told, Told::Turns { .. }));
    assert!(
        matches!(told, Told::Turns { half_closes: 0, .. }),
        "{told:?}"
    );
    bench.stop_after(|told| {
        assert!(
            !matches!(told, Told::Closed(..)),
            "no call after close: {told:?}"
        )
    });
}

fn a_closing_socket_is_cut_off_after_the_linger(kernel: Kernel) {
    let mut bench = Bench::start(kernel, 1, |options| options.linger = Duration::from_secs(1));
    let (mut socket, id) = bench.connect_known();
    bench.send(0, Do::FloodAndFlush { id, buffers: 1 });
    let mut got = Vec::new();
    socket.read_to_end(&mut got).expect("a FIN first");
    // The peer never closes; after the linger its writes are answered with a reset.
    let error = loop {
        match socket.write_all(&[0]) {
            Ok(()) => bench.wait_ms(50),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(
            error.kind(),
            std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe
        ),
        "{error}"
    );
    bench.stop();
}

fn replace_sends_the_last_bytes_instead_of_the_queue(kernel: Kernel) {
    let mut bench = Bench::start(kernel, 1, |_| {});
    let (mut socket, id) = bench.connect_known();
    bench.send(
        0,
        Do::FloodAndReplace {
            id,
            buffers: 2000,
            last: b"the end".to_vec(),
        },
    );
    let mut got = Vec::new();
    socket.read_to_end(&mut got).expect("a FIN");
    assert_eq!(
        got, b"the end",
        "nothing of the flood was with the kernel yet"
    );
    bench.stop();
}

fn abort_ends_a_socket_that_never_reads(kernel: Kernel) {
    let mut bench = Bench::start(kernel, 1, |_| {});
    let (mut socket, id) = bench.connect_known();
    bench.send(
        0,
        Do::Flood {
            id,
            buffers: 20_000,
        },
    );
    while bench.count(0) != 1 {}
    bench.send(0, Do::Abort { id });
    assert_eq!(bench.count(0), 0);
    let mut got = Vec::new();
    // A reset or an end: in any case not everything.
    let _ = socket.read_to_end(&mut got);
    assert!(got.len() < probe::flood(20_000).len());
    bench.stop();
}

fn a_slow_reader_is_reported_as_stalled_and_not_the_others(kernel: Kernel) {
    let mut bench = Bench::start(kernel, 1, |options| {
        options.stall_after = Duration::from_secs(1)
    });
    let (_slow, slow) = bench.connect_known();
    let (mut quick, quick_id) = bench.connect_known();
    bench.send(
        0,
        Do::Flood {
            id: slow,
            buffers: 20_000,
        },
    );
    bench.send(
        0,
        Do::Flood {
            id: quick_id,
            buffers: 2000,
        },
    );
    let mut got = vec![0; probe::flood(2000).len()];
    quick
        .read_exact(&mut got)
        .expect("the quick one has everything");
    let told = bench.expect(|told| matches!(told, Told::Stalled(..)));
    assert!(
        matches!(told, Told::Stalled(id, queued) if id == slow && queued > 0),
        "{told:?}"
    );
    bench.send(0, Do::Abort { id: slow });
    bench.stop_after(|told| {
        assert!(
            !matches!(told, Told::Stalled(id, _) if *id == quick_id),
            "{told:?}"
        )
    });
}

fn a_detached_socket_keeps_every_byte_and_can_be_adopted_elsewhere(kernel: Kernel) {
    let mut bench = Bench::start(kernel, 2, |_| {});
    for _ in 0..20 {
        let (mut socket, shard, id) = bench.connect_anywhere();
        let mut writer = socket.try_clone().expect("a second handle");
        let text: Vec<u8> = (0..30_000_u32).flat_map(u32::to_le_bytes).collect();
        let sent = text.clone();
        let (tell_adopted, adopted) = channel::<()>();
        let thread = std::thread::spawn(move || {
            sent.chunks(3000)
                .for_each(|part| writer.write_all(part).expect("somebody reads"));
            let _ = adopted.recv();
            writer.shutdown(Shutdown::Write).expect("still open");
        });
        // While bytes come in and are echoed: to control, and from there to the other shard.
        bench.send(shard, Do::Detach { id });
        let Told::Detached(old, descriptor) =
            bench.expect(|told| matches!(told, Told::Detached(..)))
        else {
            continue;
        };
        assert_eq!(old, id);
        bench.send(1 - shard, Do::Adopt(descriptor));
        bench.expect(|told| matches!(told, Told::Adopted));
        drop(tell_adopted);
        let mut back = Vec::new();
        socket.read_to_end(&mut back).expect("both shards echo");
        thread.join().expect("the writer is done");
        assert!(back == text, "{} of {} bytes", back.len(), text.len());
    }
    bench.stop();
}

fn shards_and_control_exchange_letters_in_order(kernel: Kernel) {
    let mut bench = Bench::start(kernel, 3, |_| {});
    // One letter around the ring of shards, a thousand hops.
    bench.send(0, Do::Around { hops: 1000 });
    let told = bench.expect(|told| matches!(told, Told::Around(..)));
    assert!(
        matches!(told, Told::Around(ShardId(1))),
        "hop 1000 of 3 shards ends at shard 1: {told:?}"
    );
    // To itself as well.
    bench.send(2, Do::Self_ { hops: 100 });
    bench.expect(|told| matches!(told, Told::Self_));
    bench.stop();
}

fn full_mailboxes_lose_nothing(kernel: Kernel) {
    let mut bench = Bench::start(kernel, 2, |options| {
        options.mailbox_letters = 4;
        options.spill_letters = 16;
    });
    // Shard 0 posts 5,000 letters to shard 1 in one turn, which forwards each to control.
    bench.send(
        0,
        Do::Burst {
            to: 1,
            letters: 5000,
        },
    );
    for expected in 0..5000 {
        let told = bench.expect(|told| matches!(told, Told::Numbered(_)));
        assert!(
            matches!(told, Told::Numbered(n) if n == expected),
            "expected {expected}: {told:?}"
        );
    }
    // And control to a shard.
    (0..5000).for_each(|n| bench.send(1, Do::Number(n)));
    for expected in 0..5000 {
        let told = bench.expect(|told| matches!(told, Told::Numbered(_)));
        assert!(
            matches!(told, Told::Numbered(n) if n == expected),
            "expected {expected}: {told:?}"
        );
    }
    bench.stop();
}

fn held_input_comes_through_when_the_mail_has_gone(kernel: Kernel) {
    let mut bench = Bench::start(kernel, 2, |options| {
        options.mailbox_letters = 4;
        options.spill_letters = 16;
    });
    let mut sockets = Vec::new();
    while sockets.len() < 200 {
        let (socket, shard, _) = bench.connect_anywhere();
        if shard == 0 {
            sockets.push(socket);
        }
    }
    // Shard 1 reads no letters, so shard 0 takes no input, and there is far more of it than it has buffers, even if a
    // turn's worth slips through before the letters do.
    let (stands_still, end) = channel::<()>();
    bench.send(1, Do::StandStill(end));
    bench.send(
        0,
        Do::Burst {
            to: 1,
            letters: 1000,
        },
    );
    let text: Vec<u8> = (0..10_000_u32).flat_map(u32::to_le_bytes).collect();
    for socket in &mut sockets {
        socket.write_all(&text).expect("the kernel takes it");
    }
    drop(stands_still);
    for expected in 0..1000 {
        let told = bench.expect(|told| matches!(told, Told::Numbered(_)));
        assert!(
            matches!(told, Told::Numbered(n) if n == expected),
            "expected {expected}: {told:?}"
        );
    }
    for socket in &mut sockets {
        let mut back = vec![0; text.len()];
        socket.read_exact(&mut back).expect("the shard echoes");
        assert!(back == text);
    }
    bench.send(0, Do::Turns);
    let told = bench.expect(|told| matches!(told, Told::Turns { .. }));
    assert!(
        matches!(told, Told::Turns { held, parked, .. } if held > 0 && parked > 0),
        "{told:?}"
    );
    bench.stop();
}

fn letters_that_control_does_not_take_hold_up_no_input(kernel: Kernel) {
    let mut bench = Bench::start(kernel, 1, |options| {
        options.mailbox_letters = 4;
        options.spill_letters = 16;
    });
    let (mut socket, _) = bench.connect_known();
    bench.send(0, Do::Report { letters: 1000 });
    // Control is this thread, and takes nothing meanwhile.
    for n in 0..100_u8 {
        socket.write_all(&[n]).expect("the kernel takes it");
        let mut back = [0];
        socket.read_exact(&mut back).expect("the shard echoes");
        assert_eq!(back, [n]);
    }
    for expected in 0..1000 {
        let told = bench.expect(|told| matches!(told, Told::Numbered(_)));
        assert!(
            matches!(told, Told::Numbered(n) if n == expected),
            "expected {expected}: {told:?}"
        );
    }
    bench.stop();
}

fn a_visit_comes_in_its_second_and_timers_in_their_millisecond(kernel: Kernel) {
    let mut bench = Bench::start(kernel, 1, |_| {});
    let (_socket, id) = bench.connect_known();
    bench.send(0, Do::VisitIn { id, seconds: 1 });
    let told = bench.expect(|told| matches!(told, Told::Visited(..)));
    let Told::Visited(visited, late_ms) = told else {
        return;
    };
    assert_eq!(visited, id);
    assert!((0..900).contains(&late_ms), "late by {late_ms} ms");
    bench.send(0, Do::TimerIn { ms: 30 });
    let Told::Timer { late_us } = bench.expect(|told| matches!(told, Told::Timer { .. })) else {
        return;
    };
    assert!((0..500_000).contains(&late_us), "late by {late_us} µs");
    bench.stop();
}

fn a_full_shard_accepts_again_after_a_close(kernel: Kernel) {
    let mut bench = Bench::start(kernel, 1, |options| options.connections_max = 3);
    for _ in 0..5 {
        let sockets: Vec<_> = (0..3).map(|_| bench.connect_known()).collect();
        // One too many: it is closed, one way or the other.
        let mut extra = bench.connect();
        let _ = extra.read_to_end(&mut Vec::new());
        for (socket, id) in sockets {
            drop(socket);
            bench.expect(|told| matches!(told, Told::Closed(closed, _) if *closed == id));
        }
        while bench.count(0) != 0 {}
    }
    bench.stop();
}

fn a_connection_over_the_limit_is_closed(kernel: Kernel) {
    let mut bench = Bench::start(kernel, 1, |options| options.connections_max = 1);
    let (mut first, _) = bench.connect_known();
    let mut second = bench.connect();
    assert!(
        matches!(second.read(&mut [0]), Ok(0) | Err(_)),
        "the second is not served"
    );
    first.write_all(b"x").expect("the first is");
    first.read_exact(&mut [0]).expect("the first is");
    bench.stop();
}

#[test]
fn auto_prefers_the_ring() {
    let bench = Bench::start(Kernel::Auto, 1, |_| {});
    assert!(bench.driver() == DriverKind::Uring || bench.fallback_reason().is_some());
    bench.stop();
}

#[test]
fn start_refuses_what_cannot_be() {
    let options = Options {
        shards: 0,
        ..Options::default()
    };
    assert!(probe::start(options).is_err());
}
