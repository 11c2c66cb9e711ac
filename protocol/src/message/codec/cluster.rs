//! Codec of hello, registration, heartbeats, map transfer, group reports, sessions and status.

use flatbuffers::WIPOffset;

use super::fields::{Check, put_address, put_items, put_records, put_text};
use super::{Out, Record, empty_record, wire};
use crate::cluster_map::MapDelta;
use crate::ids::{Epoch, Fid, GroupId, Lsn, MapVersion, NodeId, TargetId};
use crate::limits::{
    ERROR_TEXT_MAX, MAP_RECORDS_MAX, REQUESTS_IN_FLIGHT_MAX, RESYNCS_PER_TARGET_MAX,
    TARGETS_PER_NODE_MAX,
};
use crate::message::MessageError;
use crate::message::cluster::{
    ActivatedReply, ActivatedRequest, DropDoneReply, DropDoneRequest, DropFilesNotice, ErrorReply,
    EvictReply, EvictRequest, GroupResync, HeartbeatReply, HeartbeatRequest, HelloReply,
    HelloRequest, MapFetchReply, MapFetchRequest, MapPushNotice, RegisterReply, RegisterRequest,
    SessionCloseReply, SessionRenewReply, StatusRequest, SyncDoneReply, SyncDoneRequest,
    TargetHealth, TargetOrders,
};

empty_record! {
    EvictReply, EvictReplyArgs;
    ActivatedReply, ActivatedReplyArgs;
    SyncDoneReply, SyncDoneReplyArgs;
    DropDoneReply, DropDoneReplyArgs;
    StatusRequest, StatusRequestArgs;
    SessionRenewReply, SessionRenewReplyArgs;
    SessionCloseReply, SessionCloseReplyArgs;
}

impl Record for HelloRequest {
    type Table<'a> = wire::HelloRequest<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::HelloRequest<'b>> {
        wire::HelloRequest::create(
            out,
            &wire::HelloRequestArgs {
                version_min: self.version_min,
                version_max: self.version_max,
                features: self.features,
                cluster: Some(&self.cluster.into()),
                target: self.target.0,
            },
        )
    }

    fn unpack(table: wire::HelloRequest<'_>, check: Check) -> Result<Self, MessageError> {
        check.that(table.version_min() <= table.version_max(), "version_max")?;
        Ok(HelloRequest {
            version_min: table.version_min(),
            version_max: table.version_max(),
            features: table.features(),
            cluster: table.cluster().into(),
            target: TargetId(table.target()),
        })
    }
}

impl Record for HelloReply {
    type Table<'a> = wire::HelloReply<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::HelloReply<'b>> {
        wire::HelloReply::create(
            out,
            &wire::HelloReplyArgs {
                version: self.version,
                features: self.features,
                requests_in_flight: self.requests_in_flight,
            },
        )
    }

    fn unpack(table: wire::HelloReply<'_>, check: Check) -> Result<Self, MessageError> {
        let requests_in_flight = table.requests_in_flight();
        let allowed = 1..=REQUESTS_IN_FLIGHT_MAX;
        check.that(allowed.contains(&(requests_in_flight as usize)), "requests_in_flight")?;
        let (version, features) = (table.version(), table.features());
        Ok(HelloReply { version, features, requests_in_flight })
    }
}

impl Record for ErrorReply {
    type Table<'a> = wire::ErrorReply<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::ErrorReply<'b>> {
        let text = put_text(out, &self.text);
        wire::ErrorReply::create(
            out,
            &wire::ErrorReplyArgs { text, port: self.port, retry_after_ms: self.retry_after_ms },
        )
    }

    fn unpack(table: wire::ErrorReply<'_>, check: Check) -> Result<Self, MessageError> {
        let text = table.text().unwrap_or_default();
        check.that(text.len() <= ERROR_TEXT_MAX, "text")?;
        Ok(ErrorReply {
            text: text.to_owned(),
            port: table.port(),
            retry_after_ms: table.retry_after_ms(),
        })
    }
}

impl Record for RegisterRequest {
    type Table<'a> = wire::RegisterRequest<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::RegisterRequest<'b>> {
        let address = put_address(out, self.address);
        let release = put_text(out, &self.release);
        let targets = put_records(out, &self.targets);
        wire::RegisterRequest::create(
            out,
            &wire::RegisterRequestArgs {
                node: self.node.0,
                incarnation: self.incarnation,
                address: Some(address),
                release,
                targets,
            },
        )
    }

    fn unpack(table: wire::RegisterRequest<'_>, check: Check) -> Result<Self, MessageError> {
        Ok(RegisterRequest {
            node: NodeId(table.node()),
            incarnation: table.incarnation(),
            address: check.address(table.address())?,
            release: check.text(table.release(), "release")?,
            targets: check.records(table.targets(), TARGETS_PER_NODE_MAX, "targets")?,
        })
    }
}

impl Record for RegisterReply {
    type Table<'a> = wire::RegisterReply<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::RegisterReply<'b>> {
        let map = self.map.pack(out);
        wire::RegisterReply::create(
            out,
            &wire::RegisterReplyArgs {
                lease_ms: self.lease_ms,
                heartbeat_ms: self.heartbeat_ms,
                map: Some(map),
            },
        )
    }

    fn unpack(table: wire::RegisterReply<'_>, check: Check) -> Result<Self, MessageError> {
        check.that(table.lease_ms() > 0, "lease_ms")?;
        check.that(table.heartbeat_ms() > 0, "heartbeat_ms")?;
        Ok(RegisterReply {
            lease_ms: table.lease_ms(),
            heartbeat_ms: table.heartbeat_ms(),
            map: MapDelta::unpack(table.map(), check)?,
        })
    }
}

impl Record for TargetHealth {
    type Table<'a> = wire::TargetHealth<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::TargetHealth<'b>> {
        let resync = |resync: &GroupResync| {
            let (group, target) = (resync.group.0, resync.target.0);
            wire::GroupResync::new(group, target, resync.bytes_left, resync.bytes_done)
        };
        let resyncs = put_items(out, self.resyncs.iter().map(resync));
        wire::TargetHealth::create(
            out,
            &wire::TargetHealthArgs {
                target: self.target.0,
                durable_lsn: self.durable_lsn.0,
                free: self.free,
                fenced: self.fenced,
                resync_bytes_left: self.resync_bytes_left,
                resync_bytes_done: self.resync_bytes_done,
                map_version: self.map_version.0,
                resyncs,
                scrub_pass: self.scrub_pass,
                scrub_bytes_done: self.scrub_bytes_done,
                scrub_bytes_total: self.scrub_bytes_total,
                cells_damaged: self.cells_damaged,
                cells_repaired: self.cells_repaired,
                cells_bad: self.cells_bad,
                quarantined_chunks: self.quarantined_chunks,
                quarantined_bytes: self.quarantined_bytes,
                device_p99_us: self.device_p99_us,
                device_ops: self.device_ops,
                flush_p99_us: self.flush_p99_us,
                oldest_io_ms: self.oldest_io_ms,
            },
        )
    }

    fn unpack(table: wire::TargetHealth<'_>, check: Check) -> Result<Self, MessageError> {
        let resync = |resync: &wire::GroupResync| GroupResync {
            group: GroupId(resync.group()),
            target: TargetId(resync.target()),
            bytes_left: resync.bytes_left(),
            bytes_done: resync.bytes_done(),
        };
        Ok(TargetHealth {
            target: TargetId(table.target()),
            durable_lsn: Lsn(table.durable_lsn()),
            free: table.free(),
            fenced: table.fenced(),
            resync_bytes_left: table.resync_bytes_left(),
            resync_bytes_done: table.resync_bytes_done(),
            map_version: MapVersion(table.map_version()),
            resyncs: check.items(table.resyncs(), RESYNCS_PER_TARGET_MAX, "resyncs", resync)?,
            scrub_pass: table.scrub_pass(),
            scrub_bytes_done: table.scrub_bytes_done(),
            scrub_bytes_total: table.scrub_bytes_total(),
            cells_damaged: table.cells_damaged(),
            cells_repaired: table.cells_repaired(),
            cells_bad: table.cells_bad(),
            quarantined_chunks: table.quarantined_chunks(),
            quarantined_bytes: table.quarantined_bytes(),
            device_p99_us: table.device_p99_us(),
            device_ops: table.device_ops(),
            flush_p99_us: table.flush_p99_us(),
            oldest_io_ms: table.oldest_io_ms(),
        })
    }
}

impl Record for HeartbeatRequest {
    type Table<'a> = wire::HeartbeatRequest<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::HeartbeatRequest<'b>> {
        let targets = put_records(out, &self.targets);
        wire::HeartbeatRequest::create(
            out,
            &wire::HeartbeatRequestArgs {
                node: self.node.0,
                incarnation: self.incarnation,
                seq: self.seq,
                map_version: self.map_version.0,
                targets,
            },
        )
    }

    fn unpack(table: wire::HeartbeatRequest<'_>, check: Check) -> Result<Self, MessageError> {
        Ok(HeartbeatRequest {
            node: NodeId(table.node()),
            incarnation: table.incarnation(),
            seq: table.seq(),
            map_version: MapVersion(table.map_version()),
            targets: check.records(table.targets(), TARGETS_PER_NODE_MAX, "targets")?,
        })
    }
}

impl Record for HeartbeatReply {
    type Table<'a> = wire::HeartbeatReply<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::HeartbeatReply<'b>> {
        let delta = self.delta.as_ref().map(|delta| delta.pack(out));
        let order = |orders: &TargetOrders| {
            let (target, pass) = (orders.target.0, orders.scrub_pass);
            let (resync, scrub) = (orders.resync_bytes_per_s, orders.scrub_bytes_per_s);
            wire::TargetOrders::new(target, pass, resync, scrub)
        };
        let orders = put_items(out, self.orders.iter().map(order));
        wire::HeartbeatReply::create(
            out,
            &wire::HeartbeatReplyArgs {
                seq: self.seq,
                lease_ms: self.lease_ms,
                map_version: self.map_version.0,
                delta,
                orders,
            },
        )
    }

    fn unpack(table: wire::HeartbeatReply<'_>, check: Check) -> Result<Self, MessageError> {
        let order = |orders: &wire::TargetOrders| TargetOrders {
            target: TargetId(orders.target()),
            resync_bytes_per_s: orders.resync_bytes_per_s(),
            scrub_bytes_per_s: orders.scrub_bytes_per_s(),
            scrub_pass: orders.scrub_pass(),
        };
        Ok(HeartbeatReply {
            seq: table.seq(),
            lease_ms: table.lease_ms(),
            map_version: MapVersion(table.map_version()),
            delta: table.delta().map(|delta| MapDelta::unpack(delta, check)).transpose()?,
            orders: check.items(table.orders(), TARGETS_PER_NODE_MAX, "orders", order)?,
        })
    }
}

impl Record for MapPushNotice {
    type Table<'a> = wire::MapPushNotice<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::MapPushNotice<'b>> {
        let delta = Some(self.delta.pack(out));
        wire::MapPushNotice::create(out, &wire::MapPushNoticeArgs { delta })
    }

    fn unpack(table: wire::MapPushNotice<'_>, check: Check) -> Result<Self, MessageError> {
        Ok(MapPushNotice { delta: MapDelta::unpack(table.delta(), check)? })
    }
}

impl Record for MapFetchRequest {
    type Table<'a> = wire::MapFetchRequest<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::MapFetchRequest<'b>> {
        wire::MapFetchRequest::create(out, &wire::MapFetchRequestArgs { have: self.have.0 })
    }

    fn unpack(table: wire::MapFetchRequest<'_>, _: Check) -> Result<Self, MessageError> {
        Ok(MapFetchRequest { have: MapVersion(table.have()) })
    }
}

impl Record for MapFetchReply {
    type Table<'a> = wire::MapFetchReply<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::MapFetchReply<'b>> {
        let delta = Some(self.delta.pack(out));
        wire::MapFetchReply::create(out, &wire::MapFetchReplyArgs { delta })
    }

    fn unpack(table: wire::MapFetchReply<'_>, check: Check) -> Result<Self, MessageError> {
        Ok(MapFetchReply { delta: MapDelta::unpack(table.delta(), check)? })
    }
}

impl Record for EvictRequest {
    type Table<'a> = wire::EvictRequest<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::EvictRequest<'b>> {
        wire::EvictRequest::create(
            out,
            &wire::EvictRequestArgs {
                group: self.group.0,
                epoch: self.epoch.0,
                target: self.target.0,
                reporter: self.reporter.0,
            },
        )
    }

    fn unpack(table: wire::EvictRequest<'_>, _: Check) -> Result<Self, MessageError> {
        Ok(EvictRequest {
            group: GroupId(table.group()),
            epoch: Epoch(table.epoch()),
            target: TargetId(table.target()),
            reporter: TargetId(table.reporter()),
        })
    }
}

impl Record for ActivatedRequest {
    type Table<'a> = wire::ActivatedRequest<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::ActivatedRequest<'b>> {
        let (group, epoch, target) = (self.group.0, self.epoch.0, self.target.0);
        let args = wire::ActivatedRequestArgs { group, epoch, target };
        wire::ActivatedRequest::create(out, &args)
    }

    fn unpack(table: wire::ActivatedRequest<'_>, _: Check) -> Result<Self, MessageError> {
        Ok(ActivatedRequest {
            group: GroupId(table.group()),
            epoch: Epoch(table.epoch()),
            target: TargetId(table.target()),
        })
    }
}

impl Record for SyncDoneRequest {
    type Table<'a> = wire::SyncDoneRequest<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::SyncDoneRequest<'b>> {
        let (group, epoch, target) = (self.group.0, self.epoch.0, self.target.0);
        let args = wire::SyncDoneRequestArgs { group, epoch, target };
        wire::SyncDoneRequest::create(out, &args)
    }

    fn unpack(table: wire::SyncDoneRequest<'_>, _: Check) -> Result<Self, MessageError> {
        Ok(SyncDoneRequest {
            group: GroupId(table.group()),
            epoch: Epoch(table.epoch()),
            target: TargetId(table.target()),
        })
    }
}

impl Record for DropFilesNotice {
    type Table<'a> = wire::DropFilesNotice<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::DropFilesNotice<'b>> {
        let groups = put_records(out, &self.groups);
        wire::DropFilesNotice::create(out, &wire::DropFilesNoticeArgs { groups })
    }

    fn unpack(table: wire::DropFilesNotice<'_>, check: Check) -> Result<Self, MessageError> {
        let groups =
            check.records::<(GroupId, Vec<Fid>)>(table.groups(), MAP_RECORDS_MAX, "groups")?;
        Ok(DropFilesNotice { groups })
    }
}

impl Record for DropDoneRequest {
    type Table<'a> = wire::DropDoneRequest<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::DropDoneRequest<'b>> {
        let groups = put_records(out, &self.groups);
        wire::DropDoneRequest::create(out, &wire::DropDoneRequestArgs { groups })
    }

    fn unpack(table: wire::DropDoneRequest<'_>, check: Check) -> Result<Self, MessageError> {
        let groups =
            check.records::<(GroupId, Vec<Fid>)>(table.groups(), MAP_RECORDS_MAX, "groups")?;
        Ok(DropDoneRequest { groups })
    }
}
