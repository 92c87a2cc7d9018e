//! Exceptions and interrupts: from the stubs of `traps.s` to the executor or to a panic.
//!
//! Every vector has a stub that saves the registers and calls [`trap`] with interrupts off. Interrupts never
//! nest: a handler acknowledges and wakes, and the next one follows within microseconds. Device interrupts
//! are edge-triggered here (MSI, ISA), so that acknowledging them at once loses nothing even when the
//! executor puts the handler off to the end of a critical section.

use super::machine::Pc64;
use super::{panic, segments, vectors};
use apic::exception::EXCEPTIONS;
use conquer_once::spin::OnceCell;
use x86_64::VirtAddr;
use x86_64::structures::idt::InterruptDescriptorTable;

unsafe extern "C" {
    /// 256 stubs of 16 bytes (`traps.s`).
    safe static trap_stubs: u8;
}

const STUB_LEN: u64 = 16;
const NMI: u64 = 2;

/// What a stub saved, in the order of `traps.s`.
#[repr(C)]
#[derive(Debug)]
pub struct TrapFrame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rax: u64,
    pub vector: u64,
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

static TABLE: OnceCell<InterruptDescriptorTable> = OnceCell::uninit();

/// Loads the interrupt descriptor table, which all CPUs share, into the current CPU. Its segments are loaded.
pub fn load() {
    TABLE.get_or_init(make).load();
}

fn make() -> InterruptDescriptorTable {
    let mut table = InterruptDescriptorTable::new();
    let stub = |vector: u64| {
        VirtAddr::new(core::ptr::from_ref(&trap_stubs).addr() as u64 + vector * STUB_LEN)
    };
    // SAFETY: each stub saves all it changes and returns by iretq; the stacks of the three with their own
    // are in every CPU's TSS (segments.rs), and none of them interrupts itself before it has ended or for
    // good (machine check and double fault do not return).
    unsafe {
        table.divide_error.set_handler_addr(stub(0));
        table.debug.set_handler_addr(stub(1));
        table
            .non_maskable_interrupt
            .set_handler_addr(stub(2))
            .set_stack_index(segments::IST_NMI);
        table.breakpoint.set_handler_addr(stub(3));
        table.overflow.set_handler_addr(stub(4));
        table.bound_range_exceeded.set_handler_addr(stub(5));
        table.invalid_opcode.set_handler_addr(stub(6));
        table.device_not_available.set_handler_addr(stub(7));
        table
            .double_fault
            .set_handler_addr(stub(8))
            .set_stack_index(segments::IST_DOUBLE_FAULT);
        table.invalid_tss.set_handler_addr(stub(10));
        table.segment_not_present.set_handler_addr(stub(11));
        table.stack_segment_fault.set_handler_addr(stub(12));
        table.general_protection_fault.set_handler_addr(stub(13));
        table.page_fault.set_handler_addr(stub(14));
        table.x87_floating_point.set_handler_addr(stub(16));
        table.alignment_check.set_handler_addr(stub(17));
        table
            .machine_check
            .set_handler_addr(stub(18))
            .set_stack_index(segments::IST_MACHINE_CHECK);
        table.simd_floating_point.set_handler_addr(stub(19));
        table.virtualization.set_handler_addr(stub(20));
        table.cp_protection_exception.set_handler_addr(stub(21));
        table.hv_injection_exception.set_handler_addr(stub(28));
        table.vmm_communication_exception.set_handler_addr(stub(29));
        table.security_exception.set_handler_addr(stub(30));
        for vector in 32..=255u8 {
            table[vector].set_handler_addr(stub(vector.into()));
        }
    }
    table
}

/// Called by every stub, interrupts off.
#[unsafe(no_mangle)]
extern "C" fn trap(frame: &mut TrapFrame) {
    match frame.vector {
        NMI => panic::non_maskable(frame),
        ..EXCEPTIONS => panic::exception(frame),
        vector => interrupt(vector as u8, frame),
    }
}

fn interrupt(vector: u8, frame: &TrapFrame) {
    if vector == vectors::SPURIOUS {
        // It was never in service, so there is nothing to end.
        return;
    }
    // Interrupts are on only where the machine is installed, but for the doorbell that a waiting CPU sleeps for.
    let Some(machine) = Pc64::get() else {
        return super::cpus::acknowledge();
    };
    machine.apic.end_of_interrupt();
    let Some(cpu) = executor::try_current() else {
        return;
    };
    match vector {
        vectors::DOORBELL => cpu.interrupt_doorbell(),
        vectors::TIMER => {
            if let Some(overrun) = cpu.interrupt_timer() {
                crate::early_println!("{}: {overrun}", cpu.id());
                panic::print_backtrace(Some(frame.rip), frame.rbp);
            }
        }
        line => cpu.interrupt(line),
    }
}
