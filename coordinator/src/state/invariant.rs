//! What must hold after every command; tests ask after each one.
//!
//! [`State::violations`] looks at everything. [`Audit`] says the same and looks only at what can
//! have changed since it last found everything sound: at rows that were touched, at what depends on
//! them, and always at memory, which has to equal the rows. What is neither touched nor different
//! in memory is as it was.

use std::collections::{BTreeMap, BTreeSet};

use protocol::cluster_map::{GroupRecord, Member, Role};
use protocol::ids::{Fid, Ino, MapVersion, SessionId, TargetId};
use protocol::limits::{GROUP_MEMBERS_MAX, SESSION_WINDOW};

use super::inode::Body;
use super::rows::{Rows, Scope, Tree};
use super::settling::FileOrder;
use super::tally::Tally;
use super::{Session, State};
use crate::kv::{Kv, KvError};

/// Looks for violations again and again.
#[derive(Default)]
pub struct Audit {
    /// What the rows say; `None` before they were read.
    rows: Option<Rows>,
    /// What the last look found sound, if it did.
    sound: Option<Sound>,
}

/// What the namespace depends on beside its rows.
#[derive(PartialEq, Eq)]
struct Sound {
    initialized: bool,
    counted: (u64, u64, u64, u64),
    sessions: BTreeMap<SessionId, Session>,
    version: MapVersion,
}

impl Audit {
    /// Everything that is wrong with the state, as [`State::violations`] has it, when `touched` are
    /// the keys of all rows that were set or removed since the last look; the first look needs none.
    pub fn look<K: Kv>(
        &mut self,
        state: &State<K>,
        touched: impl IntoIterator<Item = Vec<u8>>,
    ) -> Vec<String> {
        let mut sound = self.sound.take();
        let scope = match &mut self.rows {
            Some(rows) => rows.update(state, touched),
            none => Rows::of(state).map(|rows| {
                *none = Some(rows);
                sound = None;
                Scope::default()
            }),
        };
        let (scope, rows) = match (scope, &mut self.rows) {
            (Ok(scope), Some(rows)) => (scope, rows),
            (Err(error), _) => {
                self.rows = None;
                return vec![error.to_string()];
            }
            (Ok(_), None) => return Vec::new(),
        };
        let wrong = state.wrong_within(rows, &scope, sound.as_ref());
        if wrong.is_empty() {
            self.sound = Some(Sound::of(state, sound));
        }
        wrong
    }
}

impl Sound {
    /// The state as it is now; `last` is how it was, to be used again.
    fn of<K: Kv>(state: &State<K>, last: Option<Sound>) -> Sound {
        let sessions = match last {
            Some(last) if last.sessions == state.sessions => last.sessions,
            _ => state.sessions.clone(),
        };
        Sound {
            initialized: state.settings.is_some(),
            counted: state.counted(),
            sessions,
            version: state.map.version,
        }
    }

    /// True when the namespace is as sound as it was if its rows are the same.
    fn covers<K: Kv>(&self, state: &State<K>) -> bool {
        self.initialized == state.settings.is_some()
            && self.counted == state.counted()
            && self.sessions == state.sessions
            && self.version <= state.map.version
    }
}

impl<K: Kv> State<K> {
    /// Everything that is wrong with the state, one sentence each; empty for a sound one.
    ///
    /// # Cost
    /// Reads the whole table into memory: for tests and for an operator's check.
    pub fn violations(&self) -> Vec<String> {
        Audit::default().look(self, [])
    }

    /// What is wrong now; of what lies outside the scope only when it was not `sound` before.
    fn wrong_within(&self, rows: &mut Rows, scope: &Scope, sound: Option<&Sound>) -> Vec<String> {
        let mut memory = Vec::new();
        if let Err(error) = self.check_memory(rows, &mut memory) {
            memory.push(error.to_string());
        }
        let mut wrong = Vec::new();
        // Memory that differs from its rows may have changed anywhere.
        let sound = sound.filter(|_| memory.is_empty());
        let same = sound.is_some_and(|sound| sound.covers(self));
        if scope.tree || scope.cluster || !same {
            self.check_namespace(rows, &mut wrong);
        }
        let changed = |group: &&GroupRecord| {
            sound.is_none() || scope.cluster || scope.groups.contains(&group.id)
        };
        for group in self.map.groups.values().filter(changed) {
            self.check_group(group, &mut wrong);
        }
        wrong.append(&mut memory);
        wrong
    }

    fn check_namespace(&self, rows: &Rows, wrong: &mut Vec<String>) {
        match rows.damaged_tree.values().next() {
            Some(error) => wrong.push(error.to_string()),
            None => {
                if self.settings.is_some() {
                    self.check_tree(&rows.tree, wrong);
                }
                self.check_owners(&rows.tree, wrong);
            }
        }
    }

    /// Linked inodes, their bytes, dead files and orders, as they are counted.
    fn counted(&self) -> (u64, u64, u64, u64) {
        let tally = &self.tally;
        (tally.inodes, tally.file_bytes, tally.dead_files, tally.file_orders)
    }

    fn check_tree(&self, tree: &Tree, wrong: &mut Vec<String>) {
        let mut names: BTreeMap<Ino, u32> = BTreeMap::new();
        let mut inside: BTreeMap<Ino, (u64, u32)> = BTreeMap::new();
        for ((parent, name), ino) in &tree.dentries {
            let name = String::from_utf8_lossy(name);
            let Some(inode) = tree.inodes.get(ino) else {
                wrong.push(format!("name {name} of directory {parent} points to no inode {ino}"));
                continue;
            };
            *names.entry(*ino).or_default() += 1;
            let counts = inside.entry(*parent).or_default();
            counts.0 += 1;
            counts.1 += u32::from(inode.is_directory());
            if matches!(inode.body, Body::Directory { parent: own, .. } if own != *parent) {
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
                Some(Body::Directory { parent, .. }) => ino = *parent,
                Some(Body::File(_) | Body::Symlink { .. }) => return true,
                None => return false,
            }
        }
        false
    }

    fn check_files(&self, tree: &Tree, wrong: &mut Vec<String>) {
        let dead: BTreeSet<_> = tree.dead.iter().map(|(_, fid)| *fid).collect();
        let reserved: BTreeSet<Ino> = tree.reserved.iter().map(|(_, ino)| *ino).collect();
        let mut writers_of: BTreeMap<Ino, usize> = BTreeMap::new();
        tree.opened.iter().for_each(|(_, ino)| *writers_of.entry(*ino).or_default() += 1);
        let orders_of = tree.orders_of();
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
            let writers = writers_of.get(ino).copied().unwrap_or_default();
            if file.writers as usize != writers || (file.exclusive && writers > 1) {
                wrong.push(format!("inode {ino} counts {} writers, has {writers}", file.writers));
            }
            let orders = orders_of.get(&file.fid).copied().unwrap_or_default();
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
            let owned = reserved.contains(ino);
            if owned != (inode.nlink == 0) {
                wrong.push(format!("inode {ino}: nlink {}, reserved {owned}", inode.nlink));
            }
        }
        let counted = (linked, bytes, tree.dead.len() as u64, tree.orders.len() as u64);
        let said = self.counted();
        if counted != said {
            wrong.push(format!("counters say {said:?}, counted {counted:?}"));
        }
    }

    fn check_owners(&self, tree: &Tree, wrong: &mut Vec<String>) {
        // A file that two sessions have is counted for the later one.
        let reserved: BTreeMap<Ino, SessionId> =
            tree.reserved.iter().map(|(session, ino)| (*ino, *session)).collect();
        let mut held: BTreeMap<SessionId, usize> = BTreeMap::new();
        for (ino, session) in &reserved {
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
            let opened = tree.opened.range((*id, Ino(0))..=(*id, Ino(u64::MAX))).count();
            if session.opened != opened {
                wrong.push(format!("session {id} counts {} opened, has {opened}", session.opened));
            }
        }
        for (session, ino) in &tree.opened {
            if !self.sessions.contains_key(session) {
                wrong.push(format!("inode {ino} is open in session {session}, which is gone"));
            }
        }
        let mut windows: BTreeMap<SessionId, usize> = BTreeMap::new();
        tree.windows.iter().for_each(|(id, _)| *windows.entry(*id).or_default() += 1);
        for (session, outcomes) in &windows {
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
    fn check_memory(&self, rows: &mut Rows, wrong: &mut Vec<String>) -> Result<(), KvError> {
        if let Some(error) = rows.damaged_map.values().next() {
            return Err(error.clone());
        }
        let loaded = &mut rows.loaded;
        loaded.map.cluster = self.settings.map(|settings| settings.cluster).unwrap_or_default();
        loaded.map.version = self.tally.map_version;
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

impl Tree {
    /// How many groups have to cut each file, and how many to measure it.
    fn orders_of(&self) -> BTreeMap<Fid, (u32, u32)> {
        let mut orders: BTreeMap<Fid, (u32, u32)> = BTreeMap::new();
        for order in self.orders.values() {
            match order {
                FileOrder::Trim(trim, _) => orders.entry(trim.fid).or_default().0 += 1,
                FileOrder::Measure(measure) => orders.entry(measure.fid).or_default().1 += 1,
            }
        }
        orders
    }
}

#[cfg(test)]
mod tests;
