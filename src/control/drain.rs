//! The end of the process: told by a signal, done in order, and bounded (spec: websocket-protocol 4.5).
//!
//! What comes in: termination signals, and the shards' word that they have no joined socket left. What goes out: the order to drain.
//! What always holds: it is over after [`limits::DRAIN_TIMEOUT`] at the latest, and at once with a second signal. Deliberately
//! absent: closing sockets; the shards do that.

use super::api::Connections;
use super::clock;
use super::log::Log;
use super::notify;
use super::outgoing::{News, Outgoing, Parcel};
use crate::error::Level;
use crate::limits;
use crate::logging::Line;
use std::io;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

/// The names of signals that came in. The second one is as good as the hundredth: more are not kept.
#[must_use]
pub fn signal_channel() -> (mpsc::Sender<&'static str>, mpsc::Receiver<&'static str>) {
    mpsc::channel(2)
}

/// Listens for SIGTERM and SIGINT, from now on for as long as the runtime lives.
///
/// # Errors
///
/// When the kernel does not let the process handle them.
pub fn listen(to: &mpsc::Sender<&'static str>) -> io::Result<()> {
    for (kind, name) in [
        (SignalKind::terminate(), "sigterm"),
        (SignalKind::interrupt(), "sigint"),
    ] {
        let mut signals = signal(kind)?;
        let to = to.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                let _ = to.try_send(name);
            }
        });
    }
    Ok(())
}

/// Returns when the process is to end: after a signal and what follows from it. `drained` counts the shards that are done, of which
/// there are `shards`.
pub async fn until_drained(
    mut signals: mpsc::Receiver<&'static str>,
    mut drained: watch::Receiver<usize>,
    shards: usize,
    outgoing: &Outgoing,
    connections: &Connections,
    log: &Log,
) {
    // Without anybody who could signal there is no end to wait for.
    let Some(name) = signals.recv().await else {
        return std::future::pending().await;
    };
    // Parity: operators look for this line (spec: errors-and-logs 3).
    say(
        log,
        Level::Error,
        &format!("Elixir.Realtime.SignalHandler: :{name} received"),
    );
    notify::stopping();
    outgoing.send(Parcel::All(News::Drain)).await;
    let done = async {
        drop(drained.wait_for(|drained| *drained >= shards).await);
        connections.close().await;
    };
    tokio::select! {
        () = done => say(log, Level::Info, "Drained"),
        () = tokio::time::sleep(limits::DRAIN_TIMEOUT) => say(log, Level::Warning, "Not drained in time, stopping anyway"),
        Some(name) = signals.recv() => say(log, Level::Warning, &format!("Second signal ({name}), stopping at once")),
    }
}

fn say(log: &Log, level: Level, text: &str) {
    log.write(Line::new(clock::unix_ms(), level, text));
}
