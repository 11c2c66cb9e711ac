//! Census: chunks that are set aside are freed when their files are known dead, and old enough.
//!
//! The node asks the coordinator which files of such chunks are dead, once it has a map and then
//! every [`CENSUS_PERIOD_MS`]. The store alone decides which of them are old enough. A chunk of a
//! file that lives stays aside: it may be the one good copy.

use std::time::Duration;

use super::member::Cx;
use crate::limits::CENSUS_PERIOD_MS;
use crate::shard::effect::Effect;
use crate::shard::heal::HealOrder;

/// Asks when it is time, and frees what the answer named.
pub fn tick<P>(cx: &mut Cx<'_, P>) {
    if !cx.core.census.is_empty() {
        let dead = std::mem::take(&mut cx.core.census);
        cx.out.push(Effect::Heal(HealOrder::Release(dead.into_iter().collect())));
    }
    let due = cx.core.upkeep.census_at.is_none_or(|at| cx.now >= at);
    if due && cx.core.map.version.0 > 0 {
        let next = cx.now.after(Duration::from_millis(CENSUS_PERIOD_MS));
        cx.core.upkeep.census_at = Some(next);
        cx.out.push(Effect::Heal(HealOrder::Census));
    }
}
