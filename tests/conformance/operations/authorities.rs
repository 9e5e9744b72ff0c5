//! Certificate authorities of the machine, which may change while the server runs: metrics are pushed over TLS.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, Stream};

use super::{PATIENCE, SETUP, Test, wait_for_line};
use crate::server::Server;

pub const TESTS: &[Test] = &[(
    "another_authority_is_believed_after_a_reload",
    another_authority_is_believed_after_a_reload,
)];

/// Whoever takes metrics, at `https://localhost` and this port; what is read of each push that came through.
fn receiver() -> (u16, Receiver<String>) {
    let pem: &[u8] = include_bytes!("authority/signed.pem");
    let certificates = CertificateDer::pem_slice_iter(pem);
    let certificates: Result<Vec<_>, _> = certificates.collect();
    let key = PrivateKeyDer::from_pem_slice(pem).expect("there is a key in it");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has suites")
        .with_no_client_auth()
        .with_single_cert(certificates.expect("there is one in it"), key)
        .expect("they belong together");
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
    let port = listener.local_addr().expect("it is bound").port();
    let (sender, pushes) = mpsc::channel();
    thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            let (config, sender) = (Arc::clone(&config), sender.clone());
            thread::spawn(move || {
                let mut tls = ServerConnection::new(config).expect("it is complete");
                let mut stream = Stream::new(&mut tls, &mut socket);
                let mut bytes = [0; 64];
                // A client that does not believe the certificate says so, and that is an error.
                let Ok(count) = stream.read(&mut bytes) else {
                    return;
                };
                let answer = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
                let _ = stream.write_all(answer);
                // The test may be over.
                let _ = sender.send(String::from_utf8_lossy(&bytes[..count]).into_owned());
            });
        }
    });
    (port, pushes)
}

/// A file that is removed with its handle.
struct Authorities(PathBuf);

impl Authorities {
    fn new(text: &str) -> Self {
        let name = format!("realtime-{}-authorities.pem", std::process::id());
        let file = Self(std::env::temp_dir().join(name));
        file.write(text);
        file
    }

    fn write(&self, text: &str) {
        fs::write(&self.0, text).expect("a temporary file can be written");
    }
}

impl Drop for Authorities {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn another_authority_is_believed_after_a_reload() {
    let (port, pushes) = receiver();
    let file = Authorities::new(include_str!("authority/other.pem"));
    let url = format!("https://localhost:{port}/import");
    let env = [
        ("METRICS_PUSHER_ENABLED", "true"),
        ("METRICS_PUSHER_URL", &*url),
        ("METRICS_PUSHER_INTERVAL_MS", "200"),
        ("SSL_CERT_FILE", &*file.0.display().to_string()),
    ];
    let server = Server::start(SETUP, &[], &env);
    wait_for_line(
        &server,
        "MetricsPusherFailed: MetricsPusher: https://localhost:",
    );
    assert!(pushes.try_recv().is_err(), "nobody has signed for it yet");
    // One that cannot be used changes nothing.
    file.write("nothing\n");
    server.signal("HUP");
    wait_for_line(
        &server,
        "[error] Not read again: there are no certificate authorities to check METRICS_PUSHER_URL by",
    );
    file.write(include_str!("authority/believed.pem"));
    server.signal("HUP");
    wait_for_line(
        &server,
        "[info] The certificate authorities for METRICS_PUSHER_URL were read again",
    );
    let push = pushes.recv_timeout(PATIENCE).expect("metrics are pushed");
    assert!(push.starts_with("POST /import HTTP/1.1\r\n"), "{push}");
}
