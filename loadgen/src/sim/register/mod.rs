//! Registers: places that are written with values which occur nowhere else.
//!
//! Because a value names its write, it is known what each read read from, and linearizability is
//! decided by comparing intervals (Gibbons and Korach). All operations on one value, its write and
//! its reads, span a zone: from the first end among them to the last start. When the first end
//! comes before the last start, the register held the value all that time; otherwise it held it at
//! some moment between. So the history is linearizable exactly when no read ends before its write
//! starts, no two zones of the first kind overlap, and no zone of the second kind lies inside one
//! of the first.
//!
//! [`book`] keeps a register for each slot of each chunk.

pub mod book;

use std::collections::BTreeMap;

use node::io::Nanos;

/// A value; 0 is what a register holds before the first write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value(pub u64);

/// When an operation was under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// When it was asked.
    pub start: Nanos,
    /// When it was answered; `None` for a write whose outcome is not known.
    pub end: Option<Nanos>,
}

/// Everything that happened to one register.
#[derive(Clone, Debug, Default)]
pub struct Register {
    writes: BTreeMap<Value, Span>,
    /// First end and last start of the reads of each value.
    reads: BTreeMap<Value, (Nanos, Nanos)>,
}

/// Why a history is not linearizable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A value was read that nobody wrote.
    #[error("{value:?} was read, nobody wrote it")]
    Unwritten {
        /// The value.
        value: Value,
    },
    /// A value was there after the bytes of its writer's knowledge had been cut off.
    #[error("{value:?} was written without knowing of a cut that was done, and was there after it")]
    Undead {
        /// The value.
        value: Value,
    },
    /// A value was read before it was written.
    #[error("{value:?} was read before its write began")]
    Future {
        /// The value.
        value: Value,
    },
    /// Two values were both there at the same time.
    #[error("{one:?} and {other:?} were both seen before and after each other")]
    Both {
        /// One value.
        one: Value,
        /// The other.
        other: Value,
    },
    /// A value that was written for certain was skipped.
    #[error("{lost:?} was written while {kept:?} was there all the time")]
    Lost {
        /// The value that was skipped.
        lost: Value,
        /// The value that stayed.
        kept: Value,
    },
}

/// The zone of one value.
#[derive(Clone, Copy, Debug)]
struct Zone {
    value: Value,
    first_end: Nanos,
    last_start: Nanos,
}

impl Register {
    /// Adds a write; its end is told by [`Register::written`].
    pub fn write(&mut self, value: Value, start: Nanos) {
        self.writes.insert(value, Span { start, end: None });
    }

    /// A write was acknowledged.
    pub fn written(&mut self, value: Value, end: Nanos) {
        if let Some(span) = self.writes.get_mut(&value) {
            span.end = Some(end);
        }
    }

    /// Values that were certainly written before a time.
    pub fn written_before(&self, at: Nanos) -> Vec<Value> {
        let ended = self.writes.iter().filter(|(_, span)| span.end.is_some_and(|end| end < at));
        ended.map(|(value, _)| *value).collect()
    }

    /// Adds a read.
    pub fn read(&mut self, value: Value, start: Nanos, end: Nanos) {
        let (first_end, last_start) = self.reads.entry(value).or_insert((end, start));
        *first_end = (*first_end).min(end);
        *last_start = (*last_start).max(start);
    }

    /// Decides whether the history is linearizable.
    ///
    /// # Errors
    /// The first [`Violation`] found.
    ///
    /// # Cost
    /// As sorting the values.
    pub fn check(&self) -> Result<(), Violation> {
        let zones = self.zones()?;
        let (mut held, momentary): (Vec<Zone>, Vec<Zone>) =
            zones.into_iter().partition(|zone| zone.first_end < zone.last_start);
        held.sort_by_key(|zone| (zone.first_end, zone.last_start));
        for pair in held.windows(2) {
            if pair[1].first_end < pair[0].last_start {
                return Err(Violation::Both { one: pair[0].value, other: pair[1].value });
            }
        }
        for zone in momentary {
            // Zones that are held do not overlap: only the last one that began before can hold it.
            let after = held.partition_point(|kept| kept.first_end < zone.last_start);
            let kept = held[..after].last().filter(|kept| zone.first_end < kept.last_start);
            if let Some(kept) = kept {
                return Err(Violation::Lost { lost: zone.value, kept: kept.value });
            }
        }
        Ok(())
    }

    fn zones(&self) -> Result<Vec<Zone>, Violation> {
        let initial = (Value(0), Span { start: Nanos(0), end: Some(Nanos(0)) });
        let writes = self.writes.iter().map(|(value, span)| (*value, *span));
        let mut zones = Vec::new();
        for (value, span) in std::iter::once(initial).chain(writes) {
            let (mut first_end, mut last_start) = (span.end.unwrap_or(Nanos(u64::MAX)), span.start);
            match self.reads.get(&value) {
                Some((end, _)) if *end < span.start => return Err(Violation::Future { value }),
                Some((end, start)) => {
                    first_end = first_end.min(*end);
                    last_start = last_start.max(*start);
                }
                // It may never have happened.
                None if span.end.is_none() => continue,
                None => {}
            }
            zones.push(Zone { value, first_end, last_start });
        }
        let unknown = |value: &&Value| value.0 != 0 && !self.writes.contains_key(*value);
        match self.reads.keys().find(unknown) {
            Some(value) => Err(Violation::Unwritten { value: *value }),
            None => Ok(zones),
        }
    }
}

#[cfg(test)]
mod tests;
