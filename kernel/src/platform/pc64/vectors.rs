//! Interrupt vectors: who has which, and how a driver gets one.
//!
//! Each CPU has its own 200-odd device vectors. A driver calls [`allocate`] for the CPU that is to take the
//! interrupt, registers a handler there with `Cpu::on_interrupt(vector.line(), ..)`, and programs the
//! [`Vector::message`] into its MSI or MSI-X table. Vectors are numbers in the interrupt descriptor table,
//! and lines in the executor's: the same number.
//!
//! Which are taken is a [`VectorMap`](apic::vector_map::VectorMap) per CPU.

use super::machine::Pc64;
use apic::message::{Message, message};
use executor::CpuId;

/// Inter-processor: look at your inbox.
pub const DOORBELL: u8 = 0xf0;
/// The local APIC's timer.
pub const TIMER: u8 = 0xf1;
/// Interrupts that vanished before they were acknowledged.
pub const SPURIOUS: u8 = 0xff;

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
