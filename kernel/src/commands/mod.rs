//! The console's commands: one table, and how a line finds its way to it.
//!
//! [`Shell`] takes a line apart, finds the [`Command`] and runs it with a [`Context`], which holds
//! everything a command may touch. Each command's words are read by a pure function in [`syntax`].
//!
//! Decision: commands are `async` and run as part of the console's thread. Ctrl-C drops the future,
//! which is all the cancellation there is: a command must be correct when dropped at any await, as
//! every future here must.

use alloc::alloc::Layout;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::fmt;
use core::net::Ipv4Addr;

use ::carp::service::CarpError;
use executor::Node;
use executor::slab::has_room;
use executor::trace::ClassMask;
use futures_util::future::LocalBoxFuture;

use crate::config::Environment;
use crate::console::line_editor::{Candidates, Complete};
use crate::console::terminal::Output;
use crate::log::Dmesg;
use crate::platform::Machine;
use crate::services::Services;
use arguments::{ArgumentError, Arguments};
use words::{SplitError, nearest, split};

pub mod arguments;
pub mod syntax;
pub mod sysctl;
pub mod words;

mod carp;
mod ifconfig;
mod machine;
mod memory;
mod netstat;
mod ping;
mod ps;
mod text;
mod threads;
mod tracing;
mod udpecho;

/// Everything a command may touch.
pub struct Context {
    /// The machine, for its power switch and its facts.
    pub machine: Arc<dyn Machine>,
    /// The node, for its CPUs.
    pub node: Arc<Node>,
    /// The kernel environment.
    pub environment: Environment,
    /// Where output goes.
    pub output: Output,
    /// The lines of the log.
    pub dmesg: Rc<RefCell<Dmesg>>,
    /// Names and values that can be read and set.
    pub sysctls: sysctl::Sysctls,
    /// The running services.
    pub services: Rc<Services>,
    /// What `trace on` without classes means: those that were recorded last.
    pub last_trace_mask: Cell<ClassMask>,
}

/// What a command's `run` is.
pub type Run =
    for<'a> fn(&'a Context, Arguments<'a>) -> LocalBoxFuture<'a, Result<(), CommandError>>;

/// One command.
pub struct Command {
    /// What is typed.
    pub name: &'static str,
    /// For `help`: one line.
    pub summary: &'static str,
    /// For `help NAME`: the forms it takes, one a line.
    pub usage: &'static str,
    /// Words that could follow those typed (the command's name first).
    pub complete: fn(&Context, &[String]) -> Vec<String>,
    /// Does it.
    pub run: Run,
}

/// Makes a `fn` of [`Run`]'s type from an `async fn`.
macro_rules! run {
    ($function:path) => {
        |context, words| alloc::boxed::Box::pin($function(context, words))
    };
}
use run;

/// For [`Command::complete`]: nothing to offer.
fn no_words(_: &Context, _: &[String]) -> Vec<String> {
    Vec::new()
}

/// Owned copies, for [`Command::complete`].
fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| String::from(*word)).collect()
}

/// All commands, in the order of `help`.
pub fn all() -> impl Iterator<Item = &'static Command> {
    [
        text::COMMANDS,
        ps::COMMANDS,
        threads::COMMANDS,
        memory::COMMANDS,
        tracing::COMMANDS,
        ifconfig::COMMANDS,
        carp::COMMANDS,
        ping::COMMANDS,
        udpecho::COMMANDS,
        netstat::COMMANDS,
        sysctl::COMMANDS,
        machine::COMMANDS,
    ]
    .into_iter()
    .flatten()
}

/// The command of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Command> {
    all().find(|command| command.name == name)
}

/// Why a command failed. Its `Display` ends the line `<command>: `.
#[derive(Debug)]
pub enum CommandError {
    /// No command of this name; perhaps the one meant.
    NoSuchCommand(Option<&'static str>),
    /// A word is wrong.
    Argument(ArgumentError),
    /// The node has no such CPU.
    NoSuchCpu(u16),
    /// A sysctl cannot be read or set.
    Sysctl(sysctl::SysctlError),
    /// The network refused.
    Network(net::ConfigError),
    /// CARP refused.
    Carp(CarpError),
    /// No answer came to any request.
    NoAnswer(Ipv4Addr),
    /// An address is not in the ARP table.
    NoArpEntry(Ipv4Addr),
    /// Counters are kept for no protocol of this name.
    NoSuchProtocol(String),
    /// `panic` without the word that shows it is meant.
    NotConfirmed,
}

impl From<ArgumentError> for CommandError {
    fn from(error: ArgumentError) -> Self {
        Self::Argument(error)
    }
}

impl From<sysctl::SysctlError> for CommandError {
    fn from(error: sysctl::SysctlError) -> Self {
        Self::Sysctl(error)
    }
}

impl From<net::ConfigError> for CommandError {
    fn from(error: net::ConfigError) -> Self {
        Self::Network(error)
    }
}

impl From<CarpError> for CommandError {
    fn from(error: CarpError) -> Self {
        Self::Carp(error)
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchCommand(Some(name)) => {
                write!(f, "no such command; did you mean `{name}`?")
            }
            Self::NoSuchCommand(None) => f.write_str("no such command; `help` lists them"),
            Self::Argument(error) => error.fmt(f),
            Self::NoSuchCpu(cpu) => write!(f, "no CPU {cpu}; `cpus` lists them"),
            Self::Sysctl(error) => error.fmt(f),
            Self::Network(error) => error.fmt(f),
            Self::Carp(error) => error.fmt(f),
            Self::NoAnswer(address) => write!(f, "no answer from {address}"),
            Self::NoArpEntry(address) => write!(f, "{address} is not in the table"),
            Self::NoSuchProtocol(name) => {
                write!(
                    f,
                    "no counters for `{name}`; there are {}",
                    netstat::protocol_names()
                )
            }
            Self::NotConfirmed => f.write_str("stops this kernel; say `panic yes` if you mean it"),
        }
    }
}

/// A line that could not be done: the command's name (empty if the line has none), and why.
#[derive(Debug)]
pub enum LineError {
    /// The line cannot be taken apart.
    Split(SplitError),
    /// A command failed.
    Command(String, CommandError),
    /// Memory is short, and a command may need some: stop something, or try again later.
    NoMemory,
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Split(error) => error.fmt(f),
            Self::Command(name, error) => write!(f, "{name}: {error}"),
            Self::NoMemory => f.write_str("no memory to run a command"),
        }
    }
}

/// Bytes that must be free for a line to be run.
const LINE_ROOM_BYTES: usize = 16 * 1024;

/// Runs lines.
pub struct Shell {
    context: Context,
}

impl Shell {
    /// A shell with this context.
    #[must_use]
    pub fn new(context: Context) -> Self {
        Self { context }
    }

    /// What the commands work with.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Runs the commands of a line one after another. One that fails says so, with the number of the start-up script's line
    /// if it is one, and does not stop the rest.
    pub async fn run_line(&self, line: &str, script_line: Option<usize>) {
        // Asked once, here, for all that a line needs: its words, and the command while it runs.
        if !has_room(Layout::new::<[u8; LINE_ROOM_BYTES]>()) {
            return self.report(script_line, &LineError::NoMemory).await;
        }
        let commands = match split(line) {
            Ok(commands) => commands,
            Err(error) => return self.report(script_line, &LineError::Split(error)).await,
        };
        for words in &commands {
            if let Err(error) = self.run_words(words).await {
                let error = LineError::Command(words[0].clone(), error);
                self.report(script_line, &error).await;
            }
        }
    }

    /// Says what failed.
    pub async fn report(&self, script_line: Option<usize>, error: &dyn fmt::Display) {
        let output = &self.context.output;
        match script_line {
            Some(number) => output.line(format_args!("rc:{number}: {error}")).await,
            None => output.line(format_args!("{error}")).await,
        }
    }

    async fn run_words(&self, words: &[String]) -> Result<(), CommandError> {
        let name = words[0].as_str();
        let Some(command) = find(name) else {
            let meant = nearest(name, all().map(|command| command.name));
            return Err(CommandError::NoSuchCommand(meant));
        };
        (command.run)(&self.context, Arguments::new(words)).await
    }
}

impl Complete for Shell {
    fn candidates(&self, before_cursor: &str) -> Candidates {
        let line_start = before_cursor.rfind(';').map_or(0, |at| at + 1);
        let typed = &before_cursor[line_start..];
        let start = typed.rfind([' ', '\t']).map_or(0, |at| at + 1);
        let Ok(mut commands) = split(&typed[..start]) else {
            return Candidates::default();
        };
        let words = match commands.pop() {
            None => all().map(|command| String::from(command.name)).collect(),
            Some(words) => match find(&words[0]) {
                Some(command) => (command.complete)(&self.context, &words),
                None => Vec::new(),
            },
        };
        Candidates {
            start: line_start + start,
            words,
        }
    }
}
