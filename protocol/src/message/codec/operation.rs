//! Codec of one change of the namespace.

use flatbuffers::{UnionWIPOffset, WIPOffset};

use super::fields::{Check, put_items};
use super::{Out, Record, wire};
use crate::ids::{GroupId, Ino, Seq};
use crate::limits::{ABANDON_MAX, LINK_LEN_MAX, RESERVE_MAX};
use crate::message::MessageError;
use crate::message::namespace::{NamespaceOp, SetAttributes};

/// One change under its sequence number.
impl Record for (Seq, NamespaceOp) {
    type Table<'a> = wire::SequencedOp<'a>;

    fn pack<'b>(&self, out: &mut Out<'b>) -> WIPOffset<wire::SequencedOp<'b>> {
        let (op_type, op) = pack_op(&self.1, out);
        wire::SequencedOp::create(
            out,
            &wire::SequencedOpArgs { seq: self.0.0, op_type, op: Some(op) },
        )
    }

    fn unpack(table: wire::SequencedOp<'_>, check: Check) -> Result<Self, MessageError> {
        Ok((Seq(table.seq()), unpack_op(table, check)?))
    }
}

type Packed = (wire::NamespaceOp, WIPOffset<UnionWIPOffset>);

fn pack_op(op: &NamespaceOp, out: &mut Out<'_>) -> Packed {
    match op {
        NamespaceOp::Mkdir { parent, name, attributes } => {
            let name = Some(out.create_vector(name));
            let attributes = Some(attributes.pack(out));
            let args = wire::MkdirArgs { parent: parent.0, name, attributes };
            let op = wire::Mkdir::create(out, &args);
            (wire::NamespaceOp::Mkdir, op.as_union_value())
        }
        NamespaceOp::Reserve { parent, count, expect_len } => {
            let (count, expect_len) = (*count, *expect_len);
            let args = wire::ReserveArgs { parent: parent.0, count, expect_len };
            let op = wire::Reserve::create(out, &args);
            (wire::NamespaceOp::Reserve, op.as_union_value())
        }
        NamespaceOp::Publish { ino, parent, name, size, attributes, replace, growth_only } => {
            let args = wire::PublishArgs {
                ino: ino.0,
                parent: parent.0,
                name: Some(out.create_vector(name)),
                size: *size,
                attributes: Some(attributes.pack(out)),
                replace: *replace,
                growth_only: *growth_only,
            };
            (wire::NamespaceOp::Publish, wire::Publish::create(out, &args).as_union_value())
        }
        NamespaceOp::Abandon { inos } => {
            let inos = put_items(out, inos.iter().map(|ino| ino.0));
            let op = wire::Abandon::create(out, &wire::AbandonArgs { inos });
            (wire::NamespaceOp::Abandon, op.as_union_value())
        }
        NamespaceOp::Symlink { parent, name, target, attributes, replace } => {
            let args = wire::SymlinkArgs {
                parent: parent.0,
                name: Some(out.create_vector(name)),
                target: Some(out.create_vector(target)),
                attributes: Some(attributes.pack(out)),
                replace: *replace,
            };
            (wire::NamespaceOp::Symlink, wire::Symlink::create(out, &args).as_union_value())
        }
        NamespaceOp::Link { ino, parent, name } => {
            let name = Some(out.create_vector(name));
            let args = wire::LinkArgs { ino: ino.0, parent: parent.0, name };
            (wire::NamespaceOp::Link, wire::Link::create(out, &args).as_union_value())
        }
        NamespaceOp::Rename { from_parent, from_name, to_parent, to_name, replace } => {
            let args = wire::RenameArgs {
                from_parent: from_parent.0,
                from_name: Some(out.create_vector(from_name)),
                to_parent: to_parent.0,
                to_name: Some(out.create_vector(to_name)),
                replace: *replace,
            };
            (wire::NamespaceOp::Rename, wire::Rename::create(out, &args).as_union_value())
        }
        NamespaceOp::Unlink { parent, name } => {
            let args = wire::UnlinkArgs { parent: parent.0, name: Some(out.create_vector(name)) };
            (wire::NamespaceOp::Unlink, wire::Unlink::create(out, &args).as_union_value())
        }
        NamespaceOp::Rmdir { parent, name } => {
            let args = wire::RmdirArgs { parent: parent.0, name: Some(out.create_vector(name)) };
            (wire::NamespaceOp::Rmdir, wire::Rmdir::create(out, &args).as_union_value())
        }
        NamespaceOp::SetAttr { ino, attributes } => {
            let attributes = Some(attributes.pack(out));
            let op = wire::SetAttr::create(out, &wire::SetAttrArgs { ino: ino.0, attributes });
            (wire::NamespaceOp::SetAttr, op.as_union_value())
        }
        NamespaceOp::SetSize { ino, end, trunc_gen } => {
            let args = wire::SetSizeArgs { ino: ino.0, end: *end, trunc_gen: *trunc_gen };
            (wire::NamespaceOp::SetSize, wire::SetSize::create(out, &args).as_union_value())
        }
        NamespaceOp::OpenWrite { ino, mutate, shared } => {
            let args = wire::OpenWriteArgs { ino: ino.0, mutate: *mutate, shared: *shared };
            (wire::NamespaceOp::OpenWrite, wire::OpenWrite::create(out, &args).as_union_value())
        }
        NamespaceOp::CloseWrite { ino, size, trunc_gen, clean } => {
            let (size, trunc_gen, clean) = (*size, *trunc_gen, *clean);
            let args = wire::CloseWriteArgs { ino: ino.0, size, trunc_gen, clean };
            (wire::NamespaceOp::CloseWrite, wire::CloseWrite::create(out, &args).as_union_value())
        }
        NamespaceOp::Truncate { ino, len } => {
            let args = wire::TruncateArgs { ino: ino.0, len: *len };
            (wire::NamespaceOp::Truncate, wire::Truncate::create(out, &args).as_union_value())
        }
        NamespaceOp::ExtendLayout { ino, first_chunk, avoid } => {
            let (first_chunk, avoid) = (*first_chunk, avoid.0);
            let args = wire::ExtendLayoutArgs { ino: ino.0, first_chunk, avoid };
            let op = wire::ExtendLayout::create(out, &args);
            (wire::NamespaceOp::ExtendLayout, op.as_union_value())
        }
        NamespaceOp::ReserveAppend { ino, len } => {
            let op = wire::ReserveAppend::create(
                out,
                &wire::ReserveAppendArgs { ino: ino.0, len: *len },
            );
            (wire::NamespaceOp::ReserveAppend, op.as_union_value())
        }
    }
}

/// Reads the union by its tag; one that this release does not know is refused.
fn unpack_op(table: wire::SequencedOp<'_>, check: Check) -> Result<NamespaceOp, MessageError> {
    if let Some(op) = table.op_as_mkdir() {
        return mkdir(op, check);
    }
    if let Some(op) = table.op_as_reserve() {
        return reserve(op, check);
    }
    if let Some(op) = table.op_as_publish() {
        return publish(op, check);
    }
    if let Some(op) = table.op_as_abandon() {
        let inos = check.items(op.inos(), ABANDON_MAX, "inos", Ino)?;
        return Ok(NamespaceOp::Abandon { inos });
    }
    if let Some(op) = table.op_as_symlink() {
        return symlink(op, check);
    }
    if let Some(op) = table.op_as_link() {
        let name = check.name(op.name(), "name")?;
        return Ok(NamespaceOp::Link { ino: Ino(op.ino()), parent: Ino(op.parent()), name });
    }
    if let Some(op) = table.op_as_rename() {
        return rename(op, check);
    }
    if let Some(op) = table.op_as_unlink() {
        let name = check.name(op.name(), "name")?;
        return Ok(NamespaceOp::Unlink { parent: Ino(op.parent()), name });
    }
    if let Some(op) = table.op_as_rmdir() {
        let name = check.name(op.name(), "name")?;
        return Ok(NamespaceOp::Rmdir { parent: Ino(op.parent()), name });
    }
    if let Some(op) = table.op_as_set_attr() {
        let attributes = SetAttributes::unpack(op.attributes(), check)?;
        return Ok(NamespaceOp::SetAttr { ino: Ino(op.ino()), attributes });
    }
    if let Some(op) = table.op_as_set_size() {
        let (end, trunc_gen) = (op.end(), op.trunc_gen());
        return Ok(NamespaceOp::SetSize { ino: Ino(op.ino()), end, trunc_gen });
    }
    unpack_content_op(table, check)
}

/// The operations on a file's content that are not names.
fn unpack_content_op(
    table: wire::SequencedOp<'_>,
    check: Check,
) -> Result<NamespaceOp, MessageError> {
    if let Some(op) = table.op_as_open_write() {
        let (ino, mutate, shared) = (Ino(op.ino()), op.mutate(), op.shared());
        return Ok(NamespaceOp::OpenWrite { ino, mutate, shared });
    }
    if let Some(op) = table.op_as_close_write() {
        return Ok(NamespaceOp::CloseWrite {
            ino: Ino(op.ino()),
            size: op.size(),
            trunc_gen: op.trunc_gen(),
            clean: op.clean(),
        });
    }
    if let Some(op) = table.op_as_truncate() {
        return Ok(NamespaceOp::Truncate { ino: Ino(op.ino()), len: op.len() });
    }
    if let Some(op) = table.op_as_extend_layout() {
        let (first_chunk, avoid) = (op.first_chunk(), GroupId(op.avoid()));
        return Ok(NamespaceOp::ExtendLayout { ino: Ino(op.ino()), first_chunk, avoid });
    }
    let op = check.some(table.op_as_reserve_append(), "op")?;
    check.that(op.len() > 0, "len")?;
    Ok(NamespaceOp::ReserveAppend { ino: Ino(op.ino()), len: op.len() })
}

fn mkdir(op: wire::Mkdir<'_>, check: Check) -> Result<NamespaceOp, MessageError> {
    Ok(NamespaceOp::Mkdir {
        parent: Ino(op.parent()),
        name: check.name(op.name(), "name")?,
        attributes: SetAttributes::unpack(op.attributes(), check)?,
    })
}

fn reserve(op: wire::Reserve<'_>, check: Check) -> Result<NamespaceOp, MessageError> {
    check.that((1..=RESERVE_MAX).contains(&op.count()), "count")?;
    let (count, expect_len) = (op.count(), op.expect_len());
    Ok(NamespaceOp::Reserve { parent: Ino(op.parent()), count, expect_len })
}

fn publish(op: wire::Publish<'_>, check: Check) -> Result<NamespaceOp, MessageError> {
    Ok(NamespaceOp::Publish {
        ino: Ino(op.ino()),
        parent: Ino(op.parent()),
        name: check.name(op.name(), "name")?,
        size: op.size(),
        attributes: SetAttributes::unpack(op.attributes(), check)?,
        replace: op.replace(),
        growth_only: op.growth_only(),
    })
}

fn symlink(op: wire::Symlink<'_>, check: Check) -> Result<NamespaceOp, MessageError> {
    let target = check.path(Some(op.target()), LINK_LEN_MAX, "target")?;
    check.that(!target.is_empty(), "target")?;
    Ok(NamespaceOp::Symlink {
        parent: Ino(op.parent()),
        name: check.name(op.name(), "name")?,
        target,
        attributes: SetAttributes::unpack(op.attributes(), check)?,
        replace: op.replace(),
    })
}

fn rename(op: wire::Rename<'_>, check: Check) -> Result<NamespaceOp, MessageError> {
    Ok(NamespaceOp::Rename {
        from_parent: Ino(op.from_parent()),
        from_name: check.name(op.from_name(), "from_name")?,
        to_parent: Ino(op.to_parent()),
        to_name: check.name(op.to_name(), "to_name")?,
        replace: op.replace(),
    })
}
