//! The pieces of a new file from the first that is not durable on. Pure.

use std::collections::VecDeque;

use bytes::Bytes;
use protocol::layout::Layout;

use crate::plan::WriteTask;

/// Pieces in the order of the file; the first is not durable.
#[derive(Debug, Default)]
pub(super) struct Window {
    pieces: VecDeque<Sent>,
}

#[derive(Debug)]
struct Sent {
    /// First byte inside the file.
    at: u64,
    task: WriteTask,
    bytes: Bytes,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// To be sent.
    Waiting,
    UnderWay,
    Durable,
    /// Its group takes no writes for now.
    Left,
}

impl Window {
    pub(super) fn len(&self) -> usize {
        self.pieces.len()
    }

    /// The first piece that is not durable.
    pub(super) fn first(&self) -> Option<&WriteTask> {
        self.pieces.front().map(|piece| &piece.task)
    }

    /// True when some piece has left its group.
    pub(super) fn has_left(&self) -> bool {
        self.pieces.iter().any(|piece| piece.state == State::Left)
    }

    /// Adds the piece that follows the last one.
    pub(super) fn push(&mut self, at: u64, task: WriteTask, bytes: Bytes) {
        self.pieces.push_back(Sent { at, task, bytes, state: State::Waiting });
    }

    /// What to send for a piece that waits; it is then under way.
    pub(super) fn begin(&mut self, at: u64) -> Option<(WriteTask, Bytes)> {
        let piece = self.pieces.iter_mut().find(|piece| piece.at == at)?;
        if piece.state != State::Waiting {
            return None;
        }
        piece.state = State::UnderWay;
        Some((piece.task.clone(), piece.bytes.clone()))
    }

    /// A piece is durable; it is kept as long as one before it is not.
    pub(super) fn on_durable(&mut self, at: u64) {
        self.set(at, State::Durable);
        while self.pieces.front().is_some_and(|piece| piece.state == State::Durable) {
            self.pieces.pop_front();
        }
    }

    /// A piece has left its group.
    pub(super) fn on_left(&mut self, at: u64) {
        self.set(at, State::Left);
    }

    /// Places every piece as the new layout says; all of them wait again. Where they are.
    ///
    /// A piece keeps its operation: where its group is the same, the write takes effect once.
    pub(super) fn move_to(&mut self, layout: &Layout) -> Vec<u64> {
        for piece in &mut self.pieces {
            piece.task.group = layout.group_of(piece.task.key.index).unwrap_or(piece.task.group);
            piece.state = State::Waiting;
        }
        self.pieces.iter().map(|piece| piece.at).collect()
    }

    /// Lets the pieces that have left their groups wait there after all. Where they are.
    pub(super) fn stay(&mut self) -> Vec<u64> {
        let left = self.pieces.iter_mut().filter(|piece| piece.state == State::Left);
        left.map(|piece| {
            piece.state = State::Waiting;
            piece.at
        })
        .collect()
    }

    fn set(&mut self, at: u64, state: State) {
        if let Some(piece) = self.pieces.iter_mut().find(|piece| piece.at == at) {
            piece.state = state;
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::ids::{ChunkKey, Fid, GroupId, Handle, OpId, Seq, SessionId};
    use protocol::layout::Segment;
    use protocol::message::chunk::WriteClass;

    use super::*;

    fn window() -> Window {
        let mut window = Window::default();
        for index in 0..4 {
            let task = WriteTask {
                group: GroupId(1),
                key: ChunkKey { fid: Fid(7), index },
                op: OpId { session: SessionId(1), seq: Seq(u64::from(index)) },
                class: WriteClass::Growth,
                offset: 0,
                len: 1,
                expect_len: 1,
                trunc_gen: 0,
                cell_log2: 14,
                chunk_log2: 20,
                handle: Handle(0),
                sums: Vec::new(),
            };
            window.push(u64::from(index), task, Bytes::from_static(b"x"));
            assert!(window.begin(u64::from(index)).is_some());
            assert!(window.begin(u64::from(index)).is_none(), "it is under way");
        }
        window
    }

    #[test]
    fn what_is_durable_is_kept_behind_what_is_not() {
        let mut window = window();
        for at in [0, 2, 3] {
            window.on_durable(at);
        }
        assert_eq!((window.len(), window.has_left()), (3, false));
        window.on_durable(1);
        assert_eq!(window.len(), 0);
    }

    #[test]
    fn everything_from_the_first_that_is_not_durable_on_moves() {
        let mut window = window();
        window.on_durable(0);
        window.on_durable(2);
        window.on_left(1);
        assert!(window.has_left());
        let old = Segment { first_chunk: 0, chunk_log2: 20, groups: vec![GroupId(1)] };
        let new = Segment { first_chunk: 1, chunk_log2: 20, groups: vec![GroupId(5), GroupId(6)] };
        let layout = Layout { segments: vec![old, new], cell_log2: 14 };
        assert_eq!(window.move_to(&layout), [1, 2, 3]);
        let moved: Vec<_> = (1..4).map(|at| window.begin(at).expect("it waits").0).collect();
        let groups: Vec<_> = moved.iter().map(|task| task.group.0).collect();
        assert_eq!(groups, [5, 6, 5]);
        assert!(moved.iter().all(|task| task.op.seq.0 == u64::from(task.key.index)));
    }

    #[test]
    fn who_stays_sends_again_what_had_left() {
        let mut window = window();
        window.on_left(1);
        window.on_durable(2);
        assert_eq!(window.stay(), [1]);
        assert!(!window.has_left() && window.begin(1).is_some());
    }
}
