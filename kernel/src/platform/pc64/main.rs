//! The kernel image for x86-64 hardware: from the boot loader to every CPU running its executor.
//!
//! [`kernel_entry`] reads as the boot's story; each chapter is a module of `kernel::platform::pc64`.
//! What can go wrong before there is a machine ends in [`give_up`], because there is nobody to report to
//! but the serial port.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::sync::Arc;
use core::fmt::Display;
use executor::{CpuId, Node};
use kernel::platform::pc64::console::Console;
use kernel::platform::pc64::features::Features;
use kernel::platform::pc64::machine::Pc64;
use kernel::platform::pc64::{clock, cpus, early, firmware, memory, paging, power, serial};

/// Called by `entry.s` on the boot stack, in the higher half, under the boot page tables, with interrupts off.
#[unsafe(no_mangle)]
extern "C" fn kernel_entry(magic: u32, block: u32) -> ! {
    let entered_tsc = clock::tsc();

    // A voice, and what the boot loader knows.
    let console = Console::new();
    serial::COM1.init(|byte| console.put(byte));
    let boot = match early::boot_info(magic, block) {
        Ok(boot) => boot,
        Err(error) => give_up("the boot loader's information is of no use", error),
    };

    // Memory, and page tables that mean what they say.
    if memory::start(&boot).is_none() {
        give_up("no memory", "the map has none to spare")
    }
    let features = cpus::forever(Features::read());
    features.enable();
    let Some(mut tables) = paging::build(boot.memory_end(), features.huge_pages) else {
        give_up("no memory", "for page tables")
    };
    early::activate(&tables);

    // The machine around us, and its other CPUs.
    let firmware = firmware::read(&boot);
    let apic = firmware::local_apic(&firmware, features);
    let limit = early::cpu_limit(&boot);
    let started = cpus::start(
        &boot,
        features,
        &firmware,
        apic,
        &mut tables,
        entered_tsc,
        limit,
    );
    let Ok(started) = started else {
        give_up("no memory", "for the CPUs' stacks")
    };
    let machine = Pc64::install(boot, features, firmware, apic, started, console);

    // One kernel on all of it.
    let node = Node::new(machine.processors.len(), Arc::new(machine));
    let cpu = node.cpu(CpuId(0));
    cpus::enter(cpu);
    memory::hand_over(&machine.boot, &node);
    machine.start_console(cpu);
    kernel::start::start(Arc::new(machine), node.clone());
    cpus::release(machine, &node);
    cpus::run(cpu)
}

fn give_up(what: &str, why: impl Display) -> ! {
    kernel::early_println!("anax cannot boot: {what}: {why}");
    power::halt()
}
