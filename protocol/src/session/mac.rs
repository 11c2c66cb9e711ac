//! Frames of a connection whose payload is not encrypted: who sent them stays certain.
//!
//! Such a connection begins as every other: mutual TLS 1.3, then the hello. Both sides then take a
//! key for each direction from the TLS session and leave TLS. From there on every frame carries a
//! tag over its header and body; the body holds the checksums of the payload. A frame that somebody
//! changed, repeated, left out or sent himself has no right tag.

use std::fmt;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::frame::FrameError;
use crate::guard::{self, Guard};
use crate::limits::HEADER_LEN;

/// Length of the tag that follows the body, in bytes.
pub const TAG_LEN: usize = 16;
/// Label under which both sides take the keys from the TLS session.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-lanefs-frame-tags-1";
/// Length of one key, in bytes.
const KEY_LEN: usize = 16;
/// Scratch memory that a connection keeps between frames, in bytes.
const SCRATCH_KEPT: usize = 16 << 10;

/// The tags of one direction of a connection, in the order of its frames.
pub struct FrameMac {
    key: LessSafeKey,
    /// Frames so far: the nonce, so that no frame can take the place of another.
    frames: u64,
    /// Header and body side by side.
    scratch: Vec<u8>,
}

/// Both directions of a connection.
#[derive(Debug)]
pub struct FrameMacs {
    /// Of what the side that connected sends.
    pub of_client: FrameMac,
    /// Of what the side that accepted sends.
    pub of_server: FrameMac,
}

impl FrameMacs {
    /// Takes the keys from a TLS session whose handshake has ended.
    ///
    /// `export` is the session's exporter for [`EXPORTER_LABEL`] and the given context.
    ///
    /// # Errors
    /// Those of `export`.
    pub fn derive<E>(
        export: impl Fn([u8; KEY_LEN], &'static [u8]) -> Result<[u8; KEY_LEN], E>,
    ) -> Result<FrameMacs, E> {
        let key = |context| export([0; KEY_LEN], context).map(|key| FrameMac::new(&key));
        Ok(FrameMacs { of_client: key(b"client")?, of_server: key(b"server")? })
    }
}

impl FrameMac {
    /// Starts with the first frame after TLS.
    #[expect(clippy::expect_used, reason = "the key has the length of the algorithm's keys")]
    fn new(key: &[u8; KEY_LEN]) -> FrameMac {
        let key = UnboundKey::new(&AES_128_GCM, key).expect("a key of 16 bytes");
        FrameMac { key: LessSafeKey::new(key), frames: 0, scratch: Vec::new() }
    }

    /// The tag of the next frame.
    ///
    /// # Cost
    /// One copy of header and body, and AES-GCM over them; the payload is not touched.
    #[expect(clippy::expect_used, reason = "sealing nothing under a valid key cannot fail")]
    pub fn tag(&mut self, header: &[u8; HEADER_LEN], body: &[u8]) -> [u8; TAG_LEN] {
        let nonce = self.next_frame(header, body);
        let about = Aad::from(&self.scratch[..]);
        let tag = self.key.seal_in_place_separate_tag(nonce, about, &mut []);
        let mut out = [0; TAG_LEN];
        out.copy_from_slice(tag.expect("a tag").as_ref());
        self.trim();
        out
    }

    /// Compares the tag of the next frame.
    ///
    /// # Errors
    /// [`FrameError::Tag`]: the frame is not the next one of this peer.
    pub fn check(
        &mut self,
        header: &[u8; HEADER_LEN],
        body: &[u8],
        tag: &[u8],
    ) -> Result<(), FrameError> {
        let nonce = self.next_frame(header, body);
        let mut tag = <[u8; TAG_LEN]>::try_from(tag).map_err(|_| FrameError::Tag)?;
        let opened = self.key.open_in_place(nonce, Aad::from(&self.scratch[..]), &mut tag);
        let right = opened.is_ok() || !guard::holds(Guard::FrameTag);
        self.trim();
        if right { Ok(()) } else { Err(FrameError::Tag) }
    }

    fn next_frame(&mut self, header: &[u8; HEADER_LEN], body: &[u8]) -> Nonce {
        self.scratch.clear();
        self.scratch.extend_from_slice(header);
        self.scratch.extend_from_slice(body);
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&self.frames.to_le_bytes());
        self.frames += 1;
        Nonce::assume_unique_for_key(nonce)
    }

    fn trim(&mut self) {
        self.scratch.clear();
        self.scratch.shrink_to(SCRATCH_KEPT);
    }
}

impl fmt::Debug for FrameMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameMac").field("frames", &self.frames).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: [u8; HEADER_LEN] = [7; HEADER_LEN];

    fn macs() -> FrameMacs {
        let key = |mut key: [u8; KEY_LEN], context: &'static [u8]| -> Result<_, ()> {
            key[..context.len()].copy_from_slice(context);
            Ok(key)
        };
        FrameMacs::derive(key).unwrap()
    }

    #[test]
    fn frames_in_order_have_right_tags() {
        let (mut sends, mut receives) = (macs().of_client, macs().of_client);
        for body in [&b""[..], b"body", &[1; 300_000], b"after a long one"] {
            let tag = sends.tag(&HEADER, body);
            assert_eq!(receives.check(&HEADER, body, &tag), Ok(()));
            assert!(receives.scratch.capacity() <= SCRATCH_KEPT.max(300_064));
        }
        assert!(sends.scratch.capacity() <= SCRATCH_KEPT, "memory of a long body is given back");
    }

    #[test]
    fn a_frame_that_is_not_the_next_one_of_this_peer_has_no_right_tag() {
        let sent = |body: &[u8]| macs().of_client.tag(&HEADER, body);
        let tag = sent(b"body");
        let check = |header: &[u8; HEADER_LEN], body: &[u8], tag: &[u8]| {
            macs().of_client.check(header, body, tag)
        };
        assert_eq!(check(&HEADER, b"body", &tag), Ok(()));
        assert_eq!(check(&HEADER, b"bodY", &tag), Err(FrameError::Tag), "another body");
        let mut other = HEADER;
        other[20] ^= 1;
        assert_eq!(check(&other, b"body", &tag), Err(FrameError::Tag), "another header");
        let mut changed = tag;
        changed[15] ^= 1;
        assert_eq!(check(&HEADER, b"body", &changed), Err(FrameError::Tag), "another tag");
        assert_eq!(check(&HEADER, b"body", &tag[..15]), Err(FrameError::Tag), "a short tag");
        let back = macs().of_server.check(&HEADER, b"body", &tag);
        assert_eq!(back, Err(FrameError::Tag), "sent back to its sender");
        let mut receives = macs().of_client;
        assert_eq!(receives.check(&HEADER, b"body", &tag), Ok(()));
        assert_eq!(receives.check(&HEADER, b"body", &tag), Err(FrameError::Tag), "sent twice");
    }
}
