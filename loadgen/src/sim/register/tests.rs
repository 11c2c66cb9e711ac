use super::*;
use crate::sim::rng::SimRng;

fn register(writes: &[(u64, u64, Option<u64>)], reads: &[(u64, u64, u64)]) -> Register {
    let mut register = Register::default();
    for (value, start, end) in writes {
        register.write(Value(*value), Nanos(*start));
        if let Some(end) = end {
            register.written(Value(*value), Nanos(*end));
        }
    }
    for (value, start, end) in reads {
        register.read(Value(*value), Nanos(*start), Nanos(*end));
    }
    register
}

#[test]
fn a_write_that_is_read_back_is_linearizable() {
    let writes = [(1, 10, Some(20)), (2, 30, Some(40)), (3, 35, None)];
    let reads = [(0, 1, 5), (1, 12, 18), (1, 21, 22), (2, 36, 50), (3, 60, 70)];
    assert_eq!(register(&writes, &reads).check(), Ok(()));
}

#[test]
fn a_lost_acknowledged_write_is_found() {
    let found = register(&[(1, 10, Some(20)), (2, 30, Some(40))], &[(1, 50, 60)]).check();
    assert_eq!(found, Err(Violation::Lost { lost: Value(2), kept: Value(1) }));
    let found = register(&[(1, 10, Some(20))], &[(0, 50, 60)]).check();
    assert_eq!(found, Err(Violation::Lost { lost: Value(1), kept: Value(0) }));
}

#[test]
fn new_then_old_is_found() {
    let reads = [(1, 31, 32), (2, 33, 34), (1, 35, 36)];
    let found = register(&[(1, 10, Some(20)), (2, 30, Some(40))], &reads).check();
    assert!(matches!(found, Err(Violation::Both { .. } | Violation::Lost { .. })), "{found:?}");
}

#[test]
fn an_unknown_write_that_appears_and_disappears_is_found() {
    let reads = [(2, 50, 51), (1, 60, 61)];
    let found = register(&[(1, 10, Some(20)), (2, 30, None)], &reads).check();
    assert_eq!(found, Err(Violation::Lost { lost: Value(2), kept: Value(1) }));
}

#[test]
fn a_value_from_nowhere_or_from_the_future_is_found() {
    let found = register(&[], &[(7, 1, 2)]).check();
    assert_eq!(found, Err(Violation::Unwritten { value: Value(7) }));
    let found = register(&[(7, 10, None)], &[(7, 1, 2)]).check();
    assert_eq!(found, Err(Violation::Future { value: Value(7) }));
}

/// One operation of a small history.
#[derive(Clone, Copy, Debug)]
struct Small {
    write: bool,
    value: u64,
    start: u64,
    end: Option<u64>,
}

/// Tries every order: the definition itself.
fn some_order_fits(ops: &[Small], done: u32, held: u64) -> bool {
    let left = || (0..ops.len()).filter(|at| done & (1 << at) == 0);
    if left().all(|at| ops[at].end.is_none()) {
        return true;
    }
    left().any(|at| {
        let op = ops[at];
        let first = left().all(|other| ops[other].end.is_none_or(|end| end >= op.start));
        let fits = op.write || op.value == held;
        let next = if op.write { op.value } else { held };
        first && fits && some_order_fits(ops, done | (1 << at), next)
    })
}

#[test]
fn the_verdict_is_that_of_trying_every_order() {
    let rng = SimRng::new(99);
    let (mut good, mut bad) = (0, 0);
    for _ in 0..6000 {
        let mut ops = Vec::new();
        // Times are all different, so "before" has one meaning.
        let mut times: Vec<u64> = (1..=32).collect();
        let mut draw =
            || times.swap_remove(usize::try_from(rng.below(times.len() as u64)).unwrap());
        let (writes, reads) = (1 + rng.below(3), 1 + rng.below(4));
        for value in 1..=writes {
            let (one, other) = (draw(), draw());
            let end = (rng.below(4) != 0).then_some(one.max(other));
            ops.push(Small { write: true, value, start: one.min(other), end });
        }
        for _ in 0..reads {
            let (one, other) = (draw(), draw());
            let value = rng.below(writes + 1);
            let (start, end) = (one.min(other), Some(one.max(other)));
            ops.push(Small { write: false, value, start, end });
        }
        let of = |write| ops.iter().filter(move |op| op.write == write);
        let writes: Vec<_> = of(true).map(|op| (op.value, op.start, op.end)).collect();
        let reads: Vec<_> = of(false).map(|op| (op.value, op.start, op.end.unwrap())).collect();
        let expected = some_order_fits(&ops, 0, 0);
        assert_eq!(register(&writes, &reads).check().is_ok(), expected, "{ops:?}");
        good += u32::from(expected);
        bad += u32::from(!expected);
    }
    assert!(good > 500 && bad > 500, "both verdicts occur: {good} and {bad}");
}
