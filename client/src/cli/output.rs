//! Standard output: documents, names, and a reader that went away.

use std::io::{self, Write as _};

use serde_json::{Value, json};

/// Prints text at once.
///
/// # Errors
/// Whatever the kernel says; [`io::ErrorKind::BrokenPipe`] when the reader went away.
pub(crate) fn print(text: &str) -> io::Result<()> {
    print_bytes(text.as_bytes())
}

/// Prints bytes at once.
///
/// # Errors
/// As [`print`].
pub(crate) fn print_bytes(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// Adds a name to a JSON object: `KEY`, or `KEY_b64` when it is not UTF-8.
pub fn insert_name(object: &mut Value, key: &str, name: &[u8]) {
    let Value::Object(map) = object else { return };
    match std::str::from_utf8(name) {
        Ok(text) => map.insert(key.to_owned(), json!(text)),
        Err(_) => map.insert(format!("{key}_b64"), json!(base64(name))),
    };
}

/// Writes bytes for people: as text, with control characters and broken UTF-8 escaped.
pub fn shown(name: &[u8]) -> String {
    let mut text = String::new();
    for piece in name.utf8_chunks() {
        for c in piece.valid().chars() {
            if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
        }
        piece.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
    }
    text
}

/// Base64 of RFC 4648 section 4, with padding.
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for triple in bytes.chunks(3) {
        let at = |index: usize| u32::from(triple.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for digit in 0..4 {
            let index = (bits >> (18 - 6 * digit)) & 63;
            let padded = digit > triple.len();
            text.push(if padded { '=' } else { char::from(DIGITS[index as usize]) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_matches_the_vectors_of_its_standard() {
        let vectors = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, encoded) in vectors {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfb]), "//77");
    }

    #[test]
    fn a_name_that_is_not_utf8_keeps_its_bytes() {
        let mut object = json!({});
        insert_name(&mut object, "name", "ä".as_bytes());
        insert_name(&mut object, "link", b"\xff");
        assert_eq!(object, json!({ "name": "ä", "link_b64": "/w==" }));
    }

    #[test]
    fn a_name_cannot_break_a_line() {
        assert_eq!(shown(b"a\nb\x1b\xffc"), "a\\nb\\u{1b}\\xffc");
    }
}
