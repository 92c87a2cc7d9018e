//! The console: commands, complaints, the configuration that comes with the VM.

use tests::{Turn, boot, boot_as, guest, run};
use tools::qemu::Guest;

#[test]
fn help_lists_commands_and_unknown_words_are_answered() {
    let _turn = Turn::take();
    let mut vm = boot(&guest());
    let help = run(&mut vm, "help");
    for command in ["help", "poweroff", "reboot", "ps", "dmesg"] {
        assert!(help.contains(command), "no {command} in:\n{help}");
    }
    let answer = run(&mut vm, "xyzzy");
    assert!(answer.contains("xyzzy: no such command"), "{answer}");
}

#[test]
fn the_hostname_is_in_the_prompt() {
    let _turn = Turn::take();
    let mut vm = boot_as("daisy", &guest());
    assert_eq!(run(&mut vm, "echo here"), "here");
}

#[test]
fn a_bad_rc_line_is_reported_with_its_number_and_the_rest_runs() {
    let _turn = Turn::take();
    let folder = tempfile::tempdir().unwrap();
    let rc = folder.path().join("rc");
    std::fs::write(&rc, "# a comment\necho first\nfrobnicate now\necho last\n").unwrap();
    let vm = boot(&Guest {
        rc: Some(rc),
        ..guest()
    });
    let text = vm.console().text_since(0);
    assert!(text.contains("rc:3:"), "{text}");
    assert!(text.contains("first") && text.contains("last"), "{text}");
}

#[test]
fn rc_on_the_command_line_runs_before_the_prompt() {
    let _turn = Turn::take();
    let vm = boot(&Guest {
        append: "rc=\"echo one;echo two\"".to_owned(),
        ..guest()
    });
    let text = vm.console().text_since(0);
    assert!(text.contains("one") && text.contains("two"), "{text}");
}

/// Bytes that arrive all at once must all be there: the receive FIFO holds 16, a paste is longer.
#[test]
fn a_long_paste_loses_nothing() {
    let _turn = Turn::take();
    let mut vm = boot(&guest());
    let long = "0123456789".repeat(20);
    // The editor shows a long line in part, so only its output can be looked for.
    let position = vm.console().position();
    vm.type_line(&format!("echo {long}")).unwrap();
    vm.wait_after(position, &format!("\n{long}\n"), tests::COMMAND_LIMIT)
        .unwrap();
}

#[test]
fn editing_keys_work() {
    let _turn = Turn::take();
    let mut vm = boot(&guest());
    run(&mut vm, "echo something");
    let position = vm.console().position();
    // Up brings the line back; Backspace and more letters change it.
    vm.type_bytes(b"\x1b[A\x7f\x7f\x7f\x7f\x7fone\r").unwrap();
    vm.wait_after(position, "\nsomeone\n", tests::COMMAND_LIMIT)
        .unwrap();
}
