//! On a terminal: raw while it runs, and as it was before, whatever its end.

use super::running::{PATIENCE, Running, vkernel};
use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, tcgetattr};
use std::fs::File;
use std::process::Command;
use std::time::{Duration, Instant};

/// A terminal and the kernel on it.
struct Seat {
    kernel: Running,
    terminal: File,
    before: String,
}

fn shape(attributes: &Termios) -> String {
    format!("{attributes:?}")
}

fn sit_down(words: &[&str]) -> Seat {
    let controller =
        openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&controller).unwrap();
    unlockpt(&controller).unwrap();
    let name = ptsname(&controller, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let terminal = File::from(open(name, flags, Mode::empty()).unwrap());
    let before = shape(&tcgetattr(&terminal).unwrap());
    let child = Command::new(vkernel())
        .args(words)
        .stdin(terminal.try_clone().unwrap())
        .stdout(terminal.try_clone().unwrap())
        .spawn()
        .unwrap();
    let controller = File::from(controller);
    let mut kernel = Running::attach(child, controller.try_clone().unwrap(), Some(controller));
    kernel.expect("anax# ");
    let raw = tcgetattr(&terminal).unwrap();
    assert!(
        !raw.local_modes
            .contains(LocalModes::ICANON | LocalModes::ECHO)
    );
    Seat {
        kernel,
        terminal,
        before,
    }
}

impl Seat {
    /// Waits until the terminal is as it was.
    fn is_restored(&self) {
        let limit = Instant::now() + PATIENCE;
        while shape(&tcgetattr(&self.terminal).unwrap()) != self.before {
            assert!(Instant::now() < limit, "the terminal is not as it was");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// It has ended in order: the terminal must be as it was by now.
    fn was_restored(&mut self, code: i32) {
        assert_eq!(self.kernel.ended(), Some(code));
        assert_eq!(shape(&tcgetattr(&self.terminal).unwrap()), self.before);
    }
}

#[test]
fn it_is_restored_by_poweroff_and_sigterm() {
    let mut seat = sit_down(&[]);
    seat.kernel.send("poweroff\r");
    seat.was_restored(0);
    let mut seat = sit_down(&[]);
    seat.kernel.signal("TERM");
    seat.was_restored(0);
}

#[test]
fn it_is_restored_by_a_panic() {
    let mut seat = sit_down(&["-e", "panic=poweroff"]);
    seat.kernel.send("panic yes\r");
    seat.was_restored(3);
}

#[test]
fn it_is_restored_by_sigkill_and_a_fault() {
    let mut seat = sit_down(&[]);
    seat.kernel.signal("KILL");
    assert_eq!(seat.kernel.ended(), None);
    seat.is_restored();
    let mut seat = sit_down(&[]);
    seat.kernel.signal("SEGV");
    seat.kernel.expect("SIGSEGV");
    seat.was_restored(3);
}

#[test]
fn the_debugger_has_an_ordinary_terminal_and_continue_a_raw_one() {
    let mut seat = sit_down(&[]);
    seat.kernel.send("\x1c");
    seat.kernel.expect("db> ");
    assert_eq!(shape(&tcgetattr(&seat.terminal).unwrap()), seat.before);
    seat.kernel.send("continue\r");
    seat.kernel.expect("continue\r\n");
    seat.kernel.send("echo alive\r");
    seat.kernel.expect("\r\nalive\r\n");
    seat.kernel.send("reboot\r");
    seat.kernel.expect("Anax ");
    seat.kernel.expect("anax# ");
    let raw = tcgetattr(&seat.terminal).unwrap();
    assert!(!raw.local_modes.contains(LocalModes::ICANON));
    seat.kernel.send("poweroff\r");
    seat.was_restored(0);
}
