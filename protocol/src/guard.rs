//! The guards of the promises, each of which a test build can switch off.
//!
//! Owns the list of guards and the one question the code asks about them: does it hold? A test that
//! stays green without the guard it is about proves nothing, so `make mutants` removes one guard at
//! a time and wants the test that `docs/guards.md` names to fail. Knows nothing of what a guard
//! protects. Without the cargo feature `mutants` every guard is the constant `true` and leaves no
//! trace in the program. Start at [`holds`].

/// Writes the enum and its table of names from one list.
macro_rules! guards {
    ($($(#[$doc:meta])+ $name:ident,)+) => {
        /// A line of code without which a promise breaks.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Guard {
            $($(#[$doc])+ $name,)+
        }

        impl Guard {
            /// Every guard, in the order of the list.
            pub const ALL: &[Guard] = &[$(Guard::$name,)+];

            /// Returns the name that [`VARIABLE`] and `docs/guards.md` use.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Guard::$name => stringify!($name),)+
                }
            }
        }
    };
}

guards! {
    // The store: one target's bytes.

    /// A write is called durable only after the flush that covers it has returned.
    FlushBeforeAck,
    /// A failed flush fences the target for the rest of this generation.
    FlushFence,
    /// Space that a version gave up is used again only after the record that frees it is durable.
    FreeAfterDurable,
    /// The extents of a committed version stay until a newer one is committed here.
    FreeAfterCommit,
    /// A read keeps the extents it looked up from being used again.
    ReadPin,
    /// A partly filled cell is written to a new place, never over its committed bytes.
    PartialCellCopy,
    /// The old bytes of a partly covered cell are checked before they get a new sum.
    MergeVerify,
    /// The descriptor page must have the hash that the index names.
    DescriptorHash,
    /// The data of records that no later record calls durable is read and checked on opening.
    TailVerification,
    /// Damage of a record that was durable is damage, not the end of the journal.
    JournalDamage,
    /// The end of the journal that a crash tore is cut off, and the target starts.
    TornTail,
    /// The generation of a target is raised and durable before it registers.
    GenerationBump,
    /// The verdict that a target is not intact outlives starts that never registered.
    VerdictKept,
    /// A read or write that moved fewer bytes than asked for has failed.
    ShortTransfer,
    /// The cells that a write brings must have the sums it names.
    WriteSums,
    /// A suspect version is never the one that others are compared with.
    SuspectLoses,
    /// Deletes and adoptions keep their share of the journal.
    JournalReserve,
    /// A repair takes only bytes that have the sums of exactly that version.
    RepairSums,
    /// Damage is believed only after a second read of the device.
    DamageReread,
    /// A target that is almost full takes only what frees space.
    FullRefusal,
    /// A chunk that was set aside is kept for its time.
    QuarantineAge,

    // The group: replication rules.

    /// A member refuses requests of an epoch older than the one it adopted.
    EpochCheck,
    /// An epoch is durable on a member before it answers in it.
    DurableAdoption,
    /// A write is acknowledged when every member has it, not before.
    WaitForAll,
    /// Only the primary of the epoch assigns versions and replicates.
    OnlyPrimary,
    /// A primary assigns no version under an epoch that was made before it started.
    PrimaryGeneration,
    /// A repeated write is answered from the op table, not applied again.
    OpTable,
    /// A repeated write of a session that fell out of a full op table is answered `Unknown`.
    OpTableFull,
    /// A write waits for the activation of its epoch.
    ActivationFirst,
    /// Activation discards what the new primary does not have.
    DiscardUnknown,
    /// Pending versions of an epoch that is not writable stay as they are.
    PendingFreeze,
    /// No write is accepted with fewer serving members than `min_write`.
    MinWrite,
    /// A leased read needs a valid lease at the lookup.
    LeaseCheck,
    /// A mutation is acknowledged only when no removed member can still hold a lease.
    MutationsGate,
    /// A leased read of a chunk with a pending version is sent to the primary.
    DirtyRead,
    /// A growth read of a chunk that shows anything but growth is sent back.
    GrowthOnlyRead,
    /// Only the primary says that a chunk does not exist.
    HoleFromPrimary,
    /// A syncing member answers no leased read.
    SyncingReads,
    /// A syncing member that lacks a chunk gets all of it, not the part that changed.
    WholeChunk,
    /// A copy for a syncing member is checked against the writes since it was read.
    CopyRecheck,
    /// A chunk that only the returning member has goes to quarantine.
    Quarantine,
    /// A fenced member answers nothing of its groups.
    FencedSilence,
    /// A write of an older truncation is refused.
    TruncateGeneration,
    /// A repair takes a cell only from a copy that verifies.
    RepairSource,
    /// Cells are sent only to the nodes of targets that the group's newest record names.
    FetchMembers,
    /// Copies to syncing members keep to the byte budget of their shard.
    ResyncBudget,
    /// A syncing member without room is left in peace for a while.
    ResyncBackOff,
    /// A write is refused at the primary when a member has no room for it.
    RoomEverywhere,
    /// A version that was dropped is not stored again when a repeat of it comes late.
    LateRepeat,
    /// A pending that the primary does not trust is kept where it may have been acknowledged.
    DoubtfulKept,
    /// A pending that the primary does not trust stays when it trusts what was written on top of it.
    DoubtCovered,
    /// A frozen pending that the primary does not trust and nobody has is dropped.
    UnheldPending,
    /// A frozen pending is not dropped before everybody who may have it has answered.
    UnheldEverywhere,
    /// A target frees a group it left only while the group is whole and waits for nothing of it.
    KeptUntilWhole,
    /// A target that is nearly full takes no copies of a planned move.
    ResyncRoom,
    /// A copy that replaces a lost replica is taken also by a target that is nearly full.
    HealRoom,
    /// What a primary may have lost is taken over from the member that has it.
    TakenOver,
    /// A file's chunks are deleted only when no copy of one is on its way to a syncing member.
    CopiesBeforeDrop,
    /// Members that differ although nothing is on its way are found and made equal.
    DigestCompare,
    /// What recovery found is forgotten only when the map has the generation that reported it.
    VerdictKnown,
    /// Before that nothing is scrubbed, so no record hides that the disk went back in time.
    ScrubRegistered,

    // The coordinator: names and membership.

    /// A change of a group names the epoch it was decided on.
    ExpectedEpoch,
    /// The last serving member of a group is not removed.
    LastServing,
    /// A member is promoted only after it reported complete in this epoch.
    PromoteComplete,
    /// A primary was a serving member of the epoch before.
    PrimaryServed,
    /// A target that registers again starts a new epoch of its groups.
    RegisterEpoch,
    /// A node counts as alive only after it has spoken to this process.
    SpokenTo,
    /// A target whose disk went back in time serves nothing until it was copied to.
    RolledBackDisk,
    /// A target that lost an epoch it had adopted durably is one whose disk went back.
    ForgottenEpoch,
    /// A repeated request of a session gets the outcome it had.
    RememberedOutcome,
    /// A directory is not moved into itself.
    DirectoryCycle,
    /// An inode is removed with its last name.
    LinkCount,
    /// A file stops being growth-only before the first write that is not growth.
    GrowthFlag,
    /// What a reader is told late of a file that only grew is corrected first.
    LateWord,
    /// A size of an older truncation changes nothing.
    StaleSize,
    /// Entries of the log are purged only below what the table has durably.
    PurgeBound,
    /// The log is durable before its commands are applied.
    LogFirst,
    /// A removed member's lease is waited for from its receipt, and anew by a new process.
    LeaseWait,
    /// A move adds and promotes before it removes.
    AddBeforeRemove,
    /// A returned member on its way out is sent away only when somebody can take its place.
    SyncingReplaced,
    /// A pause of the coordinator's own is no silence of the nodes.
    OwnPause,
    /// The failure of many targets at once starts no copying.
    MassFailure,
    /// A lost replica is copied anew only after its target had time to return.
    Damping,
    /// Evictions of slow targets are limited in number and time.
    EvictionRate,
    /// A target that is evicted again and again stays out for longer each time.
    Flapping,

    // The client and the edges.

    /// The client checks the sum of every cell it reads.
    ReadSums,
    /// A client stops relying on a word before it says that it has.
    WordGivenUp,
    /// A member is told which of its cells a reader found to be bad.
    DamageReported,
    /// A client accuses a primary only when another member answers it.
    AccuserReaches,
    /// All attempts of a write carry one op id.
    SameOpId,
    /// A reader believes no absence older than the map stamp of the file.
    FreshnessStamp,
    /// A certificate must be of this cluster.
    CertificateCluster,
    /// Only nodes replicate.
    NodeRole,
    /// The body of a frame must have the hash its header names.
    BodyHash,
    /// Outside of TLS, a frame must carry the tag of its peer and its place.
    FrameTag,
}

/// Environment variable that names the one guard to switch off in a build with `mutants`.
pub const VARIABLE: &str = "LANEFS_MUTANT";

impl Guard {
    /// Finds a guard by its name.
    pub fn named(name: &str) -> Option<Guard> {
        Guard::ALL.iter().copied().find(|guard| guard.name() == name)
    }
}

/// Says whether a guard holds: always, outside a build with the feature `mutants`.
///
/// # Cost
/// None: the constant removes the question and the guard's other branch.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn holds(_guard: Guard) -> bool {
    true
}

/// Says whether a guard holds: all but the one that [`VARIABLE`] names.
///
/// The variable is read once. A name that is no guard ends the process with exit code 2, because
/// a run that was meant to lack a guard must not pass for one that had it.
#[cfg(feature = "mutants")]
pub fn holds(guard: Guard) -> bool {
    removed::guard() != Some(guard)
}

/// The switch itself, in builds with `mutants` only.
#[cfg(feature = "mutants")]
mod removed {
    use std::env;
    use std::process;
    use std::sync::OnceLock;

    use super::{Guard, VARIABLE};

    /// The guard that this process runs without.
    pub(super) fn guard() -> Option<Guard> {
        static REMOVED: OnceLock<Option<Guard>> = OnceLock::new();
        *REMOVED.get_or_init(|| {
            let name = env::var(VARIABLE).ok().filter(|name| !name.is_empty())?;
            let found = Guard::named(&name);
            if found.is_none() {
                eprintln!("{VARIABLE}={name} names no guard: take a name from docs/guards.md");
                process::exit(2);
            }
            found
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_is_found_by_its_name() {
        for &guard in Guard::ALL {
            assert_eq!(Guard::named(guard.name()), Some(guard));
        }
        assert_eq!(Guard::named("NoSuchGuard"), None);
    }

    /// Evaluated by the compiler: an ordinary build has no guard that can be off.
    #[cfg(not(feature = "mutants"))]
    const _: () = assert!(holds(Guard::EpochCheck));
}
