//! The recordings of the original server: read, brought into the present, and changed where this server answers otherwise.
//!
//! In goes `transcripts/<case>.jsonl` (its README describes the lines) and `overrides.json`; out comes a list of [`Line`]s.
//! Every override names the lines it changes by number or by what stands in them, says why, and must still find its lines:
//! one that matches nothing fails the build of the transcript.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::clock;
use crate::socket::{Event, Headers};
use crate::token;

/// One recorded conversation.
pub struct Transcript {
    pub case: String,
    pub lines: Vec<Line>,
}

/// One line that is played or awaited.
#[derive(Debug)]
pub struct Line {
    /// Of the file, from 1.
    pub number: usize,
    /// Since the start of the case.
    pub at_ms: u64,
    pub conn: String,
    pub what: What,
    /// Comes when it likes.
    pub any_time: bool,
    /// May also not come.
    pub optional: bool,
}

/// What a line says.
#[derive(Debug)]
pub enum What {
    Upgrade {
        path: String,
        host: String,
        headers: Headers,
    },
    SendText(String),
    SendBinary(Vec<u8>),
    SendClose(u16),
    Abort,
    Receive(Event),
    Http {
        method: String,
        path: String,
        headers: Headers,
        body: String,
        answer: Event,
    },
    /// The server is told to stop.
    Terminate,
    /// A statement is run in the database of `realtime-dev`.
    Sql {
        text: String,
        /// PostgreSQL refuses it.
        fails: bool,
    },
}

/// A difference between this server and the original, or between its setup and the recording's.
#[derive(Clone, Debug)]
struct Override {
    case: String,
    /// First and last line, from 1; all lines when absent.
    lines: Option<(usize, usize)>,
    /// Only lines that hold this text.
    was: Option<String>,
    effect: Effect,
}

#[derive(Clone, Debug)]
enum Effect {
    /// The line is neither played nor awaited.
    Drop,
    /// `was` is replaced by this.
    Now(String),
    AnyTime,
    Optional,
    /// The line is played at this moment.
    At(u64),
    /// One more line is played, is awaited or may come.
    Add {
        line: Box<Value>,
        optional: bool,
    },
}

impl Transcript {
    /// Reads a case; tokens and dates are those of this moment.
    pub fn read(case: &str) -> Result<Self, String> {
        let text = fs::read_to_string(folder().join("transcripts").join(format!("{case}.jsonl")));
        let overrides = fs::read_to_string(folder().join("overrides.json"));
        let fail = |error: std::io::Error| error.to_string();
        Self::parse(
            case,
            &text.map_err(fail)?,
            &overrides.map_err(fail)?,
            clock::unix_s(),
        )
    }

    fn parse(case: &str, text: &str, overrides: &str, now_s: i64) -> Result<Self, String> {
        let start_s = recorded_s(text).ok_or("the recording has no date")?;
        let text = token::shift_all(text, start_s, now_s - start_s);
        let text = shift_since(&text, now_s - start_s);
        let overrides = parse_overrides(overrides)?;
        let overrides: Vec<&Override> = overrides
            .iter()
            .filter(|change| change.case == case)
            .collect();
        let mut used = vec![false; overrides.len()];
        let mut lines = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let mut line = line.to_owned();
            let (mut any_time, mut optional, mut at, mut dropped) = (false, false, None, false);
            for (change, used) in overrides.iter().zip(&mut used) {
                if !change.matches(number, &line) {
                    continue;
                }
                *used = true;
                match &change.effect {
                    Effect::Drop => dropped = true,
                    Effect::Now(now) => {
                        line = line.replace(change.was.as_deref().unwrap_or(""), now)
                    }
                    Effect::AnyTime => any_time = true,
                    Effect::Optional => optional = true,
                    Effect::At(ms) => at = Some(*ms),
                    Effect::Add { .. } => {}
                }
            }
            let value: Value =
                serde_json::from_str(&line).map_err(|error| format!("line {number}: {error}"))?;
            if value["dir"] == "sql"
                && value["error"].is_string()
                && let Some(What::Sql { fails, .. }) =
                    lines.last_mut().map(|line: &mut Line| &mut line.what)
            {
                *fails = true;
            }
            let Some(what) = what(&value).filter(|_| !dropped) else {
                continue;
            };
            let at_ms = at
                .or(value["t_ms"].as_u64())
                .ok_or(format!("line {number}: no time"))?;
            let conn = value["conn"].as_str().unwrap_or("").to_owned();
            lines.push(Line {
                number,
                at_ms,
                conn,
                what,
                any_time,
                optional,
            });
        }
        for (change, used) in overrides.iter().zip(&mut used) {
            if let Effect::Add { line, optional } = &change.effect {
                *used = true;
                let at = line["t_ms"].as_u64().unwrap_or(0);
                let place = lines
                    .iter()
                    .rposition(|line| line.at_ms <= at)
                    .map_or(0, |before| before + 1);
                let number = lines.get(place).map_or(usize::MAX - 1, |line| line.number);
                let added = added(line, number, *optional)
                    .ok_or(format!("nothing can be added by {change:?}"))?;
                lines.insert(place, added);
            }
        }
        if let Some(index) = used.iter().position(|used| !used) {
            return Err(format!(
                "an override of {case} changes nothing: {:?}",
                overrides[index]
            ));
        }
        Ok(Self {
            case: case.to_owned(),
            lines,
        })
    }
}

impl Transcript {
    /// Has the bodies of requests say the second text of each pair where the recorded ones say the first.
    pub fn replace_in_bodies(&mut self, pairs: &[(String, String)]) {
        for line in &mut self.lines {
            if let What::Http { body, .. } = &mut line.what {
                for (recorded, now) in pairs {
                    *body = body.replace(recorded, now);
                }
            }
        }
    }
}

/// A line that an override adds. It goes by the number of the line that it comes before.
fn added(value: &Value, number: usize, optional: bool) -> Option<Line> {
    let conn = value["conn"].as_str()?.to_owned();
    let at_ms = value["t_ms"].as_u64()?;
    Some(Line {
        number,
        at_ms,
        conn,
        what: what(value)?,
        any_time: false,
        optional,
    })
}

impl Override {
    fn matches(&self, number: usize, line: &str) -> bool {
        if matches!(self.effect, Effect::Add { .. }) {
            return false;
        }
        let in_lines = self
            .lines
            .is_none_or(|(first, last)| (first..=last).contains(&number));
        in_lines
            && self
                .was
                .as_ref()
                .is_none_or(|was| line.contains(was.as_str()))
    }
}

/// The folder of this test.
fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/conformance")
}

fn parse_overrides(text: &str) -> Result<Vec<Override>, String> {
    let list: Vec<Value> =
        serde_json::from_str(text).map_err(|error| format!("overrides: {error}"))?;
    list.iter()
        .map(|entry| parse_override(entry).ok_or(format!("not an override: {entry}")))
        .collect()
}

fn parse_override(entry: &Value) -> Option<Override> {
    // A difference without a reason is a bug.
    entry["reason"]
        .as_str()
        .filter(|reason| reason.len() > 10)?;
    let number = |index: usize| {
        entry["lines"][index]
            .as_u64()
            .and_then(|line| usize::try_from(line).ok())
    };
    let lines = if entry["lines"].is_null() {
        None
    } else {
        Some((number(0)?, number(1)?))
    };
    let was = entry["was"].as_str().map(str::to_owned);
    let case = entry["case"].as_str()?.to_owned();
    if entry["add"].is_object() {
        let (line, optional) = (Box::new(entry["add"].clone()), entry["do"] == "optional");
        return Some(Override {
            case,
            lines,
            was,
            effect: Effect::Add { line, optional },
        });
    }
    let effect = match (
        entry["do"].as_str(),
        entry["now"].as_str(),
        entry["at"].as_u64(),
    ) {
        (Some("drop"), None, None) => Effect::Drop,
        (Some("any_time"), None, None) => Effect::AnyTime,
        (Some("optional"), None, None) => Effect::Optional,
        (None, Some(now), None) if was.is_some() => Effect::Now(now.to_owned()),
        (None, None, Some(at)) => Effect::At(at),
        _ => return None,
    };
    (lines.is_some() || was.is_some()).then_some(Override {
        case,
        lines,
        was,
        effect,
    })
}

/// When the recording started: the first date a server sent, less the time since the start.
fn recorded_s(text: &str) -> Option<i64> {
    text.lines().find_map(|line| {
        let value: Value = serde_json::from_str(line).ok()?;
        let date = clock::parse_date(headers(&value["headers"]).get("date")?)?;
        Some(date - value["t_ms"].as_i64()? / 1000)
    })
}

/// Moves the start of every replay, which is in milliseconds, by `shift_s`. Small numbers were wrong on purpose.
fn shift_since(text: &str, shift_s: i64) -> String {
    let mark = r#"\"since\":"#;
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(mark) {
        let (before, after) = rest.split_at(at + mark.len());
        out.push_str(before);
        let digits = after.find(|c: char| !c.is_ascii_digit());
        let (number, after) = after.split_at(digits.unwrap_or(after.len()));
        match number.parse::<i64>() {
            Ok(since) if number.len() >= 13 => out.push_str(&(since + shift_s * 1000).to_string()),
            _ => out.push_str(number),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// The meaning of a line, or nothing: notes.
fn what(value: &Value) -> Option<What> {
    let text = |key: &str| value[key].as_str().map(str::to_owned);
    match value["dir"].as_str()? {
        "meta" if value["note"] == "SIGTERM" => Some(What::Terminate),
        "c2s" => {
            if let Some(path) = text("upgrade") {
                return Some(What::Upgrade {
                    path,
                    host: text("host")?,
                    headers: headers(&value["headers"]),
                });
            }
            let close = || {
                Some(What::SendClose(
                    u16::try_from(value["close"]["code"].as_u64()?).ok()?,
                ))
            };
            let abort = || {
                value["tcp_abort"]
                    .as_bool()
                    .filter(|abort| *abort)
                    .map(|_| What::Abort)
            };
            let binary = || text("hex").map(|hex| What::SendBinary(bytes_of(&hex)));
            text("text")
                .map(What::SendText)
                .or_else(binary)
                .or_else(close)
                .or_else(abort)
        }
        "s2c" => received(value).map(What::Receive),
        "sql" => text("text").map(|text| What::Sql { text, fails: false }),
        "http" => {
            let request = &value["req"];
            let own = |key: &str| request[key].as_str().map(str::to_owned);
            let answer = answer(&value["status"], value)?;
            let body = body_of(own("body").unwrap_or_default());
            let headers = headers(&request["headers"]);
            Some(What::Http {
                method: own("method")?,
                path: own("path")?,
                headers,
                body,
                answer,
            })
        }
        _ => None,
    }
}

fn received(value: &Value) -> Option<Event> {
    if let Some(text) = value["text"].as_str() {
        return Some(Event::Text(text.to_owned()));
    }
    if let Some(hex) = value["hex"].as_str() {
        return Some(Event::Binary(bytes_of(hex)));
    }
    if value["upgrade_status"].is_u64() {
        return answer(&value["upgrade_status"], value);
    }
    let code = u16::try_from(value["close"]["code"].as_u64()?).ok()?;
    let reason = value["close"]["reason"].as_str().unwrap_or("").to_owned();
    // 1006 is what a client reports when the connection ended without a close frame.
    Some(if code == 1006 {
        Event::End
    } else {
        Event::Close { code, reason }
    })
}

fn answer(status: &Value, value: &Value) -> Option<Event> {
    let status = u16::try_from(status.as_u64()?).ok()?;
    let body = value["body"].as_str().unwrap_or("").to_owned();
    Some(Event::Upgrade {
        status,
        headers: headers(&value["headers"]),
        body,
    })
}

/// Headers as an object, or as the flat list of an answer.
fn headers(value: &Value) -> Headers {
    let text = |value: &Value| {
        value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned)
    };
    match value {
        Value::Object(map) => map
            .iter()
            .map(|(name, value)| (name.to_lowercase(), text(value)))
            .collect(),
        Value::Array(list) => list
            .chunks_exact(2)
            .map(|pair| (text(&pair[0]).to_lowercase(), text(&pair[1])))
            .collect(),
        _ => Headers::new(),
    }
}

/// A body that was too long to record was a batch one message over the limit of 100.
fn body_of(body: String) -> String {
    if body.starts_with('<') && body.ends_with(" bytes>") {
        let message = r#"{"topic":"hb","event":"e","payload":{"a":1}}"#;
        return format!("{{\"messages\":[{}]}}", vec![message; 101].join(","));
    }
    body
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let digit = |at: usize| {
        hex.get(at..at + 2)
            .and_then(|pair| u8::from_str_radix(pair, 16).ok())
    };
    (0..hex.len())
        .step_by(2)
        .map(|at| digit(at).expect("recorded frames are hexadecimal"))
        .collect()
}

/// Tests of this file, for the table in `main.rs`.
pub const TESTS: &[(&str, fn())] = &[
    ("every_transcript_can_be_read", || {
        let mut cases = 0;
        for entry in
            fs::read_dir(folder().join("transcripts")).expect("the transcripts are in the project")
        {
            let name = entry.expect("the folder can be listed").file_name();
            let name = name.to_string_lossy();
            if let Some(case) = name.strip_suffix(".jsonl") {
                let read = Transcript::read(case).unwrap_or_else(|error| panic!("{case}: {error}"));
                assert!(
                    read.lines.len() > 1,
                    "{case} has {} lines",
                    read.lines.len()
                );
                cases += 1;
            }
        }
        assert!(cases > 20, "{cases} transcripts");
    }),
    ("every_override_is_of_a_transcript", || {
        let text = fs::read_to_string(folder().join("overrides.json"))
            .expect("the overrides are in the project");
        for change in parse_overrides(&text).unwrap_or_else(|error| panic!("{error}")) {
            let file = folder()
                .join("transcripts")
                .join(format!("{}.jsonl", change.case));
            assert!(file.exists(), "{change:?}");
        }
    }),
    ("lines_are_read", || {
        let lines = sample("[]").expect("the sample is good").lines;
        assert!(matches!(&lines[0].what, What::Upgrade { host, .. } if host == "h"));
        assert!(matches!(
            &lines[1].what,
            What::Receive(Event::Upgrade { status: 101, .. })
        ));
        assert!(matches!(&lines[2].what, What::SendBinary(bytes) if bytes == &[0, 255]));
        assert!(matches!(&lines[3].what, What::Receive(Event::Text(text)) if text == "[1]"));
        assert!(matches!(&lines[4].what, What::Receive(Event::End)));
        assert_eq!(lines.len(), 5);
    }),
    ("a_replay_moves_with_its_recording", || {
        for (recorded, moved) in [
            (
                r#"{\"since\":1795454178848,\"limit\":2}"#,
                r#"{\"since\":1795454179848,\"limit\":2}"#,
            ),
            (r#"{\"since\":0}"#, r#"{\"since\":0}"#),
            (r#"{\"since\":\"x\"}"#, r#"{\"since\":\"x\"}"#),
            ("", ""),
        ] {
            assert_eq!(shift_since(recorded, 1), moved);
        }
    }),
    ("overrides_change_their_lines", || {
        let reason = r#""reason":"because it is so""#;
        let change = |rest: &str| sample(&format!("[{{\"case\":\"c\",{reason},{rest}}}]"));
        let dropped = change(r#""lines":[4,4],"do":"drop""#).expect("it matches");
        assert_eq!(dropped.lines.len(), 4);
        let now = change(r#""was":"[1]","now":"[2]""#).expect("it matches");
        assert!(matches!(&now.lines[3].what, What::Receive(Event::Text(text)) if text == "[2]"));
        let at = change(r#""was":"hex","at":99"#).expect("it matches");
        assert_eq!(at.lines[2].at_ms, 99);
        assert!(
            change(r#""was":"[1]","do":"any_time""#)
                .expect("it matches")
                .lines[3]
                .any_time
        );
        assert!(
            change(r#""was":"[1]","do":"optional""#)
                .expect("it matches")
                .lines[3]
                .optional
        );
        let more = r#""add":{"t_ms":3,"dir":"c2s","conn":"A","text":"[2]"}"#;
        let lines = change(more).expect("it can be added").lines;
        assert!(matches!(&lines[4].what, What::SendText(text) if text == "[2]"));
        assert_eq!((lines[4].number, lines[5].number), (6, 6));
        assert!(change(r#""add":{"t_ms":3,"dir":"c2s","conn":"A"}"#).is_err());
        assert!(change(r#""was":"nowhere","do":"drop""#).is_err());
        assert!(change(r#""was":"[1]""#).is_err());
        assert!(change(r#""do":"drop""#).is_err());
        assert!(sample(r#"[{"case":"c","was":"[1]","do":"drop"}]"#).is_err());
    }),
];

fn sample(overrides: &str) -> Result<Transcript, String> {
    let text = r#"{"t_ms":0,"dir":"meta","case":"c"}
{"t_ms":0,"dir":"c2s","conn":"A","upgrade":"/p","host":"h"}
{"t_ms":1,"dir":"s2c","conn":"A","upgrade_status":101,"headers":["date","Mon, 23 Nov 2026 17:16:16 GMT"]}
{"t_ms":2,"dir":"c2s","conn":"A","hex":"00ff"}
{"t_ms":3,"dir":"s2c","conn":"A","text":"[1]"}
{"t_ms":4,"dir":"s2c","conn":"A","close":{"code":1006,"reason":""}}"#;
    Transcript::parse("c", text, overrides, 1_795_454_176)
}
