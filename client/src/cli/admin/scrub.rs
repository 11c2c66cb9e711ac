//! `admin scrub`: checking everything that is stored.

use protocol::message::cluster::{StatusReply, TargetHealth};
use protocol::message::operate::AdminOp;
use serde_json::{Value, json};

use super::args::ScrubCommand;
use super::order::give;
use crate::Client;
use crate::cli::failure::Failure;
use crate::cli::output::print;
use crate::cli::units::human_size;

pub(super) async fn run(client: &Client, command: ScrubCommand) -> Result<(), Failure> {
    match command {
        ScrubCommand::Start { json } => give(client, AdminOp::Scrub, json).await,
        ScrubCommand::Status { json } => status(client, json).await,
    }
}

async fn status(client: &Client, as_json: bool) -> Result<(), Failure> {
    let reply = client.status().await?;
    let text = if as_json { format!("{}\n", document(&reply)) } else { sheet(&reply) };
    print(&text).map_err(Failure::output)
}

/// True when the target has finished the pass that was asked for last.
fn done(reply: &StatusReply, health: &TargetHealth) -> bool {
    health.scrub_pass >= reply.scrub_pass
}

fn document(reply: &StatusReply) -> Value {
    let targets: Vec<Value> = reply
        .targets
        .iter()
        .map(|health| {
            json!({
                "target": health.target.0,
                "pass": health.scrub_pass,
                "done": done(reply, health),
                "bytes_done": health.scrub_bytes_done,
                "bytes_total": health.scrub_bytes_total,
                "cells_damaged": health.cells_damaged,
                "cells_repaired": health.cells_repaired,
                "cells_bad": health.cells_bad,
            })
        })
        .collect();
    let sum = |of: fn(&TargetHealth) -> u64| reply.targets.iter().map(of).sum::<u64>();
    json!({
        "pass": reply.scrub_pass,
        "done": reply.targets.iter().all(|health| done(reply, health)),
        "cells_damaged": sum(|health| health.cells_damaged),
        "cells_repaired": sum(|health| health.cells_repaired),
        "cells_bad": sum(|health| health.cells_bad),
        "targets": targets,
    })
}

fn sheet(reply: &StatusReply) -> String {
    let mut text = match reply.scrub_pass {
        0 => "no scrub was started; targets check themselves in the background\n".to_owned(),
        pass => format!("scrub pass {pass}\n"),
    };
    for health in &reply.targets {
        let (checked, total) =
            (human_size(health.scrub_bytes_done), human_size(health.scrub_bytes_total));
        let state = if done(reply, health) { "done, background pass at" } else { "at" };
        text.push_str(&format!(
            "target {}: {state} {checked} of {total}; {} cells found damaged, {} repaired, {} bad \
             now\n",
            health.target, health.cells_damaged, health.cells_repaired, health.cells_bad
        ));
    }
    text
}
