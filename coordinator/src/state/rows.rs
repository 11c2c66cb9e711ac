//! Everything the rows say, gathered once and kept up to date row by row.

use std::collections::{BTreeMap, BTreeSet};

use protocol::ids::{Fid, GroupId, Ino, SessionId};

use super::State;
use super::codec::{damaged, key};
use super::inode::{self, Inode};
use super::map_rows::{Loaded, for_each};
use super::settling::{self, FileOrder};
use crate::kv::{Kv, KvError, Row};

/// What the rows of the namespace and of the map say.
#[derive(Default)]
pub(super) struct Rows {
    pub(super) tree: Tree,
    pub(super) loaded: Loaded,
    /// Rows that are not what was written, by the part they belong to.
    pub(super) damaged_tree: BTreeMap<Vec<u8>, KvError>,
    pub(super) damaged_map: BTreeMap<Vec<u8>, KvError>,
}

/// What the rows of the namespace say.
#[derive(Default)]
pub(super) struct Tree {
    pub(super) inodes: BTreeMap<Ino, Inode>,
    /// What each name of each directory points to.
    pub(super) dentries: BTreeMap<(Ino, Vec<u8>), Ino>,
    pub(super) reserved: BTreeSet<(SessionId, Ino)>,
    pub(super) opened: BTreeSet<(SessionId, Ino)>,
    /// Orders about files, by the key of their row.
    pub(super) orders: BTreeMap<Vec<u8>, FileOrder>,
    pub(super) dead: BTreeSet<(GroupId, Fid)>,
    /// Operations with a kept outcome.
    pub(super) windows: BTreeSet<(SessionId, u64)>,
}

/// What changed since the last look.
#[derive(Default)]
pub(super) struct Scope {
    /// Something of the namespace.
    pub(super) tree: bool,
    /// These groups.
    pub(super) groups: BTreeSet<GroupId>,
    /// A node or a target, on which every group may depend, or the set of groups.
    pub(super) cluster: bool,
}

impl Rows {
    /// Reads the whole table.
    pub(super) fn of<K: Kv>(state: &State<K>) -> Result<Rows, KvError> {
        let mut rows = Rows::default();
        let mut scope = Scope::default();
        for_each(&state.kv, key::everything(), |(key, value)| {
            rows.take(key.clone(), Some(value.clone()), &mut scope);
            Ok(())
        })?;
        Ok(rows)
    }

    /// Takes in what became of some rows.
    pub(super) fn update<K: Kv>(
        &mut self,
        state: &State<K>,
        keys: impl IntoIterator<Item = Vec<u8>>,
    ) -> Result<Scope, KvError> {
        let mut scope = Scope::default();
        for key in keys {
            let value = state.kv.get(&key)?;
            self.take(key, value, &mut scope);
        }
        Ok(scope)
    }

    fn take(&mut self, key: Vec<u8>, value: Option<Vec<u8>>, scope: &mut Scope) {
        match key::table_of(&key) {
            key::INODE
            | key::DENTRY
            | key::RESERVED
            | key::OPENED
            | key::ORDER
            | key::DEAD
            | key::WINDOW => {
                scope.tree = true;
                let taken = self.tree.take(&key, value.as_deref());
                note(&mut self.damaged_tree, key, taken);
            }
            key::NODE | key::TARGET | key::GROUP | key::DURABLE | key::WISHES => {
                self.take_map(key, value, scope);
            }
            // Counters and settings are compared as they are, sessions have their own count.
            _ => {}
        }
    }

    fn take_map(&mut self, key: Vec<u8>, value: Option<Vec<u8>>, scope: &mut Scope) {
        let group = key::small_number(&key).map(GroupId);
        match (key::table_of(&key), group) {
            (key::GROUP, Some(group)) => {
                scope.cluster |= self.loaded.map.groups.contains_key(&group) != value.is_some();
                scope.groups.insert(group);
            }
            (key::DURABLE | key::WISHES, _) => {}
            _ => scope.cluster = true,
        }
        let (key, taken) = match value {
            Some(value) => {
                let row: Row = (key, value);
                let taken = self.loaded.put(&row);
                (row.0, taken)
            }
            None => {
                let taken = self.loaded.forget(&key);
                (key, taken)
            }
        };
        note(&mut self.damaged_map, key, taken);
    }
}

fn note(damaged: &mut BTreeMap<Vec<u8>, KvError>, key: Vec<u8>, taken: Result<(), KvError>) {
    match taken {
        Ok(()) if damaged.is_empty() => {}
        Ok(()) => {
            damaged.remove(&key);
        }
        Err(error) => {
            damaged.insert(key, error);
        }
    }
}

impl Tree {
    /// Takes in what a row says now; `None` when it is gone.
    fn take(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), KvError> {
        let number = |at| key::number(key, at).ok_or_else(|| damaged(key, "short"));
        match key::table_of(key) {
            key::INODE => {
                let ino = Ino(number(1)?);
                self.inodes.remove(&ino);
                if let Some(value) = value {
                    self.inodes.insert(ino, inode::from_row(key, value)?);
                }
            }
            key::DENTRY => {
                let name = (Ino(number(1)?), key.get(9..).unwrap_or_default().to_vec());
                self.dentries.remove(&name);
                if let Some(value) = value {
                    self.dentries.insert(name, inode::dentry_from_row(key, value)?.ino);
                }
            }
            key::RESERVED => {
                set(&mut self.reserved, (SessionId(number(1)?), Ino(number(9)?)), value)
            }
            key::OPENED => set(&mut self.opened, (SessionId(number(1)?), Ino(number(9)?)), value),
            key::WINDOW => set(&mut self.windows, (SessionId(number(1)?), number(9)?), value),
            key::DEAD => {
                let group = key::small_number(key).ok_or_else(|| damaged(key, "short"))?;
                set(&mut self.dead, (GroupId(group), Fid(number(5)?)), value);
            }
            _ => {
                self.orders.remove(key);
                if let Some(value) = value {
                    self.orders.insert(key.to_vec(), settling::order_from_row(key, value)?);
                }
            }
        }
        Ok(())
    }
}

fn set<T: Ord>(all: &mut BTreeSet<T>, item: T, value: Option<&[u8]>) {
    if value.is_some() {
        all.insert(item);
    } else {
        all.remove(&item);
    }
}
