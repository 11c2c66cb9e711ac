//! Scrub: reading everything that is here once in a while, so that damage is found while other
//! copies are still good.
//!
//! Owns the pace and what is reported; the store knows what to read next and notes what it finds.
//! One pass follows the other at a rate that reads a full target in [`SCRUB_PERIOD_S`]. A pass that
//! was ordered begins at once and runs faster. While clients keep the shard busy no step starts.

use protocol::guard::{self, Guard};

use super::member::Cx;
use super::pace::Pace;
use crate::limits::{
    FOREGROUND_BUSY_BYTES, SCRUB_ORDERED_BYTES_PER_S, SCRUB_PERIOD_S, SCRUB_STEP_BYTES,
};
use crate::shard::effect::Effect;
use crate::shard::heal::HealOrder;
use crate::shard::state::Core;

/// Progress of the present pass and what was finished.
#[derive(Clone, Debug)]
pub struct Scrub {
    /// Byte budget.
    pub pace: Pace,
    /// True while the store makes a step.
    pub stepping: bool,
    /// Ordered pass that the present one fulfils, as it stood when it began; `None` before that.
    pub pass: Option<u32>,
    /// Ordered pass that was read to its end, until its damage is counted.
    pub ended: Option<u32>,
    /// Newest ordered pass of which everything was read and all damage is counted.
    pub finished: u32,
    /// Newest one after which the groups led from here were compared too.
    pub reported: u32,
    /// Passes finished since the start, ordered or not.
    pub passes: u64,
    /// Bytes the present pass has read.
    pub done: u64,
    /// Bytes there were to read when it began.
    pub total: u64,
}

/// Starts the next step when it is due.
pub fn tick<P>(cx: &mut Cx<'_, P>) {
    let rate = rate(cx.core, cx.index.capacity());
    cx.core.upkeep.scrub.pace.pass(cx.now, rate);
    let busy = cx.core.budget.clients.bytes() >= FOREGROUND_BUSY_BYTES;
    // What a scrub records moves the journal on. Before the coordinator has compared what recovery
    // found with what the target had reported, that could hide a disk that went back in time.
    let unknown = guard::holds(Guard::ScrubRegistered) && !cx.core.registered();
    let waits = cx.core.stopping.is_some() || unknown;
    let ordered = cx.core.orders.scrub_pass;
    let scrub = &mut cx.core.upkeep.scrub;
    if waits || scrub.stepping || busy || !scrub.pace.has_room() {
        return;
    }
    // A pass that began before the order has passed by what was written meanwhile.
    let restart = scrub.pass.is_none_or(|pass| pass < ordered);
    if restart {
        scrub.pass = Some(ordered);
        scrub.done = 0;
        scrub.total = cx.index.capacity().saturating_sub(cx.index.free());
    }
    scrub.stepping = true;
    cx.out.push(Effect::Heal(HealOrder::Scrub { restart, bytes: SCRUB_STEP_BYTES }));
}

/// Notes what a step read and whether it was the last of its pass.
pub fn on_step(core: &mut Core, bytes: u64, last: bool) {
    let scrub = &mut core.upkeep.scrub;
    scrub.stepping = false;
    scrub.pace.take(bytes);
    scrub.done += bytes;
    if last {
        scrub.ended = scrub.pass.take().filter(|pass| *pass > scrub.finished);
        scrub.passes += 1;
    }
}

/// Ends the ordered pass that was read to its end, in a step in which all groups look for damage;
/// true when there is one.
///
/// Whoever waits for a pass believes the damage that is reported with its end, so none of it may
/// still be on its way from the store.
pub fn end<P>(cx: &mut Cx<'_, P>) -> bool {
    let scrub = &mut cx.core.upkeep.scrub;
    let Some(pass) = scrub.ended.take() else { return false };
    scrub.finished = pass;
    true
}

/// Bytes per second: as ordered, or what an ordered pass or the period asks for.
fn rate(core: &Core, capacity: u64) -> u64 {
    let pending = core.orders.scrub_pass > core.upkeep.scrub.finished;
    match core.orders.scrub_bytes_per_s {
        0 if pending => SCRUB_ORDERED_BYTES_PER_S,
        0 => (capacity / SCRUB_PERIOD_S).max(1),
        ordered => ordered,
    }
}

impl Default for Scrub {
    fn default() -> Scrub {
        Scrub {
            pace: Pace::new(0),
            stepping: false,
            pass: None,
            ended: None,
            finished: 0,
            reported: 0,
            passes: 0,
            done: 0,
            total: 0,
        }
    }
}
