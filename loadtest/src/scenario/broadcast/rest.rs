//! Messages that are sent by requests: `POST /api/broadcast`.
//!
//! In: stamps. Out: one request at a time on a connection that stays, each of which has to be accepted.

use std::rc::Rc;

use crate::dialect::USER_EVENT;
use crate::link::{Link, Target};
use crate::stamp::Stamp;

/// Messages of one request at most.
pub(super) const MESSAGES_MAX: usize = 100;

/// A connection for requests.
pub(super) struct Door {
    link: Rc<Link>,
    /// Whose token it has.
    index: usize,
    received: Vec<u8>,
}

impl Door {
    /// Connects, as socket number `index`.
    ///
    /// # Errors
    ///
    /// Why there is no connection.
    pub(super) async fn open(target: &Target, index: usize) -> Result<Self, String> {
        let link = Link::connect(target.address, target.source(index))
            .await
            .map_err(|error| format!("connect: {error}"))?;
        Ok(Self {
            link: Rc::new(link),
            index,
            received: Vec::new(),
        })
    }

    /// The connection, to be ended.
    pub(super) fn link(&self) -> Rc<Link> {
        Rc::clone(&self.link)
    }

    /// Sends one request and waits for its answer.
    ///
    /// # Errors
    ///
    /// What the server said instead of accepting it.
    pub(super) async fn post(&mut self, target: &Target, body: &[u8]) -> Result<(), String> {
        let token = target.tokens.of(self.index);
        let head = format!(
            "POST /api/broadcast HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {token}\r\napikey: {token}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            target.host,
            body.len()
        );
        let request = [head.as_bytes(), body].concat();
        self.link
            .send(&request)
            .await
            .map_err(|error| format!("request: {error}"))?;
        loop {
            if let Some((status, end)) = answer(&self.received)? {
                let text = String::from_utf8_lossy(&self.received[..end]).into_owned();
                self.received.drain(..end);
                return if status == 202 {
                    Ok(())
                } else {
                    Err(format!("a request was refused: {text}"))
                };
            }
            self.link.receive_more(&mut self.received).await?;
        }
    }
}

/// The status and the length of the answer in `bytes`, when it is there whole.
fn answer(bytes: &[u8]) -> Result<Option<(u16, usize)>, String> {
    let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&bytes[..end]);
    let status = head.split(' ').nth(1).and_then(|text| text.parse().ok());
    let status = status.ok_or_else(|| format!("not an answer: {head}"))?;
    let length = head
        .split("\r\n")
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(Ok(0), |(_, value)| value.trim().parse::<usize>())
        .map_err(|_| format!("not a length: {head}"))?;
    let end = end + 4 + length;
    Ok((end <= bytes.len()).then_some((status, end)))
}

/// The body of a request with these messages.
pub(super) fn body(topic: &str, stamps: &[Stamp], payload_bytes: usize, private: bool) -> Vec<u8> {
    let mut body = b"{\"messages\":[".to_vec();
    for (index, stamp) in stamps.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        let head =
            format!(r#"{{"topic":"{topic}","event":"{USER_EVENT}","private":{private},"payload":"#);
        body.extend_from_slice(head.as_bytes());
        stamp.encode(payload_bytes, &mut body);
        body.push(b'}');
    }
    body.extend_from_slice(b"]}");
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_json_with_every_message() {
        let stamp = |sequence| Stamp {
            sender: 1,
            sequence,
            at_ns: 3,
        };
        let body = body("load-000001", &[stamp(0), stamp(1)], 100, true);
        let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(value["messages"].as_array().unwrap().len(), 2);
        let message = &value["messages"][1];
        assert_eq!(message["topic"], "load-000001");
        assert_eq!(message["private"], true);
        assert!(message["payload"]["load"].is_string());
    }

    #[test]
    fn an_answer_ends_with_its_body() {
        let check = |text: &str, expected| assert_eq!(answer(text.as_bytes()), expected, "{text}");
        check("HTTP/1.1 202 Accepted\r\n", Ok(None));
        check(
            "HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n",
            Ok(Some((202, 44))),
        );
        check("HTTP/1.1 422 X\r\nContent-Length: 2\r\n\r\n{", Ok(None));
        check(
            "HTTP/1.1 422 X\r\nContent-Length: 2\r\n\r\n{}",
            Ok(Some((422, 39))),
        );
        assert!(answer(b"nonsense\r\n\r\n").is_err());
    }
}
