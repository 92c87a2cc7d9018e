//! The debugger: the prompt of a kernel that stands still, because it has failed or was asked to.
//!
//! The machine has stopped its CPUs, each of which has left a [`Note`] of what it was doing; it lends the prompt a
//! keyboard and a screen ([`Stopped`]), and carries the [`Verdict`] out. [`asked`] is for a kernel that may go on,
//! [`failed`] for one that cannot: there `panic=` decides, and the prompt is what `panic=halt` means.
//!
//! Decision: nothing here allocates but the trace's records, because the heap may be what has failed. A machine whose
//! heap the kernel shares comes back to [`failed`] when a command panics.

use core::fmt::{Result, Write};
use core::panic::Location;

use executor::{Cpu, CpuId, Node};

use crate::config::PanicAction;
use crate::report;

/// Bytes that a command may have; more are ignored.
const LINE_BYTES: usize = 80;
const BACKSPACE: u8 = 0x08;
const DELETE: u8 = 0x7f;

const HELP: &str = "\
cpus         what every CPU is doing
trace [N]    the last N trace records of each CPU (64)
continue     let the kernel go on
reboot       start it again
quit         power off
";

/// What a CPU was doing when it was stopped.
#[derive(Clone, Copy, Debug)]
pub struct Note {
    /// Sleeping, with nothing to do.
    idle: bool,
    /// Number, name and spawn site of the running thread.
    thread: Option<(u32, &'static str, &'static Location<'static>)>,
    /// Polls since boot.
    polls: u64,
    /// Threads queued to run.
    run_queue_length: u32,
}

impl Note {
    /// What this CPU is doing. On the CPU itself, any context: reads words that are whole at any instruction.
    ///
    /// # Panics
    /// On another CPU.
    #[must_use]
    pub fn of(cpu: &Cpu) -> Self {
        Self {
            idle: cpu.may_sleep(),
            thread: cpu.running_thread(),
            polls: cpu.poll_count(),
            run_queue_length: cpu.run_queue_length(),
        }
    }
}

/// A kernel that stands still, as its machine sees it. Text goes to the console, "\n" to the beginning of a new line.
pub trait Stopped: Write {
    /// The next typed byte. Waits for it.
    fn read_byte(&mut self) -> u8;

    /// Whether what is typed must be shown: not where a host's terminal does that.
    fn echoes(&self) -> bool;

    /// What a CPU was doing. None: it has not stopped.
    fn note(&self, cpu: CpuId) -> Option<Note>;
}

/// What is to become of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Continue,
    /// Its machine starts again.
    Reboot,
    /// Its machine is switched off.
    PowerOff,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    Asked,
    Failure,
}

/// Shows what every CPU is doing and asks what to do. The CPUs stand still.
pub fn asked(stopped: &mut dyn Stopped, node: Option<&Node>) -> Verdict {
    // Who cannot be written to cannot be told: here and below.
    let _ = writeln!(stopped).and_then(|()| write_cpus(stopped, node));
    prompt(stopped, node, Cause::Asked)
}

/// What the kernel's command line says about a panic, after its report: never [`Verdict::Continue`].
pub fn failed(stopped: &mut dyn Stopped, node: Option<&Node>, command_line: &str) -> Verdict {
    let (word, verdict) = match PanicAction::of(command_line) {
        PanicAction::Reboot => ("rebooting", Some(Verdict::Reboot)),
        PanicAction::PowerOff => ("powering off", Some(Verdict::PowerOff)),
        PanicAction::Halt => ("halted", None),
    };
    let _ = writeln!(stopped, "{word}");
    verdict.unwrap_or_else(|| prompt(stopped, node, Cause::Failure))
}

/// Obeys commands until one says what becomes of the kernel.
fn prompt(stopped: &mut dyn Stopped, node: Option<&Node>, cause: Cause) -> Verdict {
    let mut line = [0; LINE_BYTES];
    loop {
        let _ = stopped.write_str("db> ");
        let line = read_line(stopped, &mut line);
        let mut words = line.split_ascii_whitespace();
        let words = (words.next(), words.next().map(str::parse), words.next());
        let _ = match words {
            (None, ..) => Ok(()),
            (Some("help" | "?"), None, None) => stopped.write_str(HELP),
            (Some("cpus"), None, None) => write_cpus(stopped, node),
            (Some("trace"), None, None) => write_trace(stopped, node, report::TRACE_RECORDS),
            (Some("trace"), Some(Ok(count)), None) => write_trace(stopped, node, count),
            (Some("continue" | "c"), None, None) if cause == Cause::Asked => {
                return Verdict::Continue;
            }
            (Some("continue" | "c"), None, None) => {
                stopped.write_str("a kernel that has failed cannot go on; `reboot` or `quit`\n")
            }
            (Some("reboot"), None, None) => return Verdict::Reboot,
            (Some("quit"), None, None) => return Verdict::PowerOff,
            _ => writeln!(stopped, "not a command: {}; `help` lists them", line.trim()),
        };
    }
}

/// A line without its end, and without what is not ASCII.
fn read_line<'line>(stopped: &mut dyn Stopped, line: &'line mut [u8; LINE_BYTES]) -> &'line str {
    let mut length = 0;
    let echoes = stopped.echoes();
    let show = |stopped: &mut dyn Stopped, text: &str| {
        if echoes {
            let _ = stopped.write_str(text);
        }
    };
    loop {
        match stopped.read_byte() {
            b'\r' | b'\n' => break,
            BACKSPACE | DELETE if length > 0 => {
                length -= 1;
                show(stopped, "\x08 \x08");
            }
            byte @ b' '..=b'~' if length < LINE_BYTES => {
                line[length] = byte;
                length += 1;
                show(stopped, char::from(byte).encode_utf8(&mut [0; 4]));
            }
            _ => {}
        }
    }
    show(stopped, "\n");
    core::str::from_utf8(&line[..length]).unwrap_or("")
}

fn write_cpus(stopped: &mut dyn Stopped, node: Option<&Node>) -> Result {
    for cpu in node.into_iter().flat_map(Node::cpus) {
        match stopped.note(cpu.id()) {
            Some(note) => write_cpu(stopped, cpu, &note)?,
            None => writeln!(stopped, "{}: does not answer", cpu.id())?,
        }
    }
    Ok(())
}

fn write_cpu(out: &mut dyn Write, cpu: &Cpu, note: &Note) -> Result {
    write!(out, "{}: ", cpu.id())?;
    match note.thread {
        Some((id, name, site)) => write!(out, "in thread {id} ({name}, spawned at {site})")?,
        None if note.idle => write!(out, "idle")?,
        None => write!(out, "between two threads")?,
    }
    let stats = cpu.stats();
    writeln!(
        out,
        "; {} polls, {} queued to run; IPIs: {} sent, {} received, doorbells: {} rung, {} saved",
        note.polls,
        note.run_queue_length,
        stats.ipi_sent.get(),
        stats.ipi_received.get(),
        stats.doorbells_rung.get(),
        stats.doorbells_saved.get()
    )
}

fn write_trace(out: &mut dyn Write, node: Option<&Node>, count: usize) -> Result {
    node.map_or(Ok(()), |node| report::write_trace(out, node, count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;
    use alloc::sync::Arc;
    use executor::Platform;
    use executor::trace::{Event, Record};

    /// A keyboard that everything is typed on already, and a screen. CPU 0 has stopped, the others have not.
    struct Fake {
        typed: alloc::vec::IntoIter<u8>,
        screen: String,
        echoes: bool,
    }

    impl Write for Fake {
        fn write_str(&mut self, text: &str) -> Result {
            self.screen.push_str(text);
            Ok(())
        }
    }

    impl Stopped for Fake {
        fn read_byte(&mut self) -> u8 {
            self.typed.next().expect("no verdict by now")
        }

        fn echoes(&self) -> bool {
            self.echoes
        }

        fn note(&self, cpu: CpuId) -> Option<Note> {
            let note = Note {
                idle: true,
                thread: None,
                polls: 7,
                run_queue_length: 2,
            };
            (cpu == CpuId(0)).then_some(note)
        }
    }

    /// What is shown, and the verdict.
    fn fake(typed: &str, debug: impl FnOnce(&mut Fake) -> Verdict) -> (String, Verdict) {
        let mut fake = Fake {
            typed: typed.as_bytes().to_vec().into_iter(),
            screen: String::new(),
            echoes: false,
        };
        let verdict = debug(&mut fake);
        assert_eq!(fake.typed.next(), None, "read to the end");
        (fake.screen, verdict)
    }

    /// CPUs that never run.
    struct NoMachine;

    impl Platform for NoMachine {
        fn clock_ns(&self) -> u64 {
            0
        }
        fn doorbell(&self, _: CpuId) {}
        fn idle(&self, _: &Cpu) {}
        fn set_timer(&self, _: Option<u64>) {}
    }

    #[test]
    fn who_asked_sees_every_cpu_and_may_go_on() {
        let node = Node::new(2, Arc::new(NoMachine));
        let (screen, verdict) = fake("cpus\rc\r", |fake| asked(fake, Some(&node)));
        assert_eq!(verdict, Verdict::Continue);
        let cpus = "cpu0: idle; 7 polls, 2 queued to run; IPIs: 0 sent, 0 received, doorbells: 0 rung, 0 saved\n\
                    cpu1: does not answer\n";
        assert_eq!(screen, alloc::format!("\n{cpus}db> {cpus}db> "));
    }

    #[test]
    fn a_failure_ends_as_the_command_line_says() {
        let end = |line: &str| fake("", |fake| failed(fake, None, line));
        assert_eq!(end(""), (String::from("rebooting\n"), Verdict::Reboot));
        let off = (String::from("powering off\n"), Verdict::PowerOff);
        assert_eq!(end("quiet panic=poweroff"), off);
    }

    #[test]
    fn a_failed_kernel_halts_at_the_prompt_and_cannot_go_on() {
        let typed = "\rcontinue\nquit now\rtrace x\rquit\r";
        let (screen, verdict) = fake(typed, |fake| failed(fake, None, "panic=halt"));
        assert_eq!(verdict, Verdict::PowerOff);
        let expected = "halted\ndb> db> a kernel that has failed cannot go on; `reboot` or `quit`\n\
                        db> not a command: quit now; `help` lists them\n\
                        db> not a command: trace x; `help` lists them\ndb> ";
        assert_eq!(screen, expected);
        let (screen, verdict) = fake("help\rreboot\r", |fake| failed(fake, None, "panic=halt"));
        assert_eq!(verdict, Verdict::Reboot);
        assert!(screen.contains("\ndb> cpus  ") && screen.contains("\nquit  "));
    }

    #[test]
    fn a_line_is_edited_shown_and_bounded() {
        let (screen, _) = fake("quix\x7f\x08\x1b\u{e9}it\r", |fake| {
            fake.echoes = true;
            prompt(fake, None, Cause::Failure)
        });
        assert_eq!(screen, "db> quix\x08 \x08\x08 \x08it\n");
        let long = "x".repeat(LINE_BYTES);
        let (screen, _) = fake(&alloc::format!("\x08{long}y\rquit\r"), |fake| {
            prompt(fake, None, Cause::Failure)
        });
        assert_eq!(
            screen,
            alloc::format!("db> not a command: {long}; `help` lists them\ndb> ")
        );
    }

    #[test]
    fn the_trace_is_shown_as_long_as_it_was_asked_for() {
        let node = Node::new(1, Arc::new(NoMachine));
        // This thread is the CPU's owner: nobody else runs it.
        let ring = node.cpu(CpuId(0)).trace_ring();
        (0..9).for_each(|n| ring.push(Record::new(n, Event::Mark, 0, 0, 0)));
        let (screen, _) = fake("trace 5\rtrace\rquit\r", |fake| {
            prompt(fake, Some(&node), Cause::Failure)
        });
        assert_eq!(
            screen.matches("the last 5 trace records:\n").count(),
            1,
            "{screen}"
        );
        assert_eq!(screen.matches(" cpu0 mark ").count(), 5 + 9, "{screen}");
    }
}
