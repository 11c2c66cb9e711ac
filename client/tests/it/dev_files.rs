//! What `dev up` writes: certificates that TLS accepts, keys nobody else may read.

#![expect(clippy::expect_used, reason = "a test may fail where it stands")]

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use client::cli::calendar::Date;
use client::dev::{Asked, Folder, Settings, write_configuration};
use protocol::ids::{ClusterId, CoordinatorId, NodeId};
use protocol::tls::{self, Identity, TlsFiles};
use rustls::{ClientConnection, ServerConnection};

const CLUSTER: ClusterId = ClusterId(0x0123_4567_89ab_cdef);

fn today() -> Date {
    #[expect(clippy::disallowed_methods, reason = "certificates are checked against this clock")]
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Date::from_days(i64::try_from(now.expect("after 1970").as_secs() / 86_400).expect("fits"))
}

fn write(folder: &Path) -> Settings {
    let asked = Asked { nodes: Some(2), shards: Some(2), ..Asked::default() };
    let settings = Settings::new(CLUSTER, &asked, 100 << 30, 7400).expect("in range");
    let folder = Folder::at(folder).expect("it exists");
    write_configuration(&folder, &settings, today(), 4).expect("writable");
    settings
}

fn files(folder: &Path, name: &str) -> TlsFiles {
    let file = |name: String| folder.join("tls").join(name);
    TlsFiles {
        ca: file("ca.pem".to_owned()),
        cert: file(format!("{name}.pem")),
        key: file(format!("{name}.key")),
    }
}

/// Runs the handshake of two connections in memory.
fn handshake(
    client: &mut ClientConnection,
    server: &mut ServerConnection,
) -> Result<(), rustls::Error> {
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).expect("memory");
        server.read_tls(&mut wire.as_slice()).expect("memory");
        server.process_new_packets()?;
        let mut wire = Vec::new();
        server.write_tls(&mut wire).expect("memory");
        client.read_tls(&mut wire.as_slice()).expect("memory");
        client.process_new_packets()?;
    }
    Ok(())
}

fn connect(client: &TlsFiles, server: &TlsFiles, identity: &Identity) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let server = tls::server_config(server).map_err(|error| text(&error))?;
    let client = tls::client_config(client).map_err(|error| text(&error))?;
    let name = tls::server_name(CLUSTER, identity);
    let mut client = ClientConnection::new(Arc::clone(&client), name).expect("a valid name");
    let mut server = ServerConnection::new(server).expect("a valid configuration");
    handshake(&mut client, &mut server).map_err(|error| text(&error))?;
    let seen = server.peer_certificates().expect("a client certificate");
    let seen = tls::peer_certificate(seen).map_err(|error| text(&error))?;
    assert_eq!(seen.cluster, CLUSTER);
    assert_eq!(seen.identity, Identity::Admin("root".to_owned()));
    Ok(())
}

#[test]
fn certificates_are_accepted_by_both_ends() {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path());
    let admin = files(folder.path(), "admin");
    let node = Identity::Node(NodeId(2));
    connect(&admin, &files(folder.path(), "node-2"), &node).expect("a node");
    let coordinator = Identity::Coordinator(CoordinatorId(1));
    connect(&admin, &files(folder.path(), "coordinator-1"), &coordinator).expect("a coordinator");
    // A node must not pass for another one.
    connect(&admin, &files(folder.path(), "node-1"), &node).expect_err("the wrong node");
}

#[test]
fn a_certificate_of_another_authority_is_refused() {
    let (one, other) = (tempfile::tempdir(), tempfile::tempdir());
    let (one, other) = (one.expect("a folder"), other.expect("a folder"));
    write(one.path());
    write(other.path());
    let stranger = TlsFiles { ca: files(one.path(), "admin").ca, ..files(other.path(), "admin") };
    let node = Identity::Node(NodeId(1));
    connect(&stranger, &files(one.path(), "node-1"), &node).expect_err("a foreign certificate");
}

#[test]
fn keys_are_for_their_owner_only() {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path());
    let tls = folder.path().join("tls");
    let mode = |path: PathBuf| fs::metadata(path).expect("it exists").mode() & 0o7777;
    assert_eq!(mode(tls.clone()), 0o700);
    let mut keys = 0;
    for entry in fs::read_dir(&tls).expect("it exists") {
        let path = entry.expect("readable").path();
        if path.extension().is_some_and(|extension| extension == "key") {
            keys += 1;
            assert_eq!(mode(path), 0o600);
        }
    }
    assert_eq!(keys, 5, "authority, administrator, coordinator and two nodes");
}

#[test]
fn configuration_names_every_shard_once_and_is_written_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = write(folder.path());
    let file = folder.path().join("node-2/node.toml");
    let text = fs::read_to_string(&file).expect("it exists");
    let table: toml::Table = toml::from_str(&text).expect("TOML");
    let shards = table["shard"].as_array().expect("a list");
    let values = |key: &str| -> Vec<i64> {
        shards.iter().map(|shard| shard[key].as_integer().expect("a number")).collect()
    };
    assert_eq!(values("target"), [201, 202]);
    assert_eq!(values("port"), [7412, 7413]);
    assert_eq!(values("core"), [2, 3]);
    assert_eq!(table["registered_buffers"].as_str(), Some("preferred"));
    assert_eq!(table["metrics"].as_str(), Some("127.0.0.1:7497"));
    client::Config::load(&folder.path().join("client.toml")).expect("the library accepts it");

    fs::write(&file, "edited by a person").expect("writable");
    let authority = fs::read(folder.path().join("tls/ca.pem")).expect("it exists");
    let again = Folder::at(folder.path()).expect("it exists");
    write_configuration(&again, &settings, today(), 4).expect("writable");
    assert_eq!(fs::read_to_string(&file).expect("it exists"), "edited by a person");
    assert_eq!(fs::read(folder.path().join("tls/ca.pem")).expect("it exists"), authority);
}
