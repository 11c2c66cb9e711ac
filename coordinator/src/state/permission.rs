//! Who may do what: owner, group and other bits, the sticky bit, and the administrator.
//!
//! Knows nothing of rows; everything is decided from one or two inodes and the caller.

use protocol::message::command::Caller;
use protocol::message::namespace::SetAttributes;
use protocol::status::Status;

use super::inode::Inode;

/// May list a directory or read a file.
pub(super) const READ: u32 = 4;
/// May change a directory's names or a file's content.
pub(super) const WRITE: u32 = 2;
/// May look a name up in a directory.
pub(super) const SEARCH: u32 = 1;

/// Checks that the caller has all the `wanted` bits on an inode.
pub(super) fn access(inode: &Inode, caller: &Caller, wanted: u32) -> Result<(), Status> {
    let class = if caller.uid == inode.uid {
        6
    } else if caller.gid == inode.gid {
        3
    } else {
        0
    };
    allow(caller.admin || (inode.mode >> class) & wanted == wanted)
}

/// Checks that the caller may add names to a directory.
pub(super) fn change(dir: &Inode, caller: &Caller) -> Result<(), Status> {
    access(dir, caller, WRITE | SEARCH)
}

/// Checks that the caller may remove or replace the name of `victim` in `dir`.
pub(super) fn remove(dir: &Inode, victim: &Inode, caller: &Caller) -> Result<(), Status> {
    change(dir, caller)?;
    let sticky = dir.mode & STICKY != 0;
    allow(caller.admin || !sticky || caller.uid == dir.uid || caller.uid == victim.uid)
}

/// Checks that the caller may set these attributes on an existing inode.
pub(super) fn set(inode: &Inode, caller: &Caller, wanted: &SetAttributes) -> Result<(), Status> {
    let keeps_owner = wanted.uid.is_none_or(|uid| uid == inode.uid)
        && wanted.gid.is_none_or(|gid| gid == inode.gid);
    allow(caller.admin || (caller.uid == inode.uid && keeps_owner))
}

/// Owner and group of a new inode.
///
/// A directory with the set-group-id bit hands its group down.
pub(super) fn owner_of_new(
    dir: &Inode,
    caller: &Caller,
    wanted: &SetAttributes,
) -> Result<(u32, u32), Status> {
    let gid = if dir.mode & SET_GID != 0 { dir.gid } else { caller.gid };
    let (own_uid, own_gid) = (caller.uid, gid);
    let (uid, gid) = (wanted.uid.unwrap_or(own_uid), wanted.gid.unwrap_or(own_gid));
    allow(caller.admin || (uid == own_uid && (gid == own_gid || gid == caller.gid)))?;
    Ok((uid, gid))
}

/// Mode an inode of group `gid` really gets: only its own group's members and the administrator
/// may set the set-group-id bit.
pub(super) fn mode(wanted: u32, gid: u32, is_directory: bool, caller: &Caller) -> u32 {
    let foreign = !caller.admin && caller.gid != gid && !is_directory;
    if foreign { wanted & !SET_GID } else { wanted }
}

/// Bits a new directory takes from its parent.
pub(super) fn inherited(dir: &Inode) -> u32 {
    dir.mode & SET_GID
}

fn allow(allowed: bool) -> Result<(), Status> {
    if allowed { Ok(()) } else { Err(Status::PermissionDenied) }
}

const SET_GID: u32 = 0o2000;
const STICKY: u32 = 0o1000;

#[cfg(test)]
mod tests {
    use protocol::ids::Ino;
    use protocol::message::namespace::Time;

    use super::super::inode::Body;
    use super::*;

    fn dir(mode: u32) -> Inode {
        Inode {
            mode,
            uid: 10,
            gid: 20,
            nlink: 2,
            size: 0,
            mtime: Time::default(),
            ctime: Time::default(),
            body: Body::Directory { parent: Ino::ROOT, cell_log2: 0 },
        }
    }

    fn user(uid: u32, gid: u32) -> Caller {
        Caller { uid, gid, admin: false }
    }

    #[test]
    fn only_the_first_class_that_fits_counts() {
        let inode = dir(0o075);
        assert!(access(&inode, &user(10, 20), READ).is_err());
        assert!(access(&inode, &user(11, 20), READ | WRITE | SEARCH).is_ok());
        assert!(access(&inode, &user(11, 21), READ | SEARCH).is_ok());
        assert!(access(&inode, &user(11, 21), WRITE).is_err());
        let admin = Caller { admin: true, ..user(99, 99) };
        assert!(access(&dir(0), &admin, READ | WRITE | SEARCH).is_ok());
    }

    #[test]
    fn in_a_sticky_directory_only_owners_remove_names() {
        let (plain, sticky) = (dir(0o777), dir(0o1777));
        let victim = Inode { uid: 30, ..dir(0o644) };
        assert!(remove(&plain, &victim, &user(11, 21)).is_ok());
        assert!(remove(&sticky, &victim, &user(11, 21)).is_err());
        assert!(remove(&sticky, &victim, &user(30, 21)).is_ok());
        assert!(remove(&sticky, &victim, &user(10, 21)).is_ok());
    }

    #[test]
    fn owners_are_set_by_administrators_only() {
        let wanted = SetAttributes { uid: Some(5), ..SetAttributes::default() };
        assert!(set(&dir(0), &user(10, 20), &wanted).is_err());
        assert!(owner_of_new(&dir(0), &user(11, 21), &wanted).is_err());
        let admin = Caller { admin: true, ..user(0, 0) };
        assert_eq!(owner_of_new(&dir(0), &admin, &wanted), Ok((5, 0)));
        assert_eq!(owner_of_new(&dir(0o2777), &user(1, 2), &SetAttributes::default()), Ok((1, 20)));
        assert!(set(&dir(0), &user(11, 20), &SetAttributes::default()).is_err());
    }
}
