//! The clock: nanoseconds since the kernel's entry, from the time-stamp counter.
//!
//! A reading is one `rdtsc`, one multiplication and a shift. The factor comes from the CPU or hypervisor
//! where they tell the TSC's rate, and is measured otherwise: [`Measurement::begin`] before the other CPUs
//! are started and [`Measurement::end`] after, so that the time they take is the time we measure over, and
//! nobody waits. Each end is the best of several tries, after a few that only warm the path up: under
//! emulation the first pass through a loop includes its translation.
//!
//! We do not use kvm-clock's shared page for reading: it exists to survive TSCs that jump, and a machine
//! whose TSC jumps would not pass the check at CPU start either. Its rate we do use (features.rs).
//!
//! Measured here (QEMU 7.2 TCG): 0.04 % error over 200 us, 0.01 % over 1 ms.

use super::features::Features;
use super::machine::Apic;
use super::physical;
use apic::scale::Scale;
use apic::tables::{Firmware, Register};
use x86_64::instructions::port::Port;

const WARM_UP: usize = 24;
const TRIES: usize = 32;
/// Of the ACPI timer.
const PM_TIMER_HZ: u64 = 3_579_545;

/// The time-stamp counter, now.
#[inline(always)]
pub fn tsc() -> u64 {
    // SAFETY: every x86-64 CPU has it, and CR4.TSD is clear.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The clock of all CPUs.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: u64,
    to_ns: Scale,
    to_tsc: Scale,
    /// The TSC's rate.
    pub tsc_hz: u64,
    /// The APIC timer's rate, where it is used.
    pub timer_hz: u64,
    to_timer: Scale,
    /// How the rate became known.
    pub source: Source,
}

/// How the TSC's rate became known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// CPUID or the hypervisor.
    Told,
    /// Measured against the ACPI timer.
    PmTimer,
    /// Measured against the HPET.
    Hpet,
    /// Measured against the APIC timer, whose rate under this hypervisor is known.
    ApicTimer,
    /// There is nothing to measure against: 1 GHz assumed. Timeouts are wrong by the true rate.
    Unknown,
}

impl Clock {
    /// Nanoseconds since boot.
    #[inline(always)]
    pub fn now_ns(&self) -> u64 {
        self.to_ns.of(tsc().saturating_sub(self.start))
    }

    /// The time-stamp at a time.
    pub fn tsc_at(&self, ns: u64) -> u64 {
        self.start.saturating_add(self.to_tsc.of(ns))
    }

    /// APIC timer ticks in a time, rounded up, at most what the timer can count.
    pub fn timer_ticks(&self, ns: u64) -> u32 {
        u32::try_from(self.to_timer.of(ns).saturating_add(1)).unwrap_or(u32::MAX)
    }
}

enum Reference {
    Pm { port: u16, wide: bool },
    Hpet { counter: *const u32, hz: u64 },
    Apic,
    None,
}

/// One instant on all three clocks.
#[derive(Clone, Copy)]
struct Instant {
    tsc: u64,
    reference: u32,
    timer: u32,
}

/// A calibration in progress. The local APIC's timer belongs to it until it ends.
pub struct Measurement<'a> {
    apic: &'a Apic,
    features: &'a Features,
    reference: Reference,
    began: Instant,
    start: u64,
}

impl<'a> Measurement<'a> {
    /// Takes the first readings. `start` is the TSC that becomes time 0.
    pub fn begin(start: u64, apic: &'a Apic, features: &'a Features, firmware: &Firmware) -> Self {
        let reference = if features.emulated_apic() {
            Reference::Apic
        } else if let Some((port, wide)) =
            firmware.pm_timer.and_then(|timer| match timer.register {
                Register::Port(port) => Some((port, timer.wide)),
                Register::Memory(_) => None,
            })
        {
            Reference::Pm { port, wide }
        } else {
            firmware.hpet.and_then(hpet).unwrap_or(Reference::None)
        };
        apic.start_counting();
        let mut it = Measurement {
            apic,
            features,
            reference,
            began: Instant {
                tsc: 0,
                reference: 0,
                timer: 0,
            },
            start,
        };
        it.began = it.instant();
        it
    }

    /// Nanoseconds since the beginning, roughly.
    pub fn elapsed_ns(&self) -> u64 {
        let (reference, timer) = self.read();
        let now = Instant {
            tsc: tsc(),
            reference,
            timer,
        };
        let hz = match self.reference {
            Reference::Pm { .. } => PM_TIMER_HZ,
            Reference::Hpet { hz, .. } => hz,
            Reference::Apic => 1_000_000_000,
            // Too fast rather than too slow for any TSC there is: a wait then is too long, not too short.
            Reference::None => return (now.tsc - self.began.tsc) / 8,
        };
        (u128::from(self.elapsed(&now)) * 1_000_000_000 / u128::from(hz)) as u64
    }

    /// Waits, busily.
    pub fn wait_ns(&self, ns: u64) {
        let began = self.elapsed_ns();
        while self.elapsed_ns().wrapping_sub(began) < ns {
            core::hint::spin_loop();
        }
    }

    /// Takes the last readings, when enough time has passed for them to mean something.
    pub fn end(mut self) -> Clock {
        // The PM timer ticks every 280 ns; what is emulated ticks every nanosecond but is read with jitter.
        let (least_ns, hz) = match self.reference {
            Reference::Pm { .. } => (10_000_000, PM_TIMER_HZ),
            Reference::Hpet { hz, .. } => (5_000_000, hz),
            Reference::Apic => (1_000_000, 1_000_000_000),
            Reference::None => (0, 1_000_000_000),
        };
        let least = (u128::from(hz) * least_ns / 1_000_000_000) as u32;
        let mut ended = self.instant();
        if matches!(self.reference, Reference::Apic) && self.elapsed(&ended) == u32::MAX {
            // It has run out, waiting for a CPU that did not come: measure again.
            self.apic.start_counting();
            self.began = self.instant();
            ended = self.began;
        }
        while self.elapsed(&ended) < least {
            ended = self.instant();
        }
        let ticks = u64::from(self.elapsed(&ended)).max(1);
        let rate = |count: u64| (u128::from(count) * u128::from(hz) / u128::from(ticks)) as u64;
        let known = !matches!(self.reference, Reference::None);

        let measured = if known {
            rate(ended.tsc - self.began.tsc).max(1)
        } else {
            1_000_000_000
        };
        let tsc_hz = self.features.tsc_hz.unwrap_or(measured);
        let timer = u64::from(ended.timer.wrapping_sub(self.began.timer));
        let timer_hz = match self.reference {
            Reference::Apic | Reference::None => 1_000_000_000,
            _ => rate(timer).max(1),
        };
        let source = match (self.features.tsc_hz, &self.reference) {
            (Some(_), _) => Source::Told,
            (_, Reference::Pm { .. }) => Source::PmTimer,
            (_, Reference::Hpet { .. }) => Source::Hpet,
            (_, Reference::Apic) => Source::ApicTimer,
            (_, Reference::None) => Source::Unknown,
        };
        self.apic.disarm();
        Clock {
            start: self.start,
            to_ns: Scale::new(tsc_hz, 1_000_000_000),
            to_tsc: Scale::new(1_000_000_000, tsc_hz),
            tsc_hz,
            timer_hz,
            to_timer: Scale::new(1_000_000_000, timer_hz),
            source,
        }
    }

    fn elapsed(&self, now: &Instant) -> u32 {
        let ticks = now.reference.wrapping_sub(self.began.reference);
        match self.reference {
            Reference::Pm { wide: false, .. } => ticks & 0xff_ffff,
            Reference::None => 0,
            _ => ticks,
        }
    }

    /// The reading that took least time of several: the one least disturbed.
    fn instant(&self) -> Instant {
        for _ in 0..WARM_UP {
            self.read();
        }
        let mut best = (
            u64::MAX,
            Instant {
                tsc: 0,
                reference: 0,
                timer: 0,
            },
        );
        for _ in 0..TRIES {
            let before = tsc();
            let (reference, timer) = self.read();
            let after = tsc();
            if after.wrapping_sub(before) < best.0 {
                let tsc = before + (after - before) / 2;
                best = (
                    after - before,
                    Instant {
                        tsc,
                        reference,
                        timer,
                    },
                );
            }
        }
        best.1
    }

    fn read(&self) -> (u32, u32) {
        let timer = self.apic.counted();
        let reference = match self.reference {
            // SAFETY: the FADT's PM timer port; reading it has no effect.
            Reference::Pm { port, .. } => unsafe { Port::<u32>::new(port).read() },
            // SAFETY: the HPET's main counter, in the window (see `hpet`).
            Reference::Hpet { counter, .. } => unsafe { counter.read_volatile() },
            Reference::Apic | Reference::None => timer,
        };
        (reference, timer)
    }
}

/// The HPET's counter, running, if its period makes sense.
fn hpet(address: u64) -> Option<Reference> {
    const FEMTOSECONDS: u64 = 1_000_000_000_000_000;
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
        let period = u64::from(registers.add(PERIOD).read_volatile());
        let configuration = registers.add(CONFIGURATION);
        configuration.write_volatile(configuration.read_volatile() | 1);
        // The specification allows at most 100 ns.
        let makes_sense = (1..=100_000_000).contains(&period);
        let counter = registers.add(COUNTER).cast_const();
        makes_sense.then(|| Reference::Hpet {
            counter,
            hz: FEMTOSECONDS / period,
        })
    }
}
