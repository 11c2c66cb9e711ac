//! Background work of one shard: the pace of the scrub, the times of the census.

use node::io::Nanos;
use node::limits::{
    CENSUS_PERIOD_MS, FOREGROUND_BUSY_BYTES, SCRUB_ORDERED_BYTES_PER_S, SCRUB_PERIOD_S,
    SCRUB_STEP_BYTES,
};
use node::shard::control::ControlEvent;
use node::shard::effect::Effect;
use node::shard::event::Event;
use node::shard::heal::{HealEvent, HealOrder};
use protocol::ids::{Fid, Generation, MapVersion, TargetId};
use protocol::message::cluster::TargetOrders;

use super::coordinator::{Coordinator, GROUP};
use super::rules::{Primary, sound};

/// Orders of one tick.
fn tick(primary: &mut Primary, ms: u64) -> Vec<HealOrder> {
    primary.now = Nanos::from_ms(ms);
    let orders = primary.step(Event::Tick { fenced: false });
    orders
        .into_iter()
        .filter_map(|order| match order {
            Effect::Heal(order) => Some(order),
            _ => None,
        })
        .collect()
}

/// Lets time pass and makes each step that is ordered; the steps and the starts of passes in it.
fn scrub(primary: &mut Primary, from_ms: u64, to_ms: u64) -> (u64, u64) {
    let (mut steps, mut starts) = (0, 0);
    for ms in (from_ms..to_ms).step_by(5) {
        for order in tick(primary, ms) {
            if let HealOrder::Scrub { restart, bytes } = order {
                assert_eq!(bytes, SCRUB_STEP_BYTES);
                steps += 1;
                starts += u64::from(restart);
                step_done(primary, false);
            }
        }
    }
    (steps, starts)
}

fn step_done(primary: &mut Primary, last: bool) {
    primary.step(Event::Heal(HealEvent::Scrubbed { bytes: SCRUB_STEP_BYTES, last }));
}

fn order(primary: &mut Primary, scrub_bytes_per_s: u64, scrub_pass: u32) {
    let orders = TargetOrders { scrub_bytes_per_s, scrub_pass, ..TargetOrders::default() };
    primary.step(Event::Control(ControlEvent::Orders(orders)));
}

#[test]
fn the_scrub_keeps_to_the_rate_it_was_ordered_and_uses_it() {
    let mut primary = Primary::of(sound());
    let rate = 10 * SCRUB_STEP_BYTES;
    order(&mut primary, rate, 0);
    scrub(&mut primary, 1000, 2000);
    let (steps, starts) = scrub(&mut primary, 2000, 22_000);
    assert!((190..=201).contains(&steps), "{steps} steps in 20 s");
    assert_eq!(starts, 0, "one pass goes on");
}

#[test]
fn an_ordered_pass_begins_at_once_and_runs_faster_than_the_usual_one() {
    let mut primary = Primary::of(sound());
    scrub(&mut primary, 1000, 100_000);
    let usual = (1 << 30) / SCRUB_PERIOD_S;
    assert_eq!(primary.state.core.upkeep.scrub.pace.rate(), usual);
    order(&mut primary, 0, 7);
    let (steps, starts) = scrub(&mut primary, 100_000, 101_000);
    assert_eq!(starts, 1, "from the beginning, in the middle of a pass");
    let most = SCRUB_ORDERED_BYTES_PER_S / SCRUB_STEP_BYTES;
    assert!(steps > most / 2 && steps <= most + 1, "{steps} steps in a second");
    assert_eq!(primary.state.core.upkeep.scrub.finished, 0);
    step_done(&mut primary, true);
    tick(&mut primary, 101_005);
    assert_eq!(primary.state.core.upkeep.scrub.finished, 7);
    assert_eq!(primary.state.core.upkeep.scrub.pace.rate(), usual);
}

#[test]
fn the_scrub_rests_while_clients_keep_the_shard_busy() {
    let mut primary = Primary::of(sound());
    order(&mut primary, 10 * SCRUB_STEP_BYTES, 1);
    let busy = u32::try_from(FOREGROUND_BUSY_BYTES).unwrap_or(u32::MAX);
    assert!(primary.state.core.budget.clients.take(busy));
    assert_eq!(scrub(&mut primary, 1000, 5000).0, 0);
    primary.state.core.budget.clients.give(busy);
    assert!(scrub(&mut primary, 5000, 6000).0 > 0);
}

/// A shard that has heard of no map yet, and the map with this generation of its target.
fn unregistered(generation: u32) -> (Primary, Coordinator) {
    let (primary, mut coordinator) = Primary::new(sound(), 1, Coordinator::new(1, 1));
    coordinator.map.targets.get_mut(&TargetId(1)).unwrap().generation = Generation(generation);
    (primary, coordinator)
}

fn show(primary: &mut Primary, coordinator: &Coordinator) -> usize {
    let map = ControlEvent::Map(coordinator.map.to_delta());
    let orders = primary.step(Event::Control(map));
    orders.iter().filter(|order| **order == Effect::VerdictKnown).count()
}

#[test]
fn what_recovery_found_is_forgotten_when_the_map_has_its_generation() {
    let (mut primary, old) = unregistered(0);
    assert_eq!(show(&mut primary, &old), 0, "an earlier start is in this map");
    let (_, mut new) = unregistered(1);
    new.map.version = MapVersion(old.map.version.0 + 1);
    assert_eq!(show(&mut primary, &new), 1);
    assert_eq!(show(&mut primary, &new), 0, "once");
}

#[test]
fn nothing_is_scrubbed_before_the_coordinator_knows_what_recovery_found() {
    let (mut primary, old) = unregistered(0);
    order(&mut primary, 10 * SCRUB_STEP_BYTES, 1);
    assert_eq!(scrub(&mut primary, 1000, 5000).0, 0);
    show(&mut primary, &old);
    assert_eq!(scrub(&mut primary, 5000, 9000).0, 0);
    let (_, mut new) = unregistered(1);
    new.map.version = MapVersion(old.map.version.0 + 1);
    show(&mut primary, &new);
    assert!(scrub(&mut primary, 9000, 10_000).0 > 0);
}

#[test]
fn the_census_is_asked_at_the_start_and_then_once_a_period() {
    let mut primary = Primary::of(sound());
    let asked = |orders: Vec<HealOrder>| orders.contains(&HealOrder::Census);
    assert!(asked(tick(&mut primary, 10)));
    assert!(!asked(tick(&mut primary, CENSUS_PERIOD_MS)));
    assert!(asked(tick(&mut primary, CENSUS_PERIOD_MS + 10)));
    let dead = vec![(GROUP, vec![Fid(5)])];
    primary.step(Event::Control(ControlEvent::Census(dead.clone())));
    let released = |orders: &[HealOrder]| orders.contains(&HealOrder::Release(dead.clone()));
    assert!(released(&tick(&mut primary, CENSUS_PERIOD_MS + 15)));
    assert!(!released(&tick(&mut primary, CENSUS_PERIOD_MS + 20)), "once");
}
