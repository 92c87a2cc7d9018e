//! The demonstration as users run it, by its own program.

use std::process::Command;

use tests::{Turn, on_both};
use tools::node::NodeKind;

on_both![
    five_steps_with_the_usual_timers,
    five_steps_with_fast_timers
];

/// Runs `anax carp` with these nodes and returns its standard output; a failed step fails the test.
fn demonstration(nodes: [NodeKind; 2], options: &[&str]) -> String {
    // Not our own copy of it: building the tests may have replaced the one that started us.
    let program = tools::host::target_directory().join("debug/anax");
    let mut command = Command::new(&program);
    for kind in nodes {
        command.env(kind.kernel_variable(), tests::kernel(kind));
    }
    let output = command
        .arg("carp")
        .args(["--nodes", &format!("{},{}", nodes[0], nodes[1])])
        .args(options)
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let events = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{}\n{events}\n{text}",
        output.status
    );
    text
}

fn five_steps_with_the_usual_timers(kind: NodeKind) {
    let _turn = Turn::alone();
    let table = demonstration([kind; 2], &[]);
    assert!(table.contains("master killed"), "{table}");
}

fn five_steps_with_fast_timers(kind: NodeKind) {
    let _turn = Turn::alone();
    fast([kind; 2]);
}

#[test]
fn a_vkernel_takes_over_from_a_vm_and_gives_back() {
    let _turn = Turn::alone();
    fast([NodeKind::VM, NodeKind::Vkernel]);
}

#[test]
fn a_vm_takes_over_from_a_vkernel_and_gives_back() {
    let _turn = Turn::alone();
    fast([NodeKind::Vkernel, NodeKind::VM]);
}

/// The demonstration with fast timers gives a row for each step.
fn fast(nodes: [NodeKind; 2]) {
    let rows = demonstration(nodes, &["--fast", "--json"]);
    assert_eq!(
        rows.lines()
            .filter(|line| line.starts_with("{\"bench\":\"carp --fast\""))
            .count(),
        7
    );
}
