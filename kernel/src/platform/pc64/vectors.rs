//! Interrupt vectors: who has which, and how a driver gets one.
//!
//! Each CPU has its own 200-odd device vectors. A driver calls [`allocate`] for the CPU that is to take the
//! interrupt, registers a handler there with `Cpu::on_interrupt(vector.line(), ..)`, and programs the
//! [`Vector::message`] into its MSI or MSI-X table. Vectors are numbers in the interrupt descriptor table,
//! and lines in the executor's: the same number.
//!
//! A bitmap per CPU changed by compare-exchange: drivers of all CPUs may allocate at once.

use super::machine::Pc64;
use apic::message::{Message, message};
use core::sync::atomic::{AtomicU64, Ordering};
use executor::CpuId;

/// First vector for devices: below are the CPU's exceptions.
const FIRST_DEVICE: u8 = 0x20;
/// Inter-processor: look at your inbox.
pub const DOORBELL: u8 = 0xf0;
/// The local APIC's timer.
pub const TIMER: u8 = 0xf1;
/// Interrupts that vanished before they were acknowledged.
pub const SPURIOUS: u8 = 0xff;

/// Which vectors of one CPU are taken.
#[derive(Debug)]
pub struct Allocated([AtomicU64; 4]);

impl Allocated {
    /// With the exceptions' and the platform's own vectors taken.
    pub const fn new() -> Allocated {
        let exceptions = (1 << FIRST_DEVICE) - 1;
        let own = u64::MAX << (DOORBELL - 192);
        Allocated([
            AtomicU64::new(exceptions),
            AtomicU64::new(0),
            AtomicU64::new(0),
            AtomicU64::new(own),
        ])
    }

    fn take(&self) -> Option<u8> {
        self.0.iter().zip(0u8..).find_map(|(word, index)| {
            let lowest_free = |taken: u64| (taken != u64::MAX).then(|| taken | (taken + 1));
            let before = word
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, lowest_free)
                .ok()?;
            Some(index * 64 + before.trailing_ones() as u8)
        })
    }

    fn give_back(&self, vector: u8) {
        self.0[usize::from(vector / 64)].fetch_and(!(1 << (vector % 64)), Ordering::Relaxed);
    }
}

impl Default for Allocated {
    fn default() -> Allocated {
        Allocated::new()
    }
}

/// A vector of one CPU. Having one tells you that no other driver has it; dropping it gives it back, so
/// silence the device first.
pub struct Vector {
    machine: &'static Pc64,
    cpu: CpuId,
    number: u8,
}

impl core::fmt::Debug for Vector {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "vector {:#x} of {}", self.number, self.cpu)
    }
}

/// Takes a free vector of `cpu`. None when all are taken.
pub fn allocate(machine: &'static Pc64, cpu: CpuId) -> Option<Vector> {
    let number = machine.processor(cpu)?.vectors.take()?;
    Some(Vector {
        machine,
        cpu,
        number,
    })
}

impl Vector {
    /// The executor's line: register the handler there, on the vector's CPU.
    pub fn line(&self) -> u8 {
        self.number
    }

    /// The CPU that takes the interrupt.
    pub fn cpu(&self) -> CpuId {
        self.cpu
    }

    /// What a device writes to raise it. None if the CPU's APIC id is beyond the reach of messages.
    pub fn message(&self) -> Option<Message> {
        message(self.machine.processor(self.cpu)?.apic_id, self.number)
    }
}

impl Drop for Vector {
    fn drop(&mut self) {
        if let Some(processor) = self.machine.processor(self.cpu) {
            processor.vectors.give_back(self.number);
        }
    }
}
