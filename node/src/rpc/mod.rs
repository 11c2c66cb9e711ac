//! Frames on one connection: put together, queued, paced.
//!
//! Pure: bytes and time come in as arguments, so every rule here is tested without a socket. The
//! glommio half is `io/glommio/{net,link,tls}.rs`.
//!
//! - [`assembly`]: bytes in any portions become checked frames.
//! - [`queue`]: frames that wait to be sent, bounded in number and bytes.
//! - [`pace`]: when a peer is too slow to keep.

pub mod assembly;
pub mod pace;
pub mod queue;
