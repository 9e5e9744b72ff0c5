//! The answer to `Sec-WebSocket-Key`. Everything else in an upgrade is plain HTTP and belongs to the room `http`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};

/// The value of `Sec-WebSocket-Accept` for the value of `Sec-WebSocket-Key`, as sent (RFC 6455 section 4.2.2, step 5.4).
///
/// The key is not inspected: whether it is 16 bytes of base64 is for the caller to ask.
pub fn accept_key(key: &[u8]) -> [u8; 28] {
    // RFC 6455 section 1.3: the constant that proves that the server speaks WebSocket.
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    let mut accept = [0; 28];
    STANDARD
        .encode_slice(digest, &mut accept)
        .expect("20 bytes of SHA-1 are 28 characters of base64");
    accept
}

#[cfg(test)]
mod tests {
    use super::accept_key;

    #[test]
    fn accept_key_answers_as_the_rfc_and_the_original() {
        for (key, accept) in [
            // RFC 6455 section 1.3
            ("dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            ("x3JJHMbDL1EzLkh9GBhXDw==", "HSmrc0sMlYUkAGmm5OPpG2HaGWk="),
        ] {
            assert_eq!(accept_key(key.as_bytes()), accept.as_bytes(), "{key}");
        }
    }
}
