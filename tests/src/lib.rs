//! What whole-system tests share: the kernel under test, a place in the queue, and being skipped.
//!
//! A test takes a [`Turn`] before it starts VMs, so that however many threads the test runner has,
//! no more run than the host can carry: a starved VM is slow, and slow looks like broken. A VM
//! itself is [`tools::vm::Vm`], the same that the demonstration uses.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tools::qemu::Guest;
use tools::vm::Vm;

/// Booting takes a tenth of a second; this is for a host under load.
pub const BOOT_LIMIT: Duration = Duration::from_secs(60);
/// For commands that answer at once.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(20);
/// Turns in all: what two cores carry.
const TURNS: usize = 2;

static TAKEN: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

/// Having a `Turn` tells you: no more than [`TURNS`] are out, this one among them.
pub struct Turn(usize);

impl Turn {
    /// Waits for a turn.
    pub fn take() -> Turn {
        Turn::of(1)
    }

    /// Waits until this test has the host to itself: for what measures time, or has 64 vCPUs.
    pub fn alone() -> Turn {
        Turn::of(TURNS)
    }

    fn of(count: usize) -> Turn {
        let taken = TAKEN.0.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |taken: &mut usize| *taken + count > TURNS;
        let mut taken = TAKEN
            .1
            .wait_while(taken, full)
            .unwrap_or_else(PoisonError::into_inner);
        *taken += count;
        Turn(count)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *TAKEN.0.lock().unwrap_or_else(PoisonError::into_inner) -= self.0;
        TAKEN.1.notify_all();
    }
}

/// The kernel under test, built once.
pub fn kernel() -> &'static Path {
    static KERNEL: OnceLock<std::path::PathBuf> = OnceLock::new();
    KERNEL.get_or_init(|| tools::kernel::build().expect("the kernel builds"))
}

/// A guest with the kernel under test and the hostname `anax`.
pub fn guest() -> Guest {
    Guest {
        kernel: Some(kernel().to_owned()),
        ..Guest::default()
    }
}

/// Starts `guest`, waits for its prompt.
pub fn boot(guest: &Guest) -> Vm {
    boot_as("anax", guest)
}

/// Starts `guest` with the hostname `name`, waits for its prompt.
pub fn boot_as(name: &str, guest: &Guest) -> Vm {
    let mut guest = guest.clone();
    if name != "anax" {
        guest.append = format!("hostname={name} {}", guest.append);
    }
    let vm = Vm::start(name, &guest, None).expect("QEMU starts");
    vm.wait_for_prompt(BOOT_LIMIT)
        .unwrap_or_else(|error| panic!("{error:#}"));
    vm
}

/// Runs a command that answers at once.
pub fn run(vm: &mut Vm, line: &str) -> String {
    vm.command(line, COMMAND_LIMIT)
        .unwrap_or_else(|error| panic!("{error:#}"))
}

/// Says that the calling test cannot run here, and why. `./run.sh test` counts these lines.
pub fn skip(why: &str) {
    println!("SKIPPED: {why}");
}
