//! A naive namespace: what the real one has to agree with.
//!
//! A tree in maps, written for the eye and not for speed. It knows nothing of rows, sessions'
//! windows, layouts or permissions: its caller is an administrator. New inodes are named by the
//! real state; everything else it works out by itself.

#![expect(clippy::cast_possible_truncation, reason = "the numbers of a test are small")]

use std::collections::{BTreeMap, BTreeSet};

use protocol::ids::Ino;
use protocol::status::Status;

/// What an inode of the model is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Directory(BTreeMap<Vec<u8>, Ino>),
    File { size: u64 },
    Symlink(Vec<u8>),
}

/// What a listing shows of one path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Line {
    pub(crate) ino: u64,
    pub(crate) kind: char,
    pub(crate) nlink: u32,
    pub(crate) size: u64,
}

/// The whole tree.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) items: BTreeMap<Ino, Item>,
    pub(crate) reserved: BTreeSet<Ino>,
}

type Done = Result<(), Status>;

impl Model {
    pub(crate) fn new() -> Model {
        let items = BTreeMap::from([(Ino::ROOT, Item::Directory(BTreeMap::new()))]);
        Model { items, reserved: BTreeSet::new() }
    }

    pub(crate) fn find(&self, dir: Ino, name: &[u8]) -> Result<Option<Ino>, Status> {
        Ok(self.names(dir)?.get(name).copied())
    }

    pub(crate) fn add(&mut self, dir: Ino, name: &[u8], ino: Ino, item: Item) -> Done {
        if self.find(dir, name)?.is_some() {
            return Err(Status::Exists);
        }
        self.items.insert(ino, item);
        self.point(dir, name, ino);
        Ok(())
    }

    pub(crate) fn replace(
        &mut self,
        (dir, name): (Ino, &[u8]),
        ino: Ino,
        item: Item,
        replace: bool,
    ) -> Done {
        if let Some(old) = self.find(dir, name)? {
            if !replace {
                return Err(Status::Exists);
            }
            if self.is_directory(old) {
                return Err(Status::IsDirectory);
            }
        }
        self.items.insert(ino, item);
        self.point(dir, name, ino);
        Ok(())
    }

    pub(crate) fn publish(
        &mut self,
        ino: Ino,
        place: (Ino, &[u8]),
        size: u64,
        replace: bool,
    ) -> Done {
        if !self.reserved.contains(&ino) {
            return Err(Status::NotFound);
        }
        self.replace(place, ino, Item::File { size }, replace)?;
        self.reserved.remove(&ino);
        Ok(())
    }

    pub(crate) fn link(&mut self, ino: Ino, dir: Ino, name: &[u8]) -> Done {
        let item = self.items.get(&ino).cloned().ok_or(Status::NotFound)?;
        if self.is_directory(ino) {
            return Err(Status::PermissionDenied);
        }
        self.add(dir, name, ino, item)
    }

    pub(crate) fn rename(
        &mut self,
        (from, name): (Ino, &[u8]),
        (to, new): (Ino, &[u8]),
        replace: bool,
    ) -> Done {
        self.names(from)?;
        self.names(to)?;
        let moved = self.find(from, name)?.ok_or(Status::NotFound)?;
        if self.is_directory(moved) && from != to && self.below(moved).contains(&to) {
            return Err(Status::IntoItself);
        }
        if let Some(old) = self.find(to, new)? {
            if !replace {
                return Err(Status::Exists);
            }
            if old == moved {
                return Ok(());
            }
            match (self.is_directory(moved), self.is_directory(old)) {
                (true, false) => return Err(Status::NotDirectory),
                (false, true) => return Err(Status::IsDirectory),
                (true, true) if !self.names(old)?.is_empty() => return Err(Status::NotEmpty),
                _ => {}
            }
        }
        // The new name first: an inode without any is forgotten.
        self.point(to, new, moved);
        self.unpoint(from, name);
        Ok(())
    }

    pub(crate) fn unlink(&mut self, dir: Ino, name: &[u8]) -> Done {
        let old = self.find(dir, name)?.ok_or(Status::NotFound)?;
        if self.is_directory(old) {
            return Err(Status::IsDirectory);
        }
        self.unpoint(dir, name);
        Ok(())
    }

    pub(crate) fn rmdir(&mut self, dir: Ino, name: &[u8]) -> Done {
        let old = self.find(dir, name)?.ok_or(Status::NotFound)?;
        if !self.names(old)?.is_empty() {
            return Err(Status::NotEmpty);
        }
        self.unpoint(dir, name);
        Ok(())
    }

    pub(crate) fn grow(&mut self, ino: Ino, end: u64) -> Done {
        if self.reserved.contains(&ino) {
            return Ok(());
        }
        match self.items.get_mut(&ino) {
            Some(Item::File { size }) => *size = end.max(*size),
            Some(_) => return Err(Status::IsDirectory),
            None => return Err(Status::NotFound),
        }
        Ok(())
    }

    /// Every path with what it shows.
    pub(crate) fn listing(&self) -> BTreeMap<Vec<u8>, Line> {
        let mut lines = BTreeMap::new();
        self.list(Ino::ROOT, b"", &mut lines);
        lines
    }

    fn list(&self, dir: Ino, path: &[u8], lines: &mut BTreeMap<Vec<u8>, Line>) {
        lines.insert(path.to_vec(), self.line(dir));
        let Ok(names) = self.names(dir) else { return };
        for (name, ino) in names {
            self.list(*ino, &[path, b"/", name].concat(), lines);
        }
    }

    fn line(&self, ino: Ino) -> Line {
        let (kind, nlink, size) = match &self.items[&ino] {
            Item::Directory(names) => {
                let inside = names.values().filter(|inside| self.is_directory(**inside)).count();
                ('d', 2 + inside, names.len())
            }
            Item::File { size } => ('f', self.count(ino), *size as usize),
            Item::Symlink(target) => ('l', self.count(ino), target.len()),
        };
        Line { ino: ino.0, kind, nlink: nlink as u32, size: size as u64 }
    }

    fn count(&self, ino: Ino) -> usize {
        let dirs = self.items.values().filter_map(|item| match item {
            Item::Directory(names) => Some(names.values()),
            _ => None,
        });
        dirs.flatten().filter(|inside| **inside == ino).count()
    }

    fn below(&self, top: Ino) -> BTreeSet<Ino> {
        let mut found = BTreeSet::from([top]);
        let names = self.names(top).cloned().unwrap_or_default();
        found.extend(names.values().flat_map(|ino| self.below(*ino)));
        found
    }

    fn is_directory(&self, ino: Ino) -> bool {
        matches!(self.items.get(&ino), Some(Item::Directory(_)))
    }

    fn names(&self, dir: Ino) -> Result<&BTreeMap<Vec<u8>, Ino>, Status> {
        match self.items.get(&dir) {
            Some(Item::Directory(names)) => Ok(names),
            Some(_) => Err(Status::NotDirectory),
            None => Err(Status::NotFound),
        }
    }

    fn point(&mut self, dir: Ino, name: &[u8], ino: Ino) {
        if let Some(Item::Directory(names)) = self.items.get_mut(&dir) {
            names.insert(name.to_vec(), ino);
        }
        self.forget_nameless();
    }

    fn unpoint(&mut self, dir: Ino, name: &[u8]) {
        if let Some(Item::Directory(names)) = self.items.get_mut(&dir) {
            names.remove(name);
        }
        self.forget_nameless();
    }

    fn forget_nameless(&mut self) {
        let inos: Vec<_> = self.items.keys().copied().collect();
        for ino in inos {
            if ino != Ino::ROOT && self.count(ino) == 0 {
                self.items.remove(&ino);
            }
        }
    }
}
