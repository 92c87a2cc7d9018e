//! The end: what is printed when the kernel cannot go on, and standing still for the debugger.
//!
//! A panic prints message, running thread and backtrace on its own CPU, a fault its one line, with the other CPUs stopped
//! ([`Cpus::stop`](super::cpus::Cpus::stop)); the rest is the attendant's: the last trace records, then what `panic=` says
//! ([`crate::debugger`]). `^\` brings the same prompt without a panic, and `continue` leaves it.
//!
//! Decision: the prompt runs on the attendant's thread with the host's memory, so that it works whatever state the
//! kernel's is in. A failure during the report cuts it short instead of looping.

use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicU32, Ordering};
use std::backtrace::Backtrace;
use std::panic::PanicHookInfo;

use nix::libc::{self, siginfo_t};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use super::attendant::{self, Attendant};
use super::cpus;
use super::machine::out;
use super::{EXIT_PANIC, MACHINE, arena, say};
use crate::debugger::{self, Verdict};
use crate::platform::Machine;
use crate::report;

/// What formatting takes, several times over.
const FAULT_STACK_BYTES: usize = 64 << 10;
/// Lines of a backtrace.
const BACKTRACE_LINES: usize = 64;

/// 0: all is well. Otherwise the number of the CPU that has failed and one more, with [`REPORTED`] when it has reported.
static FAILED: AtomicU32 = AtomicU32::new(0);
const REPORTED: u32 = 1 << 16;

/// Catches panics and faults of the CPUs' threads, and the signal that stops one.
pub(super) fn catch() -> nix::Result<()> {
    std::panic::set_hook(std::boxed::Box::new(|info| {
        arena::abroad(|| on_panic(info))
    }));
    let flags = SaFlags::SA_SIGINFO | SaFlags::SA_ONSTACK;
    let fault = SigAction::new(SigHandler::SigAction(on_fault), flags, SigSet::empty());
    let stop = SigHandler::SigAction(on_stop);
    let stop = SigAction::new(stop, flags | SaFlags::SA_RESTART, SigSet::empty());
    for signal in [
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGILL,
        Signal::SIGFPE,
        Signal::SIGABRT,
    ] {
        // SAFETY: the handler never returns into what failed. It formats into no memory and makes system calls.
        unsafe { sigaction(signal, &fault)? };
    }
    // SAFETY: the handler does what a handler may; see `cpus::on_stop_signal`.
    unsafe { sigaction(cpus::STOP_SIGNAL, &stop)? };
    Ok(())
}

/// Gives the calling thread a stack for its faults' handler: the one that the host's library has given it holds little
/// more than the processor's registers.
pub(super) fn give_fault_stack() {
    let memory = std::vec![0_u8; FAULT_STACK_BYTES].leak();
    let stack = libc::stack_t {
        ss_sp: memory.as_mut_ptr().cast(),
        ss_flags: 0,
        ss_size: FAULT_STACK_BYTES,
    };
    // SAFETY: the memory is never freed, and no other thread gets it. Failure leaves the smaller stack.
    unsafe { libc::sigaltstack(&stack, core::ptr::null_mut()) };
}

extern "C" fn on_stop(_: c_int, _: *mut siginfo_t, _: *mut c_void) {
    if let Some(machine) = MACHINE.get() {
        cpus::on_stop_signal(machine);
    }
}

fn on_panic(info: &PanicHookInfo<'_>) {
    begin();
    say!("{info}\n");
    print_backtrace(&Backtrace::force_capture());
    end()
}

extern "C" fn on_fault(signal: c_int, info: *mut siginfo_t, _: *mut c_void) {
    begin();
    let name = Signal::try_from(signal).map_or("an unknown signal", Signal::as_str);
    // SAFETY: the host gives the handler a siginfo, whose address is set for the signals that are faults.
    let address = unsafe { (*info).si_addr() };
    match name {
        "SIGABRT" => say!("SIGABRT: out of memory, or a failed check of the host's library\n"),
        _ => say!(
            "{name} at address {address:p} (beyond the end of a stack, if that has overflowed)\n"
        ),
    }
    end()
}

/// Makes this CPU the one that reports, and stops the others. One that fails at the same time waits here to be stopped.
fn begin() {
    let (Some(machine), Some(cpu)) = (MACHINE.get(), executor::try_current()) else {
        say!("\npanic outside of every CPU\n");
        return;
    };
    let number = u32::from(cpu.id().0) + 1;
    match FAILED.compare_exchange(0, number, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {}
        Err(failed) if failed & !REPORTED == number => {
            say!("\npanic during a panic: the report is cut short\n");
            end()
        }
        Err(_) => wait_for_the_end(),
    }
    if !machine.cpus.stop(Some(cpu.id())) {
        say!("\na CPU does not stop\n");
    }
    let _ = report::write_headline(&mut out());
}

/// The attendant goes on from here.
fn end() -> ! {
    if executor::try_current().is_none() {
        match MACHINE.get() {
            Some(machine) => machine.exit(EXIT_PANIC),
            None => std::process::exit(EXIT_PANIC),
        }
    }
    FAILED.fetch_or(REPORTED, Ordering::AcqRel);
    attendant::call();
    wait_for_the_end()
}

fn wait_for_the_end() -> ! {
    loop {
        rustix::event::pause();
    }
}

/// The frames between the panic's own machinery and the executor's.
fn print_backtrace(backtrace: &Backtrace) {
    let text = alloc::format!("{backtrace}");
    let frames = text
        .lines()
        .skip_while(|line| !line.contains("core::panicking::panic"));
    let inner = |line: &&str| !line.contains("executor::cpu::Cpu::run");
    for line in frames.take_while(inner).take(BACKTRACE_LINES) {
        say!("{line}\n");
    }
}

/// Whether a CPU has failed and said why.
pub(super) fn has_failed() -> bool {
    FAILED.load(Ordering::Acquire) & REPORTED != 0
}

/// Stops the kernel, asks what to do, and returns when it may go on.
pub(super) fn stand_still(attendant: &mut Attendant) {
    let machine = attendant.machine;
    if !machine.cpus.stop(None) {
        say!("\na CPU does not stop\n");
    }
    machine.terminal.make_cooked();
    let node = machine.node.get().map(|node| &**node);
    let verdict = if has_failed() {
        if let Some(node) = node {
            let _ = report::write_trace(&mut out(), node, report::TRACE_RECORDS);
        }
        debugger::failed(attendant, node, machine.command_line())
    } else {
        debugger::asked(attendant, node)
    };
    match verdict {
        Verdict::Continue => {}
        Verdict::Reboot => machine.restart(),
        Verdict::PowerOff => machine.exit(EXIT_PANIC),
    }
    machine.terminal.make_raw();
    machine.cpus.resume();
}
