//! Codec of sessions and of the cluster's status.

use flatbuffers::WIPOffset;

use super::fields::{Check, put_records, put_text};
use super::{Out, Record, wire};
use crate::ids::{MapVersion, SessionId};
use crate::limits::{COORDINATORS_MAX, MAP_RECORDS_MAX};
use crate::message::MessageError;
use crate::message::cluster::{
    CoordinatorStatus, SessionCloseRequest, SessionOpenReply, SessionOpenRequest,
    SessionRenewRequest, StatusReply,
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

impl Record for StatusReply {
    type Table<'a> = wire::StatusReply<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::StatusReply<'b>> {
        let coordinators = put_records(out, &self.coordinators);
        let targets = put_records(out, &self.targets);
        let release = put_text(out, &self.release);
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
