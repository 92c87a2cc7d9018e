//! Machines, numbers of CPUs, little memory, and ways to end.

use std::time::Duration;

use tests::{COMMAND_LIMIT, Turn, boot, guest, run};
use tools::qemu::{Guest, Machine};

/// Boots with that many vCPUs and checks that the kernel counts them all.
fn boots_with(machine: Machine, cpus: u32) {
    let _turn = if cpus > 16 {
        Turn::alone()
    } else {
        Turn::take()
    };
    let mut vm = boot(&Guest {
        machine,
        cpus,
        ..guest()
    });
    let output = run(&mut vm, "cpus");
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

#[test]
fn q35_with_1_cpu() {
    boots_with(Machine::Q35, 1);
}

#[test]
fn q35_with_2_cpus() {
    boots_with(Machine::Q35, 2);
}

#[test]
fn q35_with_4_cpus() {
    boots_with(Machine::Q35, 4);
}

#[test]
fn q35_with_16_cpus() {
    boots_with(Machine::Q35, 16);
}

#[test]
fn q35_with_64_cpus() {
    boots_with(Machine::Q35, 64);
}

#[test]
fn pc_with_4_cpus() {
    boots_with(Machine::Pc, 4);
}

#[test]
fn microvm_with_4_cpus() {
    boots_with(Machine::Microvm, 4);
}

#[test]
fn sixty_four_mebibytes_are_enough() {
    let _turn = Turn::take();
    let mut vm = boot(&Guest {
        memory_mib: 64,
        ..guest()
    });
    assert_eq!(run(&mut vm, "echo enough"), "enough");
}

#[test]
fn poweroff_ends_qemu_on_every_machine() {
    let _turn = Turn::take();
    for machine in Machine::ALL {
        let mut vm = boot(&Guest { machine, ..guest() });
        vm.type_line("poweroff").unwrap();
        let status = vm.wait_for_exit(COMMAND_LIMIT).unwrap();
        assert!(status.success(), "{machine}: {status}");
    }
}

#[test]
fn reboot_ends_qemu_on_every_machine() {
    let _turn = Turn::take();
    for machine in Machine::ALL {
        let mut vm = boot(&Guest { machine, ..guest() });
        vm.type_line("reboot").unwrap();
        let status = vm.wait_for_exit(COMMAND_LIMIT).unwrap();
        assert!(status.success(), "{machine}: {status}");
    }
}

#[test]
fn a_panic_says_so_and_reboots() {
    let _turn = Turn::take();
    let mut vm = boot(&guest());
    let position = vm.console().position();
    vm.type_line("panic yes").unwrap();
    vm.wait_after(position, "panic", COMMAND_LIMIT).unwrap();
    vm.wait_for_exit(COMMAND_LIMIT).unwrap();
}

/// An idle node must cost its host next to nothing: no tick, no polling, and on a CPU that has nothing to do not one
/// interrupt in ten seconds.
#[test]
fn an_idle_node_leaves_the_host_alone() {
    let _turn = Turn::alone();
    let mut vm = boot(&guest());
    // Typing is work for CPU 0; the others' counters can be read without waking them.
    std::thread::sleep(Duration::from_millis(500));
    let before = [1, 2, 3].map(|cpu| counters(&mut vm, cpu));
    let used_before = vm.processor_time().unwrap();
    std::thread::sleep(Duration::from_secs(10));
    let used = vm.processor_time().unwrap() - used_before;
    let after = [1, 2, 3].map(|cpu| counters(&mut vm, cpu));
    assert_eq!(before, after, "interrupts, IPIs or wakes on idle CPUs");
    assert!(
        used <= Duration::from_millis(120),
        "{used:?} of processor time in 10 s"
    );
}

/// What `stat` shows of a CPU.
fn counters(vm: &mut tools::vm::Vm, cpu: u32) -> String {
    let text = run(vm, &format!("stat cpu {cpu}"));
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

/// A panic prints what every CPU did last.
#[test]
fn a_panic_dumps_the_trace() {
    let _turn = Turn::take();
    let mut vm = boot(&guest());
    run(&mut vm, "trace on");
    run(&mut vm, "ps");
    let position = vm.console().position();
    vm.type_line("panic yes").unwrap();
    vm.wait_for_exit(COMMAND_LIMIT).unwrap();
    let text = vm.console().text_since(position);
    assert!(text.contains("run end"), "trace records: {text}");
}
