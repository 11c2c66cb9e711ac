//! Codec of what one shard does.

use flatbuffers::WIPOffset;

use super::fields::{Check, put_items};
use super::{Out, Record, wire};
use crate::message::MessageError;
use crate::message::activity::ShardActivity;
use crate::metrics::Durations;
use crate::metrics::durations::DURATION_BUCKETS;
use crate::time::Nanos;

impl Record for Durations {
    type Table<'a> = wire::Durations<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::Durations<'b>> {
        let counts = put_items(out, self.counts().iter().copied());
        wire::Durations::create(out, &wire::DurationsArgs { counts, sum_us: self.sum_us() })
    }

    fn unpack(table: wire::Durations<'_>, check: Check) -> Result<Self, MessageError> {
        let counts = check.items(table.counts(), DURATION_BUCKETS, "counts", |count| count)?;
        Ok(Durations::from_parts(counts, table.sum_us()))
    }
}

impl Record for ShardActivity {
    type Table<'a> = wire::ShardActivity<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::ShardActivity<'b>> {
        let (read_times, write_times) =
            (Some(self.read_times.pack(out)), Some(self.write_times.pack(out)));
        wire::ShardActivity::create(
            out,
            &wire::ShardActivityArgs {
                clock_ns: self.clock.0,
                cpu_ns: self.cpu_ns,
                reads: self.reads,
                writes: self.writes,
                replications: self.replications,
                others: self.others,
                peer_bytes_out: self.peer_bytes_out,
                events_waiting: self.events_waiting,
                requests_in_flight: self.requests_in_flight,
                transfers_in_flight: self.transfers_in_flight,
                stalls: self.stalls,
                stalled_ns: self.stalled_ns,
                read_times,
                allocations: self.allocations,
                write_times,
            },
        )
    }

    fn unpack(table: wire::ShardActivity<'_>, check: Check) -> Result<Self, MessageError> {
        let times = |times: Option<wire::Durations<'_>>| {
            times.map_or_else(|| Ok(Durations::default()), |times| Durations::unpack(times, check))
        };
        Ok(ShardActivity {
            clock: Nanos(table.clock_ns()),
            cpu_ns: table.cpu_ns(),
            reads: table.reads(),
            writes: table.writes(),
            replications: table.replications(),
            others: table.others(),
            peer_bytes_out: table.peer_bytes_out(),
            events_waiting: table.events_waiting(),
            requests_in_flight: table.requests_in_flight(),
            transfers_in_flight: table.transfers_in_flight(),
            stalls: table.stalls(),
            stalled_ns: table.stalled_ns(),
            allocations: table.allocations(),
            read_times: times(table.read_times())?,
            write_times: times(table.write_times())?,
        })
    }
}
