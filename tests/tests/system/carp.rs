//! The demonstration as users run it, by its own program.

use std::process::Command;

use tests::Turn;

/// Runs `anax carp` and returns its standard output; a failed step fails the test.
fn demonstration(options: &[&str]) -> String {
    // Not our own copy of it: building the tests may have replaced the one that started us.
    let program = tools::host::target_directory().join("debug/anax");
    let output = Command::new(&program)
        .arg("carp")
        .args(options)
        .env("ANAX_KERNEL", tests::kernel())
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

#[test]
fn five_steps_with_the_usual_timers() {
    let _turn = Turn::alone();
    let table = demonstration(&[]);
    assert!(table.contains("master killed"), "{table}");
}

#[test]
fn five_steps_with_fast_timers() {
    let _turn = Turn::alone();
    let rows = demonstration(&["--fast", "--json"]);
    assert_eq!(
        rows.lines()
            .filter(|line| line.starts_with("{\"bench\":\"carp --fast\""))
            .count(),
        7
    );
}
