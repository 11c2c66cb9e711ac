//! One connection for each peer, opened when it is first needed.
//!
//! Opening is shared: whoever needs a peer while its connection is being opened gets the same
//! connection or the same error, so a peer that is slow to fail is slow once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot};

use crate::limits::NOTICES_MAX;
use crate::plan::LinkFailure;
use crate::transport::connection::Connection;
use crate::transport::tls::Dialer;
use crate::transport::{Call, CallError, CallFuture, Notices, Peer, Transport};

/// Connections by peer; the production transport.
pub struct Pool {
    shared: Arc<Shared>,
    notices: Mutex<Option<Notices>>,
}

struct Shared {
    dialer: Dialer,
    slots: Mutex<BTreeMap<Peer, Slot>>,
}

enum Slot {
    /// Being opened; these wait for the result.
    Opening(Vec<oneshot::Sender<Opened>>),
    Open(Arc<Connection>),
}

type Opened = Result<Arc<Connection>, CallError>;

impl Pool {
    /// Makes an empty pool.
    pub fn new(dialer: Dialer) -> Pool {
        let (sender, notices) = mpsc::channel(NOTICES_MAX);
        let dialer = dialer.with_notices(sender);
        let shared = Arc::new(Shared { dialer, slots: Mutex::new(BTreeMap::new()) });
        Pool { shared, notices: Mutex::new(Some(notices)) }
    }

    async fn connection(&self, peer: &Peer) -> Opened {
        let receiver = match self.shared.find(peer) {
            Found::Open(connection) => return Ok(connection),
            Found::Opening(receiver) => receiver,
            Found::Nothing(receiver) => {
                // A task of its own: the caller that came first may be cancelled.
                tokio::spawn(open(Arc::clone(&self.shared), peer.clone()));
                receiver
            }
        };
        let lost = || CallError::link(LinkFailure::Broken, "the runtime is shutting down");
        receiver.await.unwrap_or_else(|_| Err(lost()))
    }
}

impl Transport for Pool {
    fn call<'a>(&'a self, peer: &'a Peer, call: Call) -> CallFuture<'a> {
        Box::pin(super::connection::within(call.timeout, async move {
            self.connection(peer).await?.call(call).await
        }))
    }

    fn notices(&self) -> Option<Notices> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

enum Found {
    Open(Arc<Connection>),
    Opening(oneshot::Receiver<Opened>),
    Nothing(oneshot::Receiver<Opened>),
}

impl Shared {
    fn slots(&self) -> MutexGuard<'_, BTreeMap<Peer, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, peer: &Peer) -> Found {
        let mut slots = self.slots();
        let (sender, receiver) = oneshot::channel();
        match slots.get_mut(peer) {
            Some(Slot::Open(connection)) if connection.is_open() => {
                Found::Open(Arc::clone(connection))
            }
            Some(Slot::Opening(waiting)) => {
                waiting.push(sender);
                Found::Opening(receiver)
            }
            _ => {
                slots.insert(peer.clone(), Slot::Opening(vec![sender]));
                Found::Nothing(receiver)
            }
        }
    }
}

async fn open(shared: Arc<Shared>, peer: Peer) {
    let opened = shared.dialer.dial(&peer).await.map(Arc::new);
    match &opened {
        Ok(_) => tracing::debug!(%peer, "connected"),
        Err(error) => tracing::debug!(%peer, %error, "not connected"),
    }
    let mut slots = shared.slots();
    let before = match &opened {
        Ok(connection) => slots.insert(peer, Slot::Open(Arc::clone(connection))),
        Err(_) => slots.remove(&peer),
    };
    drop(slots);
    if let Some(Slot::Opening(waiting)) = before {
        for sender in waiting {
            // A caller that has gone away needs no connection.
            let _ = sender.send(opened.clone());
        }
    }
}
