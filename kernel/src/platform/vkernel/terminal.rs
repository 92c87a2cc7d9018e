//! The terminal: raw while the kernel has it, and as it was before whatever becomes of the kernel.
//!
//! Decision: a watcher, a second process that does nothing but wait for the end of the first, alone puts the terminal
//! back. So an orderly end, a panic and SIGKILL are one case: the pipe between the two closes.

use std::os::fd::OwnedFd;
use std::sync::Mutex;

use nix::unistd::{ForkResult, fork};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, setsid, waitpid};
use rustix::stdio::stdin;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// The terminal on our input, if there is one.
pub struct Terminal(Option<Kept>);

struct Kept {
    attributes: Termios,
    watcher: Pid,
    /// Nobody writes into it; it closes with us.
    life_line: Mutex<Option<OwnedFd>>,
}

impl Terminal {
    /// Looks whether there is a terminal, and starts its watcher. To be called while there is one thread.
    pub(super) fn open() -> Self {
        let kept = tcgetattr(stdin()).ok().and_then(|attributes| {
            let (end, life_line) = pipe_with(PipeFlags::CLOEXEC).ok()?;
            // SAFETY: this process has one thread, so its copy may do what the original may.
            match unsafe { fork() }.ok()? {
                ForkResult::Child => {
                    drop(life_line);
                    watch(&end, &attributes)
                }
                ForkResult::Parent { child } => Some(Kept {
                    attributes,
                    watcher: Pid::from_raw(child.as_raw())?,
                    life_line: Mutex::new(Some(life_line)),
                }),
            }
        });
        Self(kept)
    }

    /// Every byte that is typed comes at once, as typed.
    pub(super) fn make_raw(&self) {
        if let Some(kept) = &self.0 {
            let mut raw = kept.attributes.clone();
            raw.make_raw();
            // A terminal that is gone has no attributes.
            let _ = tcsetattr(stdin(), OptionalActions::Now, &raw);
        }
    }

    /// Lines are edited and echoed by the host again, for the debugger.
    pub(super) fn make_cooked(&self) {
        if let Some(kept) = &self.0 {
            let _ = tcsetattr(stdin(), OptionalActions::Now, &kept.attributes);
        }
    }

    /// Has the watcher put the terminal back, and returns when that is done.
    pub(super) fn close(&self) {
        let Some(kept) = &self.0 else { return };
        let Ok(mut life_line) = kept.life_line.lock() else {
            return;
        };
        if life_line.take().is_some() {
            while matches!(
                waitpid(Some(kept.watcher), WaitOptions::empty()),
                Err(Errno::INTR)
            ) {}
        }
    }
}

/// The watcher. In a session of its own no signal meant for the kernel's group reaches it, and no job control keeps it
/// from the terminal.
fn watch(end: &OwnedFd, attributes: &Termios) -> ! {
    let _ = setsid();
    let _ = rustix::thread::set_name(c"vkernel-tty");
    while rustix::io::read(end, &mut [0; 1]) == Err(Errno::INTR) {}
    let _ = tcsetattr(stdin(), OptionalActions::Now, attributes);
    std::process::exit(0)
}
