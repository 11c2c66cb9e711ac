//! What must hold after every command; tests ask after each one.

use std::collections::{BTreeMap, BTreeSet};

use protocol::cluster_map::{GroupRecord, Member, Role};
use protocol::ids::{Fid, GroupId, Ino, SessionId, TargetId};
use protocol::limits::{GROUP_MEMBERS_MAX, SESSION_WINDOW};

use super::State;
use super::codec::{damaged, key};
use super::inode::{self, Body, Inode};
use super::map_rows::{self, for_each};
use super::settling::FileOrder;
use super::tally::Tally;
use crate::kv::{Kv, KvError};

/// Everything the rows of the namespace say, gathered by one walk.
#[derive(Default)]
struct Tree {
    inodes: BTreeMap<Ino, Inode>,
    /// Directory, name and what it points to.
    dentries: Vec<(Ino, Vec<u8>, Ino)>,
    reserved: BTreeMap<Ino, SessionId>,
    opened: BTreeSet<(Ino, SessionId)>,
    /// Orders by file: how many groups have to cut it, how many to measure it.
    orders: BTreeMap<Fid, (u32, u32)>,
    dead: BTreeSet<(GroupId, Fid)>,
    windows: BTreeMap<SessionId, usize>,
}

impl<K: Kv> State<K> {
    /// Everything that is wrong with the state, one sentence each; empty for a sound one.
    ///
    /// # Cost
    /// Reads the whole table into memory: for tests and for an operator's check.
    pub fn violations(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        match self.gather() {
            Ok(tree) => {
                if self.settings.is_some() {
                    self.check_tree(&tree, &mut wrong);
                }
                self.check_owners(&tree, &mut wrong);
            }
            Err(error) => wrong.push(error.to_string()),
        }
        for group in self.map.groups.values() {
            self.check_group(group, &mut wrong);
        }
        if let Err(error) = self.check_memory(&mut wrong) {
            wrong.push(error.to_string());
        }
        wrong
    }

    fn gather(&self) -> Result<Tree, KvError> {
        let mut tree = Tree::default();
        let number = |key: &[u8], at| key::number(key, at).ok_or_else(|| damaged(key, "short"));
        for_each(&self.kv, key::inodes(), |(key, value)| {
            tree.inodes.insert(Ino(number(key, 1)?), inode::from_row(key, value)?);
            Ok(())
        })?;
        for_each(&self.kv, key::dentries(), |(key, value)| {
            let dentry = inode::dentry_from_row(key, value)?;
            let name = key.get(9..).unwrap_or_default().to_vec();
            tree.dentries.push((Ino(number(key, 1)?), name, dentry.ino));
            Ok(())
        })?;
        for_each(&self.kv, key::all_reserved(), |(key, _)| {
            tree.reserved.insert(Ino(number(key, 9)?), SessionId(number(key, 1)?));
            Ok(())
        })?;
        for_each(&self.kv, key::all_opened(), |(key, _)| {
            tree.opened.insert((Ino(number(key, 9)?), SessionId(number(key, 1)?)));
            Ok(())
        })?;
        for (_, order) in self.file_orders(usize::MAX)? {
            match order {
                FileOrder::Trim(trim, _) => tree.orders.entry(trim.fid).or_default().0 += 1,
                FileOrder::Measure(measure) => tree.orders.entry(measure.fid).or_default().1 += 1,
            }
        }
        for_each(&self.kv, key::deads(), |(key, _)| {
            let group = key::small_number(key).ok_or_else(|| damaged(key, "short"))?;
            tree.dead.insert((GroupId(group), Fid(number(key, 5)?)));
            Ok(())
        })?;
        for_each(&self.kv, key::windows(), |(key, _)| {
            *tree.windows.entry(SessionId(number(key, 1)?)).or_default() += 1;
            Ok(())
        })?;
        Ok(tree)
    }

    fn check_tree(&self, tree: &Tree, wrong: &mut Vec<String>) {
        let mut names: BTreeMap<Ino, u32> = BTreeMap::new();
        let mut inside: BTreeMap<Ino, (u64, u32)> = BTreeMap::new();
        for (parent, name, ino) in &tree.dentries {
            let name = String::from_utf8_lossy(name);
            let Some(inode) = tree.inodes.get(ino) else {
                wrong.push(format!("name {name} of directory {parent} points to no inode {ino}"));
                continue;
            };
            *names.entry(*ino).or_default() += 1;
            let counts = inside.entry(*parent).or_default();
            counts.0 += 1;
            counts.1 += u32::from(inode.is_directory());
            if matches!(inode.body, Body::Directory { parent: own } if own != *parent) {
                wrong.push(format!("directory {ino} is in {parent} but names another parent"));
            }
        }
        for (ino, inode) in &tree.inodes {
            let (entries, directories) = inside.get(ino).copied().unwrap_or_default();
            let named = names.get(ino).copied().unwrap_or_default();
            let links = if inode.is_directory() { 2 + directories } else { named };
            if inode.nlink != links {
                wrong.push(format!("inode {ino} has nlink {}, counted {links}", inode.nlink));
            }
            if inode.is_directory() && (inode.size != entries) {
                wrong.push(format!("directory {ino} says {} entries, has {entries}", inode.size));
            }
            if !inode.is_directory() && entries > 0 {
                wrong.push(format!("inode {ino} is no directory but has names in it"));
            }
            if inode.is_directory() && named != u32::from(*ino != Ino::ROOT) {
                wrong.push(format!("directory {ino} has {named} names"));
            }
            if !self.reaches_root(tree, *ino) {
                wrong.push(format!("directory {ino} does not lead to the root"));
            }
        }
        self.check_files(tree, wrong);
    }

    fn reaches_root(&self, tree: &Tree, mut ino: Ino) -> bool {
        for _ in 0..=tree.inodes.len() {
            match tree.inodes.get(&ino).map(|inode| &inode.body) {
                Some(Body::Directory { .. }) if ino == Ino::ROOT => return true,
                Some(Body::Directory { parent }) => ino = *parent,
                Some(Body::File(_) | Body::Symlink { .. }) => return true,
                None => return false,
            }
        }
        false
    }

    fn check_files(&self, tree: &Tree, wrong: &mut Vec<String>) {
        let dead: BTreeSet<_> = tree.dead.iter().map(|(_, fid)| *fid).collect();
        let mut fids = BTreeSet::new();
        let (mut linked, mut bytes) = (0, 0);
        for (ino, inode) in &tree.inodes {
            if inode.nlink > 0 {
                linked += 1;
            }
            let Body::File(file) = &inode.body else { continue };
            bytes += if inode.nlink > 0 { inode.size } else { 0 };
            if !fids.insert(file.fid) || dead.contains(&file.fid) {
                wrong.push(format!("content {} of inode {ino} is another's or dead", file.fid));
            }
            for group in file.groups() {
                if !self.map.groups.contains_key(&group) {
                    wrong.push(format!("inode {ino} lies on unknown group {group}"));
                }
            }
            let writers = tree.opened.iter().filter(|(opened, _)| opened == ino).count();
            if file.writers as usize != writers || (file.exclusive && writers > 1) {
                wrong.push(format!("inode {ino} counts {} writers, has {writers}", file.writers));
            }
            let orders = tree.orders.get(&file.fid).copied().unwrap_or_default();
            if (file.trims, file.measures) != orders {
                let counted = (file.trims, file.measures);
                wrong.push(format!("inode {ino} counts orders {counted:?}, has {orders:?}"));
            }
            if file.growth_only && (file.trims > 0 || file.measures > 0 || file.recovered) {
                wrong.push(format!("inode {ino} is growth-only although it was cut"));
            }
            if file.stamp > self.map.version {
                wrong.push(format!("inode {ino} has a stamp of the future"));
            }
            let owned = tree.reserved.contains_key(ino);
            if owned != (inode.nlink == 0) {
                wrong.push(format!("inode {ino}: nlink {}, reserved {owned}", inode.nlink));
            }
        }
        let orders = tree.orders.values().map(|(trims, measures)| u64::from(trims + measures));
        let counted = (linked, bytes, tree.dead.len() as u64, orders.sum::<u64>());
        let tally = &self.tally;
        let said = (tally.inodes, tally.file_bytes, tally.dead_files, tally.file_orders);
        if counted != said {
            wrong.push(format!("counters say {said:?}, counted {counted:?}"));
        }
    }

    fn check_owners(&self, tree: &Tree, wrong: &mut Vec<String>) {
        let mut held: BTreeMap<SessionId, usize> = BTreeMap::new();
        for (ino, session) in &tree.reserved {
            *held.entry(*session).or_default() += 1;
            if !tree.inodes.contains_key(ino) || !self.sessions.contains_key(session) {
                wrong.push(format!("file {ino} of session {session}: one of them is gone"));
            }
        }
        for (id, session) in &self.sessions {
            let held = held.get(id).copied().unwrap_or_default();
            if session.reserved != held {
                wrong.push(format!("session {id} counts {} files, has {held}", session.reserved));
            }
        }
        for (id, session) in &self.sessions {
            let opened = tree.opened.iter().filter(|(_, owner)| owner == id).count();
            if session.opened != opened {
                wrong.push(format!("session {id} counts {} opened, has {opened}", session.opened));
            }
        }
        for (ino, session) in &tree.opened {
            if !self.sessions.contains_key(session) {
                wrong.push(format!("inode {ino} is open in session {session}, which is gone"));
            }
        }
        for (session, outcomes) in &tree.windows {
            if !self.sessions.contains_key(session) || *outcomes > SESSION_WINDOW {
                wrong.push(format!("{outcomes} outcomes kept for session {session}"));
            }
        }
    }

    fn check_group(&self, group: &GroupRecord, wrong: &mut Vec<String>) {
        let id = group.id;
        let primaries = group.members.iter().filter(|member| member.role == Role::Primary).count();
        if primaries != 1 || group.serving().count() == 0 {
            wrong.push(format!("group {id} has {primaries} primaries"));
        }
        let targets: BTreeSet<_> = group.members.iter().map(|member| member.target).collect();
        if targets.len() != group.members.len() || targets.len() > GROUP_MEMBERS_MAX {
            wrong.push(format!("group {id} has a member twice, or too many"));
        }
        if group.evicted.iter().any(|target| targets.contains(target)) {
            wrong.push(format!("group {id} has a member that is evicted"));
        }
        let records = targets.iter().map(|target| self.map.targets.get(target));
        let nodes: Vec<_> = records.map(|record| record.map(|record| record.node)).collect();
        if nodes.iter().any(Option::is_none)
            || nodes.iter().collect::<BTreeSet<_>>().len() != nodes.len()
        {
            wrong.push(format!("group {id} has two members on one node, or an unknown one"));
        }
        let whole = |member: &Member| self.ledger.holds_everything(id, member.target);
        let serves = |member: &Member| self.serves(member);
        if group.serving().any(serves) && !group.serving().any(whole) {
            wrong.push(format!("group {id} is served by targets that lack something"));
        }
        // A target that left relies on this when it frees what it has of the group.
        let outside = |target: &TargetId| !group.serving().any(|it| it.target == *target);
        if group.writable() && self.ledger.whole.get(&id).is_some_and(|it| it.iter().any(outside)) {
            wrong.push(format!("group {id} may be written without a target that could revive it"));
        }
        if group.last_writable_epoch > group.epoch {
            wrong.push(format!("group {id} was writable in a later epoch"));
        }
        if group.down && group.active {
            wrong.push(format!("group {id} is down and active"));
        }
    }

    /// Checks that memory equals the rows.
    fn check_memory(&self, wrong: &mut Vec<String>) -> Result<(), KvError> {
        let loaded = map_rows::load(&self.kv, self.settings, self.tally.map_version)?;
        if loaded.map != self.map {
            wrong.push("the map in memory differs from its rows".to_owned());
        }
        if loaded.durables != self.durables {
            wrong.push("what targets reported as durable differs from its rows".to_owned());
        }
        if loaded.nodes != self.nodes || loaded.ledger != self.ledger {
            wrong.push("what is known of nodes differs from its rows".to_owned());
        }
        if self.tally.applied > 0 && Tally::load(&self.kv)? != self.tally {
            wrong.push("the counters in memory differ from their row".to_owned());
        }
        Ok(())
    }
}
