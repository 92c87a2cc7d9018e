//! A running node with its console in our hands: for the demonstration, the tests and the benches.
//!
//! [`RunningNode`] owns the node's process, be it QEMU or a vkernel, and kills it when dropped.
//! [`Console`] collects what the node prints, each line with the moment it was complete. The process
//! is started through `setpriv` where it exists, so that it dies with us even if we are killed without
//! a chance to clean up.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

use crate::host;

/// A line that a node printed.
#[derive(Clone, Debug)]
pub struct ConsoleLine {
    /// The node's name.
    pub node: String,
    /// When its last byte arrived.
    pub at: Instant,
    /// The text, without the line's end and without escape sequences.
    pub text: String,
}

/// What has come in so far.
#[derive(Default)]
struct Received {
    text: Vec<u8>,
    errors: Vec<u8>,
    closed: bool,
}

/// Everything a node prints. Cheap to clone; all clones see the same text.
#[derive(Clone, Default)]
pub struct Console {
    shared: Arc<(Mutex<Received>, Condvar)>,
}

impl Console {
    fn lock(&self) -> MutexGuard<'_, Received> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads `source` to its end; each complete line also goes to `lines`.
    fn collect(&self, node: &str, mut source: impl Read, lines: Option<Sender<ConsoleLine>>) {
        let mut buffer = [0; 4096];
        let mut partial = Vec::new();
        while let Ok(count @ 1..) = source.read(&mut buffer) {
            let at = Instant::now();
            self.lock().text.extend_from_slice(&buffer[..count]);
            self.shared.1.notify_all();
            let Some(lines) = &lines else { continue };
            partial.extend_from_slice(&buffer[..count]);
            while let Some(end) = partial.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = partial.drain(..=end).collect();
                let text = plain(&line).trim_end().to_owned();
                // Nobody listening any more is no reason to stop collecting.
                let _ = lines.send(ConsoleLine {
                    node: node.to_owned(),
                    at,
                    text,
                });
            }
        }
        self.lock().closed = true;
        self.shared.1.notify_all();
    }

    /// How much text there is, as a place to wait from.
    pub fn position(&self) -> usize {
        self.lock().text.len()
    }

    /// All text from `position` on, without escape sequences and carriage returns.
    pub fn text_since(&self, position: usize) -> String {
        let received = self.lock();
        plain(received.text.get(position..).unwrap_or_default())
    }

    /// Waits until `found` accepts the text from `position` on; `None` when time is up or the node
    /// ended first.
    fn wait<T>(
        &self,
        position: usize,
        limit: Duration,
        mut found: impl FnMut(&str) -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + limit;
        let mut received = self.lock();
        loop {
            let text = plain(received.text.get(position..).unwrap_or_default());
            if let Some(value) = found(&text) {
                return Some(value);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if received.closed || left.is_zero() || host::interrupted() {
                return None;
            }
            let slice = left.min(Duration::from_millis(100));
            received = match self.shared.1.wait_timeout(received, slice) {
                Ok((guard, _)) => guard,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }
}

/// A node's process and its console.
pub struct RunningNode {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    console: Console,
    prompt: String,
    started: Instant,
}

impl RunningNode {
    /// Starts `command`, a node whose console is its standard input and output, under `name`, which
    /// is also the hostname in the prompt waited for. Lines of its console also go to `lines`.
    ///
    /// # Errors
    /// The program cannot be run.
    pub fn start(
        name: &str,
        command: Command,
        lines: Option<Sender<ConsoleLine>>,
    ) -> Result<RunningNode> {
        let mut command = tied_to_us(command);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let started = Instant::now();
        let mut child = command
            .spawn()
            .with_context(|| format!("{name}: cannot start {:?}", command.get_program()))?;
        let console = Console::default();
        if let Some(output) = child.stdout.take() {
            let (console, name) = (console.clone(), name.to_owned());
            thread::spawn(move || console.collect(&name, output, lines));
        }
        if let Some(mut errors) = child.stderr.take() {
            let console = console.clone();
            thread::spawn(move || {
                let mut text = Vec::new();
                let _ = errors.read_to_end(&mut text);
                console.lock().errors = text;
            });
        }
        let input = child.stdin.take();
        let prompt = format!("{name}# ");
        Ok(RunningNode {
            name: name.to_owned(),
            child,
            input,
            console,
            prompt,
            started,
        })
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// When its process was started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// What it prints.
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// Waits for the first prompt; returns the time since the process was started.
    pub fn wait_for_prompt(&self, limit: Duration) -> Result<Duration> {
        let prompt = &self.prompt;
        let at_line_start = format!("\n{prompt}");
        let found =
            |all: &str| (all.starts_with(prompt) || all.contains(&at_line_start)).then_some(());
        self.console
            .wait(0, limit, found)
            .ok_or_else(|| self.missing(prompt, limit))?;
        Ok(self.started.elapsed())
    }

    /// Waits until `text` has been printed, looking at everything since the start; returns all of
    /// it so far.
    pub fn wait_for(&self, text: &str, limit: Duration) -> Result<String> {
        self.wait_after(0, text, limit)
    }

    /// Waits until `text` has been printed after `position`; returns what came since.
    pub fn wait_after(&self, position: usize, text: &str, limit: Duration) -> Result<String> {
        let found = |all: &str| all.contains(text).then(|| all.to_owned());
        self.console
            .wait(position, limit, found)
            .ok_or_else(|| self.missing(text, limit))
    }

    /// Types `line` and Enter without waiting for anything.
    pub fn type_line(&mut self, line: &str) -> Result<()> {
        self.type_bytes(format!("{line}\r").as_bytes())
    }

    /// Sends bytes to the console as they are.
    pub fn type_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        let input = self
            .input
            .as_mut()
            .context("the console's input is closed")?;
        input
            .write_all(bytes)
            .and_then(|()| input.flush())
            .context("the node has ended")
    }

    /// Runs a console command: returns what it printed between its echo and the next prompt.
    pub fn command(&mut self, line: &str, limit: Duration) -> Result<String> {
        let position = self.console.position();
        self.type_line(line)?;
        let prompt = self.prompt.clone();
        self.console
            .wait(position, limit, |text| output_of(text, line, &prompt))
            .ok_or_else(|| self.missing(&format!("the end of `{line}`"), limit))
    }

    /// Waits for the process to end by itself.
    pub fn wait_for_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("{}: its process still runs after {limit:?}", self.name);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGKILL, as a power cut is: nothing in the node gets to say goodbye.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Processor time that the process has used.
    pub fn processor_time(&self) -> Result<Duration> {
        processor_time(self.process())
    }

    fn missing(&self, what: &str, limit: Duration) -> anyhow::Error {
        let received = self.console.lock();
        let text = plain(&received.text);
        let tail: Vec<&str> = text.lines().rev().take(15).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        let errors = String::from_utf8_lossy(&received.errors).trim().to_owned();
        let ended = if received.closed {
            " (its process has ended)"
        } else {
            ""
        };
        anyhow::anyhow!(
            "{}: waited {limit:?} for {what:?}{ended}; its console ends with:\n{}\n{errors}",
            self.name,
            tail.join("\n")
        )
    }
}

impl Drop for RunningNode {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Processor time that a process has used, user and system, all its threads.
///
/// # Errors
/// There is no such process.
pub fn processor_time(process: u32) -> Result<Duration> {
    let process = Pid::from_raw(process.cast_signed());
    Ok(clock_getcpuclockid(process)?.now()?.into())
}

/// The same command, run so that the kernel of the host kills it when the thread that starts it
/// ends.
pub fn tied_to_us(command: Command) -> Command {
    let Some(setpriv) = host::find_program(&["setpriv"]) else {
        return command;
    };
    let mut tied = Command::new(setpriv);
    tied.args(["--pdeathsig", "KILL", "--"])
        .arg(command.get_program())
        .args(command.get_args());
    tied
}

/// What `line` printed, once its echo and the next prompt are both in `text`.
fn output_of(text: &str, line: &str, prompt: &str) -> Option<String> {
    let after_echo = match text.find(line) {
        Some(start) => &text[start + line.len()..],
        None => return None,
    };
    let body = &after_echo[after_echo.find('\n')? + 1..];
    // The prompt stands at the start of a line; the same words inside a line are output.
    if body.starts_with(prompt) {
        return Some(String::new());
    }
    let end = body.find(&format!("\n{prompt}"))?;
    Some(body[..end].to_owned())
}

/// Text as a terminal would show it: no escape sequences, redrawn lines once.
fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut clean = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            // A carriage return alone begins the line anew, as a line editor does to redraw it.
            '\r' => {
                if characters
                    .peek()
                    .is_some_and(|&next| next != '\n' && next != '\r')
                {
                    clean.truncate(clean.rfind('\n').map_or(0, |newline| newline + 1));
                }
            }
            '\x1b' => {
                if characters.next_if_eq(&'[').is_some() {
                    while characters.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
                } else {
                    characters.next();
                }
            }
            other => clean.push(other),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_and_carriage_returns_vanish() {
        assert_eq!(plain(b"a\r\n\x1b[2K\x1b[1;31mb\x1b[0m# "), "a\nb# ");
        assert_eq!(
            plain(b"x\r\na# pi\r\x1b[Kevent\r\na# pi"),
            "x\nevent\na# pi"
        );
    }

    #[test]
    fn output_is_what_stands_between_echo_and_prompt() {
        let prompt = "a# ";
        assert_eq!(output_of("ping x", "ping x", prompt), None);
        assert_eq!(output_of("ping x\nreply\n", "ping x", prompt), None);
        assert_eq!(
            output_of("ping x\nreply\na# ", "ping x", prompt),
            Some("reply".to_owned())
        );
        assert_eq!(output_of("true\na# ", "true", prompt), Some(String::new()));
    }

    #[test]
    fn a_console_hands_out_lines_with_the_node_that_printed_them() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let console = Console::default();
        console.collect("b", &b"one\r\ntwo\r\nrest"[..], Some(sender));
        let lines: Vec<String> = receiver
            .iter()
            .map(|line| line.node + ":" + &line.text)
            .collect();
        assert_eq!(lines, ["b:one", "b:two"]);
        assert_eq!(console.text_since(0), "one\ntwo\nrest");
    }
}
