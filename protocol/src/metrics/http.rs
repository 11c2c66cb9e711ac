//! The one request that an admin port answers: `GET /metrics`. Without I/O.
//!
//! Owns the bytes of request and answer. Every connection has one of each; whatever else is asked
//! is refused and the connection ends.

use super::text::CONTENT_TYPE;
use crate::limits::METRICS_HEAD_LEN_MAX;

/// The head of a request while it arrives; holds [`METRICS_HEAD_LEN_MAX`] bytes at most.
#[derive(Clone, Debug, Default)]
pub struct Head {
    bytes: Vec<u8>,
}

/// Why a request gets no figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is no request of HTTP 1.
    #[error("400 Bad Request")]
    Malformed,
    /// There is only one path.
    #[error("404 Not Found")]
    Path,
    /// There is only one method.
    #[error("405 Method Not Allowed")]
    Method,
    /// Its head did not arrive in time.
    #[error("408 Request Timeout")]
    Slow,
    /// Its head is longer than [`METRICS_HEAD_LEN_MAX`].
    #[error("431 Request Header Fields Too Large")]
    Long,
}

impl Head {
    /// Takes in what arrived; `None` while the head has not ended.
    ///
    /// # Errors
    /// [`Refusal`]; nothing more is to be read then. What follows the head is not looked at.
    pub fn push(&mut self, bytes: &[u8]) -> Option<Result<(), Refusal>> {
        let room = METRICS_HEAD_LEN_MAX - self.bytes.len();
        // The end may be spread over two pieces.
        let from = self.bytes.len().saturating_sub(END.len() - 1);
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
        let end = self.bytes[from..].windows(END.len()).position(|window| window == END);
        match end {
            Some(at) => Some(check(&self.bytes[..from + at])),
            None if bytes.len() > room => Some(Err(Refusal::Long)),
            None => None,
        }
    }
}

/// The whole answer to a request for figures.
pub fn figures(exposition: &str) -> Vec<u8> {
    answer("200 OK", CONTENT_TYPE, "", exposition)
}

/// The whole answer to any other request.
pub fn refused(refusal: Refusal) -> Vec<u8> {
    let allow = if refusal == Refusal::Method { "Allow: GET\r\n" } else { "" };
    let text = format!("{refusal}: this port answers GET /metrics\n");
    answer(&refusal.to_string(), "text/plain; charset=utf-8", allow, &text)
}

fn answer(status: &str, content: &str, more: &str, body: &str) -> Vec<u8> {
    let len = body.len();
    let text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content}\r\nContent-Length: {len}\r\n{more}Connection: close\r\n\r\n{body}"
    );
    text.into_bytes()
}

fn check(head: &[u8]) -> Result<(), Refusal> {
    let text = std::str::from_utf8(head).map_err(|_| Refusal::Malformed)?;
    let mut lines = text.split("\r\n");
    let line = lines.next().unwrap_or_default();
    let mut parts = line.split(' ');
    let (method, target, version) = (parts.next(), parts.next(), parts.next());
    let (Some(method), Some(target), Some("HTTP/1.0" | "HTTP/1.1"), None) =
        (method, target, version, parts.next())
    else {
        return Err(Refusal::Malformed);
    };
    if !is_token(method) || !target.starts_with('/') || !lines.all(is_field) {
        return Err(Refusal::Malformed);
    }
    if target.split('?').next() != Some("/metrics") {
        return Err(Refusal::Path);
    }
    if method == "GET" { Ok(()) } else { Err(Refusal::Method) }
}

fn is_field(line: &str) -> bool {
    let clean = line.chars().all(|c| c == '\t' || !c.is_control());
    line.split_once(':').is_some_and(|(name, _)| is_token(name) && clean)
}

fn is_token(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    !text.is_empty() && text.chars().all(allowed)
}

const END: &[u8] = b"\r\n\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str) -> Option<Result<(), Refusal>> {
        Head::default().push(text.as_bytes())
    }

    #[test]
    fn figures_are_for_get_metrics_alone() {
        for good in [
            "GET /metrics HTTP/1.1\r\nHost: node\r\nAccept: */*\r\n\r\n",
            "GET /metrics?name=x HTTP/1.0\r\n\r\n",
        ] {
            assert_eq!(asked(good), Some(Ok(())), "{good}");
        }
        for (bad, refusal) in [
            ("GET / HTTP/1.1\r\n\r\n", Refusal::Path),
            ("GET /metrics/ HTTP/1.1\r\n\r\n", Refusal::Path),
            ("POST /metrics HTTP/1.1\r\nContent-Length: 9\r\n\r\n", Refusal::Method),
            ("HEAD /metrics HTTP/1.1\r\n\r\n", Refusal::Method),
            ("GET /metrics HTTP/2\r\n\r\n", Refusal::Malformed),
            ("GET  /metrics HTTP/1.1\r\n\r\n", Refusal::Malformed),
            ("GET metrics HTTP/1.1\r\n\r\n", Refusal::Malformed),
            ("GET /metrics HTTP/1.1\r\nno colon\r\n\r\n", Refusal::Malformed),
            ("GET /metrics HTTP/1.1\r\n folded: x\r\n\r\n", Refusal::Malformed),
            ("GET /metrics HTTP/1.1\r\nx: a\nb: c\r\n\r\n", Refusal::Malformed),
            ("\r\n\r\n", Refusal::Malformed),
        ] {
            assert_eq!(asked(bad), Some(Err(refusal)), "{bad:?}");
        }
    }

    #[test]
    fn a_head_may_come_in_any_pieces_and_is_bounded() {
        let text = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
        for cut in 1..text.len() {
            let mut head = Head::default();
            assert_eq!(head.push(&text[..cut]), None, "{cut}");
            assert_eq!(head.push(&text[cut..]), Some(Ok(())), "{cut}");
        }
        let start = "GET /metrics HTTP/1.1\r\nx: ";
        let longest = "a".repeat(METRICS_HEAD_LEN_MAX - start.len() - END.len());
        assert_eq!(asked(&format!("{start}{longest}\r\n\r\n")), Some(Ok(())));
        assert_eq!(asked(&format!("{start}{longest}a\r\n\r\n")), Some(Err(Refusal::Long)));
        let mut head = Head::default();
        assert_eq!(head.push(&[b'a'; METRICS_HEAD_LEN_MAX]), None);
        assert_eq!(head.push(b"a"), Some(Err(Refusal::Long)));
        assert_eq!(head.bytes.len(), METRICS_HEAD_LEN_MAX);
    }

    #[test]
    fn answers_say_how_long_they_are_and_that_nothing_follows() {
        let text = String::from_utf8(figures("# EOF\n")).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/openmetrics-text"));
        assert!(text.ends_with("Content-Length: 6\r\nConnection: close\r\n\r\n# EOF\n"), "{text}");
        let text = String::from_utf8(refused(Refusal::Method)).unwrap();
        assert!(text.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"), "{text}");
        assert!(text.contains("\r\nAllow: GET\r\n"), "{text}");
    }
}
