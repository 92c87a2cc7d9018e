//! The end, and the debugger: what is printed when the kernel cannot go on or is asked to stand still.
//!
//! A panic prints message, running thread and backtrace on its own CPU, a fault its one line, with the other CPUs stopped
//! ([`Cpus::stop`](super::cpus::Cpus::stop)); the rest is the attendant's: the last trace records, then reboot, power off
//! or the prompt, as `panic=` says. `^\` brings the same prompt without a panic, and `continue` leaves it.
//!
//! Decision: the prompt runs on the attendant's thread with the host's memory, so that it works whatever state the
//! kernel's is in. A failure during the report cuts it short instead of looping.

use alloc::string::String;
use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicU32, Ordering};
use std::backtrace::Backtrace;
use std::panic::PanicHookInfo;

use executor::Cpu;
use nix::libc::{self, siginfo_t};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use super::attendant::{self, Attendant};
use super::cpus::{self, Note};
use super::machine::{Out, Vkernel};
use super::{EXIT_PANIC, EXIT_TERMINATED, MACHINE, arena, say};
use crate::config::{Environment, PanicAction};
use crate::platform::Machine;
use crate::report;

/// What formatting takes, several times over.
const FAULT_STACK_BYTES: usize = 64 << 10;
/// Bytes that a command may have; more are forgotten.
const LINE_LIMIT: usize = 4096;
/// Lines of a backtrace.
const BACKTRACE_LINES: usize = 64;

/// 0: all is well. Otherwise the number of the CPU that has failed and one more, with [`REPORTED`] when it has reported.
static FAILED: AtomicU32 = AtomicU32::new(0);
const REPORTED: u32 = 1 << 16;

/// Why the kernel stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Somebody asked.
    Asked,
    /// A CPU cannot go on.
    Failure,
}

/// Whether a CPU has failed and said why.
pub(super) fn has_failed() -> bool {
    FAILED.load(Ordering::Acquire) & REPORTED != 0
}

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
    let _ = report::write_headline(&mut Out);
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

/// Stops the kernel, and returns when it may go on.
pub(super) fn stand_still(attendant: &mut Attendant, cause: Cause) {
    let machine = attendant.machine;
    if !machine.cpus.stop(None) {
        say!("\na CPU does not stop\n");
    }
    match cause {
        Cause::Asked => {
            say!("\n");
            print_cpus(machine);
        }
        Cause::Failure => {
            print_trace(machine, report::TRACE_RECORDS);
            match Environment::parse(machine.command_line()).panic_action() {
                PanicAction::Reboot => {
                    say!("rebooting\n");
                    machine.restart()
                }
                PanicAction::PowerOff => {
                    say!("powering off\n");
                    machine.exit(EXIT_PANIC)
                }
                PanicAction::Halt => say!("halted\n"),
            }
        }
    }
    machine.terminal.make_cooked();
    prompt(attendant, cause);
    machine.terminal.make_raw();
    machine.cpus.resume();
}

const HELP: &str = "\
cpus         what every CPU is doing
trace [N]    the last N trace records of each CPU (64)
continue     let the kernel go on
reboot       start it again
quit         end the process
";

/// Reads commands until one lets the kernel go on.
fn prompt(attendant: &mut Attendant, cause: Cause) {
    let machine = attendant.machine;
    loop {
        say!("db> ");
        let line = read_line(attendant);
        let mut words = line.split_ascii_whitespace();
        match (words.next(), words.next().map(str::parse)) {
            (None, _) => {}
            (Some("help" | "?"), None) => say!("{HELP}"),
            (Some("cpus"), None) => print_cpus(machine),
            (Some("trace"), None) => print_trace(machine, report::TRACE_RECORDS),
            (Some("trace"), Some(Ok(count))) => print_trace(machine, count),
            (Some("continue" | "c"), None) if cause == Cause::Asked => return,
            (Some("continue" | "c"), None) => {
                say!("a kernel that has failed cannot go on; `reboot` or `quit`\n");
            }
            (Some("reboot"), None) => machine.restart(),
            (Some("quit"), None) => machine.exit(EXIT_PANIC),
            _ => say!("not a command: {}; `help` lists them\n", line.trim()),
        }
    }
}

fn read_line(attendant: &mut Attendant) -> String {
    loop {
        let is_end = |byte: &u8| matches!(byte, b'\n' | b'\r');
        if let Some(end) = attendant.typed.iter().position(is_end) {
            let line = attendant
                .typed
                .drain(..=end)
                .collect::<alloc::vec::Vec<u8>>();
            return String::from_utf8_lossy(&line).into_owned();
        }
        if attendant.typed.len() > LINE_LIMIT {
            attendant.typed.clear();
        }
        if let Some(Signal::SIGTERM) = attendant.wait(None) {
            attendant.machine.exit(EXIT_TERMINATED);
        }
    }
}

fn print_cpus(machine: &Vkernel) {
    let Some(node) = machine.node.get() else {
        return;
    };
    for cpu in node.cpus() {
        match machine.cpus.note(cpu.id()) {
            Some(note) => print_cpu(cpu, &note),
            None => say!("{}: does not answer\n", cpu.id()),
        }
    }
}

fn print_cpu(cpu: &Cpu, note: &Note) {
    say!("{}: ", cpu.id());
    match note.thread {
        Some((id, name, site)) => say!("in thread {id} ({name}, spawned at {site})"),
        None if note.idle => say!("idle"),
        None => say!("between two threads"),
    }
    let stats = cpu.stats();
    say!(
        "; {} polls, {} queued to run; IPIs: {} sent, {} received, doorbells: {} rung, {} saved\n",
        note.polls,
        note.run_queue_length,
        stats.ipi_sent.get(),
        stats.ipi_received.get(),
        stats.doorbells_rung.get(),
        stats.doorbells_saved.get()
    );
}

fn print_trace(machine: &Vkernel, count: usize) {
    if let Some(node) = machine.node.get() {
        let _ = report::write_trace(&mut Out, node, count);
    }
}
