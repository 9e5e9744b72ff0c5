//! The masking of client frames (RFC 6455 section 5.3): every payload byte XORed with one of four key bytes.

/// XORs `payload` with `key`, in place; masking and unmasking are the same.
///
/// `offset` is the position of `payload` in its frame, in bytes, so that a frame can be unmasked in pieces.
///
/// Eight bytes at a time, which the compiler widens to vector registers: `benches/websocket_frame.rs`, `unmask`.
pub fn unmask(payload: &mut [u8], mut key: [u8; 4], offset: usize) {
    key.rotate_left(offset & 3);
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (chunks, rest) = payload.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(wide.to_ne_bytes()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::unmask;

    #[test]
    fn every_length_and_offset_agrees_with_the_definition() {
        let key = [0x37, 0xfa, 0x21, 0x3d];
        for length in 0..70 {
            for offset in 0..9 {
                let plain: Vec<u8> = (0..length).map(|n| n as u8 ^ 0x5a).collect();
                let expected: Vec<u8> = plain
                    .iter()
                    .enumerate()
                    .map(|(at, byte)| byte ^ key[(at + offset) % 4])
                    .collect();
                let mut bytes = plain.clone();
                unmask(&mut bytes, key, offset);
                assert_eq!(bytes, expected, "length {length}, offset {offset}");
            }
        }
    }
}
