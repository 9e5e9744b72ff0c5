//! `MAX_CONNECTIONS` is a limit of the process, however its connections fall upon its shards.

use serde_json::json;

use super::{Test, wait_for_line};
use crate::clock;
use crate::server::{self, Server, Setup};
use crate::socket::{self, Event, Headers};
use crate::token;

pub const TESTS: &[Test] = &[
    ("as_many_sockets_as_allowed_and_then_503_on_uring", || {
        fill("uring")
    }),
    ("as_many_sockets_as_allowed_and_then_503_on_epoll", || {
        fill("epoll")
    }),
    (
        "a_limit_that_the_machine_does_not_have_is_warned_about",
        a_limit_that_the_machine_does_not_have,
    ),
];

const MAX: usize = 40;

fn fill(driver: &'static str) {
    let setup = Setup { driver, shards: 3 };
    let tenants = [server::tenant("full", &json!({}))];
    let server = Server::start(setup, &tenants, &[("MAX_CONNECTIONS", &MAX.to_string())]);
    let connect = || {
        let path = format!("/socket/websocket?vsn=2.0.0&apikey={}", token::good());
        let mut writer = socket::Writer::connect(server.address).expect("the server accepts");
        let (sender, events) = std::sync::mpsc::channel();
        writer.read_into(move |event| sender.send(event).is_ok());
        writer
            .upgrade(&path, "full.localhost", &Headers::new())
            .expect("the server reads a head");
        let answer = events
            .recv_timeout(super::PATIENCE)
            .expect("the server answers");
        (writer, events, answer)
    };
    let status = |event: &Event| match event {
        Event::Upgrade { status, .. } => *status,
        other => panic!("{other:?} instead of an answer"),
    };
    let mut sockets = Vec::new();
    for _ in 0..MAX {
        let (writer, events, answer) = connect();
        assert_eq!(status(&answer), 101, "{answer:?}");
        sockets.push((writer, events));
    }
    for _ in 0..10 {
        let (_, _, answer) = connect();
        let Event::Upgrade {
            status: 503,
            headers,
            body,
        } = &answer
        else {
            panic!("{answer:?} instead of 503");
        };
        assert!(headers.contains_key("retry-after"), "{headers:?}");
        assert!(body.contains("MAX_CONNECTIONS"), "{body}");
    }
    // Whoever watches the server still gets in.
    assert!(server.is_healthy());
    // One goes, one may come.
    let (mut writer, events) = sockets.pop().expect("there are some");
    writer.close(1000).expect("the server reads");
    while events
        .recv_timeout(super::PATIENCE)
        .expect("the server closes")
        != Event::End
    {}
    let deadline = clock::now() + super::PATIENCE;
    let next = loop {
        let (writer, events, answer) = connect();
        match status(&answer) {
            101 => break (writer, events),
            503 => assert!(clock::now() < deadline, "the place stays taken"),
            other => panic!("{other}"),
        }
    };
    let (_, _, answer) = connect();
    assert_eq!(status(&answer), 503, "only one place was free");
    drop((next, sockets));
}

fn a_limit_that_the_machine_does_not_have() {
    let env = [
        ("MAX_CONNECTIONS", "4000000"),
        ("RLIMIT_NOFILE", "2000"),
        ("DRIVER", "epoll"),
    ];
    let server = Server::start(super::SETUP, &[], &env);
    wait_for_line(
        &server,
        "[warning] MAX_CONNECTIONS is 4000000: sockets are files of the process",
    );
    let words = "needs 4001024 open files, the limit is 2000; ";
    assert!(server.log().contains(words), "{}", server.log_end());
}
