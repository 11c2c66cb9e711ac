//! Orders: one request, one line about what it started.

use protocol::message::operate::{AdminOp, AdminReply};
use serde_json::{Value, json};

use super::args::RebalanceArgs;
use crate::Client;
use crate::cli::failure::Failure;
use crate::cli::output::print;
use crate::cli::units::{human_seconds, human_size};

/// Gives one order and shows the answer.
pub(super) async fn give(client: &Client, op: AdminOp, as_json: bool) -> Result<(), Failure> {
    let reply = client.admin(op).await?;
    let text = if as_json { format!("{}\n", document(&reply)) } else { sentence(&reply) };
    print(&text).map_err(Failure::output)
}

/// Starts or stops spreading the data.
pub(super) async fn rebalance(client: &Client, args: &RebalanceArgs) -> Result<(), Failure> {
    give(client, AdminOp::Rebalance(!args.stop), args.json).await
}

fn document(reply: &AdminReply) -> Value {
    json!({ "text": reply.text, "bytes_left": reply.bytes_left, "eta_s": reply.eta_s })
}

fn sentence(reply: &AdminReply) -> String {
    if reply.bytes_left == 0 {
        return format!("{}\n", reply.text);
    }
    let eta = eta(reply.eta_s);
    format!("{}: {} to move, ETA {eta}\n", reply.text, human_size(reply.bytes_left))
}

/// Expected time for people.
pub(super) fn eta(seconds: Option<u64>) -> String {
    seconds.map_or_else(|| "not known yet".to_owned(), human_seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_says_how_much_has_to_move_and_how_long_it_takes() {
        let text = "node 3 is being emptied".to_owned();
        let reply = AdminReply { text, bytes_left: 2 << 30, eta_s: Some(90) };
        let said = sentence(&reply);
        assert!(said.starts_with("node 3 is being emptied: 2"), "{said}");
        assert!(said.contains("ETA 1"), "{said}");
        let unknown = sentence(&AdminReply { eta_s: None, ..reply.clone() });
        assert!(unknown.contains("not known yet"), "{unknown}");
        let nothing = sentence(&AdminReply { bytes_left: 0, ..reply });
        assert_eq!(nothing, "node 3 is being emptied\n");
    }
}
