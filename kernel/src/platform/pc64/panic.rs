//! The end: what is printed when the kernel cannot go on, and how the machine is left.
//!
//! Message, place, running thread, backtrace, then the last trace records of every CPU, then what `panic=` on
//! the command line says: reboot (the node comes back; its CARP peer serves meanwhile), power off or the
//! debugger's prompt. Everything goes out by synchronous writes to COM1 with the other CPUs stopped by NMI: no
//! lock, no allocation before the trace records, and a panic during the panic cuts the report short instead of
//! looping. The prompt reads COM1 by polling, with interrupts off; a command that panics leads back to it.

use super::machine::Pc64;
use super::traps::TrapFrame;
use super::{cpus, image, power, serial, stacks};
use crate::debugger::{self, Note, Stopped, Verdict};
use crate::early_println;
use crate::platform::Machine;
use crate::report;
use apic::exception::Exception;
use core::fmt;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, Ordering};
use executor::{CpuId, Node};
use x86_64::instructions::interrupts;
use x86_64::registers::control::Cr2;

const FRAMES_MAX: usize = 32;

/// 0: no panic. Otherwise how far the reporting has come; see [`begin`].
static STAGE: AtomicU32 = AtomicU32::new(0);
const REPORTING: u32 = 1;
const TRACING: u32 = 2;
const DECIDING: u32 = 3;
const LEAVING: u32 = 4;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    begin();
    early_println!("{info}");
    let frame_pointer: u64;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, rbp", out(reg) frame_pointer, options(nomem, nostack)) };
    print_backtrace(None, frame_pointer);
    finish()
}

/// A CPU exception in the kernel: always fatal.
pub fn exception(frame: &TrapFrame) -> ! {
    begin();
    let address = Cr2::read_raw();
    let exception = Exception {
        vector: frame.vector,
        error: frame.error,
        instruction: frame.rip,
        address,
        is_overflow: stacks::is_guard(address),
    };
    early_println!("{exception}");
    print_registers(frame);
    print_backtrace(Some(frame.rip), frame.rbp);
    finish()
}

/// A non-maskable interrupt: another CPU's panic, or the hardware's.
pub fn non_maskable(frame: &TrapFrame) {
    if STAGE.load(Ordering::Acquire) != 0 {
        if let (Some(machine), Some(cpu)) = (Pc64::get(), executor::try_current()) {
            machine.leave_note(cpu.id(), Note::of(cpu));
        }
        power::halt();
    }
    early_println!(
        "non-maskable interrupt at {:#x}: hardware reports a fault; going on",
        frame.rip
    );
}

/// Makes this CPU the one that reports. A second panic on the way goes straight to the next stage; CPUs that
/// panic at the same time are stopped by the first one's NMI, or stop here.
fn begin() {
    interrupts::disable();
    match STAGE.compare_exchange(0, REPORTING, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {
            cpus::stop_others();
            let _ = report::write_headline(&mut serial::writer());
        }
        Err(stage) => {
            early_println!("\npanic during a panic: the report is cut short");
            match stage {
                REPORTING => finish(),
                TRACING | DECIDING => leave(),
                _ => power::reboot(None),
            }
        }
    }
}

fn print_registers(frame: &TrapFrame) {
    let TrapFrame {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rbp,
        rsp,
        ..
    } = frame;
    let TrapFrame {
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        ..
    } = frame;
    early_println!("rax {rax:016x}  rbx {rbx:016x}  rcx {rcx:016x}  rdx {rdx:016x}");
    early_println!("rsi {rsi:016x}  rdi {rdi:016x}  rbp {rbp:016x}  rsp {rsp:016x}");
    early_println!("r8  {r8:016x}  r9  {r9:016x}  r10 {r10:016x}  r11 {r11:016x}");
    early_println!("r12 {r12:016x}  r13 {r13:016x}  r14 {r14:016x}  r15 {r15:016x}");
    early_println!(
        "flags {:x}  cs {:x}  ss {:x}",
        frame.rflags,
        frame.cs,
        frame.ss
    );
}

/// Follows frame pointers (the image is built with them) as long as they climb within kernel stacks.
pub(super) fn print_backtrace(at: Option<u64>, mut frame_pointer: u64) {
    early_println!(
        "backtrace (lines: addr2line -Cfie target/x86_64-unknown-none/kernel/anax ADDRESS..):"
    );
    if let Some(at) = at {
        print_place(at);
    }
    for _ in 0..FRAMES_MAX {
        let whole = frame_pointer.is_multiple_of(8)
            && stacks::contains(frame_pointer)
            && stacks::contains(frame_pointer.wrapping_add(8));
        if !whole {
            break;
        }
        let frame = core::ptr::with_exposed_provenance::<[u64; 2]>(frame_pointer as usize);
        // SAFETY: two words of a kernel stack (checked above). Should the stack not be mapped after all,
        // the fault is a panic during a panic, which has its place.
        let [caller_frame, return_address] = unsafe { frame.read_volatile() };
        if !image::is_code(return_address) {
            break;
        }
        // The call is before the return address; so a call that ends a function is not taken for the next.
        print_place(return_address - 1);
        if caller_frame <= frame_pointer {
            break;
        }
        frame_pointer = caller_frame;
    }
}

/// A line of a backtrace.
fn print_place(address: u64) {
    match image::function(address) {
        Some((name, into)) => early_println!("  {address:#018x} {name}+{into:#x}"),
        None => early_println!("  {address:#018x}"),
    }
}

fn finish() -> ! {
    STAGE.store(TRACING, Ordering::Release);
    if let Some(node) = node() {
        let _ = report::write_trace(&mut serial::writer(), node, report::TRACE_RECORDS);
    }
    leave()
}

/// The current CPU's.
fn node() -> Option<&'static Node> {
    executor::try_current().map(executor::Cpu::node)
}

fn leave() -> ! {
    STAGE.store(DECIDING, Ordering::Release);
    let Some(machine) = Pc64::get() else {
        power::halt()
    };
    if let Some(cpu) = executor::try_current() {
        machine.leave_note(cpu.id(), Note::of(cpu));
    }
    let verdict = debugger::failed(&mut Prompt(machine), node(), machine.command_line());
    STAGE.store(LEAVING, Ordering::Release);
    match verdict {
        Verdict::PowerOff => machine.power_off(),
        Verdict::Reboot | Verdict::Continue => machine.reboot(),
    }
}

/// COM1, all by ourselves.
struct Prompt(&'static Pc64);

impl fmt::Write for Prompt {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        serial::writer().write_str(text)
    }
}

impl Stopped for Prompt {
    fn read_byte(&mut self) -> u8 {
        loop {
            if let Some(byte) = serial::COM1.receive() {
                return byte;
            }
            core::hint::spin_loop();
        }
    }

    fn echoes(&self) -> bool {
        true
    }

    fn note(&self, cpu: CpuId) -> Option<Note> {
        self.0.processor(cpu)?.note.try_get().ok().copied()
    }
}
