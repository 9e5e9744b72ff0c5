//! SIGTERM, SIGINT and SIGHUP, and the exit code that follows.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::mpsc::Receiver;

use serde_json::{Value, json};

use super::systemd::Manager;
use super::{PATIENCE, SETUP, Test, wait_for_line, wait_for_lines};
use crate::server::{self, Server};
use crate::socket::{self, Event, Headers, Writer};
use crate::token;

pub const TESTS: &[Test] = &[
    (
        "sigterm_and_sigint_end_with_0",
        sigterm_and_sigint_end_with_0,
    ),
    ("a_second_signal_ends_at_once", a_second_signal_ends_at_once),
    (
        "sighup_applies_what_can_be_applied_and_names_the_rest",
        sighup_applies_what_can_be_applied,
    ),
    ("a_wrong_file_changes_nothing", a_wrong_file_changes_nothing),
    (
        "tenants_of_the_file_are_added_changed_and_removed",
        tenants_of_the_file_are_added_changed_and_removed,
    ),
];

fn sigterm_and_sigint_end_with_0() {
    for (signal, name) in [("TERM", "sigterm"), ("INT", "sigint")] {
        let server = Server::start(SETUP, &[], &[]);
        server.signal(signal);
        wait_for_line(
            &server,
            &format!("[error] Elixir.Realtime.SignalHandler: :{name} received"),
        );
        assert_eq!(server.exit_code_within(PATIENCE), Some(0));
    }
}

/// A request whose body does not come keeps the server from ending by itself for longer than this test takes.
fn a_second_signal_ends_at_once() {
    let server = Server::start(SETUP, &[], &[]);
    let mut request = TcpStream::connect(server.address).expect("the server accepts");
    let head = "POST /api/broadcast HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n{";
    request
        .write_all(head.as_bytes())
        .expect("the server reads");
    wait_for_line(&server, "[info] POST /api/broadcast");
    server.terminate();
    wait_for_line(&server, ":sigterm received");
    server.terminate();
    wait_for_line(&server, "Second signal (sigterm), stopping at once");
    assert_eq!(server.exit_code_within(PATIENCE), Some(0));
}

/// A file of variables that is removed with its handle.
struct EnvFile(PathBuf);

impl EnvFile {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("realtime-{}-{name}.env", std::process::id()));
        let file = Self(path);
        file.write(text);
        file
    }

    fn write(&self, text: &str) {
        fs::write(&self.0, text).expect("a temporary file can be written");
    }
}

impl Drop for EnvFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The status of a scrape.
fn scrape(server: &Server, token: &str) -> u16 {
    let headers = [
        ("host", "localhost"),
        ("authorization", &*format!("Bearer {token}")),
    ];
    let headers: Headers = headers
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    match socket::request(server.address, "GET", "/metrics", &headers, b"") {
        Ok(Event::Upgrade { status, .. }) => status,
        other => panic!("{other:?} instead of an answer"),
    }
}

fn metrics_token() -> String {
    let header = json!({"alg": "HS256", "typ": "JWT"});
    token::sign_with(
        &header,
        &json!({"of": "one who leaves"}),
        token::METRICS_SECRET,
    )
}

/// Sends SIGHUP and waits until it is done.
fn reload(server: &Server, manager: &Manager) {
    server.signal("HUP");
    while !manager.next().starts_with("RELOADING=1") {}
    assert_eq!(manager.next().trim_end(), "READY=1");
}

fn sighup_applies_what_can_be_applied() {
    let (manager, token) = (Manager::new("reload"), metrics_token());
    let file = EnvFile::new("reload", "LOG_LEVEL=warning\n");
    let env = [
        ("NOTIFY_SOCKET", &*manager.path()),
        ("ENV_FILE", &*file.0.display().to_string()),
    ];
    let server = Server::start(SETUP, &[], &env);
    assert_eq!(manager.next().trim_end(), "READY=1");
    assert_eq!(scrape(&server, &token), 200);
    assert!(
        !server.log().contains("GET /metrics"),
        "{}",
        server.log_end()
    );
    // PORT stays as the environment has it, which goes before the file.
    file.write(&format!(
        "LOG_LEVEL=info\nMETRICS_TOKEN_BLOCKLIST={token}\nREGION=eu\nPORT=1\n"
    ));
    reload(&server, &manager);
    wait_for_line(&server, "Reloaded: METRICS_TOKEN_BLOCKLIST, LOG_LEVEL\n");
    wait_for_line(
        &server,
        "[warning] Changed, in effect after a restart: REGION\n",
    );
    assert_eq!(scrape(&server, &token), 403);
    wait_for_line(&server, "[info] GET /metrics");
    // What needs a restart is said until there is one; what was applied is no news.
    reload(&server, &manager);
    wait_for_line(
        &server,
        "Reloaded: nothing has changed that a reload can change\n",
    );
    wait_for_lines(&server, "after a restart: REGION\n", 2);
    assert!(
        !server.log().contains(&token),
        "values do not stand in lines"
    );
}

fn a_wrong_file_changes_nothing() {
    let (manager, token) = (Manager::new("wrong"), metrics_token());
    let blocked = format!("METRICS_TOKEN_BLOCKLIST={token}\n");
    let file = EnvFile::new("wrong", &blocked);
    let env = [
        ("NOTIFY_SOCKET", &*manager.path()),
        ("ENV_FILE", &*file.0.display().to_string()),
    ];
    let server = Server::start(SETUP, &[], &env);
    assert_eq!(manager.next().trim_end(), "READY=1");
    assert_eq!(scrape(&server, &token), 403);
    for wrong in ["LOG_LEVEL=loud\n", "not a variable\n"] {
        file.write(wrong);
        reload(&server, &manager);
        assert_eq!(scrape(&server, &token), 403, "{wrong}");
    }
    wait_for_line(
        &server,
        "[error] Not reloaded: env LOG_LEVEL expected one of ",
    );
    wait_for_line(
        &server,
        "[error] Not reloaded: env ENV_FILE expected a file of lines NAME=value",
    );
    file.write("");
    reload(&server, &manager);
    assert_eq!(scrape(&server, &token), 200);
}

/// A socket of a tenant that has joined something.
fn joined(server: &Server, tenant: &str) -> (Writer, Receiver<Event>) {
    let mut writer = Writer::connect(server.address).expect("the server accepts");
    let (sender, events) = std::sync::mpsc::channel();
    writer.read_into(move |event| sender.send(event).is_ok());
    let path = format!("/socket/websocket?vsn=2.0.0&apikey={}", token::good());
    let host = format!("{tenant}.localhost");
    let head = writer.upgrade(&path, &host, &Headers::new());
    head.expect("the server reads a head");
    let answer = events.recv_timeout(PATIENCE).expect("the server answers");
    assert!(
        matches!(answer, Event::Upgrade { status: 101, .. }),
        "{tenant}: {answer:?}"
    );
    let join = json!(["1", "1", "realtime:x", "phx_join", {"config": {}}]);
    writer.text(&join.to_string()).expect("the server reads");
    while !matches!(events.recv_timeout(PATIENCE), Ok(Event::Text(text)) if text.contains("phx_reply"))
    {
    }
    (writer, events)
}

/// Whether a heartbeat is answered; the server has ended the connection otherwise.
fn is_alive((writer, events): &mut (Writer, Receiver<Event>)) -> bool {
    let beat = json!([null, "beat", "phoenix", "heartbeat", {}]).to_string();
    if writer.text(&beat).is_err() {
        return false;
    }
    loop {
        match events.recv_timeout(PATIENCE).expect("something comes") {
            Event::Text(text) if text.contains("\"beat\"") => return true,
            Event::Close { .. } | Event::End => return false,
            _ => {}
        }
    }
}

fn tenants_of_the_file_are_added_changed_and_removed() {
    let manager = Manager::new("tenants");
    let tenant = |name: &str, more: Value| server::tenant(name, &more);
    let text = |tenants: &[Value]| json!(tenants).to_string();
    let (a, b) = (tenant("a", json!({})), tenant("b", json!({})));
    let file = EnvFile::new("tenants", &text(&[a.clone(), b.clone()]));
    let env = [
        ("NOTIFY_SOCKET", &*manager.path()),
        ("EMBEDDED_TENANTS", &*file.0.display().to_string()),
    ];
    let server = Server::start(SETUP, &[], &env);
    assert_eq!(manager.next().trim_end(), "READY=1");
    let [mut on_a, mut on_b] = ["a", "b"].map(|name| joined(&server, name));
    // What stands there as it stood there is nothing new.
    reload(&server, &manager);
    wait_for_line(
        &server,
        "Reloaded: nothing has changed that a reload can change\n",
    );
    let changed = tenant("a", json!({"max_events_per_second": 7}));
    file.write(&text(&[changed.clone(), tenant("c", json!({}))]));
    reload(&server, &manager);
    wait_for_line(
        &server,
        "[notice] Reloaded: EMBEDDED_TENANTS (1 added, 1 changed, 1 removed)\n",
    );
    assert!(is_alive(&mut on_a), "its limits alone are others");
    assert!(!is_alive(&mut on_b), "it is gone");
    drop(joined(&server, "c"));
    // A mistake anywhere changes nothing at all.
    for (wrong, why) in [
        ("[", "which is not a JSON array of tenants"),
        (
            r#"[{"external_id": "d"}]"#,
            "either jwt_secret or jwt_jwks must be provided",
        ),
    ] {
        file.write(wrong);
        reload(&server, &manager);
        wait_for_line(&server, "[error] Not reloaded: env EMBEDDED_TENANTS names ");
        wait_for_line(&server, why);
    }
    assert!(is_alive(&mut on_a));
    drop(joined(&server, "c"));
    let other = json!({"max_events_per_second": 7, "private_only": true});
    file.write(&text(&[tenant("a", other), tenant("c", json!({}))]));
    reload(&server, &manager);
    wait_for_line(
        &server,
        "Reloaded: EMBEDDED_TENANTS (0 added, 1 changed, 0 removed)\n",
    );
    assert!(!is_alive(&mut on_a), "public channels are no more");
}
