//! `locate`: chunks of a file, groups, replicas, and the core that owns each.

use std::collections::{BTreeMap, BTreeSet};

use protocol::cluster_map::{ClusterMap, GroupRecord, Member, Role};
use protocol::ids::TargetId;
use protocol::layout::ChunkRange;
use protocol::message::chunk::ShardStatsReply;
use protocol::message::namespace::{Entry, FileType};
use protocol::status::Status;
use serde_json::{Value, json};

use super::shards::ask;
use super::status::pinned;
use crate::Client;
use crate::cli::args::PathJson;
use crate::cli::failure::Failure;
use crate::cli::output::{insert_name, print, shown};
use crate::cli::path::RemotePath;
use crate::cli::transfer::{expect, refused};

/// Shows where the bytes of a file are.
pub(crate) async fn locate(client: &Client, args: PathJson) -> Result<(), Failure> {
    let path = RemotePath::parse(&args.path);
    let entry = expect(client, &path, true).await?;
    if entry.attributes.file_type != FileType::File {
        return Err(refused(&path, Status::IsDirectory));
    }
    let chunks = chunks(&path, &entry)?;
    let map = client.refresh_map().await?;
    let targets: BTreeSet<TargetId> = chunks
        .iter()
        .filter_map(|chunk| map.groups.get(&chunk.group))
        .flat_map(|group| group.members.iter().map(|member| member.target))
        .collect();
    let view = View { shards: ask(client, &map, targets).await, map: &map };
    let text = if args.json {
        format!("{}\n", view.document(&path, &entry, &chunks))
    } else {
        view.table(&chunks)
    };
    print(&text).map_err(Failure::output)
}

/// The chunks of a file, in order.
pub(super) fn chunks(path: &RemotePath, entry: &Entry) -> Result<Vec<ChunkRange>, Failure> {
    let Some(content) = &entry.content else { return Ok(Vec::new()) };
    content
        .layout
        .split(0, entry.attributes.size)
        .map_err(|error| Failure::Failed(format!("{}: {error}", shown(&path.bytes()))))
}

/// The name of a role.
pub(super) fn role_word(role: Role) -> &'static str {
    match role {
        Role::Primary => "primary",
        Role::Backup => "backup",
        Role::Syncing => "syncing",
    }
}

struct View<'a> {
    map: &'a ClusterMap,
    shards: BTreeMap<TargetId, ShardStatsReply>,
}

impl View<'_> {
    fn document(&self, path: &RemotePath, entry: &Entry, chunks: &[ChunkRange]) -> Value {
        let list: Vec<Value> = chunks
            .iter()
            .map(|chunk| {
                let group = self.map.groups.get(&chunk.group);
                let members = group.map_or(&[][..], |group| &group.members);
                let replicas: Vec<Value> =
                    members.iter().map(|member| self.replica(member)).collect();
                json!({
                    "index": chunk.index,
                    "offset": u64::from(chunk.index) << chunk.chunk_log2,
                    "len": chunk.len,
                    "group": chunk.group.0,
                    "epoch": group.map(|group| group.epoch.0),
                    "replicas": replicas,
                })
            })
            .collect();
        let mut document = json!({ "size": entry.attributes.size, "chunks": list });
        insert_name(&mut document, "path", &path.bytes());
        if let (Value::Object(map), Some(content)) = (&mut document, &entry.content) {
            map.insert("fid".to_owned(), json!(content.fid.0));
            map.insert("chunk_size".to_owned(), json!(1_u64 << content.layout.chunk_log2()));
            map.insert("cell_size".to_owned(), json!(1_u64 << content.layout.cell_log2));
        }
        document
    }

    fn replica(&self, member: &Member) -> Value {
        let target = self.map.targets.get(&member.target);
        let node = target.and_then(|target| self.map.nodes.get(&target.node));
        json!({
            "target": member.target.0,
            "node": target.map(|target| target.node.0),
            "role": role_word(member.role),
            "address": node.map(|node| node.address.to_string()),
            "port": target.map(|target| target.port),
            "shard": target.map(|target| target.shard.0),
            "core": self.shards.get(&member.target).and_then(pinned),
        })
    }

    fn table(&self, chunks: &[ChunkRange]) -> String {
        let mut text = String::new();
        for chunk in chunks {
            let group = self.map.groups.get(&chunk.group);
            let replicas = group.map_or_else(String::new, |group| self.members(group));
            let epoch = group.map_or(0, |group| group.epoch.0);
            text.push_str(&format!(
                "chunk {} {} bytes group {} epoch {epoch}:{replicas}\n",
                chunk.index, chunk.len, chunk.group
            ));
        }
        text
    }

    fn members(&self, group: &GroupRecord) -> String {
        let mut text = String::new();
        for member in &group.members {
            let role = role_word(member.role);
            let Some((node, address)) = self.map.endpoint(member.target) else {
                text.push_str(&format!(" {role} target {}", member.target));
                continue;
            };
            let core = self.shards.get(&member.target).and_then(pinned);
            let core = core.map_or_else(|| "-".to_owned(), |core| core.to_string());
            text.push_str(&format!(
                " {role} target {} node {node} {address} core {core};",
                member.target
            ));
        }
        text.trim_end_matches(';').to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::net::{IpAddr, Ipv4Addr};

    use protocol::cluster_map::{NodeRecord, NodeState, TargetRecord, TargetState};
    use protocol::ids::{Epoch, Generation, GroupId, Ino, NodeId, ShardId};
    use protocol::message::namespace::{Attributes, Time};

    use super::*;

    #[test]
    fn a_replica_names_everything_that_leads_to_its_core() {
        let mut map = ClusterMap::default();
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        map.nodes.insert(
            NodeId(2),
            NodeRecord { id: NodeId(2), state: NodeState::Up, address, draining: false },
        );
        let target = TargetRecord {
            id: TargetId(201),
            node: NodeId(2),
            shard: ShardId(0),
            device: 0,
            port: 7411,
            generation: Generation(1),
            capacity: 1,
            state: TargetState::Up,
        };
        map.targets.insert(target.id, target);
        let member =
            Member { target: TargetId(201), generation: Generation(1), role: Role::Primary };
        let group = GroupRecord {
            id: GroupId(9),
            kind: 0,
            epoch: Epoch(4),
            last_writable_epoch: Epoch(4),
            active: true,
            down: false,
            replicas: 1,
            min_write: 1,
            members: vec![member],
            evicted: vec![],
            mutations: true,
            ..GroupRecord::default()
        };
        map.groups.insert(group.id, group);
        let stats = ShardStatsReply { core: 1, ..ShardStatsReply::default() };
        let view = View { map: &map, shards: BTreeMap::from([(TargetId(201), stats)]) };
        let chunk = ChunkRange { index: 0, group: GroupId(9), chunk_log2: 22, offset: 0, len: 5 };
        let time = Time::default();
        let attributes = Attributes {
            ino: Ino(3),
            file_type: FileType::File,
            mode: 0,
            uid: 0,
            gid: 0,
            nlink: 1,
            size: 5,
            mtime: time,
            ctime: time,
        };
        let entry = Entry { attributes, content: None, link: vec![] };
        let path = RemotePath::parse(OsStr::new("/x"));
        let document = view.document(&path, &entry, &[chunk]);
        assert_eq!(
            document["chunks"][0]["replicas"][0],
            json!({
                "target": 201, "node": 2, "role": "primary", "address": "127.0.0.1",
                "port": 7411, "shard": 0, "core": 1,
            })
        );
        assert_eq!(document["chunks"][0]["epoch"], 4);
        assert_eq!(
            view.table(&[chunk]),
            "chunk 0 5 bytes group 9 epoch 4: primary target 201 node 2 127.0.0.1:7411 core 1\n"
        );
    }
}
