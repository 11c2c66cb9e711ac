//! Messages into frames and out of them.

use super::cluster::ErrorReply;
use super::{Message, MessageError};
use crate::frame::Header;
use crate::ids::{Epoch, MapVersion, RequestId};
use crate::status::Status;

/// What a sender puts into the header of every frame beside the message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// Epoch of the group the message names; 0 where no group is meant.
    pub epoch: Epoch,
    /// Version of the sender's map; 0 when it has none.
    pub map_version: MapVersion,
    /// [`crate::ids::ClusterId::tag`] of the sender's cluster.
    pub cluster_tag: u32,
}

/// Makes header and body of a request; the payload, if the message has one, follows the body.
///
/// # Errors
/// [`MessageError::TooLong`]: the request must be sent in parts.
pub fn request_frame<M: Message>(
    request: RequestId,
    message: &M,
    context: Context,
    deadline_ms: u32,
) -> Result<(Header, Vec<u8>), MessageError> {
    let header = Header {
        epoch: context.epoch,
        map_version: context.map_version,
        cluster_tag: context.cluster_tag,
        deadline_ms,
        ..Header::new(M::KIND, request)
    };
    seal(header, message)
}

/// Makes header and body of a notice.
///
/// # Errors
/// As [`request_frame`].
pub fn notice_frame<M: Message>(
    message: &M,
    context: Context,
) -> Result<(Header, Vec<u8>), MessageError> {
    request_frame(RequestId(0), message, context, 0)
}

/// Makes header and body of the answer to a request.
///
/// A reply that does not fit its frame becomes an error reply with [`Status::LimitReached`], so the
/// asker always gets an answer. Set `map_version` and `credit` of the header afterwards; they are
/// part of no checksum until [`Header::encode`].
pub fn reply_frame<M: Message>(request: &Header, message: &M) -> (Header, Vec<u8>) {
    seal(request.reply(Status::Ok), message)
        .unwrap_or_else(|error| error_frame(request, error.status(), &error.to_string()))
}

/// Makes header and body of a refusal, with a detail for people.
pub fn error_frame(request: &Header, status: Status, detail: &str) -> (Header, Vec<u8>) {
    error_reply(request, status, &ErrorReply::new(status, detail))
}

/// Makes header and body of a refusal from an error reply with more than a text.
pub fn error_reply(request: &Header, status: Status, reply: &ErrorReply) -> (Header, Vec<u8>) {
    let body = reply.encode();
    (request.reply(status).seal(&body, 0), body)
}

/// Reads the message a frame must carry: checks kind, status, body checksum, fields and payload
/// length.
///
/// # Errors
/// - [`MessageError::Refused`]: the response says the request failed, and why.
/// - [`MessageError::Unexpected`]: the frame carries another message; close the connection.
/// - the rest as [`Message::decode`].
pub fn open<M: Message>(header: &Header, body: &[u8]) -> Result<M, MessageError> {
    let (kind, response) = (header.kind, header.response);
    if kind != M::KIND || response != M::RESPONSE {
        return Err(MessageError::Unexpected { message: M::NAME, kind, response });
    }
    if header.status != Status::Ok {
        let reply = open_error(header, body)?;
        return Err(MessageError::Refused { status: header.status, reply });
    }
    header.check_body(body)?;
    let message = M::decode(body)?;
    if message.payload_len() != header.payload_len {
        return Err(MessageError::Field { message: M::NAME, field: "payload_len" });
    }
    Ok(message)
}

/// Reads the error reply of a response whose status is not `Ok`.
///
/// # Errors
/// As [`open`].
pub fn open_error(header: &Header, body: &[u8]) -> Result<ErrorReply, MessageError> {
    header.check_body(body)?;
    ErrorReply::decode(body)
}

fn seal<M: Message>(header: Header, message: &M) -> Result<(Header, Vec<u8>), MessageError> {
    let body = message.encode();
    fits(M::NAME, body.len(), M::KIND.body_len_max())?;
    let payload_len = message.payload_len();
    fits(M::NAME, payload_len as usize, M::KIND.payload_len_max(M::RESPONSE))?;
    Ok((header.seal(&body, payload_len), body))
}

fn fits(message: &'static str, len: usize, max: usize) -> Result<(), MessageError> {
    if len <= max { Ok(()) } else { Err(MessageError::TooLong { message, len, max }) }
}
