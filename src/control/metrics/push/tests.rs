//! Pushes to a server that answers as it is told.

use super::*;
use crate::config::Config;
use crate::control::metrics::Wish;
use flate2::read::GzDecoder;
use std::io::Read as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::LocalSet;

/// A request as it came.
#[derive(Debug)]
struct Taken {
    /// Request line and headers, in lower case.
    head: String,
    body: Vec<u8>,
}

impl Taken {
    fn text(&self) -> String {
        if self.head.contains("content-encoding: gzip") {
            let mut text = String::new();
            GzDecoder::new(&*self.body)
                .read_to_string(&mut text)
                .unwrap();
            return text;
        }
        String::from_utf8(self.body.clone()).unwrap()
    }
}

/// Reads requests of one connection and answers each.
async fn serve(mut socket: TcpStream, answer: &'static str, taken: mpsc::UnboundedSender<Taken>) {
    let mut bytes = Vec::new();
    loop {
        let head_end = loop {
            if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if socket.read_buf(&mut bytes).await.unwrap() == 0 {
                return;
            }
        };
        let head = String::from_utf8_lossy(&bytes[..head_end]).to_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |length| length.parse().unwrap());
        while bytes.len() < head_end + length {
            assert_ne!(socket.read_buf(&mut bytes).await.unwrap(), 0);
        }
        let body = bytes[head_end..head_end + length].to_vec();
        bytes.drain(..head_end + length);
        taken.send(Taken { head, body }).unwrap();
        if !answer.is_empty() {
            let text = format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n");
            socket.write_all(text.as_bytes()).await.unwrap();
        }
    }
}

/// A server, and what it takes.
struct Stage {
    taken: mpsc::UnboundedReceiver<Taken>,
    lines: Box<dyn FnMut() -> Vec<Line>>,
}

const PAGE: &str = "node 1\n# EOF\ntenants 2\n# EOF\n";

/// A server, and a pusher to it with these variables, which pushes again as soon as one push is over: nothing here depends on how fast the
/// machine is. Without an answer the server is silent.
async fn stage(answer: &'static str, variables: &[(&str, &str)]) -> Stage {
    let (pusher, metrics, stage) = stage_of_one(answer, variables).await;
    spawn_local(async move {
        loop {
            pusher.push_in_time(&metrics).await;
        }
    });
    stage
}

/// The same with a pusher that nobody has started.
async fn stage_of_one(
    answer: &'static str,
    variables: &[(&str, &str)],
) -> (Pusher, Metrics, Stage) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (taken, requests) = mpsc::unbounded_channel();
    spawn_local(async move {
        while let Ok((socket, _)) = listener.accept().await {
            spawn_local(serve(socket, answer, taken.clone()));
        }
    });
    let url = format!("http://{address}/import?key=hidden");
    let mut all = vec![
        ("METRICS_PUSHER_ENABLED", "true"),
        ("METRICS_PUSHER_URL", &*url),
    ];
    all.extend(variables);
    let get = |name: &str| {
        let found = all.iter().rev().find(|(variable, _)| *variable == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    let (config, _) = Config::from_env(get).unwrap();
    let (log, lines) = Log::for_test();
    let pusher = Pusher::new(config.metrics.pusher.unwrap(), log).unwrap();
    let stage = Stage {
        taken: requests,
        lines: Box::new(lines),
    };
    (pusher, page(), stage)
}

/// Always the same page.
fn page() -> Metrics {
    let (metrics, mut wishes) = Metrics::new(crate::metrics::Instruments::for_test(1));
    spawn_local(async move {
        while let Some(wish) = wishes.recv().await {
            let Wish::Page(sender) = wish else {
                panic!("only the page is pushed");
            };
            let page = Page::new(PAGE.to_owned(), PAGE.find("tenants").unwrap());
            drop(sender.send(page));
        }
    });
    metrics
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, test);
}

impl Stage {
    /// Both parts of the next push, the node's first.
    async fn parts(&mut self) -> [Taken; 2] {
        let mut both = [
            self.taken.recv().await.unwrap(),
            self.taken.recv().await.unwrap(),
        ];
        both.sort_by_key(Taken::text);
        both
    }

    /// The next lines of the log.
    async fn lines(&mut self) -> Vec<Line> {
        loop {
            let lines = (self.lines)();
            if !lines.is_empty() {
                return lines;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[test]
fn both_parts_are_pushed_again_and_again() {
    run(async {
        let mut stage = stage("204 No Content", &[]).await;
        for _ in 0..3 {
            let [node, tenants] = stage.parts().await;
            assert_eq!(node.text(), "node 1\n# EOF\n");
            assert_eq!(tenants.text(), "tenants 2\n# EOF\n");
            for part in [&node, &tenants] {
                let head = &part.head;
                assert!(
                    head.starts_with("post /import?key=hidden http/1.1\r\n"),
                    "{head}"
                );
                assert!(head.contains("\r\ncontent-type: text/plain\r\n"), "{head}");
                assert!(head.contains("\r\ncontent-encoding: gzip\r\n"), "{head}");
                assert!(!head.contains("authorization"), "{head}");
            }
        }
        assert_eq!((stage.lines)(), []);
    });
}

#[test]
fn password_labels_and_plain_text_are_as_configured() {
    run(async {
        let variables = [
            ("METRICS_PUSHER_USER", "me"),
            ("METRICS_PUSHER_AUTH", "s3cret"),
            ("METRICS_PUSHER_COMPRESS", "false"),
            ("METRICS_PUSHER_EXTRA_LABELS", "job=rt,zone=a b&c"),
        ];
        let mut stage = stage("200 OK", &variables).await;
        let [node, _] = stage.parts().await;
        let head = &node.head;
        let line = "post /import?key=hidden&extra_label=job%3drt&extra_label=zone%3da%20b%26c http/1.1\r\n";
        assert!(head.starts_with(line), "{head}");
        // The text is lower case here, and so is its base64.
        let authorization = format!("basic {}", STANDARD.encode("me:s3cret")).to_lowercase();
        assert!(
            head.contains(&format!("\r\nauthorization: {authorization}\r\n")),
            "{head}"
        );
        assert!(!head.contains("content-encoding"), "{head}");
        assert_eq!(node.body, b"node 1\n# EOF\n");
    });
}

#[test]
fn lines_name_the_host_and_no_secret() {
    run(async {
        let mut stage = stage(
            "500 Internal Server Error",
            &[("METRICS_PUSHER_AUTH", "s3cret")],
        )
        .await;
        let lines = stage.lines().await;
        let line = &lines[0];
        assert_eq!(line.code, Some(ErrorCode::MetricsPusherFailed));
        assert!(
            line.message
                .starts_with("MetricsPusherFailed: MetricsPusher: http://127.0.0.1:")
                && line
                    .message
                    .ends_with("/import answered 500 Internal Server Error"),
            "{}",
            line.message
        );
        for line in &lines {
            assert!(!line.message.contains("hidden") && !line.message.contains("s3cret"));
        }
    });
}

#[test]
fn a_push_never_delays_the_next() {
    run(async {
        let variables = [
            ("METRICS_PUSHER_TIMEOUT_MS", "60000"),
            ("METRICS_PUSHER_INTERVAL_MS", "50"),
        ];
        let (pusher, metrics, mut stage) = stage_of_one("", &variables).await;
        spawn_local(pusher.work(metrics));
        // Nothing is ever answered, and the next one comes all the same. A slow machine may cut one off before it was sent.
        for _ in 0..3 {
            stage.taken.recv().await.unwrap();
        }
        let lines = stage.lines().await;
        let is_timeout = |line: &Line| {
            line.code == Some(ErrorCode::MetricsPusherTimeout)
                && line.message.ends_with("/import took longer than 50 ms")
        };
        assert!(lines.iter().any(is_timeout), "{lines:?}");
    });
}

#[test]
fn who_is_not_there_is_told_of() {
    run(async {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/x", nobody.local_addr().unwrap());
        drop(nobody);
        let mut stage = stage("200 OK", &[("METRICS_PUSHER_URL", &url)]).await;
        let lines = stage.lines().await;
        assert_eq!(lines[0].code, Some(ErrorCode::MetricsPusherFailed));
        assert!(lines[0].message.contains("refused"), "{}", lines[0].message);
    });
}

#[test]
fn labels_are_parameters_of_the_url() {
    let check = |url: &str, labels: &[(&str, &str)], expected: &str| {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let labels: Vec<_> = labels.iter().map(own).collect();
        assert_eq!(with_labels(url, &labels), expected);
    };
    check("http://h/p", &[], "http://h/p");
    check("http://h/p", &[("a", "b")], "http://h/p?extra_label=a%3Db");
    check(
        "http://h/p?x=1",
        &[("a", "ä")],
        "http://h/p?x=1&extra_label=a%3D%C3%A4",
    );
}
