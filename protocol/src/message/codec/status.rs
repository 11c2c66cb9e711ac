//! Codec of sessions and of the cluster's status.

use flatbuffers::WIPOffset;

use super::fields::{Check, put_records, put_text};
use super::{Out, Record, wire};
use crate::ids::{MapVersion, NodeId, SessionId, TargetId};
use crate::limits::{ALARMS_MAX, COORDINATORS_MAX, MAP_RECORDS_MAX};
use crate::message::MessageError;
use crate::message::cluster::{
    Alarm, CoordinatorStatus, DrainStatus, SessionCloseRequest, SessionOpenReply,
    SessionOpenRequest, SessionRenewRequest, StatusReply,
};

impl Record for CoordinatorStatus {
    type Table<'a> = wire::CoordinatorStatus<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::CoordinatorStatus<'b>> {
        let address = put_text(out, &self.address);
        wire::CoordinatorStatus::create(
            out,
            &wire::CoordinatorStatusArgs { id: self.id, address, leader: self.leader, up: self.up },
        )
    }

    fn unpack(table: wire::CoordinatorStatus<'_>, check: Check) -> Result<Self, MessageError> {
        Ok(CoordinatorStatus {
            id: table.id(),
            address: check.text(table.address(), "address")?,
            leader: table.leader(),
            up: table.up(),
        })
    }
}

impl Record for DrainStatus {
    type Table<'a> = wire::DrainStatus<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::DrainStatus<'b>> {
        wire::DrainStatus::create(
            out,
            &wire::DrainStatusArgs {
                node: self.node.0,
                groups_left: self.groups_left,
                bytes_left: self.bytes_left,
                eta_s: self.eta_s,
            },
        )
    }

    fn unpack(table: wire::DrainStatus<'_>, _: Check) -> Result<Self, MessageError> {
        Ok(DrainStatus {
            node: NodeId(table.node()),
            groups_left: table.groups_left(),
            bytes_left: table.bytes_left(),
            eta_s: table.eta_s(),
        })
    }
}

impl Record for Alarm {
    type Table<'a> = wire::Alarm<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::Alarm<'b>> {
        let (name, text) = (put_text(out, &self.name), put_text(out, &self.text));
        wire::Alarm::create(out, &wire::AlarmArgs { target: self.target.0, name, text })
    }

    fn unpack(table: wire::Alarm<'_>, check: Check) -> Result<Self, MessageError> {
        Ok(Alarm {
            target: TargetId(table.target()),
            name: check.text(table.name(), "name")?,
            text: check.text(table.text(), "text")?,
        })
    }
}

impl Record for StatusReply {
    type Table<'a> = wire::StatusReply<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::StatusReply<'b>> {
        let coordinators = put_records(out, &self.coordinators);
        let targets = put_records(out, &self.targets);
        let release = put_text(out, &self.release);
        let drains = put_records(out, &self.drains);
        let alarms = put_records(out, &self.alarms);
        wire::StatusReply::create(
            out,
            &wire::StatusReplyArgs {
                map_version: self.map_version.0,
                coordinators,
                targets,
                recovery_bytes_left: self.recovery_bytes_left,
                recovery_bytes_per_s: self.recovery_bytes_per_s,
                inodes: self.inodes,
                file_bytes: self.file_bytes,
                sessions: self.sessions,
                dead_files: self.dead_files,
                release,
                recovery_eta_s: self.recovery_eta_s,
                endangered: self.endangered,
                guarded: self.guarded,
                scrub_pass: self.scrub_pass,
                drains,
                alarms,
            },
        )
    }

    fn unpack(table: wire::StatusReply<'_>, check: Check) -> Result<Self, MessageError> {
        let coordinators = table.coordinators();
        Ok(StatusReply {
            map_version: MapVersion(table.map_version()),
            coordinators: check.records(coordinators, COORDINATORS_MAX, "coordinators")?,
            targets: check.records(table.targets(), MAP_RECORDS_MAX, "targets")?,
            recovery_bytes_left: table.recovery_bytes_left(),
            recovery_bytes_per_s: table.recovery_bytes_per_s(),
            inodes: table.inodes(),
            file_bytes: table.file_bytes(),
            sessions: table.sessions(),
            dead_files: table.dead_files(),
            release: check.text(table.release(), "release")?,
            recovery_eta_s: table.recovery_eta_s(),
            endangered: table.endangered(),
            guarded: table.guarded(),
            scrub_pass: table.scrub_pass(),
            drains: check.records(table.drains(), MAP_RECORDS_MAX, "drains")?,
            alarms: check.records(table.alarms(), ALARMS_MAX, "alarms")?,
        })
    }
}

impl Record for SessionOpenRequest {
    type Table<'a> = wire::SessionOpenRequest<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::SessionOpenRequest<'b>> {
        let client = put_text(out, &self.client);
        wire::SessionOpenRequest::create(out, &wire::SessionOpenRequestArgs { client })
    }

    fn unpack(table: wire::SessionOpenRequest<'_>, check: Check) -> Result<Self, MessageError> {
        Ok(SessionOpenRequest { client: check.text(table.client(), "client")? })
    }
}

impl Record for SessionOpenReply {
    type Table<'a> = wire::SessionOpenReply<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::SessionOpenReply<'b>> {
        wire::SessionOpenReply::create(
            out,
            &wire::SessionOpenReplyArgs {
                session: self.session.0,
                lease_ms: self.lease_ms,
                uid: self.uid,
                gid: self.gid,
                admin: self.admin,
            },
        )
    }

    fn unpack(table: wire::SessionOpenReply<'_>, check: Check) -> Result<Self, MessageError> {
        check.that(table.lease_ms() > 0, "lease_ms")?;
        Ok(SessionOpenReply {
            session: SessionId(table.session()),
            lease_ms: table.lease_ms(),
            uid: table.uid(),
            gid: table.gid(),
            admin: table.admin(),
        })
    }
}

impl Record for SessionRenewRequest {
    type Table<'a> = wire::SessionRenewRequest<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::SessionRenewRequest<'b>> {
        let args = wire::SessionRenewRequestArgs { session: self.session.0 };
        wire::SessionRenewRequest::create(out, &args)
    }

    fn unpack(table: wire::SessionRenewRequest<'_>, _: Check) -> Result<Self, MessageError> {
        Ok(SessionRenewRequest { session: SessionId(table.session()) })
    }
}

impl Record for SessionCloseRequest {
    type Table<'a> = wire::SessionCloseRequest<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::SessionCloseRequest<'b>> {
        let args = wire::SessionCloseRequestArgs { session: self.session.0 };
        wire::SessionCloseRequest::create(out, &args)
    }

    fn unpack(table: wire::SessionCloseRequest<'_>, _: Check) -> Result<Self, MessageError> {
        Ok(SessionCloseRequest { session: SessionId(table.session()) })
    }
}
