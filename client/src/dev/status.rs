//! `dev status`: one line a process.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::process::{Role, Slot, State};
use super::up::{metrics_port, slot_ports, slots};
use super::{DevError, Folder, Settings};
use crate::cli::output;
use crate::{Client, Config};

/// How long the coordinator may take to say who leads.
const LEADER_WITHIN: Duration = Duration::from_secs(2);

/// What one line says.
struct Line {
    role: Role,
    state: State,
    ports: Vec<u16>,
    metrics: u16,
    leader: bool,
}

pub(crate) async fn status(dir: &Path, as_json: bool) -> Result<(), DevError> {
    let folder = Folder::open(dir)?;
    let settings = folder.settings()?;
    let leaders = leaders(&folder, &settings).await;
    let lines: Vec<Line> = slots(&folder, &settings)
        .iter()
        .map(|slot| Line {
            role: slot.role,
            state: slot.state(),
            ports: slot_ports(&settings, slot.role),
            metrics: metrics_port(&settings, slot.role),
            leader: matches!(slot.role, Role::Coordinator(number) if leaders.contains(&number)),
        })
        .collect();
    let text = if as_json { document(&lines) } else { table(&lines) };
    output::print(&text).map_err(DevError::file("write", "standard output"))
}

/// Coordinators that lead; empty when none answers.
async fn leaders(folder: &Folder, settings: &Settings) -> BTreeSet<u32> {
    let mut running = (1..=settings.coordinators)
        .map(|number| Slot::new(folder, Role::Coordinator(number)).state());
    if !running.any(|state| matches!(state, State::Running(_))) {
        return BTreeSet::new();
    }
    let ask = async {
        let config = Config::load(&folder.client_file()).ok()?;
        let client = Client::connect(&config).await.ok()?;
        let status = client.status().await.ok()?;
        client.close().await.ok();
        Some(status)
    };
    let answer = tokio::time::timeout(LEADER_WITHIN, ask).await.ok().flatten();
    let coordinators = answer.map(|status| status.coordinators).unwrap_or_default();
    coordinators.into_iter().filter(|one| one.leader).map(|one| one.id).collect()
}

fn state_word(state: State) -> &'static str {
    match state {
        State::Running(_) => "running",
        State::Dead => "dead",
        State::Stopped => "stopped",
    }
}

fn pid(state: State) -> Option<i32> {
    match state {
        State::Running(pid) => Some(pid.as_raw_nonzero().get()),
        State::Dead | State::Stopped => None,
    }
}

fn document(lines: &[Line]) -> String {
    let processes: Vec<_> = lines
        .iter()
        .map(|line| {
            json!({
                "role": line.role.word(),
                "number": line.role.number(),
                "state": state_word(line.state),
                "pid": pid(line.state),
                "ports": line.ports,
                "metrics": line.metrics,
                "leader": line.leader,
            })
        })
        .collect();
    format!("{}\n", json!({ "processes": processes }))
}

fn table(lines: &[Line]) -> String {
    let mut text = String::new();
    for line in lines {
        let pid = pid(line.state).map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let ports: Vec<String> = line.ports.iter().map(u16::to_string).collect();
        let leader = if line.leader { " leader" } else { "" };
        text.push_str(&format!(
            "{:<11} {:>3} {:<7} {:>8} {}{leader}\n",
            line.role.word(),
            line.role.number(),
            state_word(line.state),
            pid,
            ports.join(",")
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use protocol::ids::NodeId;
    use rustix::process::Pid;

    use super::*;

    #[test]
    fn lines_and_document_say_the_same() {
        let lines = [
            Line {
                role: Role::Coordinator(1),
                state: State::Running(Pid::from_raw(42).unwrap()),
                ports: vec![7400],
                metrics: 7499,
                leader: true,
            },
            Line {
                role: Role::Node(NodeId(2)),
                state: State::Dead,
                ports: vec![7412, 7413],
                metrics: 7497,
                leader: false,
            },
        ];
        assert_eq!(
            table(&lines),
            "coordinator   1 running       42 7400 leader\n\
             node          2 dead           - 7412,7413\n"
        );
        let document: serde_json::Value = serde_json::from_str(&document(&lines)).unwrap();
        assert_eq!(document["processes"][0]["leader"], true);
        assert_eq!(document["processes"][1]["state"], "dead");
        assert_eq!(document["processes"][1]["ports"][1], 7413);
        assert_eq!(document["processes"][1]["metrics"], 7497);
        assert!(document["processes"][1]["pid"].is_null());
    }
}
