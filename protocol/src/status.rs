//! The outcome of a request and what the asker should do about it.

/// What a failed request asks of its sender. The class crosses the wire; the text is for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// The same request, to the same peer, after a pause.
    Retry,
    /// Fetch a newer map, then plan again.
    Refresh,
    /// Another replica or another member may serve it now.
    Elsewhere,
    /// Asking again cannot help.
    Fatal,
}

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $class:ident, $text:literal;)*) => {
        /// Outcome of a request.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Status {
            /// Done.
            #[default]
            Ok = 0,
            $($(#[$doc])* $name = $code,)*
        }

        impl Status {
            /// Every status, for tables and tests.
            pub const ALL: &'static [Status] = &[Status::Ok, $(Status::$name,)*];

            /// Reads a wire code; `None` when this release does not know it.
            pub fn from_code(code: u16) -> Option<Status> {
                match code {
                    0 => Some(Status::Ok),
                    $($code => Some(Status::$name),)*
                    _ => None,
                }
            }

            /// What the sender should do; `None` for [`Status::Ok`].
            pub fn class(self) -> Option<Class> {
                match self {
                    Status::Ok => None,
                    $(Status::$name => Some(Class::$class),)*
                }
            }

            /// A short sentence for people.
            pub fn text(self) -> &'static str {
                match self {
                    Status::Ok => "done",
                    $(Status::$name => $text,)*
                }
            }
        }
    };
}

statuses! {
    /// A queue, pool or budget is full.
    Busy = 0x0101, Retry, "busy with as much as it takes at once; ask for less, or try again later";
    /// The outcome is not known; the same operation id may be asked again.
    Unknown = 0x0102, Retry, "outcome unknown";
    /// The group is not writable or not yet active in its epoch.
    NotActive = 0x0103, Retry, "group is not active yet";
    /// The chunk is frozen by an epoch that is not writable.
    Frozen = 0x0104, Retry, "chunk is frozen until its group is writable";
    /// The server is still starting or is stopping.
    NotReady = 0x0105, Retry, "server is not ready";
    /// This coordinator does not lead.
    NotLeader = 0x0106, Retry, "not the leading coordinator";

    /// The request was planned under an older epoch.
    StaleEpoch = 0x0201, Refresh, "planned under an older group epoch";
    /// The request names a newer epoch than this server has adopted.
    NewerEpoch = 0x0202, Refresh, "server has not adopted this group epoch yet";
    /// The receiver is not a member, or not in the role the request needs.
    NotMember = 0x0203, Refresh, "not a serving member of the group";
    /// The receiver is not the primary.
    NotPrimary = 0x0204, Refresh, "not the primary of the group";
    /// Another shard of this node owns the target; the error reply names its port.
    WrongShard = 0x0205, Refresh, "another shard owns this target";
    /// The group has too few serving members to write.
    NotWritable = 0x0206, Refresh, "group has too few members to write";
    /// The chunk was changed in a way that needs a leased read.
    NotGrowthOnly = 0x0207, Refresh, "chunk is no longer growth-only";

    /// A newer version is not committed here yet.
    Dirty = 0x0301, Elsewhere, "a newer version is not committed here yet";
    /// The chunk is not on this member.
    ChunkNotFound = 0x0302, Elsewhere, "chunk not found on this member";
    /// The chunk is shorter here than asked for.
    ChunkShort = 0x0303, Elsewhere, "chunk is shorter on this member";
    /// Stored bytes do not match their checksum.
    Corrupt = 0x0304, Elsewhere, "stored bytes do not match their checksum";
    /// The target fenced itself after a flush or device error.
    Fenced = 0x0305, Elsewhere, "target is fenced after a device error";
    /// The device failed this request.
    DeviceError = 0x0306, Elsewhere, "device error";
    /// The member's node has no lease, so somebody may have gone on without it.
    LeaseExpired = 0x0307, Elsewhere, "lease of this node has run out";

    /// The frame broke the protocol.
    BadFrame = 0x0401, Fatal, "malformed frame";
    /// Protocol version or feature is not supported.
    BadVersion = 0x0402, Fatal, "protocol version not supported";
    /// The peer belongs to another cluster.
    BadCluster = 0x0403, Fatal, "peer belongs to another cluster";
    /// The certificate's role does not allow this message.
    BadRole = 0x0404, Fatal, "certificate does not allow this request";
    /// The receiver does not know this kind of message.
    Unsupported = 0x0405, Fatal, "request not supported";
    /// An argument is out of range.
    Invalid = 0x0406, Fatal, "invalid argument";
    /// The deadline passed before the work was done.
    Expired = 0x0407, Fatal, "deadline passed";
    /// Payload does not match the checksums sent with it.
    PayloadCorrupt = 0x0408, Retry, "payload was damaged on the way";
    /// No space is left on a member's target.
    NoSpace = 0x0409, Fatal, "no space left";
    /// The capability is missing, expired, revoked or does not cover the request.
    BadCapability = 0x040a, Fatal, "capability does not cover the request";
    /// An unexpected condition in the server; its log says more.
    Internal = 0x040b, Fatal, "internal error";

    /// No such file or directory.
    NotFound = 0x0501, Fatal, "no such file or directory";
    /// The name exists already.
    Exists = 0x0502, Fatal, "file exists";
    /// A path component is not a directory.
    NotDirectory = 0x0503, Fatal, "not a directory";
    /// The operation does not work on a directory.
    IsDirectory = 0x0504, Fatal, "is a directory";
    /// The directory has entries.
    NotEmpty = 0x0505, Fatal, "directory not empty";
    /// The caller may not do this.
    PermissionDenied = 0x0506, Fatal, "permission denied";
    /// The name is longer than 255 bytes, or the path than 4096.
    NameTooLong = 0x0507, Fatal, "file name too long";
    /// Too many symbolic links.
    Loop = 0x0508, Fatal, "too many levels of symbolic links";
    /// A directory cannot be moved into itself.
    IntoItself = 0x0509, Fatal, "cannot move a directory into itself";
    /// The session is not known or has ended.
    SessionEnded = 0x050a, Fatal, "session has ended";
    /// The layout or truncation generation is older than the file's.
    StaleFile = 0x050b, Fatal, "file was truncated or replaced meanwhile";
    /// A command's precondition (expected epoch, generation) did not hold.
    Conflict = 0x050c, Fatal, "precondition does not hold";
    /// A configured or built-in limit was reached.
    LimitReached = 0x050d, Fatal, "limit reached";
}

impl Status {
    /// The code that crosses the wire.
    pub fn code(self) -> u16 {
        self as u16
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip_and_classes_follow_the_first_digit() {
        for &status in Status::ALL {
            assert_eq!(Status::from_code(status.code()), Some(status));
            let expected = match (status, status.code() >> 8) {
                (Status::PayloadCorrupt, _) => Some(Class::Retry),
                (_, 0) => None,
                (_, 1) => Some(Class::Retry),
                (_, 2) => Some(Class::Refresh),
                (_, 3) => Some(Class::Elsewhere),
                _ => Some(Class::Fatal),
            };
            assert_eq!(status.class(), expected, "{status:?}");
        }
    }

    #[test]
    fn an_unknown_code_is_not_guessed() {
        assert_eq!(Status::from_code(0xffff), None);
    }
}
