//! Identities: what a chunk, target, group, file or request is called.
//!
//! Every id is its own type, so one cannot be passed where another is meant.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A data node process, numbered from 1; 0 means "no node".
    NodeId(u32)
);
id!(
    /// A coordinator process, numbered from 1.
    CoordinatorId(u32)
);
id!(
    /// Position of a shard inside its node, from 0.
    ShardId(u16)
);
id!(
    /// The storage one shard owns; never reused; 0 means "no target".
    TargetId(u32)
);
id!(
    /// Incarnation of a target: raised and made durable before the target registers.
    Generation(u32)
);
id!(
    /// A placement group; never reused.
    GroupId(u32)
);
id!(
    /// Version of one group's membership; the fence of the data path. 0 means "before the first".
    Epoch(u32)
);
id!(
    /// Freshness of the whole cluster map; raised by each committed change.
    MapVersion(u64)
);
id!(
    /// Identity of a file's content: new on create and on truncation to zero; never reused.
    Fid(u64)
);
id!(
    /// Identity of an inode in the namespace; never reused; 1 is the root directory.
    Ino(u64)
);
id!(
    /// A client session at the coordinator.
    SessionId(u64)
);
id!(
    /// Sequence number of an operation inside its session, from 1.
    Seq(u64)
);
id!(
    /// Correlates a response with its request on one connection.
    RequestId(u64)
);
id!(
    /// Position of a batch in a target's journal.
    Lsn(u64)
);
id!(
    /// Short name of a capability bound to a connection; 0 means "none presented".
    Handle(u32)
);

impl Ino {
    /// The root directory of the namespace.
    pub const ROOT: Ino = Ino(1);
}

/// Identity of a cluster: 128 random bits drawn when it is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u128);

impl ClusterId {
    /// The 32 bits of the id that every frame header carries.
    ///
    /// It catches a connection to the wrong cluster early; identity itself comes from TLS.
    #[expect(clippy::cast_possible_truncation, reason = "the low half is the tag")]
    pub fn tag(self) -> u32 {
        let folded = self.0 ^ (self.0 >> 64);
        (folded as u32) ^ ((folded >> 32) as u32)
    }

    /// Parses the 32 hexadecimal digits that [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<ClusterId> {
        // The standard parser would take a sign for one of the digits.
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        u128::from_str_radix(text, 16).ok().map(ClusterId)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The only name a data node knows for a piece of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkKey {
    /// The file's content.
    pub fid: Fid,
    /// Position of the chunk in the file, from 0.
    pub index: u32,
}

impl fmt::Display for ChunkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.fid, self.index)
    }
}

/// Version of a chunk: total order by the epoch in which the primary assigned it, then a counter.
///
/// The counter is per group, so versions of one group are comparable across chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Group epoch in which the version was assigned.
    pub epoch: Epoch,
    /// Position within that epoch, from 1.
    pub counter: u32,
}

impl Version {
    /// "Nothing written yet"; lower than every assigned version.
    pub const ZERO: Version = Version { epoch: Epoch(0), counter: 0 };
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.counter)
    }
}

/// Identity of one client operation; a retry carries the same id and takes effect once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId {
    /// The session that asks.
    pub session: SessionId,
    /// The operation's number in that session.
    pub seq: Seq,
}
