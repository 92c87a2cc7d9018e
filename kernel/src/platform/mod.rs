//! What the kernel asks of a machine, and the machines.
//!
//! [`Machine`] is everything beyond [`executor::Platform`] that the machine-independent kernel needs: a
//! console, a way to power off, the words it was started with. One trait object rather than a type
//! parameter through the whole kernel: none of these calls is on a hot path, and the console, the commands
//! and their tests then compile once.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

use crate::network::NetworkDevice;

#[cfg(feature = "process")]
pub mod arena;
#[cfg(all(feature = "pc64", target_os = "none"))]
pub mod pc64;
#[cfg(feature = "process")]
pub mod sim;
#[cfg(feature = "process")]
pub mod vkernel;

/// A machine that the kernel runs on.
pub trait Machine: Send + Sync {
    /// For people: "pc64 (q35)".
    fn name(&self) -> &'static str;

    /// Turns the machine off. Does not return; a machine that cannot be turned off halts.
    fn power_off(&self) -> !;

    /// Starts the machine again from its firmware.
    fn reboot(&self) -> !;

    /// Writes to the console and returns when it is done. Any CPU, any context, a panic too.
    fn write_console(&self, bytes: &[u8]);

    /// Takes what the console's receive interrupt has put aside, without waiting; the number of bytes.
    fn read_console(&self, buffer: &mut [u8]) -> usize;

    /// Signalled when input has arrived; has one waiter, the console's input thread.
    fn console_event(&self) -> &executor::Event;

    /// Writes to the trace channel and returns the number of bytes taken: 0 where there is none.
    fn write_trace(&self, bytes: &[u8]) -> usize;

    /// Is told each line of the log as it is written, for a machine that keeps it elsewhere. Any CPU, any context.
    fn note_log(&self, text: &str) {
        let _ = text;
    }

    /// The kernel's command line, as the boot loader gave it.
    fn command_line(&self) -> &str;

    /// The start-up commands given from outside (QEMU's fw_cfg file opt/anax/rc), if any.
    fn rc_text(&self) -> Option<&[u8]>;

    /// What drivers need of the machine, if it has devices for them. Asked for on CPU 0, which gets the
    /// devices' interrupts.
    fn hardware(&self) -> Option<&dyn crate::drivers::probe::Hardware> {
        None
    }

    /// Network devices that are on no bus, ready to be driven. Asked for once, on CPU 0.
    fn networks(&self) -> Vec<Box<dyn NetworkDevice>> {
        Vec::new()
    }

    /// Signalled when somebody outside asks for an orderly shutdown, as by a power button; has one waiter.
    fn power_button(&self) -> Option<&executor::Event> {
        None
    }

    /// The processor's cycle counter, for figures; None where there is none.
    fn cycles(&self) -> Option<u64> {
        None
    }

    /// Writes what is worth knowing about the machine, one fact a line.
    fn describe(&self, out: &mut dyn fmt::Write);
}
