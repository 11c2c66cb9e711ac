//! What can go wrong for a caller of this library, in one line each.
//!
//! Every error says what was being done, where it failed and, when the reader can do something,
//! what. The class and the errno are for programs; the text is for people.

use std::path::PathBuf;

use protocol::status::{Class, Status};

/// Why an operation of the client failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The cluster refused the operation.
    #[error("{what}: {text}")]
    Refused {
        /// What was asked, with the name or number it was asked for.
        what: String,
        /// Outcome as it crossed the wire.
        status: Status,
        /// The status in words, and what the server added.
        text: String,
    },
    /// No server that could do it was reachable before the deadline.
    #[error("{what}: gave up after {waited_ms} ms and {attempts} attempts: {last}")]
    Deadline {
        /// What was asked.
        what: String,
        /// How long it was tried, in milliseconds.
        waited_ms: u64,
        /// Requests that were sent or whose connection was tried.
        attempts: u32,
        /// How the last attempt ended.
        last: String,
    },
    /// No replica of a chunk holds bytes that match their checksums.
    #[error("{what}: no replica is readable ({detail}); run `lanefs verify` on the file")]
    Unreadable {
        /// File and chunk.
        what: String,
        /// What each replica answered.
        detail: String,
    },
    /// A server answered with something the protocol does not allow.
    #[error("{what}: {detail}; client and server may be of different releases")]
    Protocol {
        /// What was asked, and of whom.
        what: String,
        /// What was wrong with the answer.
        detail: String,
    },
    /// The cluster and this client do not accept each other.
    #[error("{what}: {detail}")]
    Rejected {
        /// What was asked.
        what: String,
        /// Who rejected whom, and why.
        detail: String,
    },
    /// The caller asked for something that has no meaning.
    #[error("{what}: {detail}")]
    Usage {
        /// What was asked.
        what: String,
        /// Why it cannot be done.
        detail: String,
    },
    /// The newest map does not name what the request is for.
    #[error("{what}: {detail}; it was removed, or came from another cluster")]
    NotMapped {
        /// What was asked.
        what: String,
        /// Which group or target.
        detail: String,
    },
    /// The file cannot become longer.
    #[error("{what}: the file is as long as a file can be")]
    TooLong {
        /// The file.
        what: String,
    },
    /// A task of this client ended without a result: the runtime shuts down, or the task panicked.
    #[error("{what}: {detail}")]
    Stopped {
        /// What was asked.
        what: String,
        /// Which task, and how it ended.
        detail: String,
    },
    /// The client was closed.
    #[error("{what}: this client was closed")]
    Closed {
        /// What was asked.
        what: String,
    },
}

/// Why a configuration cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Neither an option nor the environment names a file.
    #[error("no configuration: give --config FILE or set {0} to the client.toml of a cluster")]
    Missing(&'static str),
    /// The file cannot be read.
    #[error("cannot read {}: {detail}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        detail: String,
    },
    /// The file is not what a client configuration must be.
    #[error("{}: {detail}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Key, what it holds, what is expected.
        detail: String,
    },
    /// The certificates cannot be used.
    #[error("TLS files named in {}: {detail}", path.display())]
    Tls {
        /// The configuration file.
        path: PathBuf,
        /// What is wrong, with the file it is in.
        detail: String,
    },
}

impl Error {
    /// Makes the error of a refused operation from what the server said.
    pub fn refused(what: impl Into<String>, status: Status, text: &str) -> Error {
        let text = if text.is_empty() { status.text() } else { text };
        Error::Refused { what: what.into(), status, text: text.to_owned() }
    }

    /// The outcome on the wire, when a server refused.
    pub fn status(&self) -> Option<Status> {
        match self {
            Error::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// What the caller may do about it.
    pub fn class(&self) -> Class {
        match self {
            Error::Refused { status, .. } => status.class().unwrap_or(Class::Fatal),
            Error::Deadline { .. } => Class::Retry,
            Error::NotMapped { .. } => Class::Refresh,
            _ => Class::Fatal,
        }
    }

    /// The errno that says the same to a POSIX program.
    pub fn raw_os_error(&self) -> i32 {
        match self {
            Error::Refused { status, .. } => errno_of(*status),
            Error::Deadline { .. } => libc::ETIMEDOUT,
            Error::Config(_) | Error::Usage { .. } => libc::EINVAL,
            Error::Closed { .. } => libc::ENOTCONN,
            Error::Rejected { .. } => libc::EACCES,
            Error::NotMapped { .. } => libc::ESTALE,
            Error::TooLong { .. } => libc::EFBIG,
            Error::Unreadable { .. } | Error::Protocol { .. } | Error::Stopped { .. } => libc::EIO,
        }
    }

    /// Names the thing the caller was working on, such as a path, in place of the inner name.
    pub fn named(mut self, name: impl Into<String>) -> Error {
        match &mut self {
            Error::Config(_) => {}
            Error::Refused { what, .. }
            | Error::Deadline { what, .. }
            | Error::Unreadable { what, .. }
            | Error::Protocol { what, .. }
            | Error::Rejected { what, .. }
            | Error::Usage { what, .. }
            | Error::NotMapped { what, .. }
            | Error::TooLong { what }
            | Error::Stopped { what, .. }
            | Error::Closed { what } => *what = name.into(),
        }
        self
    }
}

/// The errno of a refused operation.
pub fn errno_of(status: Status) -> i32 {
    match status {
        Status::Ok => 0,
        Status::NotFound => libc::ENOENT,
        Status::Exists => libc::EEXIST,
        Status::NotDirectory => libc::ENOTDIR,
        Status::IsDirectory => libc::EISDIR,
        Status::NotEmpty => libc::ENOTEMPTY,
        Status::PermissionDenied | Status::BadCapability | Status::BadRole => libc::EACCES,
        Status::NameTooLong => libc::ENAMETOOLONG,
        Status::Loop => libc::ELOOP,
        Status::IntoItself | Status::Invalid => libc::EINVAL,
        Status::NoSpace | Status::LimitReached => libc::ENOSPC,
        Status::StaleFile | Status::SessionEnded => libc::ESTALE,
        Status::Unsupported => libc::ENOTSUP,
        Status::Expired => libc::ETIMEDOUT,
        Status::Busy => libc::EAGAIN,
        _ => libc::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_is_one_line_and_says_what() {
        let errors = [
            Error::refused("mkdir /a", Status::Exists, ""),
            Error::Deadline {
                what: "read /a chunk 3".into(),
                waited_ms: 30_000,
                attempts: 4,
                last: "connection refused by 127.0.0.1:7411".into(),
            },
            Error::Closed { what: "mkdir /a".into() },
            Error::Config(ConfigError::Missing("LANEFS_CONFIG")),
        ];
        for error in errors {
            let text = error.to_string();
            assert!(!text.contains('\n'), "{text}");
            assert!(text.len() > 20, "{text}");
        }
    }

    #[test]
    fn naming_replaces_what_and_keeps_the_rest() {
        let error = Error::refused("lookup 7", Status::NotFound, "").named("/a/b");
        assert_eq!(error.to_string(), "/a/b: no such file or directory");
        assert_eq!(error.raw_os_error(), libc::ENOENT);
        assert_eq!(error.class(), Class::Fatal);
    }

    #[test]
    fn every_refusal_has_an_errno() {
        for &status in Status::ALL {
            assert_eq!(errno_of(status) == 0, status == Status::Ok, "{status:?}");
        }
    }
}
