//! The client's configuration file.
//!
//! Owns the shape of `client.toml` and the messages about what is wrong in it. Paths in the file
//! are relative to the file's folder, so a folder can be moved as a whole.

use std::fmt;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use protocol::config_file;
use protocol::ids::{ClusterId, CoordinatorId};
use serde::{Deserialize, Serialize};

use crate::error::ConfigError;

/// Environment variable that names the configuration file.
pub const CONFIG_VARIABLE: &str = "LANEFS_CONFIG";

/// How to reach a cluster and who to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// File the configuration came from; errors name it.
    pub path: PathBuf,
    /// The cluster.
    pub cluster: ClusterId,
    /// Its coordinators; at least one.
    pub coordinators: Vec<CoordinatorAddress>,
    /// Certificate authority, own certificate and key.
    pub tls: TlsPaths,
    /// How bulk data crosses the network, where the node agrees.
    pub data_transport: DataTransport,
}

/// How bulk data crosses the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum DataTransport {
    /// Encrypted.
    #[default]
    Tls,
    /// Authenticated, not encrypted.
    Clear,
}

impl fmt::Display for DataTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DataTransport::Tls => "tls",
            DataTransport::Clear => "clear",
        })
    }
}

/// One coordinator and where it listens.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoordinatorAddress {
    /// Its number; its certificate must say the same.
    #[serde(deserialize_with = "coordinator_id")]
    pub id: CoordinatorId,
    /// `host:port`.
    pub address: String,
}

/// The files of a TLS identity.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsPaths {
    /// Certificate of the cluster's authority.
    pub ca: PathBuf,
    /// Certificate of this client.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    cluster: String,
    coordinators: Vec<CoordinatorAddress>,
    tls: TlsPaths,
    #[serde(default)]
    data_transport: DataTransport,
}

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// [`ConfigError`], naming the file, the key and what is expected there.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = config_file::read(path)
            .map_err(|error| ConfigError::Read { path: path.into(), detail: error.to_string() })?;
        Config::parse(path, &text)
    }

    /// Reads the file that `option` names, else the one in [`CONFIG_VARIABLE`].
    ///
    /// # Errors
    /// As [`Config::load`], and [`ConfigError::Missing`] when neither names a file.
    pub fn find(option: Option<&Path>) -> Result<Config, ConfigError> {
        match option {
            Some(path) => Config::load(path),
            None => {
                let path = std::env::var_os(CONFIG_VARIABLE).filter(|value| !value.is_empty());
                let path = path.ok_or(ConfigError::Missing(CONFIG_VARIABLE))?;
                Config::load(Path::new(&path))
            }
        }
    }

    /// Checks the text of a configuration; `path` is where it came from.
    ///
    /// # Errors
    /// [`ConfigError::Content`].
    pub fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
        let content = |detail: String| ConfigError::Content { path: path.into(), detail };
        let document: Document =
            toml::from_str(text).map_err(|error| content(describe(text, &error)))?;
        let cluster = ClusterId::parse(&document.cluster)
            .ok_or_else(|| content("cluster: expected 32 hexadecimal digits".into()))?;
        if document.coordinators.is_empty() {
            return Err(content("coordinators: expected at least one { id, address }".into()));
        }
        for coordinator in &document.coordinators {
            if !names_host_and_port(&coordinator.address) {
                return Err(content(format!(
                    "coordinators.address: expected host:port, got {:?}",
                    coordinator.address
                )));
            }
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        let below = |file: PathBuf| folder.join(file);
        let TlsPaths { ca, cert, key } = document.tls;
        Ok(Config {
            path: path.into(),
            cluster,
            coordinators: document.coordinators,
            tls: TlsPaths { ca: below(ca), cert: below(cert), key: below(key) },
            data_transport: document.data_transport,
        })
    }
}

fn coordinator_id<'de, D: serde::Deserializer<'de>>(from: D) -> Result<CoordinatorId, D::Error> {
    u32::deserialize(from).map(CoordinatorId)
}

fn names_host_and_port(address: &str) -> bool {
    address
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0))
}

/// One line with the line number, from an error that would print several.
fn describe(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().replace('\n', " ");
    match error.span() {
        Some(span) => {
            let before = text.get(..span.start).unwrap_or("");
            let line = before.matches('\n').count() + 1;
            let source = text.lines().nth(line - 1).unwrap_or("").trim();
            format!("line {line} ({source}): {message}")
        }
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
cluster = "000102030405060708090a0b0c0d0e0f"
coordinators = [{ id = 1, address = "127.0.0.1:7400" }]
[tls]
ca = "pki/ca.pem"
cert = "pki/admin.pem"
key = "/abs/admin.key"
"#;

    fn problem(text: &str) -> String {
        Config::parse(Path::new("/c/client.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn the_file_is_bounded_in_length() {
        let error = Config::load(Path::new("/dev/zero")).unwrap_err().to_string();
        assert!(error.ends_with("it is longer than 1048576 bytes"), "{error}");
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let config = Config::parse(Path::new("/c/client.toml"), GOOD).unwrap();
        assert_eq!(config.tls.ca, Path::new("/c/pki/ca.pem"));
        assert_eq!(config.tls.key, Path::new("/abs/admin.key"));
        assert_eq!(config.coordinators[0].id, CoordinatorId(1));
        assert_eq!(config.data_transport, DataTransport::Tls, "encrypted unless it says otherwise");
        let clear = format!("data_transport = \"clear\"\n{GOOD}");
        let config = Config::parse(Path::new("/c/client.toml"), &clear).unwrap();
        assert_eq!(config.data_transport, DataTransport::Clear);
    }

    #[test]
    fn each_mistake_names_file_and_key_in_one_line() {
        let cases = [
            (GOOD.replace("cluster =", "clutser ="), "clutser"),
            (GOOD.replace("000102030405060708090a0b0c0d0e0f", "xyz"), "32 hexadecimal digits"),
            (GOOD.replace("id = 1", "id = \"one\""), "line 3"),
            (GOOD.replace("127.0.0.1:7400", "127.0.0.1"), "expected host:port"),
            (GOOD.replace("[{ id = 1, address = \"127.0.0.1:7400\" }]", "[]"), "at least one"),
            (GOOD.replace("ca = \"pki/ca.pem\"\n", ""), "ca"),
            ("cluster = ".to_owned(), "line 1"),
            (format!("data_transport = \"none\"\n{GOOD}"), "expected `tls` or `clear`"),
        ];
        for (text, expected) in cases {
            let message = problem(&text);
            assert!(message.contains(expected), "{message}");
            assert!(message.starts_with("/c/client.toml: "), "{message}");
            assert!(!message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Config::load(Path::new("/no/such/client.toml")).unwrap_err();
        assert!(error.to_string().starts_with("cannot read /no/such/client.toml: "), "{error}");
    }
}
