//! The counters that the clock is made of: TSC, ACPI timer, HPET, APIC timer. What is made of them is in
//! [`apic::clock`].
//!
//! Invariant: the counters' places come from the ACPI tables; reading them has no effect.

use super::features::Features;
use super::machine::Apic;
use super::physical;
use apic::clock::{Counters, Reference, hpet_hz};
use apic::tables::{Firmware, Register};
use x86_64::instructions::port::Port;

/// A calibration of this machine's clock.
pub type Measurement = apic::clock::Measurement<Sources>;

/// The time-stamp counter, now.
#[inline(always)]
pub fn tsc() -> u64 {
    // SAFETY: every x86-64 CPU has it, and CR4.TSD is clear.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Begins to measure. `start` is the TSC that becomes time 0.
pub fn measure(
    start: u64,
    apic: &'static Apic,
    features: &Features,
    firmware: &Firmware,
) -> Measurement {
    let pm_timer = firmware.pm_timer.and_then(|timer| match timer.register {
        Register::Port(port) => {
            Some((Counter::Port(port), Reference::PmTimer { wide: timer.wide }))
        }
        Register::Memory(_) => None,
    });
    let (counter, reference) = match pm_timer.or_else(|| firmware.hpet.and_then(hpet)) {
        _ if features.emulated_apic() => (Counter::None, Reference::ApicTimer),
        Some(found) => found,
        None => (Counter::None, Reference::None),
    };
    let sources = Sources { apic, counter };
    Measurement::begin(start, sources, reference, features.tsc_hz)
}

enum Counter {
    Port(u16),
    Memory(*const u32),
    None,
}

/// The counters of this machine.
pub struct Sources {
    apic: &'static Apic,
    counter: Counter,
}

impl Counters for Sources {
    fn tsc(&self) -> u64 {
        tsc()
    }

    fn reference(&self) -> u32 {
        match self.counter {
            // SAFETY: the FADT's PM timer port (module head).
            Counter::Port(port) => unsafe { Port::new(port).read() },
            // SAFETY: the HPET's main counter, in the window (see `hpet`).
            Counter::Memory(counter) => unsafe { counter.read_volatile() },
            Counter::None => 0,
        }
    }

    fn timer(&self) -> u32 {
        self.apic.counted()
    }

    fn start_timer(&self) {
        self.apic.start_counting();
    }

    fn stop_timer(&self) {
        self.apic.disarm();
    }
}

/// The HPET's counter, running, if its period makes sense.
fn hpet(address: u64) -> Option<(Counter, Reference)> {
    const PERIOD: usize = 1;
    const CONFIGURATION: usize = 4;
    const COUNTER: usize = 0x3c;
    if address.checked_add(4096)? > physical::ALWAYS_MAPPED {
        return None;
    }
    let registers = physical::window(address).cast::<u32>();
    // SAFETY: the ACPI table says that an HPET is there, and the window shows it. Its enable bit starts the
    // main counter and changes nothing else that we use.
    unsafe {
        let hz = hpet_hz(registers.add(PERIOD).read_volatile())?;
        let configuration = registers.add(CONFIGURATION);
        configuration.write_volatile(configuration.read_volatile() | 1);
        let counter = Counter::Memory(registers.add(COUNTER).cast_const());
        Some((counter, Reference::Hpet { hz }))
    }
}
