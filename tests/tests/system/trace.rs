//! The trace as users make it: a run of the workload, streamed while it goes on and converted.

use std::process::Command;

use tests::{Turn, on_both};
use tools::node::NodeKind;

on_both![a_run_is_streamed_whole_and_converted];

fn a_run_is_streamed_whole_and_converted(kind: NodeKind) {
    let _turn = Turn::alone();
    let directory = tempfile::tempdir().unwrap();
    let (perfetto, page) = (
        directory.path().join("t.pftrace"),
        directory.path().join("t.html"),
    );
    let output = Command::new(tools::host::target_directory().join("debug/anax"))
        .args(["trace", "--seconds", "1", "--json"])
        .args(["--machine", &kind.to_string()])
        .arg("--out")
        .arg(&perfetto)
        .arg("--html")
        .arg(&page)
        .env(kind.kernel_variable(), tests::kernel(kind))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let summary: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(summary["complete"], true, "{text}");
    assert_eq!(summary["bad_frames"], 0, "{text}");
    assert!(summary["records"].as_u64() > Some(5_000), "{text}");
    assert_eq!(
        summary["lost"], 0,
        "nothing is lost at the workload's pace: {text}"
    );
    assert!(errors.contains("0 wrong answers"), "{errors}");
    assert!(std::fs::metadata(&perfetto).unwrap().len() > 100_000);
    assert!(std::fs::metadata(&page).unwrap().len() > 100_000);
}
