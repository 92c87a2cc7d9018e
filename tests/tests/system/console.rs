//! The console: commands, complaints, the configuration that comes with the node.

use tests::{Turn, boot, boot_as, node, on_both, run};
use tools::node::{NodeKind, NodeSpec};

on_both![
    help_lists_commands_and_unknown_words_are_answered,
    the_hostname_is_in_the_prompt,
    a_bad_rc_line_is_reported_with_its_number_and_the_rest_runs,
    rc_in_the_environment_runs_before_the_prompt,
    a_long_paste_loses_nothing,
    editing_keys_work,
];

fn help_lists_commands_and_unknown_words_are_answered(kind: NodeKind) {
    let _turn = Turn::take();
    let mut anax = boot(&node(kind));
    let help = run(&mut anax, "help");
    for command in ["help", "poweroff", "reboot", "ps", "dmesg"] {
        assert!(help.contains(command), "no {command} in:\n{help}");
    }
    let answer = run(&mut anax, "xyzzy");
    assert!(answer.contains("xyzzy: no such command"), "{answer}");
}

fn the_hostname_is_in_the_prompt(kind: NodeKind) {
    let _turn = Turn::take();
    let mut anax = boot_as("daisy", &node(kind));
    assert_eq!(run(&mut anax, "echo here"), "here");
}

fn a_bad_rc_line_is_reported_with_its_number_and_the_rest_runs(kind: NodeKind) {
    let _turn = Turn::take();
    let folder = tempfile::tempdir().unwrap();
    let rc = folder.path().join("rc");
    std::fs::write(&rc, "# a comment\necho first\nfrobnicate now\necho last\n").unwrap();
    let anax = boot(&NodeSpec {
        rc: Some(rc),
        ..node(kind)
    });
    let text = anax.console().text_since(0);
    assert!(text.contains("rc:3:"), "{text}");
    assert!(text.contains("first") && text.contains("last"), "{text}");
}

fn rc_in_the_environment_runs_before_the_prompt(kind: NodeKind) {
    let _turn = Turn::take();
    let anax = boot(&NodeSpec {
        environment: vec![("rc".to_owned(), "echo one;echo two".to_owned())],
        ..node(kind)
    });
    let text = anax.console().text_since(0);
    assert!(text.contains("one") && text.contains("two"), "{text}");
}

/// Bytes that arrive all at once must all be there: a serial port's FIFO holds 16, a paste is longer.
fn a_long_paste_loses_nothing(kind: NodeKind) {
    let _turn = Turn::take();
    let mut anax = boot(&node(kind));
    let long = "0123456789".repeat(20);
    // The editor shows a long line in part, so only its output can be looked for.
    let position = anax.console().position();
    anax.type_line(&format!("echo {long}")).unwrap();
    anax.wait_after(position, &format!("\n{long}\n"), tests::COMMAND_LIMIT)
        .unwrap();
}

fn editing_keys_work(kind: NodeKind) {
    let _turn = Turn::take();
    let mut anax = boot(&node(kind));
    run(&mut anax, "echo something");
    let position = anax.console().position();
    // Up brings the line back; Backspace and more letters change it.
    anax.type_bytes(b"\x1b[A\x7f\x7f\x7f\x7f\x7fone\r").unwrap();
    anax.wait_after(position, "\nsomeone\n", tests::COMMAND_LIMIT)
        .unwrap();
}
