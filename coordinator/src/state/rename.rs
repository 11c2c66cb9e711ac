//! Rename: one step from the old name to the new one.

use protocol::guard::{self, Guard};
use protocol::ids::Ino;
use protocol::message::namespace::FileType;
use protocol::status::Status;

use super::codec::{damaged, key};
use super::inode::{self, Body, Dentry, Inode};
use super::namespace::{Asker, check_name};
use super::outcome::Made;
use super::permission::{self, WRITE};
use super::{State, Step};
use crate::kv::Kv;

/// A directory and a name in it.
type Place<'a> = (Ino, &'a [u8]);

impl<K: Kv> State<K> {
    /// Moves a name, replacing what the new name points to when types allow.
    pub(super) fn rename(
        &mut self,
        asker: &Asker,
        from: Place<'_>,
        to: Place<'_>,
        replace: bool,
    ) -> Step<Made> {
        check_name(from.1)?;
        check_name(to.1)?;
        let from_dir = self.directory(asker, from.0)?;
        let to_dir = self.directory(asker, to.0)?;
        let (dentry, moved) = self.named(from.0, from.1)?.ok_or(Status::NotFound)?;
        permission::remove(&from_dir, &moved, &asker.caller)?;
        permission::change(&to_dir, &asker.caller)?;
        let is_directory = moved.is_directory();
        let across = from.0 != to.0;
        if is_directory && across {
            // Its parent is part of a directory's content.
            permission::access(&moved, &asker.caller, WRITE)?;
            self.check_not_below(dentry.ino, to.0)?;
        }
        let present = self.named(to.0, to.1)?;
        match &present {
            Some(_) if !replace => return Err(Status::Exists.into()),
            Some((other, _)) if other.ino == dentry.ino => {
                return Ok(Made::Inode(dentry.ino, moved));
            }
            Some((_, victim)) => self.check_replace(asker, &to_dir, is_directory, victim)?,
            None => {}
        }
        let dirs = moved_names(asker, (from_dir, to_dir), across, is_directory, present.is_some())?;
        self.rewrite(asker, (from, to), dirs, (dentry, moved), present)
    }

    fn check_replace(
        &self,
        asker: &Asker,
        dir: &Inode,
        by_directory: bool,
        victim: &Inode,
    ) -> Step<()> {
        permission::remove(dir, victim, &asker.caller)?;
        match (by_directory, victim.is_directory()) {
            (true, false) => Err(Status::NotDirectory.into()),
            (false, true) => Err(Status::IsDirectory.into()),
            (true, true) if victim.size > 0 => Err(Status::NotEmpty.into()),
            _ => Ok(()),
        }
    }

    /// Checks that `dir` is not `top` or below it, by walking up to the root.
    fn check_not_below(&self, top: Ino, mut dir: Ino) -> Step<()> {
        // A path cannot have more directories than there are inodes.
        for _ in 0..=self.tally.inodes {
            if guard::holds(Guard::DirectoryCycle) && dir == top {
                return Err(Status::IntoItself.into());
            }
            if dir == Ino::ROOT {
                return Ok(());
            }
            match inode::load(&self.kv, dir)?.map(|inode| inode.body) {
                Some(Body::Directory { parent, .. }) => dir = parent,
                _ => return Err(damaged(&key::inode(dir), "no parent directory").into()),
            }
        }
        Err(damaged(&key::inode(dir), "in a circle of directories").into())
    }

    fn rewrite(
        &mut self,
        asker: &Asker,
        (from, to): (Place<'_>, Place<'_>),
        (from_dir, to_dir): (Inode, Inode),
        (dentry, mut moved): (Dentry, Inode),
        replaced: Option<(Dentry, Inode)>,
    ) -> Step<Made> {
        match replaced {
            Some((victim, _)) if victim.file_type == FileType::Directory => {
                self.kv.delete(key::inode(victim.ino));
                self.tally.inodes = self.tally.inodes.saturating_sub(1);
            }
            Some((victim, inode)) => self.drop_name(asker, victim.ino, inode),
            None => {}
        }
        if let Body::Directory { parent, .. } = &mut moved.body {
            *parent = to.0;
        }
        moved.ctime = asker.now;
        self.kv.delete(key::dentry(from.0, from.1));
        self.enter(to.0, to.1, dentry.ino, &moved);
        inode::store(&mut self.kv, from.0, &from_dir);
        inode::store(&mut self.kv, to.0, &to_dir);
        Ok(Made::Inode(dentry.ino, moved))
    }
}

/// Both directories after the move; the same one twice when the name stays in its directory.
fn moved_names(
    asker: &Asker,
    (from_dir, to_dir): (Inode, Inode),
    across: bool,
    is_directory: bool,
    replaces: bool,
) -> Step<(Inode, Inode)> {
    let one = i32::from(is_directory);
    let lost = if replaces { 1 } else { 0 };
    if across {
        let to_dir = to_dir.with_names(asker, i64::from(1 - lost), one * (1 - lost))?;
        return Ok((from_dir.with_names(asker, -1, -one)?, to_dir));
    }
    let dir = from_dir.with_names(asker, i64::from(-lost), -one * lost)?;
    Ok((dir.clone(), dir))
}
