//! The README's first five minutes, pasted into a shell.

use std::path::Path;
use std::process::Command;

use crate::support::{self, encode, wait_until};

const README_ADDRESS: &str = "127.0.0.1:9740";

/// The blocks that a reader pastes: those marked `sh`.
fn blocks() -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let text = std::fs::read_to_string(&page).expect("README.md is there");
    text.split("```sh\n").skip(1).filter_map(|rest| rest.split_once("```")).map(|(block, _)| block.to_owned()).collect()
}

fn paste(block: &str, port: u16) -> String {
    let script = block.replace(README_ADDRESS, &format!("127.0.0.1:{port}"));
    let output = Command::new("bash").args(["-e", "-c", &script]).output().expect("bash runs");
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_first_five_minutes_work_as_pasted() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = support::quiver(dir.path(), &[]);
    let blocks = blocks();
    assert_eq!(blocks.len(), 7, "{blocks:?}");

    let registered = paste(&blocks[0], server.port);
    assert!(registered.contains("\"health_status\":\"healthy\""), "{registered}");
    let seen = paste(&blocks[1], server.port);
    assert!(seen.contains("quiver-itself") && seen.contains("\"resultType\":\"vector\""), "{seen}");
    wait_until("up is 1", || server.client.query("up")[0]["value"][1] == "1");
    let custom = paste(&blocks[2], server.port);
    assert!(custom.contains("\"ACCEPTED\"") && custom.contains("\"42\""), "{custom}");
    let events = paste(&blocks[3], server.port);
    assert!(events.contains("metrics_collected") && events.contains("collection_rate_per_second"), "{events}");
    let deleted = paste(&blocks[4], server.port);
    assert!(deleted.contains("\"DELETED\""), "{deleted}");
    let integrity = paste(&blocks[5], server.port);
    assert!(integrity.contains("\"received\""), "{integrity}");
    let found = paste(&blocks[6], server.port);
    assert!(found.contains("orders_open") && found.contains("\"has_more\":false"), "{found}");
    let left = server.client.get(&format!("/api/v1/query?query={}", encode("count({job=\"quiver\"})"))).json();
    assert_eq!(left["data"]["result"], serde_json::json!([]), "stale after the delete");
}
