//! Kinds of nodes, machines, numbers of CPUs, little memory, and ways to end.

use std::path::PathBuf;
use std::time::Duration;

use tests::{COMMAND_LIMIT, Turn, boot, node, on_both, run};
use tools::node::{NodeKind, NodeSpec};
use tools::qemu::Machine;
use tools::running::RunningNode;

on_both![
    boots_with_1_cpu,
    boots_with_2_cpus,
    boots_with_4_cpus,
    boots_with_16_cpus,
    boots_with_64_cpus,
    sixty_four_mebibytes_are_enough,
    poweroff_ends_the_process,
    a_panic_says_so_and_ends_as_it_was_told,
    a_panic_dumps_the_trace,
    a_panic_that_halts_ends_in_the_debugger,
    the_watchdog_says_which_thread_does_not_await_and_where_it_is,
    an_idle_node_leaves_the_host_alone,
];

/// Boots with that many CPUs and checks that the kernel counts them all.
fn boots_with(kind: NodeKind, cpus: u32) {
    let _turn = if cpus > 16 {
        Turn::alone()
    } else {
        Turn::take()
    };
    let mut anax = boot(&NodeSpec { cpus, ..node(kind) });
    let output = run(&mut anax, "cpus");
    let listed = output
        .lines()
        .filter(|line| line.split_whitespace().next().is_some_and(is_cpu_name))
        .count();
    assert_eq!(listed, cpus as usize, "{output}");
}

/// `cpu0`, or a bare number, at the start of a line of `cpus`.
fn is_cpu_name(word: &str) -> bool {
    let number = word
        .strip_prefix("cpu")
        .unwrap_or(word)
        .trim_end_matches(':');
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

fn boots_with_1_cpu(kind: NodeKind) {
    boots_with(kind, 1);
}

fn boots_with_2_cpus(kind: NodeKind) {
    boots_with(kind, 2);
}

fn boots_with_4_cpus(kind: NodeKind) {
    boots_with(kind, 4);
}

fn boots_with_16_cpus(kind: NodeKind) {
    boots_with(kind, 16);
}

fn boots_with_64_cpus(kind: NodeKind) {
    boots_with(kind, 64);
}

#[test]
fn pc_with_4_cpus() {
    boots_with(NodeKind::Vm(Machine::Pc), 4);
}

#[test]
fn microvm_with_4_cpus() {
    boots_with(NodeKind::Vm(Machine::Microvm), 4);
}

fn sixty_four_mebibytes_are_enough(kind: NodeKind) {
    let _turn = Turn::take();
    let mut anax = boot(&NodeSpec {
        memory_mib: 64,
        ..node(kind)
    });
    assert_eq!(run(&mut anax, "echo enough"), "enough");
}

/// Boots, runs a last command, and waits for the process to end well.
fn ends_by(command: &str, kind: NodeKind) {
    let mut anax = boot(&node(kind));
    anax.type_line(command).unwrap();
    let status = anax.wait_for_exit(COMMAND_LIMIT).unwrap();
    assert!(status.success(), "{kind}: {status}");
}

fn poweroff_ends_the_process(kind: NodeKind) {
    let _turn = Turn::take();
    ends_by("poweroff", kind);
}

#[test]
fn poweroff_ends_qemu_on_the_other_machines() {
    let _turn = Turn::take();
    for machine in [Machine::Pc, Machine::Microvm] {
        ends_by("poweroff", NodeKind::Vm(machine));
    }
}

#[test]
fn reboot_ends_qemu_on_every_machine() {
    let _turn = Turn::take();
    for machine in Machine::ALL {
        ends_by("reboot", NodeKind::Vm(machine));
    }
}

/// A vkernel has no machine around it that could start it anew: it does so itself, as the same process.
#[test]
fn reboot_starts_a_vkernel_anew() {
    let _turn = Turn::take();
    let mut anax = boot(&node(NodeKind::Vkernel));
    run(&mut anax, "sysctl net.inet.carp.preempt=1");
    let position = anax.console().position();
    anax.type_line("reboot").unwrap();
    anax.wait_after(position, "\nanax# ", COMMAND_LIMIT)
        .unwrap();
    assert!(anax.is_running());
    let value = run(&mut anax, "sysctl net.inet.carp.preempt");
    assert!(value.ends_with('0'), "nothing is left of the old: {value}");
}

fn a_panic_says_so_and_ends_as_it_was_told(kind: NodeKind) {
    let _turn = Turn::take();
    let mut anax = boot(&on_panic("poweroff", kind));
    let position = anax.console().position();
    anax.type_line("panic yes").unwrap();
    anax.wait_after(position, "panic", COMMAND_LIMIT).unwrap();
    anax.wait_for_exit(COMMAND_LIMIT).unwrap();
}

fn on_panic(action: &str, kind: NodeKind) -> NodeSpec {
    NodeSpec {
        environment: vec![("panic".to_owned(), action.to_owned())],
        ..node(kind)
    }
}

#[test]
fn a_panic_reboots_where_nothing_else_was_said() {
    let _turn = Turn::take();
    let mut vm = boot(&node(NodeKind::VM));
    vm.type_line("panic yes").unwrap();
    vm.wait_for_exit(COMMAND_LIMIT).unwrap();
}

/// A panic prints what every CPU did last.
fn a_panic_dumps_the_trace(kind: NodeKind) {
    let _turn = Turn::take();
    let mut anax = boot(&on_panic("poweroff", kind));
    run(&mut anax, "trace on");
    run(&mut anax, "ps");
    let position = anax.console().position();
    anax.type_line("panic yes").unwrap();
    anax.wait_for_exit(COMMAND_LIMIT).unwrap();
    let text = anax.console().text_since(position);
    assert!(text.contains("run end"), "trace records: {text}");
}

/// From the interrupt, while the poll goes on: its thread, where that was spawned, and a backtrace. Then it is counted.
fn the_watchdog_says_which_thread_does_not_await_and_where_it_is(kind: NodeKind) {
    let _turn = Turn::take();
    let mut anax = boot(&node(kind));
    let position = anax.console().position();
    anax.type_line("spin 2").unwrap();
    let report = "ms without an await";
    anax.wait_after(position, report, COMMAND_LIMIT).unwrap();
    let prompt = "anax# ";
    let early = anax.console().text_since(position);
    assert_eq!(early.matches(prompt).count(), 0, "while it ran: {early}");
    anax.wait_after(position, prompt, COMMAND_LIMIT).unwrap();
    let text = anax.console().text_since(position);
    let line = text.lines().find(|line| line.contains(report)).unwrap();
    assert!(
        line.contains("(spinner, spawned at kernel/src/commands/threads.rs:"),
        "{line}"
    );
    let frames = text.lines().skip_while(|line| !line.contains(report));
    let frames = frames
        .skip(1)
        .take_while(|line| line.starts_with("  ") || line.starts_with("backtrace"));
    let frames: Vec<&str> = frames.collect();
    let function = "kernel::commands::threads::spin::{";
    assert!(frames.iter().any(|line| line.contains(function)), "{text}");
    let wanted = match kind {
        NodeKind::Vm(_) => frames.iter().filter(|line| is_named(line)).count() >= 3,
        NodeKind::Vkernel => frames
            .iter()
            .any(|line| line.contains("kernel/src/commands/threads.rs")),
    };
    assert!(wanted, "{text}");
    assert_eq!(
        text.matches(report).count(),
        1,
        "once for each poll: {text}"
    );
    assert!(run(&mut anax, "stat").contains(" 1 overruns"));
}

/// Whether a line of a VM's backtrace has the function beside the address.
fn is_named(line: &str) -> bool {
    line.strip_prefix("  0xffffffff")
        .is_some_and(|line| line.contains("::") && line.contains("+0x"))
}

/// What `panic` prints on a VM of this kernel, from the message to the machine's end.
fn panic_of(kernel: PathBuf) -> String {
    let spec = NodeSpec {
        kernel,
        ..on_panic("poweroff", NodeKind::VM)
    };
    let mut anax = boot(&spec);
    let position = anax.console().position();
    anax.type_line("panic yes").unwrap();
    anax.wait_for_exit(COMMAND_LIMIT).unwrap();
    anax.console().text_since(position)
}

#[test]
fn a_panic_on_hardware_names_the_functions() {
    let _turn = Turn::take();
    let text = panic_of(node(NodeKind::VM).kernel);
    let called = "kernel::commands::machine::crash";
    assert!(
        text.lines()
            .any(|line| is_named(line) && line.contains(called)),
        "{text}"
    );
}

/// As cargo alone builds it: the addresses are there.
#[test]
fn a_panic_of_an_image_without_names_has_the_addresses() {
    let _turn = Turn::take();
    // Builds it, if nobody has; where another kernel was named, there may be none.
    let _ = tests::kernel(NodeKind::VM);
    let linked = tools::kernel::linked();
    if !linked.is_file() {
        return tests::skip("ANAX_KERNEL names the kernel to test");
    }
    let text = panic_of(linked);
    let frames = text.lines().filter(|line| line.starts_with("  0xffffffff"));
    assert!(frames.count() >= 3, "{text}");
    assert!(!text.lines().any(is_named), "{text}");
}

/// With `panic=halt` one can look around, and end it.
fn a_panic_that_halts_ends_in_the_debugger(kind: NodeKind) {
    let _turn = Turn::take();
    let mut anax = boot(&on_panic("halt", kind));
    run(&mut anax, "trace on");
    run(&mut anax, "ps");
    let mut say = |line: &str, end: &str| {
        let position = anax.console().position();
        anax.type_line(line).unwrap();
        anax.wait_after(position, end, COMMAND_LIMIT).unwrap();
        anax.console().text_since(position)
    };
    let report = say("panic yes", "halted\ndb> ");
    assert!(report.contains("panic on cpu0 in thread "), "{report}");
    let cpus = say("cpus", "\ndb> ");
    assert!(cpus.contains("cpu0: in thread "), "{cpus}");
    for cpu in 1..4 {
        // On a busy host one may not have fallen asleep yet after `ps` has asked it.
        let says = |what: &str| cpus.contains(&format!("cpu{cpu}: {what}; "));
        assert!(says("idle") || says("between two threads"), "{cpus}");
    }
    let trace = say("trace 5", "\ndb> ");
    let records = trace.lines().filter(|line| line.contains(" small="));
    assert!((5..=20).contains(&records.count()), "{trace}");
    say("continue", "cannot go on; `reboot` or `quit`\ndb> ");
    anax.type_line("quit").unwrap();
    anax.wait_for_exit(COMMAND_LIMIT).unwrap();
}

/// `reboot` at the prompt ends QEMU, as everywhere: it is told not to start anew.
#[test]
fn the_debugger_reboots_a_vm() {
    let _turn = Turn::take();
    let mut vm = boot(&on_panic("halt", NodeKind::VM));
    let position = vm.console().position();
    vm.type_line("panic yes").unwrap();
    vm.wait_after(position, "db> ", COMMAND_LIMIT).unwrap();
    vm.type_line("reboot").unwrap();
    vm.wait_for_exit(COMMAND_LIMIT).unwrap();
}

/// An idle node must cost its host next to nothing: no tick, no polling, and on a CPU that has nothing to do not one
/// interrupt in ten seconds.
fn an_idle_node_leaves_the_host_alone(kind: NodeKind) {
    let _turn = Turn::alone();
    let mut anax = boot(&node(kind));
    // Typing is work for CPU 0; the others' counters can be read without waking them.
    std::thread::sleep(Duration::from_millis(500));
    let before = [1, 2, 3].map(|cpu| counters(&mut anax, cpu));
    let used_before = anax.processor_time().unwrap();
    std::thread::sleep(Duration::from_secs(10));
    let used = anax.processor_time().unwrap() - used_before;
    let after = [1, 2, 3].map(|cpu| counters(&mut anax, cpu));
    assert_eq!(before, after, "interrupts, IPIs or wakes on idle CPUs");
    assert!(
        used <= Duration::from_millis(120),
        "{used:?} of processor time in 10 s"
    );
}

/// What `stat` shows of a CPU.
fn counters(anax: &mut RunningNode, cpu: u32) -> String {
    let text = run(anax, &format!("stat cpu {cpu}"));
    for name in [
        "timer_interrupts",
        "doorbells_received",
        "ipi_received",
        "halts",
    ] {
        assert!(text.contains(name), "stat shows {name}: {text}");
    }
    text
}
