//! Starting the other CPUs, all at once, and knowing who came.
//!
//! [`broadcast`] sends INIT and start-up messages to every CPU but ours; each one that awakes finds its slot
//! in the list of processors and calls [`Roster::arrive`]. The starter waits as long as it likes and calls
//! [`Roster::close`]: whoever has not arrived by then is left out, and parks itself should it come later.
//! That decision is one compare-exchange per CPU, so that the two sides cannot disagree.
//!
//! One broadcast rather than one sequence per CPU: 64 CPUs start in the time of one.
//!
//! Source: Intel SDM volume 3A, section 9.4.4 (the sequence and its delays).

use crate::local_apic::{Hardware, LocalApic};
use alloc::{boxed::Box, vec::Vec};
use core::sync::atomic::{AtomicU8, Ordering};

/// Waits between the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delays {
    /// After INIT, in microseconds.
    pub after_init_us: u32,
    /// After the first start-up message; a second one is then sent. None: one message is enough.
    pub after_startup_us: Option<u32>,
}

impl Delays {
    /// What the manual asks for.
    pub const HARDWARE: Delays = Delays {
        after_init_us: 10_000,
        after_startup_us: Some(200),
    };
    /// For emulated CPUs, which reset in no time and lose no message; the delays would be the largest
    /// single item of a boot.
    pub const EMULATED: Delays = Delays {
        after_init_us: 0,
        after_startup_us: None,
    };
}

/// Starts every other CPU at physical address `page << 12`. `wait_us` waits (it is not called for zero).
pub fn broadcast<H: Hardware>(
    apic: &LocalApic<H>,
    page: u8,
    delays: Delays,
    mut wait_us: impl FnMut(u32),
) {
    apic.send_init_to_others();
    if delays.after_init_us > 0 {
        wait_us(delays.after_init_us);
    }
    apic.send_startup_to_others(page);
    if let Some(us) = delays.after_startup_us {
        wait_us(us);
        apic.send_startup_to_others(page);
    }
}

const EXPECTED: u8 = 0;
const ARRIVED: u8 = 1;
const LEFT_OUT: u8 = 2;

/// Who was asked to come, and who came. Slots are the starter's numbering of the processors.
#[derive(Debug)]
pub struct Roster {
    slots: Box<[AtomicU8]>,
}

impl Roster {
    /// Expects `count` CPUs.
    pub fn new(count: usize) -> Roster {
        Roster {
            slots: (0..count).map(|_| AtomicU8::new(EXPECTED)).collect(),
        }
    }

    /// Says that the CPU of this slot is up. False if it is too late, if it had arrived already (two CPUs
    /// with one APIC id), or if there is no such slot: the caller must then park for good.
    #[must_use = "a CPU that is not let in must park"]
    pub fn arrive(&self, slot: usize) -> bool {
        // Release: what the CPU did on its way is seen by the starter, which loads with Acquire.
        let swap = |slot: &AtomicU8| {
            slot.compare_exchange(EXPECTED, ARRIVED, Ordering::Release, Ordering::Relaxed)
        };
        self.slots.get(slot).is_some_and(|slot| swap(slot).is_ok())
    }

    /// The number of CPUs that have arrived.
    pub fn arrived(&self) -> usize {
        self.slots
            .iter()
            .filter(|slot| slot.load(Ordering::Acquire) == ARRIVED)
            .count()
    }

    /// True when nobody is missing.
    pub fn complete(&self) -> bool {
        self.arrived() == self.slots.len()
    }

    /// Leaves out whoever has not arrived, for good, and says who that is.
    pub fn close(&self) -> Vec<usize> {
        let leave_out = |slot: &AtomicU8| {
            slot.compare_exchange(EXPECTED, LEFT_OUT, Ordering::Relaxed, Ordering::Acquire)
        };
        let late = self
            .slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| match leave_out(slot) {
                Ok(_) => true,
                Err(state) => state == LEFT_OUT,
            });
        late.map(|(index, _)| index).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local_apic::Features;
    use core::cell::RefCell;
    use std::{string::String, thread, vec};

    /// Says in words what is sent and waited for.
    struct Log(RefCell<Vec<String>>);

    impl Hardware for &Log {
        fn read_register(&self, _: u16) -> u32 {
            0
        }
        fn write_register(&self, offset: u16, value: u32) {
            if offset == 0x300 {
                self.0.borrow_mut().push(std::format!("{value:x}"));
            }
        }
        fn read_msr(&self, _: u32) -> u64 {
            0
        }
        fn write_msr(&self, _: u32, _: u64) {}
        fn fence(&self) {}
    }

    fn sent(delays: Delays) -> Vec<String> {
        let log = Log(RefCell::default());
        let apic = LocalApic::new(&log, Features::default());
        broadcast(&apic, 0x9f, delays, |us| {
            log.0.borrow_mut().push(std::format!("{us} us"))
        });
        log.0.take()
    }

    #[test]
    fn hardware_gets_the_manuals_sequence() {
        let expected = ["c4500", "10000 us", "c469f", "200 us", "c469f"];
        assert_eq!(sent(Delays::HARDWARE), expected);
    }

    #[test]
    fn an_emulator_gets_no_delay_and_one_message() {
        assert_eq!(sent(Delays::EMULATED), ["c4500", "c469f"]);
    }

    #[test]
    fn who_does_not_come_is_named_and_turned_away_later() {
        let roster = Roster::new(4);
        assert!(roster.arrive(0) && roster.arrive(1) && roster.arrive(3));
        assert!(!roster.complete());
        assert_eq!(roster.close(), [2]);
        assert!(!roster.arrive(2), "too late");
        assert_eq!(roster.arrived(), 3);
        assert_eq!(roster.close(), [2], "closing again says the same");
    }

    #[test]
    fn a_stranger_and_a_double_are_turned_away() {
        let roster = Roster::new(1);
        assert!(roster.arrive(0));
        assert!(!roster.arrive(0));
        assert!(!roster.arrive(1));
        assert!(roster.complete());
    }

    #[test]
    fn arriving_while_closing_is_decided_one_way_for_both_sides() {
        for _ in 0..200 {
            let roster = Roster::new(8);
            let (let_in, left_out) = thread::scope(|scope| {
                let arrive = |slot| {
                    scope.spawn({
                        let roster = &roster;
                        move || roster.arrive(slot)
                    })
                };
                let arrivals: Vec<_> = (0..8).map(arrive).collect();
                let left_out = roster.close();
                (
                    arrivals
                        .into_iter()
                        .map(|it| it.join().unwrap())
                        .collect::<Vec<_>>(),
                    left_out,
                )
            });
            let turned_away: Vec<usize> = (0..8).filter(|&slot| !let_in[slot]).collect();
            assert_eq!(turned_away, left_out);
        }
        assert_eq!(Roster::new(0).close(), vec![0usize; 0]);
    }
}
