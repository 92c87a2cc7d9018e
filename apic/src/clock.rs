//! The clock: nanoseconds since the kernel's entry, from the time-stamp counter, and how fast that counts.
//!
//! A reading is one `rdtsc`, one multiplication and a shift ([`Clock::ns_at`]). The factor comes from the CPU or
//! hypervisor where they tell the TSC's rate, and is measured otherwise: [`Measurement::begin`] before the other
//! CPUs are started and [`Measurement::end`] after, so that the time they take is the time we measure over, and
//! nobody waits. Each end is the best of several tries, after a few that only warm the path up: under
//! emulation the first pass through a loop includes its translation.
//!
//! We do not use kvm-clock's shared page for reading: it exists to survive TSCs that jump, and a machine
//! whose TSC jumps would not pass the check at CPU start either. Its rate we do use ([`crate::kvm_clock`]).
//!
//! Measured here (QEMU 7.2 TCG): 0.04 % error over 200 us, 0.01 % over 1 ms.

use crate::scale::Scale;

const WARM_UP: usize = 24;
const TRIES: usize = 32;
/// Of the ACPI timer.
const PM_TIMER_HZ: u64 = 3_579_545;
/// Of the APIC timer where hardware is software (QEMU's and KVM's APIC bus has a period of 1 ns).
const EMULATED_TIMER_HZ: u64 = 1_000_000_000;

/// The counters of a machine. They count up and wrap around.
pub trait Counters {
    /// The time-stamp counter.
    fn tsc(&self) -> u64;
    /// What [`Reference`] says; not called for one without a counter of its own.
    fn reference(&self) -> u32;
    /// The local APIC's timer, which stops at its maximum.
    fn timer(&self) -> u32;
    /// Has the local APIC's timer count from 0.
    fn start_timer(&self);
    /// Stops it.
    fn stop_timer(&self);
}

/// What the TSC is measured against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference {
    /// The ACPI timer.
    PmTimer {
        /// 32 bits, rather than 24.
        wide: bool,
    },
    /// The HPET, at this rate.
    Hpet {
        /// At least 1.
        hz: u64,
    },
    /// The APIC timer of an emulator, at 1 GHz.
    ApicTimer,
    /// Nothing.
    None,
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
    /// Nanoseconds since boot, at a time-stamp.
    #[inline(always)]
    pub fn ns_at(&self, tsc: u64) -> u64 {
        self.to_ns.of(tsc.saturating_sub(self.start))
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

/// One instant on all three clocks.
#[derive(Clone, Copy, Default)]
struct Instant {
    tsc: u64,
    reference: u32,
    timer: u32,
}

/// A calibration in progress. The local APIC's timer belongs to it until it ends.
pub struct Measurement<C> {
    counters: C,
    told_hz: Option<u64>,
    reference: Reference,
    began: Instant,
    start: u64,
}

impl<C: Counters> Measurement<C> {
    /// Takes the first readings. `start` is the TSC that becomes time 0, `told_hz` its rate if somebody knows.
    pub fn begin(start: u64, counters: C, reference: Reference, told_hz: Option<u64>) -> Self {
        counters.start_timer();
        let mut it = Measurement {
            counters,
            told_hz,
            reference,
            began: Instant::default(),
            start,
        };
        it.began = it.instant();
        it
    }

    /// Nanoseconds since the beginning, roughly.
    pub fn elapsed_ns(&self) -> u64 {
        let (reference, timer) = self.read();
        let now = Instant {
            tsc: self.counters.tsc(),
            reference,
            timer,
        };
        let hz = match self.reference {
            Reference::PmTimer { .. } => PM_TIMER_HZ,
            Reference::Hpet { hz, .. } => hz,
            Reference::ApicTimer => EMULATED_TIMER_HZ,
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
            Reference::PmTimer { .. } => (10_000_000, PM_TIMER_HZ),
            Reference::Hpet { hz, .. } => (5_000_000, hz),
            Reference::ApicTimer => (1_000_000, EMULATED_TIMER_HZ),
            Reference::None => (0, 1_000_000_000),
        };
        let least = (u128::from(hz) * least_ns / 1_000_000_000) as u32;
        let mut ended = self.instant();
        if self.reference == Reference::ApicTimer && ended.timer == u32::MAX {
            // It has run out, waiting for a CPU that did not come: measure again.
            self.counters.start_timer();
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
        let tsc_hz = self.told_hz.unwrap_or(measured);
        let timer = u64::from(ended.timer.wrapping_sub(self.began.timer));
        let timer_hz = match self.reference {
            Reference::ApicTimer | Reference::None => EMULATED_TIMER_HZ,
            _ => rate(timer).max(1),
        };
        let source = match (self.told_hz, &self.reference) {
            (Some(_), _) => Source::Told,
            (_, Reference::PmTimer { .. }) => Source::PmTimer,
            (_, Reference::Hpet { .. }) => Source::Hpet,
            (_, Reference::ApicTimer) => Source::ApicTimer,
            (_, Reference::None) => Source::Unknown,
        };
        self.counters.stop_timer();
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
            Reference::PmTimer { wide: false, .. } => ticks & 0xff_ffff,
            Reference::None => 0,
            _ => ticks,
        }
    }

    /// The reading that took least time of several: the one least disturbed.
    fn instant(&self) -> Instant {
        for _ in 0..WARM_UP {
            self.read();
        }
        let mut best = (u64::MAX, Instant::default());
        for _ in 0..TRIES {
            let before = self.counters.tsc();
            let (reference, timer) = self.read();
            let after = self.counters.tsc();
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
        let timer = self.counters.timer();
        let reference = match self.reference {
            Reference::PmTimer { .. } | Reference::Hpet { .. } => self.counters.reference(),
            Reference::ApicTimer | Reference::None => timer,
        };
        (reference, timer)
    }
}

/// The HPET's rate, if the period in its register makes sense: the specification allows at most 100 ns.
pub fn hpet_hz(period_femtoseconds: u32) -> Option<u64> {
    const SECOND: u64 = 1_000_000_000_000_000;
    (1..=100_000_000)
        .contains(&period_femtoseconds)
        .then(|| SECOND / u64::from(period_femtoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;

    const TSC_HZ: u64 = 2_599_998_000;
    const BUS_HZ: u64 = 1_000_000_000;

    /// Counters of one true time, which goes on whenever somebody looks.
    struct Fake {
        now_ns: Cell<u64>,
        reference_hz: u64,
        timer_began_ns: Cell<u64>,
        timer_stopped: Cell<bool>,
    }

    impl Fake {
        fn new(reference_hz: u64) -> Self {
            Self {
                // The reference's counter is about to wrap around.
                now_ns: Cell::new((1 << 32) * 1_000_000_000 / reference_hz.max(1) - 3_000_000),
                reference_hz,
                timer_began_ns: Cell::new(0),
                timer_stopped: Cell::new(true),
            }
        }

        fn look(&self) -> u64 {
            self.now_ns.set(self.now_ns.get() + 30);
            self.now_ns.get()
        }

        fn count(ns: u64, hz: u64) -> u64 {
            (u128::from(ns) * u128::from(hz) / 1_000_000_000) as u64
        }
    }

    impl Counters for &Fake {
        fn tsc(&self) -> u64 {
            Fake::count(self.look(), TSC_HZ)
        }
        fn reference(&self) -> u32 {
            Fake::count(self.look(), self.reference_hz) as u32
        }
        fn timer(&self) -> u32 {
            let counted = Fake::count(self.look() - self.timer_began_ns.get(), BUS_HZ);
            u32::try_from(counted).unwrap_or(u32::MAX)
        }
        fn start_timer(&self) {
            self.timer_began_ns.set(self.look());
            self.timer_stopped.set(false);
        }
        fn stop_timer(&self) {
            self.timer_stopped.set(true);
        }
    }

    fn measured(fake: &Fake, reference: Reference, pause_ns: u64) -> Clock {
        let start = fake.tsc();
        let measurement = Measurement::begin(start, fake, reference, None);
        fake.now_ns.set(fake.now_ns.get() + pause_ns);
        let clock = measurement.end();
        assert!(fake.timer_stopped.get(), "the timer is given back");
        assert_eq!(clock.ns_at(start), 0);
        clock
    }

    fn is_near(hz: u64, expected: u64, per_million: u64) -> bool {
        hz.abs_diff(expected) <= expected / 1_000_000 * per_million
    }

    #[test]
    fn the_rate_is_right_against_each_reference_across_its_wrap() {
        for (reference_hz, reference, source) in [
            (
                PM_TIMER_HZ,
                Reference::PmTimer { wide: true },
                Source::PmTimer,
            ),
            (
                PM_TIMER_HZ,
                Reference::PmTimer { wide: false },
                Source::PmTimer,
            ),
            (14_318_180, Reference::Hpet { hz: 14_318_180 }, Source::Hpet),
            (BUS_HZ, Reference::ApicTimer, Source::ApicTimer),
        ] {
            let fake = Fake::new(reference_hz);
            let clock = measured(&fake, reference, 0);
            assert_eq!(clock.source, source);
            assert!(is_near(clock.tsc_hz, TSC_HZ, 100), "{clock:?}");
            assert!(is_near(clock.timer_hz, BUS_HZ, 100), "{clock:?}");
        }
    }

    #[test]
    fn a_timer_that_has_run_out_is_no_measure_and_is_started_again() {
        let clock = measured(&Fake::new(BUS_HZ), Reference::ApicTimer, 5_000_000_000);
        assert!(is_near(clock.tsc_hz, TSC_HZ, 100), "{clock:?}");
    }

    #[test]
    fn what_was_told_wins_and_without_a_reference_a_rate_is_assumed() {
        let fake = Fake::new(PM_TIMER_HZ);
        let reference = Reference::PmTimer { wide: true };
        let clock = Measurement::begin(0, &fake, reference, Some(7)).end();
        assert_eq!((clock.tsc_hz, clock.source), (7, Source::Told));
        let clock = measured(&fake, Reference::None, 0);
        assert_eq!(
            (clock.tsc_hz, clock.source),
            (1_000_000_000, Source::Unknown)
        );
    }

    #[test]
    fn a_wait_lasts_at_least_as_long_as_it_was_asked_for() {
        for reference in [Reference::PmTimer { wide: false }, Reference::None] {
            let fake = Fake::new(PM_TIMER_HZ);
            let measurement = Measurement::begin(0, &fake, reference, None);
            let before_ns = fake.now_ns.get();
            measurement.wait_ns(200_000);
            assert!(fake.now_ns.get() - before_ns >= 199_000, "{reference:?}");
        }
    }

    #[test]
    fn an_hpet_without_a_sensible_period_is_none() {
        assert_eq!(hpet_hz(10_000_000), Some(100_000_000));
        assert_eq!((hpet_hz(0), hpet_hz(100_000_001)), (None, None));
    }
}
