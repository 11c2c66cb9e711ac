//! From a log and a table on disk to a state that may take commands.

use protocol::ids::MapVersion;
use protocol::message::command::Stamp;
use protocol::message::{decode_command, encode_command};

use super::driver::Driver;
use super::{Identity, ProposeError, SessionWatch};
use crate::clock::{self, Nonces};
use crate::kv::Kv;
use crate::limits::PROPOSAL_BATCH_MAX;
use crate::log::{Entry, Log, LogId, Payload, Vote};
use crate::state::{Outcome, State};

/// Replays what the table has not seen, votes for itself in a new term, and initializes a new
/// cluster.
pub(super) fn recover<L: Log, K: Kv>(
    mut log: L,
    mut state: State<K>,
    identity: &Identity,
    sessions: Box<dyn SessionWatch>,
) -> Result<Driver<L, K>, ProposeError> {
    let last = log.last();
    let applied = state.applied();
    if applied > last.index {
        return Err(ProposeError::Ahead { applied, last: last.index });
    }
    let mut stamp = replay(&log, &mut state)?;
    let term = log.vote().term.max(last.term) + 1;
    log.save_vote(Vote { term, voted_for: identity.coordinator, committed: true })?;
    let mut nonces = Nonces::open()?;
    if state.settings().is_none() {
        stamp = Stamp { time_ms: clock::wall_ms().max(stamp.time_ms + 1), nonce: nonces.draw()? };
        let index = log.last().index + 1;
        let bytes = encode_command(&stamp, &identity.initialize);
        log.append(&[Entry { id: LogId { term, index }, payload: Payload::Command(bytes) }])?;
        if let Outcome::Refused(status) = state.apply(stamp, &identity.initialize) {
            return Err(ProposeError::Initialize(status));
        }
    }
    state.commit(true)?;
    for (id, session) in state.sessions() {
        sessions.opened(id, session.caller);
    }
    tracing::info!(
        term,
        entries = log.last().index,
        replayed = last.index - applied,
        map_version = %state.map().version,
        "state recovered"
    );
    Ok(Driver::new(log, state, sessions, nonces, term, stamp))
}

/// Applies the entries after the state's last one; returns the last stamp of the log.
fn replay<L: Log, K: Kv>(log: &L, state: &mut State<K>) -> Result<Stamp, ProposeError> {
    let mut stamp = Stamp::default();
    let applied = state.applied();
    let mut open = 0;
    // The entry the table stands at is read too, for its stamp: purging always leaves it.
    log.read_from::<ProposeError>(applied.max(1), &mut |entry| {
        let index = entry.id.index;
        let Payload::Command(bytes) = entry.payload else {
            let reason = "not a command".to_owned();
            return Err(ProposeError::Entry { index, reason });
        };
        let (at, command) =
            decode_command(&bytes).map_err(|error| ProposeError::entry(index, &error))?;
        stamp = at;
        if index > applied {
            state.apply(at, &command);
            open += 1;
        }
        if open == PROPOSAL_BATCH_MAX {
            open = 0;
            state.commit(false)?;
        }
        Ok(())
    })?;
    Ok(stamp)
}

/// Version a history of changes starts at.
pub(super) fn history_start<K: Kv>(state: &State<K>) -> MapVersion {
    state.map().version
}
