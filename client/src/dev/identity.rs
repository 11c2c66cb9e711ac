//! Writes another identity of the cluster: certificate, key, configuration and user entry.

use std::fs;
use std::path::Path;

use protocol::tls::Identity;
use serde::{Deserialize, Serialize};

use super::certificates::{write_private, write_public};
use super::files::{TlsTable, authority, client_document};
use super::folder::write_file;
use super::{DevError, Folder};
use crate::cli::clock;

/// Longest name of a user, in bytes.
const NAME_LEN_MAX: usize = 64;

#[derive(Serialize, Deserialize)]
struct User {
    name: String,
    uid: u32,
    gid: u32,
}

#[derive(Serialize)]
struct Users {
    user: Vec<User>,
}

/// Makes user `name` with `uid` and writes its configuration to `out`, its certificate and key
/// beside it.
pub(crate) fn client(dir: &Path, name: &str, uid: u32, out: &Path) -> Result<(), DevError> {
    check_name(name)?;
    let folder = Folder::open(dir)?;
    let _lock = folder.lock()?;
    let settings = folder.settings()?;
    let cluster = settings.cluster_id().ok_or_else(|| DevError::NoCluster(dir.to_owned()))?;
    let today = clock::today();
    let issued =
        authority(&folder, cluster, today)?.issue(&Identity::Client(name.to_owned()), today)?;
    let (certificate, key) = (out.with_extension("pem"), out.with_extension("key"));
    if certificate == out || key == out {
        return Err(DevError::Usage("--out must not end in .pem or .key".to_owned()));
    }
    write_private(&key, &issued.key)?;
    write_public(&certificate, &issued.certificate)?;
    let beside = |path: &Path| path.file_name().map(Into::into).unwrap_or_default();
    let tls =
        TlsTable { ca: folder.tls().join("ca.pem"), cert: beside(&certificate), key: beside(&key) };
    let text = client_document(&settings, tls)
        .map_err(|error| DevError::Damaged { path: out.to_owned(), text: error.to_string() })?;
    write_file(out, 0o644, text.as_bytes())?;
    for number in 1..=settings.coordinators {
        add_user(&folder.coordinator(number).join("coordinator.toml"), name, uid)?;
    }
    eprintln!(
        "lanefs: dev: user {name} takes effect when the coordinator starts again: \
         lanefs dev kill-coordinator 1 --dir {0}; lanefs dev start-coordinator 1 --dir {0}",
        dir.display()
    );
    Ok(())
}

fn check_name(name: &str) -> Result<(), DevError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !name.is_empty() && name.len() <= NAME_LEN_MAX && name.chars().all(plain) {
        return Ok(());
    }
    Err(DevError::Usage(format!(
        "--user must be 1 to {NAME_LEN_MAX} letters, digits, '-', '_' or '.', not {name:?}"
    )))
}

/// Appends a user to a coordinator's configuration, or checks that it is there.
fn add_user(path: &Path, name: &str, uid: u32) -> Result<(), DevError> {
    let text = fs::read_to_string(path).map_err(DevError::file("read", path))?;
    let damaged = |text: String| DevError::Damaged { path: path.to_owned(), text };
    let document: toml::Table =
        toml::from_str(&text).map_err(|error| damaged(error.message().replace('\n', " ")))?;
    let users = document.get("user").and_then(toml::Value::as_array);
    let known = users
        .into_iter()
        .flatten()
        .find(|user| user.get("name").and_then(toml::Value::as_str) == Some(name));
    if let Some(known) = known {
        let have = known.get("uid").and_then(toml::Value::as_integer);
        if have == Some(i64::from(uid)) {
            return Ok(());
        }
        return Err(DevError::Usage(format!(
            "user {name} has another uid in {}; choose another --user",
            path.display()
        )));
    }
    let user = User { name: name.to_owned(), uid, gid: uid };
    let table =
        toml::to_string(&Users { user: vec![user] }).map_err(|error| damaged(error.to_string()))?;
    write_file(path, 0o644, format!("{}\n\n{table}", text.trim_end()).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_added_once_and_never_with_two_uids() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("coordinator.toml");
        fs::write(&path, "coordinator = 1\n[tls]\nca = \"x\"\n").unwrap();
        add_user(&path, "alice", 1000).unwrap();
        add_user(&path, "bob", 1001).unwrap();
        add_user(&path, "alice", 1000).unwrap();
        let table: toml::Table = toml::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let users = table["user"].as_array().unwrap();
        assert_eq!(users.len(), 2);
        assert_eq!(users[1]["uid"].as_integer(), Some(1001));
        assert!(add_user(&path, "alice", 7).unwrap_err().is_usage());
    }

    #[test]
    fn a_name_must_fit_into_a_certificate() {
        assert!(check_name("alice-2.x").is_ok());
        for name in ["", "a/b", "a b", "ä"] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
