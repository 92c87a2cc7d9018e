//! The console: the thread on CPU 0 that talks to a person.
//!
//! [`Console`] waits for one event, which means "look": there may be typed bytes, there may be lines in
//! the log. While a line is edited, log lines are shown above it. While a command runs, the console
//! goes on looking, so that Ctrl-C reaches it and the log is seen.
//!
//! Decision: one thread does all of it, and a command's future is polled inside it rather than spawned.
//! Cancelling is then dropping a local variable, and no output can come after the prompt.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::pin::pin;

use futures_util::future::{Either, select};

use crate::commands::Shell;
use crate::config::RcScript;
use crate::log::{Dmesg, KernelLog};
use crate::platform::Machine;
use line_editor::{Edit, LineEditor};
use terminal::Terminal;

pub mod byte_ring;
pub mod line_editor;
pub mod terminal;

#[cfg(test)]
mod tests;

/// Typed bytes kept while a command runs; more are dropped with a bell.
const MAX_TYPED_AHEAD_BYTES: usize = 4096;
const CTRL_C: u8 = 0x03;
/// Log lines shown at most before others have their turn.
const LOG_LINES_PER_POLL: usize = 16;

/// The console of a kernel.
pub struct Console {
    machine: Arc<dyn Machine>,
    terminal: Rc<Terminal>,
    log: Arc<KernelLog>,
    dmesg: Rc<RefCell<Dmesg>>,
    shell: Shell,
    editor: LineEditor,
    typed: VecDeque<u8>,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Done,
    Interrupted,
}

impl Console {
    /// A console with this shell. `terminal` is where the shell's output goes.
    #[must_use]
    pub fn new(
        machine: Arc<dyn Machine>,
        terminal: Rc<Terminal>,
        log: Arc<KernelLog>,
        shell: Shell,
    ) -> Self {
        let dmesg = shell.context().dmesg.clone();
        let prompt = alloc::format!("{}# ", shell.context().environment.hostname());
        let mut editor = LineEditor::new(&prompt);
        if let Some(columns) = shell.context().environment.get("columns") {
            editor.set_columns(columns.parse().unwrap_or(line_editor::DEFAULT_COLUMNS));
        }
        Self {
            machine,
            terminal,
            log,
            dmesg,
            shell,
            editor,
            // All that it may hold, and a Ctrl-C: typing needs no memory.
            typed: VecDeque::with_capacity(MAX_TYPED_AHEAD_BYTES + 1),
        }
    }

    /// Runs a start-up script. A line that fails is reported with its number; the rest still runs.
    pub async fn run_script(&mut self, script: &RcScript) {
        for line in script.lines() {
            match &line.command {
                Ok(command) => self.execute(command, Some(line.number)).await,
                Err(error) => self.shell.report(Some(line.number), error).await,
            }
        }
    }

    /// Prompts, reads and runs, for ever.
    pub async fn run(mut self) {
        loop {
            let line = self.read_line().await;
            self.execute(&line, None).await;
        }
    }

    /// Edits a line until it is finished. Ctrl-C and Ctrl-D start a new one.
    async fn read_line(&mut self) -> alloc::string::String {
        self.terminal.start_line();
        let mut echo = Vec::new();
        while let Some(row) = next_log_row(&self.log, &self.dmesg) {
            self.terminal.write_raw(&row);
        }
        self.editor.draw_in_fresh_row(&mut echo);
        loop {
            while let Some(byte) = self.typed.pop_front() {
                let edit = self.editor.input(byte, &self.shell, &mut echo);
                if let Edit::Line(line) = edit {
                    self.terminal.write_raw(&echo);
                    return line;
                }
                match edit {
                    Edit::Cancelled => self.editor.draw_in_fresh_row(&mut echo),
                    Edit::EndOfInput => {
                        echo.extend_from_slice(b"`poweroff` ends the machine\r\n");
                        self.editor.draw_in_fresh_row(&mut echo);
                    }
                    _ => {}
                }
                if echo.len() >= terminal::BYTES_PER_POLL {
                    self.terminal.write_raw(&echo);
                    echo.clear();
                    executor::yield_now().await;
                }
            }
            self.terminal.write_raw(&echo);
            echo.clear();
            self.machine.console_event().wait().await;
            self.take_input();
            self.show_log_above_line(&mut echo).await;
        }
    }

    /// Runs a line's commands until they end or Ctrl-C comes.
    async fn execute(&mut self, line: &str, script_line: Option<usize>) {
        let machine = self.machine.clone();
        let mut ended = Ended::Done;
        {
            // The shell is borrowed by the running line, so the rest is taken apart here.
            let Self {
                shell,
                typed,
                terminal,
                log,
                dmesg,
                ..
            } = self;
            let mut running = pin!(shell.run_line(line, script_line));
            loop {
                let looking = pin!(machine.console_event().wait());
                match select(running.as_mut(), looking).await {
                    Either::Left(((), _)) => break,
                    Either::Right(((), _)) => {
                        read_typed(&*machine, typed, terminal);
                        if let Some(at) = typed.iter().rposition(|&byte| byte == CTRL_C) {
                            // What was typed before Ctrl-C was meant for the command that ends here.
                            typed.drain(..=at);
                            shell.context().output.discard();
                            terminal.write_raw(b"^C\r\n");
                            ended = Ended::Interrupted;
                            break;
                        }
                        while let Some(row) = next_log_row(log, dmesg) {
                            terminal.start_line();
                            terminal.write_raw(&row);
                        }
                    }
                }
            }
        }
        if ended == Ended::Interrupted {
            // A command that is dropped may have last words, such as what it counted.
            self.shell.context().output.flush().await;
        }
    }

    fn take_input(&mut self) {
        read_typed(&*self.machine, &mut self.typed, &self.terminal);
    }

    /// Shows waiting log lines and draws the edited line anew below them.
    async fn show_log_above_line(&mut self, echo: &mut Vec<u8>) {
        let mut erased = false;
        let mut shown = 0;
        while let Some(row) = next_log_row(&self.log, &self.dmesg) {
            if !erased {
                self.editor.erase(echo);
                erased = true;
            }
            echo.extend_from_slice(&row);
            shown += 1;
            if shown == LOG_LINES_PER_POLL {
                shown = 0;
                self.terminal.write_raw(echo);
                echo.clear();
                executor::yield_now().await;
            }
        }
        if erased {
            self.editor.draw_in_fresh_row(echo);
        }
    }
}

/// Takes what the machine has received.
fn read_typed(machine: &dyn Machine, typed: &mut VecDeque<u8>, terminal: &Terminal) {
    let mut buffer = [0; 64];
    loop {
        let length = machine.read_console(&mut buffer);
        if length == 0 {
            return;
        }
        for &byte in &buffer[..length] {
            if typed.len() < MAX_TYPED_AHEAD_BYTES || byte == CTRL_C {
                typed.push_back(byte);
            } else {
                terminal.write_raw(b"\x07");
            }
        }
    }
}

/// Moves the next log line into `dmesg` and returns it as a row, or `None` if there is none to show.
fn next_log_row(log: &KernelLog, dmesg: &RefCell<Dmesg>) -> Option<Vec<u8>> {
    let lost = log.take_lost();
    if lost > 0 {
        return Some(alloc::format!("({lost} log lines were lost)\r\n").into_bytes());
    }
    loop {
        let line = log.take()?;
        dmesg.borrow_mut().push(line);
        if !line.is_shown() {
            return Some(alloc::format!("{line}\r\n").into_bytes());
        }
    }
}
