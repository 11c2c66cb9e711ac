//! Why a command ends with another exit code than 0.

use std::io;

use super::output::shown;
use crate::dev::DevError;
use crate::{ConfigError, Error};

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line or configuration is at fault: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// The operation failed: exit code 1.
    #[error("{0}")]
    Failed(String),
    /// Every error has been printed where it happened: exit code 1.
    #[error("failed")]
    Reported,
    /// The reader of standard output went away, which is its right: exit code 0.
    #[error("standard output was closed")]
    ReaderGone,
}

impl Failure {
    /// A failure at a path of lanefs.
    pub fn at(path: &[u8], error: Error) -> Failure {
        Failure::from(error.named(shown(path)))
    }

    /// A failure of writing to standard output.
    pub fn output(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::ReaderGone,
            _ => Failure::Failed(format!("cannot write to standard output: {error}")),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match error {
            Error::Config(_) => Failure::Usage(error.to_string()),
            _ => Failure::Failed(error.to_string()),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        Failure::Usage(error.to_string())
    }
}

impl From<DevError> for Failure {
    fn from(error: DevError) -> Failure {
        let text = error.to_string();
        match error {
            DevError::File { source, .. } if source.kind() == io::ErrorKind::BrokenPipe => {
                Failure::ReaderGone
            }
            error if error.is_usage() => Failure::Usage(text),
            _ => Failure::Failed(text),
        }
    }
}
