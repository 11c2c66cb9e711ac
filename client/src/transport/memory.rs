//! A transport without sockets: every call goes to a function.
//!
//! Tests script a cluster behind it; a simulator can put its own network there.

use crate::transport::{Call, CallFuture, Notices, Peer, Transport};

/// Answers calls in place of a cluster.
pub trait Service: Send + Sync + 'static {
    /// Answers one call, or says how the link failed.
    fn serve(&self, peer: Peer, call: Call) -> CallFuture<'static>;

    /// Where its notices arrive; given once.
    fn notices(&self) -> Option<Notices> {
        None
    }
}

/// Hands every call to a [`Service`].
///
/// A call that the service leaves pending ends at its timeout, as on a real link.
pub struct MemoryTransport<S> {
    service: S,
}

impl<S: Service> MemoryTransport<S> {
    /// Makes a transport to a service.
    pub fn new(service: S) -> MemoryTransport<S> {
        MemoryTransport { service }
    }

    /// The service behind it.
    pub fn service(&self) -> &S {
        &self.service
    }
}

impl<S: Service> Transport for MemoryTransport<S> {
    fn call<'a>(&'a self, peer: &'a Peer, call: Call) -> CallFuture<'a> {
        let timeout = call.timeout;
        let answer = self.service.serve(peer.clone(), call);
        Box::pin(super::connection::within(timeout, answer))
    }

    fn notices(&self) -> Option<Notices> {
        self.service.notices()
    }
}
