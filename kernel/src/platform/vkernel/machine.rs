//! The machine as the kernel sees it: [`Machine`] over a process.
//!
//! As on hardware the trait is implemented for a reference: there is one [`Vkernel`], and it never goes away.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crossbeam_queue::ArrayQueue;
use executor::{Event, Node};
use nix::libc;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::cable::HostCable;
use super::cpus::{Cpus, new_eventfd};
use super::options::Options;
use super::terminal::Terminal;
use super::watchdog::{SIGHTINGS, Sighting};
use super::{Refused, say};
use crate::drivers::vke::Vke;
use crate::network::NetworkDevice;
use crate::platform::Machine;
use crate::report::Lines;

/// Typed bytes that may wait for the kernel's console.
const INPUT_BYTES: usize = 4096;

/// A process that is a machine.
pub struct Vkernel {
    pub(super) cpus: Cpus,
    /// Plugged in once there is a node, whose CPU 0 they belong to.
    pub(super) cables: OnceLock<Vec<Arc<HostCable>>>,
    pub(super) node: OnceLock<Arc<Node>>,
    pub(super) terminal: Terminal,
    /// Readable when the attendant is wanted.
    pub(super) news: OwnedFd,
    /// What the attendant is to report.
    pub(super) sightings: ArrayQueue<Sighting>,
    /// What the attendant signals for SIGTERM.
    pub(super) power_button: Event,
    command_line: String,
    memory_bytes: usize,
    rc: Option<Vec<u8>>,
    trace: Option<File>,
    input: ArrayQueue<u8>,
    input_event: Event,
    leaving: AtomicBool,
}

impl Vkernel {
    /// Everything but the node and the cables.
    pub(super) fn new(options: &Options, terminal: Terminal) -> Result<Self, Refused> {
        let refused = |path: &PathBuf, error, remedy| Refused::new(path.display(), error, remedy);
        let rc = options.rc.as_ref().map(|path| {
            let read = std::fs::read(path);
            read.map_err(|error| refused(path, error, "name a file of commands by --rc"))
        });
        let trace = options.trace.as_ref().map(|path| {
            let made = File::create(path);
            made.map_err(|error| refused(path, error, "name a file to be written by --trace"))
        });
        Ok(Self {
            cpus: Cpus::new(options.cpus, options.pinning == "map")?,
            cables: OnceLock::new(),
            node: OnceLock::new(),
            terminal,
            news: new_eventfd()?,
            sightings: ArrayQueue::new(SIGHTINGS),
            power_button: Event::new(),
            command_line: options.environment.join(" "),
            memory_bytes: options.memory_bytes,
            rc: rc.transpose()?,
            trace: trace.transpose()?,
            input: ArrayQueue::new(INPUT_BYTES),
            input_event: Event::new(),
            leaving: AtomicBool::new(false),
        })
    }

    /// The cables, in the order of their interfaces.
    pub(super) fn cables(&self) -> &[Arc<HostCable>] {
        self.cables.get().map_or(&[], Vec::as_slice)
    }

    /// Gives the console what was typed. What it has no room for is lost, as on a serial line.
    pub(super) fn type_bytes(&self, bytes: &[u8]) {
        let _ = bytes.iter().try_for_each(|byte| self.input.push(*byte));
        self.input_event.signal();
    }

    /// Ends the process. Other threads go on until it is over, so nothing of the kernel is dropped.
    pub(super) fn exit(&self, code: i32) -> ! {
        self.leave();
        // Not std's: a fault's handler ends here too, where no destructor of a thread-local may run.
        // SAFETY: ends the process; nothing of ours is buffered or waits to be told.
        unsafe { libc::_exit(code) }
    }

    /// The process runs its program again, with the words that it was started with.
    pub(super) fn restart(&self) -> ! {
        self.leave();
        let mut words = std::env::args_os();
        let name = words.next().unwrap_or_default();
        let mut program = Command::new("/proc/self/exe");
        let error = program.arg0(name).args(words).exec();
        say!("vkernel: cannot start again: {error}\n");
        std::process::exit(1)
    }

    /// The first who leaves does; others wait for the end.
    fn leave(&self) {
        while self.leaving.swap(true, Ordering::SeqCst) {
            rustix::event::pause();
        }
        self.terminal.close();
    }
}

/// The console's output for formatted text, as [`say!`] and the debugger have it.
pub(super) fn out() -> impl fmt::Write {
    Lines(write_out)
}

/// Writes to the console's output and returns when it is done, or when there is nobody to read it.
fn write_out(mut bytes: &[u8]) {
    let out = rustix::stdio::stdout();
    while !bytes.is_empty() {
        match rustix::io::write(out, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            // Somebody has made a terminal that we share non-blocking.
            Err(Errno::AGAIN) => {
                let _ = poll(&mut [PollFd::from_borrowed_fd(out, PollFlags::OUT)], None);
            }
            Err(_) => return,
        }
    }
}

impl Machine for &'static Vkernel {
    fn name(&self) -> &'static str {
        "vkernel"
    }

    fn power_off(&self) -> ! {
        self.exit(0)
    }

    fn reboot(&self) -> ! {
        self.restart()
    }

    fn write_console(&self, bytes: &[u8]) {
        write_out(bytes);
    }

    fn read_console(&self, buffer: &mut [u8]) -> usize {
        let places = buffer.iter_mut();
        places
            .map_while(|place| self.input.pop().map(|byte| *place = byte))
            .count()
    }

    fn console_event(&self) -> &Event {
        &self.input_event
    }

    fn write_trace(&self, bytes: &[u8]) -> usize {
        let file = self.trace.as_ref();
        file.map_or(0, |mut file| file.write(bytes).unwrap_or(0))
    }

    fn command_line(&self) -> &str {
        &self.command_line
    }

    fn rc_text(&self) -> Option<&[u8]> {
        self.rc.as_deref()
    }

    fn networks(&self) -> Vec<Box<dyn NetworkDevice>> {
        let cables = self.cables().iter();
        cables
            .map(|cable| Box::new(Vke::new(cable.clone())) as Box<dyn NetworkDevice>)
            .collect()
    }

    fn power_button(&self) -> Option<&Event> {
        Some(&self.power_button)
    }

    fn describe(&self, out: &mut dyn fmt::Write) {
        let host = rustix::system::uname();
        let _ = writeln!(
            out,
            "process {} on {} cores of {} {}; {} KiB of memory",
            std::process::id(),
            self.cpus.cores,
            host.sysname().to_string_lossy(),
            host.release().to_string_lossy(),
            self.memory_bytes >> 10
        );
        for (number, cable) in self.cables().iter().enumerate() {
            let what = if cable.plug.is_tap {
                "tap device"
            } else {
                "LAN"
            };
            let _ = writeln!(out, "vke{number}: plugged into {what} {}", cable.plug.name);
        }
    }
}
