//! A model of the namespace, and clients that compare the coordinator with it.
//!
//! [`Tree`] is a tree of names as a person would write it down; it knows nothing of rows, tallies
//! or permissions. [`namers`] sends the same changes to the coordinator, loses answers, repeats
//! requests, and compares every outcome and in the end every directory.

pub mod namers;

use std::collections::{BTreeMap, BTreeSet};

use protocol::ids::Ino;
use protocol::message::namespace::{NamespaceOp, OpOutcome};

/// A directory and a name in it.
type Place = (Ino, Vec<u8>);

/// All names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    inodes: BTreeMap<Ino, Node>,
    /// Files that were reserved and not published.
    reserved: BTreeSet<Ino>,
}

/// What a name points to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Directory { parent: Ino, names: BTreeMap<Vec<u8>, Ino> },
    Other,
}

/// The model says another thing than the coordinator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{op:?}: the coordinator says {told:?}, the model {modelled}")]
pub struct Disagreement {
    op: NamespaceOp,
    told: OpOutcome,
    modelled: &'static str,
}

impl Default for Tree {
    /// An empty root directory.
    fn default() -> Tree {
        let root = Node::Directory { parent: Ino::ROOT, names: BTreeMap::new() };
        Tree { inodes: BTreeMap::from([(Ino::ROOT, root)]), reserved: BTreeSet::new() }
    }
}

impl Tree {
    /// Applies a change that the coordinator applied, and compares.
    ///
    /// # Errors
    /// [`Disagreement`] when one of the two refused what the other did.
    pub fn follow(&mut self, op: &NamespaceOp, told: &OpOutcome) -> Result<(), Box<Disagreement>> {
        let disagree =
            |modelled| Box::new(Disagreement { op: op.clone(), told: told.clone(), modelled });
        match (self.refuses(op), told) {
            (Some(_), OpOutcome::Refused(_)) => Ok(()),
            (Some(why), _) => Err(disagree(why)),
            (None, OpOutcome::Refused(_)) => Err(disagree("it is done")),
            (None, OpOutcome::Reserved(files)) => {
                self.reserved.extend(files.iter().map(|entry| entry.attributes.ino));
                Ok(())
            }
            (None, OpOutcome::Done(made)) => {
                self.apply(op, made.as_ref().map(|entry| entry.attributes.ino));
                Ok(())
            }
        }
    }

    /// Names that point to an inode; for a directory 2 and one for each directory in it.
    pub fn nlink(&self, ino: Ino) -> usize {
        match self.inodes.get(&ino) {
            Some(Node::Directory { names, .. }) => {
                2 + names.values().filter(|child| self.is_directory(**child)).count()
            }
            _ => {
                self.directories().flat_map(|names| names.values()).filter(|it| **it == ino).count()
            }
        }
    }

    /// Every directory that can be reached, and its names.
    pub fn listing(&self) -> BTreeMap<Ino, BTreeMap<Vec<u8>, Ino>> {
        let names = |(ino, node): (&Ino, &Node)| match node {
            Node::Directory { names, .. } => Some((*ino, names.clone())),
            Node::Other => None,
        };
        self.inodes.iter().filter_map(names).collect()
    }

    fn directories(&self) -> impl Iterator<Item = &BTreeMap<Vec<u8>, Ino>> {
        self.inodes.values().filter_map(|node| match node {
            Node::Directory { names, .. } => Some(names),
            Node::Other => None,
        })
    }

    fn is_directory(&self, ino: Ino) -> bool {
        matches!(self.inodes.get(&ino), Some(Node::Directory { .. }))
    }

    fn names(&self, dir: Ino) -> Option<&BTreeMap<Vec<u8>, Ino>> {
        match self.inodes.get(&dir)? {
            Node::Directory { names, .. } => Some(names),
            Node::Other => None,
        }
    }

    fn named(&self, dir: Ino, name: &[u8]) -> Option<Ino> {
        self.names(dir)?.get(name).copied()
    }

    /// Why a change cannot be done; `None` when it can.
    fn refuses(&self, op: &NamespaceOp) -> Option<&'static str> {
        match op {
            NamespaceOp::Mkdir { parent, name, .. } => self.refuses_new(*parent, name, false),
            NamespaceOp::Symlink { parent, name, replace, .. } => {
                self.refuses_new(*parent, name, *replace)
            }
            NamespaceOp::Publish { ino, parent, name, replace, .. } => {
                let unknown = !self.reserved.contains(ino);
                unknown
                    .then_some("no such file")
                    .or_else(|| self.refuses_new(*parent, name, *replace))
            }
            NamespaceOp::Link { ino, parent, name } => match self.inodes.get(ino) {
                Some(Node::Other) => self.refuses_new(*parent, name, false),
                _ => Some("no such file"),
            },
            NamespaceOp::Unlink { parent, name } => match self.named(*parent, name) {
                Some(ino) if !self.is_directory(ino) => None,
                _ => Some("no file of that name"),
            },
            NamespaceOp::Rmdir { parent, name } => {
                let found = self.named(*parent, name).and_then(|ino| self.names(ino));
                let empty = found.is_some_and(BTreeMap::is_empty);
                (!empty).then_some("no empty directory of that name")
            }
            NamespaceOp::Rename { from_parent, from_name, to_parent, to_name, replace } => {
                self.refuses_rename((*from_parent, from_name), (*to_parent, to_name), *replace)
            }
            _ => None,
        }
    }

    fn refuses_new(&self, dir: Ino, name: &[u8], replace: bool) -> Option<&'static str> {
        let Some(names) = self.names(dir) else { return Some("no such directory") };
        match names.get(name) {
            None => None,
            Some(ino) if replace && !self.is_directory(*ino) => None,
            Some(_) => Some("the name exists"),
        }
    }

    fn refuses_rename(
        &self,
        from: (Ino, &Vec<u8>),
        to: (Ino, &Vec<u8>),
        replace: bool,
    ) -> Option<&'static str> {
        let Some(moved) = self.named(from.0, from.1) else { return Some("no such name") };
        if self.names(to.0).is_none() {
            return Some("no such directory");
        }
        if self.is_directory(moved) && from.0 != to.0 && self.is_below(to.0, moved) {
            return Some("a directory into itself");
        }
        let victim = self.named(to.0, to.1)?;
        if !replace {
            return Some("the name exists");
        }
        match (self.is_directory(moved), self.names(victim)) {
            _ if victim == moved => None,
            (true, None) => Some("a directory over a file"),
            (false, Some(_)) => Some("a file over a directory"),
            (true, Some(names)) if !names.is_empty() => Some("a directory with names in it"),
            _ => None,
        }
    }

    /// True when `dir` is `top` or below it.
    fn is_below(&self, mut dir: Ino, top: Ino) -> bool {
        loop {
            match self.inodes.get(&dir) {
                _ if dir == top => return true,
                Some(Node::Directory { parent, .. }) if dir != Ino::ROOT => dir = *parent,
                _ => return false,
            }
        }
    }

    /// Applies a change that is not refused; `made` is the inode the coordinator names.
    fn apply(&mut self, op: &NamespaceOp, made: Option<Ino>) {
        match (op.clone(), made) {
            (NamespaceOp::Mkdir { parent, name, .. }, Some(ino)) => {
                self.inodes.insert(ino, Node::Directory { parent, names: BTreeMap::new() });
                self.enter((parent, name), ino);
            }
            (NamespaceOp::Symlink { parent, name, .. }, Some(ino)) => {
                self.inodes.insert(ino, Node::Other);
                self.enter((parent, name), ino);
            }
            (NamespaceOp::Publish { ino, parent, name, .. }, _) => {
                self.reserved.remove(&ino);
                self.inodes.insert(ino, Node::Other);
                self.enter((parent, name), ino);
            }
            (NamespaceOp::Link { ino, parent, name }, _) => self.enter((parent, name), ino),
            (NamespaceOp::Unlink { parent, name } | NamespaceOp::Rmdir { parent, name }, _) => {
                self.remove(&(parent, name));
            }
            (
                NamespaceOp::Rename { from_parent, from_name, to_parent, to_name, .. },
                Some(moved),
            ) => {
                let (from, to) = ((from_parent, from_name), (to_parent, to_name));
                if self.named(to.0, &to.1) == Some(moved) {
                    return; // Two names of one file: nothing is done.
                }
                self.take(&from);
                if let Some(Node::Directory { parent, .. }) = self.inodes.get_mut(&moved) {
                    *parent = to.0;
                }
                self.enter(to, moved);
            }
            _ => {}
        }
    }

    /// Gives an inode a name; what had the name loses it.
    fn enter(&mut self, place: Place, ino: Ino) {
        self.remove(&place);
        if let Some(Node::Directory { names, .. }) = self.inodes.get_mut(&place.0) {
            names.insert(place.1, ino);
        }
    }

    fn take(&mut self, (dir, name): &Place) -> Option<Ino> {
        match self.inodes.get_mut(dir)? {
            Node::Directory { names, .. } => names.remove(name),
            Node::Other => None,
        }
    }

    /// Takes a name away, and its inode with the last one.
    fn remove(&mut self, place: &Place) {
        let Some(ino) = self.take(place) else { return };
        if self.is_directory(ino) || self.nlink(ino) == 0 {
            self.inodes.remove(&ino);
        }
    }
}

#[cfg(test)]
mod tests;
