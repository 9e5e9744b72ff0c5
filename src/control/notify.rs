//! What systemd is told: sd_notify(3).
//!
//! What comes in: moments of the process' life. What goes out: datagrams to the socket that `NOTIFY_SOCKET` names. What always holds:
//! without such a socket nothing is sent, and nobody waits (`a_manager_that_does_not_read_holds_up_nobody`). Deliberately absent: what a unit file says (`deploy/realtime.service`).

use sd_notify::NotifyState;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

/// The server takes connections and signals.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The server ends.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// The configuration is being read again; [`ready`] follows. systemd wants to know when that began.
pub fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now]);
    }
}

/// Says that the control core is alive, twice as often as systemd wants to hear it (`WatchdogSec=`), for as long as it is. A shard that
/// panics ends the process by itself. Returns at once where nobody wants to hear anything.
pub async fn keep_alive() {
    let Some(period) = sd_notify::watchdog_enabled() else {
        return;
    };
    let mut ticks = tokio::time::interval((period / 2).max(Duration::from_millis(1)));
    loop {
        ticks.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}

/// Whether systemd listens is its own business.
fn tell(states: &[NotifyState<'_>]) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let lines: String = states.iter().map(|state| format!("{state}\n")).collect();
    let is_full = send(Path::new(&path), &lines)
        .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
    // Another sign of life follows. Anything else is said once, so a thread waits until there is room for it.
    let is_sign_of_life = matches!(states, [NotifyState::Watchdog]);
    if is_full && !is_sign_of_life {
        let wait = move || blocking(Path::new(&path), &lines);
        drop(
            std::thread::Builder::new()
                .name("notify".to_owned())
                .spawn(wait),
        );
    }
}

/// Sends without waiting: a manager that is itself held up holds up nobody else.
fn send(path: &Path, text: &str) -> io::Result<()> {
    let socket = socket(path)?;
    socket.set_nonblocking(true)?;
    socket.send(text.as_bytes()).map(drop)
}

fn blocking(path: &Path, text: &str) -> io::Result<()> {
    socket(path)?.send(text.as_bytes()).map(drop)
}

fn socket(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    // A name that begins with `@` is one of the kernel's and not of a file (sd_notify(3)).
    match path.as_os_str().as_bytes().strip_prefix(b"@") {
        Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => socket.connect(path)?,
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_that_does_not_read_holds_up_nobody() {
        let path = std::env::temp_dir().join(format!("realtime-notify-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let manager = UnixDatagram::bind(&path).unwrap();
        let mut sent = 0;
        let error = loop {
            match send(&path, "WATCHDOG=1\n") {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert!(sent > 0);
        let mut text = [0; 64];
        let length = manager.recv(&mut text).unwrap();
        assert_eq!(&text[..length], b"WATCHDOG=1\n");
        let _ = std::fs::remove_file(&path);
    }

    #[test]
    fn abstract_names_are_reached() {
        let name = format!("realtime-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        blocking(Path::new(&format!("@{name}")), "READY=1\n").unwrap();
        let mut text = [0; 64];
        let length = manager.recv(&mut text).unwrap();
        assert_eq!(&text[..length], b"READY=1\n");
    }
}
