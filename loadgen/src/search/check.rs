//! The invariants, each by its name in the design; they look from outside.

use std::collections::BTreeSet;

use node::group::ChunkIndex;
use protocol::cluster_map::Role;

use super::Scope;
use super::coordinator::place;
use super::moves::{serves, target};
use super::shard::{Happening, Order, Shards, byte_of};
use super::store::{GROUP, Store};
use super::world::{Fate, Parts, TARGETS, World};

/// Checks a state by itself.
pub(super) fn state(parts: &Parts, scope: &Scope, world: &World) -> Result<(), String> {
    let stores = world.stores.map(|store| parts.stores.part(store));
    let record = parts.offices.part(world.coordinator).coordinator.record();
    let clients = parts.clients.part(world.clients);
    one_content(&stores)?;
    equal_growth(&stores)?;
    for member in record.members.iter().filter(|member| serves(member.role)) {
        let bytes = stores[place(member.target)].bytes();
        for (number, operation) in (0..).zip(clients) {
            let (byte, offset) = (byte_of(number), scope.operations[number as usize].offset);
            let there = bytes.get(offset as usize) == Some(&byte);
            let name = char::from(byte);
            match operation.fate {
                Fate::Done(_) if !there => {
                    return Err(format!(
                        "I1: operation {name} was acknowledged and {} lacks it",
                        member.target
                    ));
                }
                Fate::Refused if bytes.contains(&byte) && record.active && record.writable() => {
                    return Err(format!(
                        "operation {name} was refused for good and {} has it",
                        member.target
                    ));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// I2: a version names one content.
fn one_content(stores: &[&Store; TARGETS]) -> Result<(), String> {
    for (at, one) in stores.iter().enumerate() {
        for other in &stores[at + 1..] {
            for held in &one.held {
                let same = other.held.iter().find(|same| same.version == held.version);
                if same.is_some_and(|same| same.bytes != held.bytes) {
                    return Err(format!("I2: {} names two contents", held.version));
                }
            }
        }
    }
    Ok(())
}

/// I8: committed bytes of what only grew are the same wherever they are.
fn equal_growth(stores: &[&Store; TARGETS]) -> Result<(), String> {
    let committed = stores.map(|store| store.committed().map_or(&[][..], |held| &held.bytes));
    for (at, one) in committed.iter().enumerate() {
        for other in &committed[at + 1..] {
            let common = one.len().min(other.len());
            if one[..common] != other[..common] {
                return Err("I8: committed bytes differ between two copies".to_owned());
            }
        }
    }
    Ok(())
}

/// Checks what a move did to the targets it touched.
pub(super) fn step(
    parts: &mut Parts,
    shards: &mut Shards,
    before: &World,
    after: &World,
) -> Result<(), String> {
    for at in 0..TARGETS {
        let touched =
            (before.shards[at], before.stores[at]) != (after.shards[at], after.stores[at]);
        if touched && after.shards[at] != 0 {
            frozen(parts, before, after, at)?;
        }
    }
    reads(parts, shards, after)
}

/// I9: in an epoch that is not writable, pendings of serving members stay as they are.
fn frozen(parts: &Parts, before: &World, after: &World, at: usize) -> Result<(), String> {
    let settled = |world: &World| {
        let shard = parts.shards.part(world.shards[at]).as_ref()?;
        let member = shard.groups.get(&GROUP)?;
        let store = parts.stores.part(world.stores[at]);
        let serving = member.role.is_some_and(serves);
        let still = serving
            && !member.record.writable()
            && store.adopted == member.record.epoch
            && member.storing == 0;
        still.then_some((member.record.epoch, member.role))
    };
    let (Some(was), Some(is)) = (settled(before), settled(after)) else { return Ok(()) };
    if was != is {
        return Ok(());
    }
    let stores = [before, after].map(|world| parts.stores.part(world.stores[at]));
    let pendings = stores.map(|store| store.pendings(GROUP));
    let newest = stores.map(|store| store.newest().map(|held| held.version));
    // A backup may learn of an older commit, but it drops nothing and gets nothing new.
    let kept = match is.1 {
        // It may take over what it lost, on top of what it has.
        Some(Role::Primary) => pendings[0].iter().all(|one| pendings[1].contains(one)),
        _ => newest[0] == newest[1],
    };
    let name = target(u8::try_from(at).unwrap_or(u8::MAX));
    if kept { Ok(()) } else { Err(format!("I9: a frozen pending of {name} changed")) }
}

/// What anybody can read is on every serving member, so it cannot disappear.
fn reads(parts: &mut Parts, shards: &mut Shards, world: &World) -> Result<(), String> {
    let mut shown: BTreeSet<Vec<u8>> = BTreeSet::new();
    for at in 0..TARGETS {
        if world.shards[at] == 0 {
            continue;
        }
        let len = parts.stores.part(world.stores[at]).bytes().len();
        for len in (1..=u8::try_from(len).unwrap_or(u8::MAX)).rev() {
            let name = (world.shards[at], world.stores[at]);
            let stepped = shards.step(parts, name, Happening::Read { len })?;
            let newest = stepped.orders.iter().find_map(|order| match order {
                Order::Read { newest } => Some(*newest),
                _ => None,
            });
            let Some(newest) = newest else { continue };
            let store = parts.stores.part(world.stores[at]);
            let held = if newest { store.newest() } else { store.committed() };
            let bytes = held.map(|held| held.bytes.clone()).unwrap_or_default();
            let Some(bytes) = bytes.get(..usize::from(len)) else {
                return Err(format!("a read of {len} bytes is admitted where fewer are"));
            };
            shown.insert(bytes.to_vec());
            break;
        }
    }
    let record = parts.offices.part(world.coordinator).coordinator.record();
    for member in record.members.iter().filter(|member| serves(member.role)) {
        let bytes = parts.stores.part(world.stores[place(member.target)]).bytes();
        if let Some(lost) = shown.iter().find(|shown| !bytes.starts_with(shown)) {
            let lost = String::from_utf8_lossy(lost);
            return Err(format!("{lost:?} can be read, and {} lacks it", member.target));
        }
    }
    Ok(())
}
