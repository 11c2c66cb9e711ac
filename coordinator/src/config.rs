//! The configuration file of a coordinator.
//!
//! Parsing is strict: an unknown key, a wrong type or a value out of range is one line that names
//! the file, the key and what is expected. Relative paths start in the folder of the file.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::config_file;
use protocol::ids::{ClusterId, CoordinatorId};
use protocol::limits::GROUP_MEMBERS_MAX;
use protocol::message::command::Caller;
use serde::Deserialize;

use crate::control::Tuning;
use crate::limits::{
    NODE_LEASE_MIN_MS, NODE_LEASE_MS, RECOVERY_BYTES_PER_S, STORM_RESTARTS, USERS_MAX,
};

/// Settings of one coordinator, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Its number.
    pub coordinator: CoordinatorId,
    /// The cluster it serves.
    pub cluster: ClusterId,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where it tells its metrics; `None` for nowhere.
    pub metrics: Option<SocketAddr>,
    /// Folder of its log and table.
    pub data_dir: PathBuf,
    /// Replicas of each group; used when the cluster is made.
    pub replicas: u8,
    /// Fewest serving members that may acknowledge a write; used when the cluster is made.
    pub min_write: u8,
    /// Groups each target is a member of; used when the cluster is made.
    pub groups_per_target: u16,
    /// Targets that must have registered before groups are made.
    pub targets_expected: u32,
    /// Lease of nodes and what healing may use.
    pub tuning: Tuning,
    /// Page cache of the table, in bytes.
    pub cache: usize,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Certificate authority, certificate and key.
    pub tls: Tls,
    /// Numeric users by the name in a client's certificate.
    pub users: BTreeMap<String, Caller>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Paths of the TLS files, absolute or relative to the working directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Certificate authority of the cluster.
    pub ca: PathBuf,
    /// Certificate of this coordinator.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// The file cannot be used as a configuration; the text is one line for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {text}", path.display())]
pub struct ConfigError {
    /// The file.
    pub path: PathBuf,
    /// Key and expectation.
    pub text: String,
}

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// [`ConfigError`] when the file cannot be read or a setting is wrong.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = config_file::read(path).map_err(|error| ConfigError {
            path: path.to_path_buf(),
            text: format!("cannot read the configuration: {error}"),
        })?;
        Config::parse(path, &text)
    }

    /// Checks the text of a configuration file.
    ///
    /// # Errors
    /// [`ConfigError`] with the first setting that is wrong.
    pub fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
        let wrong = |text: String| ConfigError { path: path.to_path_buf(), text };
        let file: FileConfig =
            toml::from_str(text).map_err(|error| wrong(describe(text, &error)))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        check(file, folder).map_err(wrong)
    }

    /// Writes every setting as a configuration file would have it.
    pub fn print(&self) -> String {
        let mut out = format!(
            "coordinator = {}\ncluster = \"{}\"\nlisten = \"{}\"\ndata_dir = {:?}\nreplicas = {}\n\
             min_write = {}\ngroups_per_target = {}\ntargets_expected = {}\nlease_ms = {}\n\
             recovery = \"{}\"\nstorm_restarts = {}\ncache = \"{}\"\nlog_format = \"{}\"\n\n[tls]\nca = {:?}\ncert = {:?}\nkey = {:?}\n",
            self.coordinator,
            self.cluster,
            self.listen,
            self.data_dir,
            self.replicas,
            self.min_write,
            self.groups_per_target,
            self.targets_expected,
            self.tuning.lease_ms(),
            self.tuning.recovery_bytes_per_s,
            self.tuning.storm_restarts,
            self.cache,
            if self.log_format == LogFormat::Json { "json" } else { "text" },
            self.tls.ca,
            self.tls.cert,
            self.tls.key,
        );
        if let Some(metrics) = self.metrics {
            // Before the first table: what follows one belongs to it.
            out.insert_str(0, &format!("metrics = \"{metrics}\"\n"));
        }
        for (name, caller) in &self.users {
            let (uid, gid) = (caller.uid, caller.gid);
            out.push_str(&format!("\n[[user]]\nname = {name:?}\nuid = {uid}\ngid = {gid}\n"));
        }
        out
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileConfig {
    coordinator: u32,
    cluster: String,
    listen: String,
    metrics: Option<String>,
    data_dir: PathBuf,
    replicas: Option<u8>,
    min_write: Option<u8>,
    groups_per_target: Option<u16>,
    targets_expected: Option<u32>,
    lease_ms: Option<u32>,
    recovery: Option<String>,
    storm_restarts: Option<u32>,
    cache: Option<String>,
    #[serde(default)]
    log_format: LogFormat,
    tls: FileTls,
    #[serde(default)]
    user: Vec<FileUser>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileTls {
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileUser {
    name: String,
    uid: u32,
    gid: u32,
}

fn check(file: FileConfig, folder: &Path) -> Result<Config, String> {
    if file.coordinator == 0 {
        return Err("coordinator: expected a number from 1".into());
    }
    let cluster = ClusterId::parse(&file.cluster)
        .ok_or("cluster: expected 32 hexadecimal digits, as in the other members' files")?;
    let listen: SocketAddr = file.listen.parse().map_err(|_| {
        format!(
            "listen: expected an address and port like \"127.0.0.1:7400\", got {:?}",
            file.listen
        )
    })?;
    let metrics = file.metrics.as_deref().map(|text| check_metrics(text, listen)).transpose()?;
    let replicas = file.replicas.unwrap_or(3);
    if replicas == 0 || usize::from(replicas) >= GROUP_MEMBERS_MAX {
        return Err(format!("replicas: expected 1 to {}, got {replicas}", GROUP_MEMBERS_MAX - 1));
    }
    let min_write = file.min_write.unwrap_or(replicas.min(2));
    if min_write == 0 || min_write > replicas {
        return Err(format!("min_write: expected 1 to {replicas} (replicas), got {min_write}"));
    }
    let groups_per_target = file.groups_per_target.unwrap_or(64);
    if groups_per_target == 0 {
        return Err("groups_per_target: expected a number from 1".into());
    }
    let targets_expected = file.targets_expected.unwrap_or(u32::from(replicas));
    if targets_expected < u32::from(replicas) {
        return Err(format!("targets_expected: expected at least {replicas} (replicas)"));
    }
    let lease_ms = file.lease_ms.unwrap_or(NODE_LEASE_MS);
    if !(NODE_LEASE_MIN_MS..=NODE_LEASE_MS).contains(&lease_ms) {
        return Err(format!(
            "lease_ms: expected {NODE_LEASE_MIN_MS} to {NODE_LEASE_MS}, got {lease_ms}"
        ));
    }
    let recovery = file.recovery.as_deref().map_or(Some(RECOVERY_BYTES_PER_S), parse_size);
    let recovery_bytes_per_s = recovery
        .filter(|bytes| (1 << 20..=1 << 40).contains(bytes))
        .ok_or("recovery: expected bytes a second from \"1MiB\" to \"1TiB\", like \"400MiB\"")?;
    let tuning = Tuning {
        lease: Duration::from_millis(lease_ms.into()),
        recovery_bytes_per_s,
        storm_restarts: file.storm_restarts.unwrap_or(STORM_RESTARTS),
    };
    let cache = parse_size(file.cache.as_deref().unwrap_or("32MiB"))
        .filter(|bytes| (1 << 20..=1 << 40).contains(bytes))
        .and_then(|bytes| usize::try_from(bytes).ok())
        .ok_or("cache: expected a size from \"1MiB\" to \"1TiB\", like \"32MiB\"")?;
    let tls = Tls {
        ca: folder.join(file.tls.ca),
        cert: folder.join(file.tls.cert),
        key: folder.join(file.tls.key),
    };
    Ok(Config {
        coordinator: CoordinatorId(file.coordinator),
        cluster,
        listen,
        metrics,
        data_dir: folder.join(file.data_dir),
        replicas,
        min_write,
        groups_per_target,
        targets_expected,
        tuning,
        cache,
        log_format: file.log_format,
        tls,
        users: check_users(file.user)?,
    })
}

fn check_metrics(text: &str, listen: SocketAddr) -> Result<SocketAddr, String> {
    let metrics: SocketAddr = text.parse().map_err(|_| {
        format!("metrics: expected an address and port like \"127.0.0.1:7499\", got {text:?}")
    })?;
    if metrics.port() == 0 {
        return Err("metrics: expected a port from 1 to 65535".into());
    }
    if metrics.port() == listen.port() {
        return Err("metrics: expected another port than that of listen".into());
    }
    Ok(metrics)
}

fn check_users(list: Vec<FileUser>) -> Result<BTreeMap<String, Caller>, String> {
    if list.len() > USERS_MAX {
        return Err(format!("user: expected at most {USERS_MAX} entries"));
    }
    let mut users = BTreeMap::new();
    for FileUser { name, uid, gid } in list {
        if name.is_empty() {
            return Err("user.name: expected the name in the client's certificate".into());
        }
        let caller = Caller { uid, gid, admin: false };
        if users.insert(name.clone(), caller).is_some() {
            return Err(format!("user.name: {name:?} is listed twice"));
        }
    }
    Ok(users)
}

/// Reads a size like `32MiB`, in bytes.
pub fn parse_size(text: &str) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim_start() {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// One line for people: where, which key, what is expected.
fn describe(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().lines().collect::<Vec<_>>().join(" ");
    let Some(span) = error.span() else { return message };
    let before = &text[..span.start.min(text.len())];
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    let whole = text[start..].lines().next().unwrap_or_default();
    match whole.split_once('=') {
        Some((key, _)) => format!("line {line}, {}: {message}", key.trim()),
        None => format!("line {line}: {message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
coordinator = 1
cluster = "000102030405060708090a0b0c0d0e0f"
listen = "127.0.0.1:7400"
data_dir = "c1"

[tls]
ca = "ca.pem"
cert = "c1.pem"
key = "/k/c1.key"

[[user]]
name = "alice"
uid = 1000
gid = 100
"#;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(Path::new("/etc/lanefs/c.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_filled_in_and_paths_start_at_the_file() {
        let config = parse(GOOD).unwrap();
        assert_eq!((config.replicas, config.min_write, config.groups_per_target), (3, 2, 64));
        assert_eq!((config.targets_expected, config.cache), (3, 32 << 20));
        assert_eq!(config.data_dir, Path::new("/etc/lanefs/c1"));
        assert_eq!(config.tls.ca, Path::new("/etc/lanefs/ca.pem"));
        assert_eq!(config.tls.key, Path::new("/k/c1.key"));
        assert_eq!(config.users["alice"], Caller { uid: 1000, gid: 100, admin: false });
    }

    #[test]
    fn a_printed_configuration_reads_back_the_same() {
        let config = parse(GOOD).unwrap();
        assert_eq!((parse(&config.print()).unwrap(), config.metrics), (config, None));
        let told = GOOD.replacen("data_dir", "metrics = \"127.0.0.1:7499\"\ndata_dir", 1);
        let config = parse(&told).unwrap();
        assert_eq!(config.metrics, Some("127.0.0.1:7499".parse().unwrap()));
        assert_eq!(parse(&config.print()).unwrap(), config);
    }

    #[test]
    fn every_mistake_is_one_line_with_file_key_and_expectation() {
        let cases = [
            ("coordinator = 1", "coordinator = 0", "coordinator: expected a number from 1"),
            ("coordinator = 1", "coordinator = \"x\"", "line 2, coordinator: invalid type"),
            ("coordinator = 1", "coordinator = 1\nreplcas = 2", "unknown field `replcas`"),
            ("listen = \"127.0.0.1:7400\"", "", "missing field `listen`"),
            ("127.0.0.1:7400", "localhost", "listen: expected an address and port"),
            ("000102", "zz0102", "cluster: expected 32 hexadecimal digits"),
            ("data_dir = \"c1\"", "data_dir = \"c1\"\nreplicas = 0", "replicas: expected 1 to 7"),
            ("data_dir = \"c1\"", "data_dir = \"c1\"\nmin_write = 4", "min_write: expected 1 to 3"),
            ("data_dir = \"c1\"", "data_dir = \"c1\"\ncache = \"32 MB\"", "cache: expected a size"),
            ("data_dir = \"c1\"", "data_dir = \"c1\"\ntargets_expected = 2", "targets_expected: "),
            (
                "data_dir = \"c1\"",
                "data_dir = \"c1\"\nlease_ms = 1999",
                "lease_ms: expected 2000 to",
            ),
            (
                "data_dir = \"c1\"",
                "data_dir = \"c1\"\nrecovery = \"x\"",
                "recovery: expected bytes",
            ),
            ("data_dir = \"c1\"", "data_dir = \"c1\"\nlog_format = \"xml\"", "`text` or `json`"),
            ("data_dir = \"c1\"", "data_dir = \"c1\"\nmetrics = \"7499\"", "metrics: expected an"),
            (
                "data_dir = \"c1\"",
                "data_dir = \"c1\"\nmetrics = \"0.0.0.0:7400\"",
                "metrics: expected another port",
            ),
            ("data_dir = \"c1\"", "data_dir = ", "line 5, data_dir"),
            ("uid = 1000", "uid = -1", "line 14, uid: invalid value"),
            ("[[user]]", "[[user]]\nname = \"alice\"\nuid = 1\ngid = 1\n[[user]]", "listed twice"),
        ];
        for (good, bad, expected) in cases {
            let error = parse(&GOOD.replacen(good, bad, 1)).unwrap_err();
            assert!(error.starts_with("/etc/lanefs/c.toml: "), "{error}");
            assert!(error.contains(expected) && !error.contains('\n'), "{bad}: {error}");
        }
    }

    #[test]
    fn the_file_is_bounded_in_length() {
        let error = Config::load(Path::new("/dev/zero")).unwrap_err().to_string();
        assert!(error.ends_with("it is longer than 1048576 bytes"), "{error}");
    }

    #[test]
    fn users_are_bounded() {
        let users = |count: usize| {
            let one = |n| FileUser { name: format!("u{n}"), uid: 1, gid: 1 };
            check_users((0..count).map(one).collect())
        };
        assert_eq!(users(USERS_MAX).unwrap().len(), USERS_MAX);
        let error = users(USERS_MAX + 1).unwrap_err();
        assert_eq!(error, format!("user: expected at most {USERS_MAX} entries"));
    }

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(parse_size("4096"), Some(4096));
        assert_eq!(parse_size("32MiB"), Some(32 << 20));
        assert_eq!(parse_size("1 GiB"), Some(1 << 30));
        assert_eq!(parse_size("16777216TiB"), None);
        assert_eq!(parse_size("MiB"), None);
        assert_eq!(parse_size("1MB"), None);
    }
}
