//! Finds the group a request is for, or says where it should have gone.

use std::collections::BTreeMap;

use protocol::ids::GroupId;
use protocol::status::Status;

use super::effect::Refusal;
use super::state::Core;
use crate::group::member::Member;

/// The member this shard is in a group.
///
/// # Errors
/// `WrongShard` with the port of the shard of this node that is a member, else `NotMember`.
pub fn member<'a, P>(
    core: &mut Core,
    groups: &'a mut BTreeMap<GroupId, Member<P>>,
    group: GroupId,
) -> Result<&'a mut Member<P>, Refusal> {
    match groups.get_mut(&group).filter(|member| member.role.is_some()) {
        Some(member) => Ok(member),
        None => Err(elsewhere(core, group)),
    }
}

fn elsewhere(core: &mut Core, group: GroupId) -> Refusal {
    let (me, node) = (core.me(), core.config.node);
    let members = core.map.groups.get(&group).map_or(&[][..], |record| &record.members[..]);
    let targets = members.iter().filter_map(|entry| core.map.targets.get(&entry.target));
    let port = targets.filter(|target| target.node == node && target.id != me).map(|it| it.port);
    match port.min() {
        Some(port) => {
            core.counters.misroutes += 1;
            Refusal { port, ..Status::WrongShard.into() }
        }
        None => Status::NotMember.into(),
    }
}
