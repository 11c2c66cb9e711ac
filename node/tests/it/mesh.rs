//! Queues between two running executors.

use node::io::glommio::mesh::{Port, Wakeup, pair};

use crate::fixture::start;

const QUEUE: usize = 4;
const MESSAGES: u64 = 20_000;

/// Sends everything and receives everything, keeping what does not fit for the next turn.
async fn exchange(port: Port<u64, u64>) -> (u64, u64) {
    let (mut next, mut received, mut refused) = (0, 0, 0);
    while next < MESSAGES || received < MESSAGES {
        // Sending first fills both queues before either side takes anything out.
        while next < MESSAGES {
            if port.send(next).is_err() {
                refused += 1;
                break;
            }
            next += 1;
        }
        if received < MESSAGES {
            assert_eq!(port.receive().await, received, "in order, none lost");
            received += 1;
        } else {
            node::io::glommio::take_turn().await;
        }
    }
    (received, refused)
}

#[test]
fn mesh_goes_on_when_both_queues_are_full() {
    let (here, there) = (Wakeup::default(), Wakeup::default());
    let (near, far): (Port<u64, u64>, Port<u64, u64>) = pair((&here, QUEUE), (&there, QUEUE));
    // Both queues are full before either executor runs.
    let near = start(move || exchange(near));
    let far = start(move || exchange(far));
    for side in [near, far] {
        let (received, refused) = side.join().unwrap();
        assert_eq!(received, MESSAGES);
        assert!(refused > 0, "the queue was full at least once");
    }
}

#[test]
fn mesh_wakes_an_executor_that_sleeps() {
    let (here, there) = (Wakeup::default(), Wakeup::default());
    let (near, far): (Port<u64, u64>, Port<u64, u64>) = pair((&here, 1), (&there, 1));
    let sleeper = start(move || async move {
        for expected in 0..1000 {
            assert_eq!(far.receive().await, expected);
            far.send(expected).unwrap();
        }
    });
    // Each message finds the other side asleep, because it waits for the answer to the last one.
    let asker = start(move || async move {
        for message in 0..1000 {
            near.send(message).unwrap();
            assert_eq!(near.receive().await, message);
        }
    });
    asker.join().unwrap();
    sleeper.join().unwrap();
}
