//! Requests that wait for their answer, and payload that waits for permission.

use std::collections::{BTreeMap, BTreeSet};

use super::SessionError;
use crate::frame::{CREDIT_UNIT, Header};
use crate::ids::RequestId;
use crate::limits::{CREDIT_MAX, REQUESTS_IN_FLIGHT_MAX};
use crate::message::Kind;

/// Every request of one side that was sent and not answered, with what the sender wants to know
/// when the answer comes.
///
/// A request whose deadline has passed gives its context back at once but keeps its place until
/// the answer comes: the peer still works on it, and the bound is the peer's.
#[derive(Debug)]
pub struct Outstanding<T> {
    next: u64,
    limit: usize,
    waiting: BTreeMap<RequestId, Waiting<T>>,
    deadlines: BTreeSet<(u64, RequestId)>,
}

#[derive(Debug)]
struct Waiting<T> {
    kind: Kind,
    deadline_ms: u64,
    context: Option<T>,
}

/// As many requests are in flight as the peer allows: wait for an answer, or use another connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{limit} requests are in flight on this connection")]
pub struct Full {
    /// The bound.
    pub limit: usize,
}

impl<T> Default for Outstanding<T> {
    fn default() -> Outstanding<T> {
        Outstanding {
            next: 1,
            limit: REQUESTS_IN_FLIGHT_MAX,
            waiting: BTreeMap::new(),
            deadlines: BTreeSet::new(),
        }
    }
}

impl<T> Outstanding<T> {
    /// Lowers the bound to what the peer allows; never above [`REQUESTS_IN_FLIGHT_MAX`].
    pub fn limit(&mut self, requests_in_flight: u32) {
        self.limit = (requests_in_flight as usize).clamp(1, REQUESTS_IN_FLIGHT_MAX);
    }

    /// Allocates the id of a new request, which expires at `deadline_ms` on the caller's clock.
    ///
    /// # Errors
    /// [`Full`]: nothing was allocated.
    pub fn start(&mut self, kind: Kind, deadline_ms: u64, context: T) -> Result<RequestId, Full> {
        self.room()?;
        let id = RequestId(self.next);
        self.next += 1;
        self.waiting.insert(id, Waiting { kind, deadline_ms, context: Some(context) });
        self.deadlines.insert((deadline_ms, id));
        Ok(id)
    }

    /// Says whether another request may start.
    ///
    /// # Errors
    /// [`Full`]: wait for an answer.
    pub fn room(&self) -> Result<(), Full> {
        if self.waiting.len() < self.limit { Ok(()) } else { Err(Full { limit: self.limit }) }
    }

    /// Matches a response with its request; `None` when the request has expired meanwhile.
    ///
    /// # Errors
    /// [`SessionError::Unmatched`]: no such request is in flight, or it is of another kind.
    pub fn complete(&mut self, response: &Header) -> Result<Option<T>, SessionError> {
        let unmatched = SessionError::Unmatched { kind: response.kind, request: response.request };
        match self.waiting.remove(&response.request) {
            Some(waiting) if waiting.kind == response.kind => {
                self.deadlines.remove(&(waiting.deadline_ms, response.request));
                Ok(waiting.context)
            }
            _ => Err(unmatched),
        }
    }

    /// Gives back the context of every request whose deadline has passed, earliest first.
    pub fn expire(&mut self, now_ms: u64) -> Vec<(RequestId, T)> {
        let later = self.deadlines.split_off(&(now_ms.saturating_add(1), RequestId(0)));
        let passed = std::mem::replace(&mut self.deadlines, later);
        passed
            .into_iter()
            .filter_map(|(_, id)| {
                let context = self.waiting.get_mut(&id)?.context.take()?;
                Some((id, context))
            })
            .collect()
    }

    /// Gives back every context, for a connection that has ended; the order is that of sending.
    pub fn drain(&mut self) -> Vec<(RequestId, T)> {
        self.deadlines.clear();
        std::mem::take(&mut self.waiting)
            .into_iter()
            .filter_map(|(id, waiting)| Some((id, waiting.context?)))
            .collect()
    }

    /// When [`Outstanding::expire`] has something to do next.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.deadlines.first().map(|&(deadline_ms, _)| deadline_ms)
    }

    /// Requests in flight, expired ones included.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// True when nothing is in flight.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// Payload bytes this side may send.
///
/// Grants add up. Without [`super::FEATURE_CREDIT`] on both sides there is no such limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Credit {
    /// `None` when the peer does not count.
    left: Option<u64>,
}

impl Credit {
    /// No limit.
    pub const UNLIMITED: Credit = Credit { left: None };
    /// A limit, and nothing granted yet.
    pub const NONE: Credit = Credit { left: Some(0) };

    /// Adds the grant of a received header; the sum never exceeds [`CREDIT_MAX`].
    pub fn grant(&mut self, header: &Header) {
        if let Some(left) = &mut self.left {
            let grant = u64::from(header.credit) * u64::from(CREDIT_UNIT);
            *left = (*left + grant).min(CREDIT_MAX);
        }
    }

    /// Payload bytes that may be sent; `None` without a limit.
    pub fn left(&self) -> Option<u64> {
        self.left
    }

    /// Takes what a payload needs; false, and nothing taken, when the peer must grant more first.
    pub fn take(&mut self, payload_len: u32) -> bool {
        match &mut self.left {
            None => true,
            Some(left) if *left >= u64::from(payload_len) => {
                *left -= u64::from(payload_len);
                true
            }
            Some(_) => false,
        }
    }
}
