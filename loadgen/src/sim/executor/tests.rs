use super::*;

fn run(seed: u64) -> (Vec<u32>, u64) {
    let executor = Executor::new(SimRng::new(seed));
    let order = Rc::new(RefCell::new(Vec::new()));
    for name in 0..8u32 {
        let (order, handle) = (Rc::clone(&order), executor.clone());
        executor.spawn(ProcessId(name % 2), async move {
            handle.sleep(Duration::from_millis(u64::from(name / 4))).await;
            order.borrow_mut().push(name);
        });
    }
    assert_eq!(executor.run_until(Duration::from_secs(1), || false), Stop::Stalled);
    (order.take(), executor.event_hash())
}

#[test]
fn the_seed_decides_the_order_and_nothing_else_does() {
    assert_eq!(run(1), run(1));
    assert!((2..20).any(|seed| run(seed).0 != run(1).0));
}

#[test]
fn a_killed_process_does_nothing_more() {
    let executor = Executor::new(SimRng::new(7));
    let ticks = Rc::new(Cell::new(0));
    let (handle, counted) = (executor.clone(), Rc::clone(&ticks));
    executor.spawn(ProcessId(1), async move {
        loop {
            handle.sleep(Duration::from_millis(1)).await;
            counted.set(counted.get() + 1);
        }
    });
    assert_eq!(executor.run_until(Duration::from_millis(5), || false), Stop::TimeUp);
    let before = ticks.get();
    assert!(before >= 4);
    executor.kill(ProcessId(1));
    executor.run_until(Duration::from_millis(5), || false);
    assert_eq!(ticks.get(), before);
}

#[test]
fn a_frozen_process_does_nothing_until_it_thaws_and_loses_nothing() {
    let executor = Executor::new(SimRng::new(9));
    let ticks = Rc::new(Cell::new(0));
    let (handle, counted) = (executor.clone(), Rc::clone(&ticks));
    executor.spawn(ProcessId(1), async move {
        for _ in 0..3 {
            handle.sleep(Duration::from_millis(1)).await;
            counted.set(counted.get() + 1);
        }
    });
    executor.freeze(ProcessId(1));
    executor.run_until(Duration::from_millis(50), || false);
    assert_eq!(ticks.get(), 0);
    executor.thaw(ProcessId(1));
    executor.run_until(Duration::from_millis(50), || false);
    assert_eq!(ticks.get(), 3);
}
