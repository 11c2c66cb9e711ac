//! Who may ask what. Pure; the role comes from the certificate alone.

use std::collections::BTreeMap;

use protocol::guard::{self, Guard};
use protocol::message::Kind;
use protocol::message::command::Caller;
use protocol::status::Status;
use protocol::tls::Identity;

/// User and group of a client without an entry in the configuration.
pub(super) const NOBODY: u32 = 65_534;

/// Checks that a request of this kind may come from this peer at all.
///
/// # Errors
/// - [`Status::BadRole`]: the certificate is of another role.
/// - [`Status::Unsupported`]: no coordinator answers this kind.
pub(super) fn check(kind: Kind, identity: &Identity) -> Result<(), Status> {
    let allowed = match kind {
        Kind::Register
        | Kind::Heartbeat
        | Kind::Evict
        | Kind::Activated
        | Kind::SyncDone
        | Kind::DropDone
        | Kind::FileReports
        | Kind::Census => matches!(identity, Identity::Node(_)),
        Kind::Admin => matches!(identity, Identity::Admin(_)),
        Kind::MapFetch | Kind::Status | Kind::Plans => true,
        Kind::SessionOpen
        | Kind::SessionRenew
        | Kind::SessionClose
        | Kind::Lookup
        | Kind::ReadDir
        | Kind::Unreachable
        | Kind::WordsReturned
        | Kind::Mutate => !matches!(identity, Identity::Coordinator(_)),
        _ => return Err(Status::Unsupported),
    };
    let allowed = allowed || !guard::holds(Guard::NodeRole);
    if allowed { Ok(()) } else { Err(Status::BadRole) }
}

/// The user a peer acts as.
pub(super) fn caller(identity: &Identity, users: &BTreeMap<String, Caller>) -> Caller {
    let nobody = Caller { uid: NOBODY, gid: NOBODY, admin: false };
    match identity {
        Identity::Admin(_) => Caller { uid: 0, gid: 0, admin: true },
        Identity::Client(name) => users.get(name).copied().unwrap_or(nobody),
        Identity::Node(_) | Identity::Coordinator(_) => nobody,
    }
}

#[cfg(test)]
mod tests {
    use protocol::ids::{CoordinatorId, NodeId};

    use super::*;

    #[test]
    fn the_matrix_of_roles_is_what_it_should_be() {
        let node = Identity::Node(NodeId(1));
        let client = Identity::Client("alice".into());
        let admin = Identity::Admin("root".into());
        let coordinator = Identity::Coordinator(CoordinatorId(2));
        for &kind in Kind::ALL {
            let code = |identity| match check(kind, identity) {
                Ok(()) => 'y',
                Err(Status::BadRole) => 'n',
                Err(_) => '-',
            };
            let row: String = [&node, &client, &admin, &coordinator].map(code).iter().collect();
            let expected = match kind {
                Kind::Register | Kind::Heartbeat | Kind::Evict => "ynnn",
                Kind::Activated | Kind::SyncDone | Kind::DropDone => "ynnn",
                Kind::FileReports => "ynnn",
                Kind::Census => "ynnn",
                Kind::Admin => "nnyn",
                Kind::Unreachable | Kind::WordsReturned => "yyyn",
                Kind::MapFetch | Kind::Status | Kind::Plans => "yyyy",
                Kind::SessionOpen | Kind::SessionRenew | Kind::SessionClose => "yyyn",
                Kind::Lookup | Kind::ReadDir | Kind::Mutate => "yyyn",
                _ => "----",
            };
            assert_eq!(row, expected, "{kind:?}");
        }
    }

    #[test]
    fn only_an_administrator_is_root_and_an_unlisted_client_is_nobody() {
        let alice = Caller { uid: 1000, gid: 100, admin: false };
        let users = BTreeMap::from([("alice".to_owned(), alice)]);
        let of = |identity| caller(&identity, &users);
        assert_eq!(of(Identity::Client("alice".into())), alice);
        assert_eq!(of(Identity::Client("root".into())).uid, NOBODY);
        assert_eq!(of(Identity::Node(NodeId(1))).uid, NOBODY);
        let root = of(Identity::Admin("alice".into()));
        assert_eq!((root.uid, root.gid, root.admin), (0, 0, true));
    }
}
