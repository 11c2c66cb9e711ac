use protocol::message::namespace::{Attributes, Entry, FileType, SetAttributes, Time};
use protocol::status::Status;

use super::*;

fn done(ino: u64) -> OpOutcome {
    let attributes = Attributes {
        ino: Ino(ino),
        file_type: FileType::File,
        mode: 0,
        uid: 0,
        gid: 0,
        nlink: 1,
        size: 0,
        mtime: Time::default(),
        ctime: Time::default(),
    };
    OpOutcome::Done(Some(Entry { attributes, content: None, link: Vec::new() }))
}

fn mkdir(parent: Ino, name: &str) -> NamespaceOp {
    NamespaceOp::Mkdir { parent, name: name.into(), attributes: SetAttributes::default() }
}

fn symlink(parent: Ino, name: &str) -> NamespaceOp {
    let (name, target) = (name.into(), b"x".to_vec());
    NamespaceOp::Symlink { parent, name, target, attributes: Default::default(), replace: false }
}

fn rename(from: (Ino, &str), to: (Ino, &str)) -> NamespaceOp {
    NamespaceOp::Rename {
        from_parent: from.0,
        from_name: from.1.into(),
        to_parent: to.0,
        to_name: to.1.into(),
        replace: true,
    }
}

const REFUSED: OpOutcome = OpOutcome::Refused(Status::Exists);

/// Root with directories 2 (`a`) and 3 (`a/b`) and file 4 (`f`).
fn small() -> Tree {
    let mut tree = Tree::default();
    tree.follow(&mkdir(Ino::ROOT, "a"), &done(2)).unwrap();
    tree.follow(&mkdir(Ino(2), "b"), &done(3)).unwrap();
    tree.follow(&symlink(Ino::ROOT, "f"), &done(4)).unwrap();
    tree
}

#[test]
fn the_model_follows_a_correct_coordinator() {
    let mut tree = small();
    assert_eq!((tree.nlink(Ino::ROOT), tree.nlink(Ino(2)), tree.nlink(Ino(4))), (3, 3, 1));
    let link = NamespaceOp::Link { ino: Ino(4), parent: Ino(3), name: b"g".to_vec() };
    assert_eq!(tree.follow(&link, &done(4)), Ok(()));
    assert_eq!(tree.nlink(Ino(4)), 2);
    assert_eq!(tree.follow(&rename((Ino::ROOT, "f"), (Ino(3), "g")), &done(4)), Ok(()));
    assert_eq!(tree.nlink(Ino(4)), 2, "two names of one file: nothing is done");
    assert_eq!(tree.follow(&rename((Ino(2), "b"), (Ino::ROOT, "c")), &done(3)), Ok(()));
    assert_eq!((tree.nlink(Ino::ROOT), tree.nlink(Ino(2))), (4, 2));
    assert_eq!(tree.follow(&rename((Ino::ROOT, "a"), (Ino(3), "a")), &done(2)), Ok(()));
    assert_eq!(tree.follow(&mkdir(Ino(2), "b"), &done(5)), Ok(()));
    let names: Vec<_> = tree.listing()[&Ino::ROOT].keys().cloned().collect();
    assert_eq!(names, [b"c".to_vec(), b"f".to_vec()]);
}

#[test]
fn a_coordinator_that_does_what_it_must_refuse_is_found() {
    let wrong = [
        mkdir(Ino::ROOT, "f"),
        mkdir(Ino(9), "x"),
        rename((Ino::ROOT, "a"), (Ino(3), "x")),
        rename((Ino::ROOT, "f"), (Ino::ROOT, "a")),
        rename((Ino::ROOT, "a"), (Ino::ROOT, "f")),
        rename((Ino::ROOT, "missing"), (Ino::ROOT, "x")),
        NamespaceOp::Rmdir { parent: Ino::ROOT, name: b"a".to_vec() },
        NamespaceOp::Unlink { parent: Ino::ROOT, name: b"a".to_vec() },
        NamespaceOp::Link { ino: Ino(2), parent: Ino::ROOT, name: b"x".to_vec() },
    ];
    for op in wrong {
        assert!(small().follow(&op, &done(7)).is_err(), "{op:?}");
        assert_eq!(small().follow(&op, &REFUSED), Ok(()), "{op:?}");
    }
}

#[test]
fn a_coordinator_that_refuses_what_it_must_do_is_found() {
    assert!(small().follow(&mkdir(Ino(3), "new"), &REFUSED).is_err());
    let unlink = NamespaceOp::Unlink { parent: Ino::ROOT, name: b"f".to_vec() };
    assert!(small().follow(&unlink, &REFUSED).is_err());
}
