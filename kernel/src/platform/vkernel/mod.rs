//! `vkernel`: Anax as an ordinary process of a Linux host, without root and without an emulator.
//!
//! A virtual CPU is a host thread ([`cpus`]), the memory an arena with a hard limit (`platform/arena.rs`), the console
//! the process's own input and output ([`terminal`]), a network card a socket of the virtual LAN or a tap device
//! ([`cable`]). The main thread is none of the kernel's: it is what hardware does beside the CPUs ([`attendant`]), and it
//! holds the debugger's prompt when the kernel stands still ([`panic`]).
//!
//! Decision: packets come without a thread of their own; an idle CPU 0 sleeps on its cables' descriptors beside its
//! doorbell. See docs/decisions/vkernel.md.
//! Source: DragonFly `sys/platform/vkernel64`, vkernel(7); the options are its.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use core::fmt::Display;
use std::eprintln;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::thread;

use clap::Parser;
use executor::{CpuId, Node};

use super::arena::{self, Arena};

pub mod attendant;
pub mod cable;
pub mod cpus;
pub mod machine;
pub mod options;
pub mod panic;
pub mod terminal;
mod watchdog;

use cable::HostCable;
use machine::Vkernel;
use options::Options;

/// Exit status after a panic, and of `quit` in the debugger.
const EXIT_PANIC: i32 = 3;
/// Exit status when SIGTERM had to end it: 128 and the signal's number.
const EXIT_TERMINATED: i32 = 143;

/// Writes to the console's output from any context: formats into no memory.
macro_rules! say {
    ($($what:tt)*) => {{
        let _ = core::fmt::Write::write_fmt(
            &mut $crate::platform::vkernel::machine::out(),
            format_args!($($what)*),
        );
    }};
}
use say;

/// The machine. A signal's handler has nowhere else to look.
static MACHINE: OnceLock<Vkernel> = OnceLock::new();

/// Why the kernel did not start, and what to do about it.
#[derive(Debug)]
pub struct Refused(String);

impl Refused {
    /// `what` cannot be done, for this reason; `remedy` is what helps.
    fn new(what: impl Display, why: impl Display, remedy: impl Display) -> Self {
        Self(format!("{what}: {why}; {remedy}"))
    }
}

/// The program: reads the command line, starts the kernel and attends to it. Returns only when it cannot start.
pub fn main() -> ExitCode {
    match start(&Options::parse()) {
        Ok(never) => match never {},
        Err(Refused(why)) => {
            if let Some(machine) = MACHINE.get() {
                machine.terminal.close();
            }
            eprintln!("vkernel: {why}");
            ExitCode::FAILURE
        }
    }
}

fn start(options: &Options) -> Result<core::convert::Infallible, Refused> {
    if options.verbose {
        eprintln!("vkernel: {options:?}");
    }
    if options.memory_bytes < usize::from(options.cpus) << 20 {
        let why = "a CPU needs 1M";
        return Err(Refused::new("not enough memory", why, "ask for more by -m"));
    }
    // The terminal first: its watcher is a process of its own, and must hold nothing that is opened later.
    let terminal = terminal::Terminal::open();
    let pid_file = options.pid_file.as_deref().map(hold_pid_file).transpose()?;
    let memory = |why: &dyn Display| Refused::new("no memory", why, "ask for less by -m");
    arena::reserve(1, options.memory_bytes).map_err(|error| memory(&error))?;
    let arena = Arena::take(false).ok_or_else(|| memory(&"it is taken"))?;
    let machine = Vkernel::new(options, terminal)?;
    let machine = MACHINE.get_or_init(|| machine);

    let node = Node::new(usize::from(options.cpus), Arc::new(machine));
    node.set_zones(arena.zones());
    // Held as long as the process lives.
    core::mem::forget((arena, pid_file));
    let plugs = options.interfaces.iter().enumerate();
    let cables = plugs.map(|(number, plug)| HostCable::plug(plug, number, &node).map(Arc::new));
    let _ = machine.cables.set(cables.collect::<Result<_, _>>()?);
    let _ = machine.node.set(node.clone());
    let signals = |error| Refused::new("no signals", error, "is this Linux?");
    panic::give_fault_stack();
    panic::catch().map_err(signals)?;
    watchdog::catch().map_err(signals)?;
    let signals = attendant::block_signals().map_err(signals)?;
    machine.terminal.make_raw();
    for id in (0..options.cpus).rev().map(CpuId) {
        let node = node.clone();
        let body = move || run_cpu(machine, &node, id);
        let thread = thread::Builder::new().name(id.to_string()).spawn(body);
        let remedy = "ask for fewer CPUs by -n, or see `ulimit -u`";
        thread.map_err(|error| Refused::new(id, error, remedy))?;
    }
    attendant::run(machine, signals)
}

/// A CPU's thread.
fn run_cpu(machine: &'static Vkernel, node: &Arc<Node>, id: CpuId) {
    panic::give_fault_stack();
    let cpu = node.cpu(id);
    // SAFETY: this thread enters this CPU, and no other thread does; the node is never dropped.
    unsafe { cpu.enter() };
    machine.cpus.prepare(id);
    if id == CpuId(0) {
        crate::start::start(Arc::new(machine), node.clone());
    }
    cpu.run();
}

/// Makes the pid file ours, as long as it is open.
fn hold_pid_file(path: &Path) -> Result<File, Refused> {
    let refused = |why: &dyn Display, remedy| Refused::new(path.display(), why, remedy);
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    let remedy = "name a file that can be written by -p";
    let mut file = options.open(path).map_err(|why| refused(&why, remedy))?;
    if file.try_lock().is_err() {
        let pid = std::fs::read_to_string(path).unwrap_or_default();
        let why = format!("held by the kernel with pid {}", pid.trim());
        return Err(refused(&why, "end that one, or name another file by -p"));
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(|why| refused(&why, remedy))?;
    Ok(file)
}
