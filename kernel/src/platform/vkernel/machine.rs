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
use std::process::Command;
use std::sync::OnceLock;

use crossbeam_queue::ArrayQueue;
use executor::{Event, Node};
use rustix::io::Errno;

use super::cable::HostCable;
use super::cpus::{self, Cpus};
use super::options::Options;
use super::terminal::Terminal;
use super::{Refused, say};
use crate::drivers::vke::Vke;
use crate::network::NetworkDevice;
use crate::platform::Machine;

/// Typed bytes that may wait for the kernel's console.
const INPUT_BYTES: usize = 4096;

/// A process that is a machine.
pub struct Vkernel {
    cpus: Cpus,
    cables: Vec<HostCable>,
    terminal: Terminal,
    command_line: String,
    memory_bytes: usize,
    rc: Option<Vec<u8>>,
    trace: Option<File>,
    /// Open, and hence locked, as long as the process lives.
    _pid_file: Option<File>,
    node: OnceLock<Arc<Node>>,
    /// Readable when the attendant is wanted.
    news: OwnedFd,
    input: ArrayQueue<u8>,
    input_event: Event,
    power_button: Event,
    leaving: AtomicBool,
}

impl Vkernel {
    /// Puts the machine together, its cables plugged in.
    pub(super) fn new(
        options: &Options,
        terminal: Terminal,
        pid_file: Option<File>,
    ) -> Result<Self, Refused> {
        let file =
            |path: &std::path::PathBuf, error, remedy| Refused::new(path.display(), error, remedy);
        let rc = options.rc.as_ref().map(|path| {
            std::fs::read(path)
                .map_err(|error| file(path, error, "name a file of commands by --rc"))
        });
        let trace = options.trace.as_ref().map(|path| {
            let remedy = "name a file that can be written by --trace";
            File::create(path).map_err(|error| file(path, error, remedy))
        });
        let cables = options.interfaces.iter().enumerate();
        Ok(Self {
            cpus: Cpus::new(options.cpus, options.pinning)?,
            cables: cables
                .map(|(number, plug)| HostCable::plug(plug, number))
                .collect::<Result<_, _>>()?,
            terminal,
            command_line: options.environment.join(" "),
            memory_bytes: options.memory_bytes,
            rc: rc.transpose()?,
            trace: trace.transpose()?,
            _pid_file: pid_file,
            node: OnceLock::new(),
            news: cpus::new_eventfd()?,
            input: ArrayQueue::new(INPUT_BYTES),
            input_event: Event::new(),
            power_button: Event::new(),
            leaving: AtomicBool::new(false),
        })
    }

    pub(super) fn set_node(&self, node: Arc<Node>) {
        let _ = self.node.set(node);
    }

    /// The kernel's node, once there is one.
    pub fn node(&self) -> Option<&Arc<Node>> {
        self.node.get()
    }

    /// The CPUs.
    pub fn cpus(&self) -> &Cpus {
        &self.cpus
    }

    /// The cables, in the order of their interfaces.
    pub fn cables(&self) -> &[HostCable] {
        &self.cables
    }

    /// The terminal.
    pub fn terminal(&self) -> &Terminal {
        &self.terminal
    }

    /// The kernel's command line.
    pub fn words(&self) -> &str {
        &self.command_line
    }

    /// What the attendant waits for.
    pub(super) fn news(&self) -> &OwnedFd {
        &self.news
    }

    /// Asks the kernel to shut down.
    pub(super) fn press_power_button(&self) {
        self.power_button.signal();
    }

    /// Gives the console what was typed. What it has no room for is lost, as on a serial line.
    pub(super) fn type_bytes(&self, bytes: &[u8]) {
        let _ = bytes.iter().try_for_each(|byte| self.input.push(*byte));
        self.input_event.signal();
    }

    /// Ends the process. Other threads go on until it is over, so nothing of the kernel is dropped.
    pub(super) fn exit(&self, code: i32) -> ! {
        self.leave();
        std::process::exit(code)
    }

    /// The process runs its program again, with the words that it was started with.
    pub(super) fn restart(&self) -> ! {
        self.leave();
        let mut words = std::env::args_os();
        let mut program = Command::new("/proc/self/exe");
        if let Some(name) = words.next() {
            program.arg0(name);
        }
        let error = program.args(words).exec();
        say!("vkernel: cannot start again: {error}\n");
        std::process::exit(1)
    }

    /// The first who leaves does; others wait for the end.
    fn leave(&self) {
        if self.leaving.swap(true, Ordering::SeqCst) {
            loop {
                std::thread::park();
            }
        }
        self.terminal.close();
    }
}

/// The console's output, for [`say!`]: a new line begins at the left.
pub(super) struct Out;

impl fmt::Write for Out {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for (number, row) in text.split('\n').enumerate() {
            if number > 0 {
                write_out(b"\r\n");
            }
            write_out(row.as_bytes());
        }
        Ok(())
    }
}

/// Writes to the console's output and returns when it is done, or when there is nobody to read it.
pub(super) fn write_out(mut bytes: &[u8]) {
    use rustix::event::{PollFd, PollFlags, poll};
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
        let taken = buffer
            .iter_mut()
            .map_while(|place| self.input.pop().map(|byte| *place = byte));
        taken.count()
    }

    fn console_event(&self) -> &Event {
        &self.input_event
    }

    fn write_trace(&self, bytes: &[u8]) -> usize {
        let trace = self.trace.as_ref();
        trace.map_or(0, |mut file| file.write(bytes).unwrap_or(0))
    }

    fn command_line(&self) -> &str {
        &self.command_line
    }

    fn rc_text(&self) -> Option<&[u8]> {
        self.rc.as_deref()
    }

    fn networks(&self) -> Vec<Box<dyn NetworkDevice>> {
        let card = |cable: &'static HostCable| {
            cable.open(executor::current().node());
            Box::new(Vke::new(Arc::new(cable))) as Box<dyn NetworkDevice>
        };
        self.cables.iter().map(card).collect()
    }

    fn power_button(&self) -> Option<&Event> {
        Some(&self.power_button)
    }

    fn describe(&self, out: &mut dyn fmt::Write) {
        let host = rustix::system::uname();
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let _ = writeln!(
            out,
            "process {} on {} {} ({}), {} of its {cores} cores",
            std::process::id(),
            host.sysname().to_string_lossy(),
            host.release().to_string_lossy(),
            host.machine().to_string_lossy(),
            self.cpus.count().min(cores)
        );
        let _ = writeln!(out, "{} KiB of memory", self.memory_bytes >> 10);
        for (number, cable) in self.cables.iter().enumerate() {
            let _ = writeln!(out, "vke{number} is plugged into {cable}");
        }
    }
}
