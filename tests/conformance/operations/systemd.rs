//! What systemd hears: the socket of `NOTIFY_SOCKET`.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use super::{PATIENCE, SETUP, Test, wait_for_line};
use crate::server::Server;

pub const TESTS: &[Test] = &[
    (
        "ready_reloading_and_stopping_are_said",
        ready_reloading_and_stopping_are_said,
    ),
    (
        "the_watchdog_is_fed_when_it_is_there",
        the_watchdog_is_fed_when_it_is_there,
    ),
];

/// The other end of the socket.
pub(super) struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    pub(super) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("rt-{}-{name}", std::process::id()));
        let _ = fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).expect("a socket can be made");
        socket
            .set_read_timeout(Some(PATIENCE))
            .expect("it is a time");
        Self { socket, path }
    }

    pub(super) fn path(&self) -> String {
        self.path.display().to_string()
    }

    /// What is said next.
    #[track_caller]
    pub(super) fn next(&self) -> String {
        let mut bytes = [0; 4096];
        let count = self
            .socket
            .recv(&mut bytes)
            .expect("the server says something");
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn ready_reloading_and_stopping_are_said() {
    let manager = Manager::new("says");
    let server = Server::start(SETUP, &[], &[("NOTIFY_SOCKET", &manager.path())]);
    assert_eq!(manager.next().trim_end(), "READY=1");
    server.signal("HUP");
    let reloading = manager.next();
    let mut lines = reloading.lines();
    assert_eq!(lines.next(), Some("RELOADING=1"));
    let now = lines
        .next()
        .and_then(|line| line.strip_prefix("MONOTONIC_USEC="));
    assert!(
        now.is_some_and(|now| now.parse::<u64>().is_ok()),
        "{reloading}"
    );
    assert_eq!(manager.next().trim_end(), "READY=1");
    wait_for_line(&server, "Reloaded: ");
    server.terminate();
    assert_eq!(manager.next().trim_end(), "STOPPING=1");
    assert_eq!(server.exit_code_within(PATIENCE), Some(0));
}

fn the_watchdog_is_fed_when_it_is_there() {
    let manager = Manager::new("watches");
    let env = [
        ("NOTIFY_SOCKET", &*manager.path()),
        ("WATCHDOG_USEC", "200000"),
    ];
    let _server = Server::start(SETUP, &[], &env);
    let mut said: Vec<String> = (0..4)
        .map(|_| manager.next().trim_end().to_owned())
        .collect();
    said.retain(|it| it != "READY=1");
    assert_eq!(said, ["WATCHDOG=1"; 3]);
}
