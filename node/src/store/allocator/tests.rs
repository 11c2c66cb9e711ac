//! The allocator against a set of units, and how it ages.

use super::*;

fn random(state: &mut u64, bound: u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) % bound
}

fn units(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

#[test]
fn what_is_taken_and_what_is_free_never_overlap() {
    let mut allocator = Allocator::new(100, 1100);
    let mut taken: Vec<Extent> = Vec::new();
    let mut seed = 1;
    for _ in 0..5000 {
        let want = units(1 + random(&mut seed, 40));
        match random(&mut seed, 6) {
            5 => taken.extend(allocator.take_dust(want).unwrap_or_default()),
            4 => taken.extend(allocator.take_split(want, 4).unwrap_or_default()),
            0 => taken.extend(allocator.take(want)),
            1 => taken.extend(allocator.take_page()),
            2 => taken.extend(allocator.take_pieces(want, 4).unwrap_or_default()),
            _ if !taken.is_empty() => {
                let at = random(&mut seed, taken.len() as u64);
                let run = taken.swap_remove(usize::try_from(at).unwrap_or(0));
                assert_eq!(allocator.release(run), Ok(()));
                assert_eq!(allocator.release(run), Err(Overlap(run)));
            }
            _ => {}
        }
        let mut all = allocator.runs();
        assert_eq!(all.units(), allocator.free());
        for &run in &taken {
            assert!(!all.touches(run));
            all.insert(run);
        }
        assert_eq!(all.runs(), [Extent { start: 100, units: 1000 }]);
    }
}

#[test]
fn what_is_shorter_than_a_granule_goes_where_no_granule_fits() {
    let used = [(13, 1), (16, 4), (28, 2)].map(|(start, units)| Extent { start, units });
    let mut allocator = Allocator::without(10, 40, &used).unwrap();
    // Free are 10..13, 14..16, 20..28 and 30..40.
    let run = |start, units| Extent { start, units };
    assert_eq!(allocator.take_split(8, 4), None, "nothing is left over");
    assert_eq!(allocator.take_split(2, 4), None, "no granule in it");
    assert_eq!(allocator.take_split(14, 4), None, "no run for three granules");
    assert_eq!(allocator.take_split(10, 4), Some(vec![run(20, 8), run(14, 2)]));
    assert_eq!(allocator.take_split(7, 4), Some(vec![run(30, 4), run(10, 3)]));
    assert_eq!(allocator.take_split(5, 4), None, "no short run");
    assert_eq!(allocator.free(), 6);
}

#[test]
fn dust_is_used_up_before_anything_else() {
    let used = [(13, 1), (16, 4), (28, 2)].map(|(start, units)| Extent { start, units });
    let mut allocator = Allocator::without(10, 40, &used).unwrap();
    let run = |start, units| Extent { start, units };
    assert_eq!(allocator.take_dust(24), None, "one too many");
    assert_eq!(allocator.free(), 23);
    assert_eq!(allocator.take_dust(1), Some(vec![run(14, 1)]));
    assert_eq!(allocator.take_dust(6), Some(vec![run(15, 1), run(10, 3), run(20, 2)]));
    assert_eq!(allocator.take_dust(3), None, "no dust");
}

#[test]
fn a_claim_takes_exactly_its_run_once() {
    let mut allocator = Allocator::new(0, 100);
    let run = Extent { start: 40, units: 10 };
    assert_eq!(allocator.claim(run), Ok(()));
    assert!(allocator.claim(Extent { start: 49, units: 2 }).is_err());
    assert!(allocator.claim(Extent { start: 99, units: 2 }).is_err());
    assert_eq!(allocator.free(), 90);
    assert_eq!(allocator.release(run), Ok(()));
    assert_eq!(allocator.largest(), 100);
}

/// The figures of `docs/design/0001-extent-allocator.md` are what this test says when it is made to
/// fail by `LANEFS_SHOW_CHURN=1`.
#[test]
#[expect(clippy::disallowed_methods, reason = "the time is shown, nothing depends on it")]
fn churn_at_nine_tenths_full_keeps_most_chunks_in_one_run() {
    let mut allocator = Allocator::new(0, 1 << 21);
    let (mut seed, mut held, mut whole, mut pieces) = (7, Vec::new(), 0u64, 0u64);
    let started = std::time::Instant::now();
    let mut steps = 0u64;
    while steps < 300_000 {
        steps += 1;
        if allocator.free() < (1 << 21) / 10 {
            let at = usize::try_from(random(&mut seed, held.len() as u64)).unwrap_or(0);
            let runs: Vec<Extent> = held.swap_remove(at);
            runs.into_iter().for_each(|run| assert_eq!(allocator.release(run), Ok(())));
            continue;
        }
        let want = [4, 8, 16, 64, 256, 1024, 1024][units(random(&mut seed, 7)) as usize];
        match allocator.take(want) {
            Some(run) => {
                whole += 1;
                held.push(vec![run]);
            }
            None => {
                pieces += 1;
                held.extend(allocator.take_pieces(want, 4));
            }
        }
    }
    let nanos = started.elapsed().as_nanos() / u128::from(steps);
    let runs = allocator.runs().runs().len();
    let (largest, free) = (allocator.largest(), allocator.free());
    assert!(pieces * 20 < whole, "{pieces} of {whole} in pieces");
    if std::env::var_os("LANEFS_SHOW_CHURN").is_some() {
        panic!(
            "whole {whole} pieces {pieces} runs {runs} largest {largest} free {free} ns {nanos}"
        );
    }
}

#[test]
fn space_without_some_runs_is_what_claiming_them_leaves() {
    let mut seed = 9;
    for round in 0..200 {
        let mut claimed = Allocator::new(100, 1100);
        let mut used = Vec::new();
        let mut at = 100;
        while at < 1100 && round > 0 {
            let start = at + random(&mut seed, 3) * random(&mut seed, 30);
            let run = Extent { start, units: units(1 + random(&mut seed, 40)) };
            if run.end() > 1100 {
                break;
            }
            assert_eq!(claimed.claim(run), Ok(()));
            used.push(run);
            at = run.end();
        }
        let built = Allocator::without(100, 1100, &used).unwrap();
        assert_eq!(built.free(), claimed.free());
        assert_eq!(built.runs(), claimed.runs());
        assert_eq!(built.largest(), claimed.largest());
    }
}

#[test]
fn runs_that_overlap_or_leave_the_arena_leave_no_space() {
    let run = |start, units| Extent { start, units };
    for used in [
        vec![run(99, 2)],
        vec![run(199, 2)],
        vec![run(100, 5), run(104, 1)],
        vec![run(110, 1), run(105, 1)],
        vec![run(250, 1)],
    ] {
        assert!(Allocator::without(100, 200, &used).is_none(), "{used:?}");
    }
    assert_eq!(Allocator::without(100, 200, &[run(100, 100)]).map(|full| full.free()), Some(0));
}
