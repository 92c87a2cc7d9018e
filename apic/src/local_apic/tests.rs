//! The local APIC against fake registers: what is written, where, and in which order.

use super::*;
use alloc::{collections::BTreeMap, vec, vec::Vec};
use core::cell::{Cell, RefCell};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Register(u16, u32),
    Msr(u32, u64),
    Fence,
}
use Access::{Fence, Msr, Register};

/// Registers that hold what was last written, and a log of all writes.
#[derive(Default)]
struct Fake {
    registers: RefCell<BTreeMap<u16, u32>>,
    msrs: RefCell<BTreeMap<u32, u64>>,
    log: RefCell<Vec<Access>>,
    busy_reads: Cell<u32>,
}

impl Fake {
    fn take_log(&self) -> Vec<Access> {
        self.log.take()
    }
}

impl Hardware for &Fake {
    fn read_register(&self, offset: u16) -> u32 {
        let value = self.registers.borrow().get(&offset).copied().unwrap_or(0);
        if offset == 0x300 && self.busy_reads.get() > 0 {
            self.busy_reads.set(self.busy_reads.get() - 1);
            return value | 1 << 12;
        }
        value
    }
    fn write_register(&self, offset: u16, value: u32) {
        self.registers.borrow_mut().insert(offset, value);
        self.log.borrow_mut().push(Register(offset, value));
    }
    fn read_msr(&self, msr: u32) -> u64 {
        self.msrs.borrow().get(&msr).copied().unwrap_or(0)
    }
    fn write_msr(&self, msr: u32, value: u64) {
        self.msrs.borrow_mut().insert(msr, value);
        self.log.borrow_mut().push(Msr(msr, value));
    }
    fn fence(&self) {
        self.log.borrow_mut().push(Fence);
    }
}

const VECTORS: Vectors = Vectors {
    timer: 0xf1,
    spurious: 0xff,
};
const X2APIC: Features = Features {
    x2apic: true,
    tsc_deadline: false,
};
const DEADLINE: Features = Features {
    x2apic: false,
    tsc_deadline: true,
};
const BOTH: Features = Features {
    x2apic: true,
    tsc_deadline: true,
};

#[test]
fn xapic_is_enabled_without_ever_touching_x2apic_registers() {
    let fake = Fake::default();
    fake.msrs.borrow_mut().insert(0x1b, 0xfee0_0900); // enabled by firmware, boot CPU
    LocalApic::new(&fake, Features::default()).enable(VECTORS);
    let log = fake.take_log();
    assert!(
        log.iter().all(|access| matches!(access, Register(..))),
        "{log:?}"
    );
    assert!(
        log.contains(&Register(0xf0, 0x1ff)),
        "software enable and spurious vector"
    );
    assert!(
        log.contains(&Register(0x350, 1 << 16)),
        "LINT0 masked, or the 8259 raises exceptions"
    );
    assert!(log.contains(&Register(0x360, 4 << 8)), "LINT1 carries NMI");
    assert!(log.contains(&Register(0x320, 0xf1)), "one-shot timer");
    assert_eq!(log.last(), Some(&Register(0x380, 0)), "and not running");
}

#[test]
fn x2apic_is_switched_on_first_and_then_reached_by_msr_alone() {
    let fake = Fake::default();
    fake.msrs.borrow_mut().insert(0x1b, 0xfee0_0900);
    LocalApic::new(&fake, X2APIC).enable(VECTORS);
    let log = fake.take_log();
    assert_eq!(log[0], Msr(0x1b, 0xfee0_0d00));
    assert!(
        log.iter().all(|access| matches!(access, Msr(..))),
        "{log:?}"
    );
    assert!(log.contains(&Msr(0x80f, 0x1ff)));
    assert!(log.contains(&Msr(0x832, 0xf1)));
}

#[test]
fn an_apic_that_firmware_left_in_x2apic_mode_is_not_switched_again() {
    let fake = Fake::default();
    fake.msrs.borrow_mut().insert(0x1b, 0xfee0_0d00);
    LocalApic::new(&fake, X2APIC).enable(VECTORS);
    assert!(
        !fake
            .take_log()
            .iter()
            .any(|access| matches!(access, Msr(0x1b, _)))
    );
}

#[test]
fn the_id_is_eight_bits_in_one_flavour_and_all_of_it_in_the_other() {
    let fake = Fake::default();
    fake.registers.borrow_mut().insert(0x20, 0x0700_0000);
    fake.msrs.borrow_mut().insert(0x802, 0x1_0203);
    assert_eq!(LocalApic::new(&fake, Features::default()).id(), 7);
    assert_eq!(LocalApic::new(&fake, X2APIC).id(), 0x1_0203);
}

#[test]
fn xapic_sends_by_destination_first_and_command_second() {
    let fake = Fake::default();
    LocalApic::new(&fake, Features::default()).send(9, 0xf0);
    assert_eq!(
        fake.take_log(),
        [Register(0x310, 9 << 24), Register(0x300, 0x40f0)]
    );
}

#[test]
fn xapic_waits_for_the_command_before_but_not_for_ever() {
    let fake = Fake::default();
    fake.busy_reads.set(3);
    LocalApic::new(&fake, Features::default()).send(1, 0x40);
    assert_eq!(fake.busy_reads.get(), 0);
    fake.busy_reads.set(u32::MAX);
    LocalApic::new(&fake, Features::default()).send(1, 0x40);
    assert_eq!(fake.take_log().len(), 4);
}

#[test]
fn x2apic_sends_by_one_write_behind_a_fence() {
    let fake = Fake::default();
    LocalApic::new(&fake, X2APIC).send(0x1_0000, 0xf0);
    assert_eq!(
        fake.take_log(),
        [Fence, Msr(0x830, 0x1_0000 << 32 | 0x40f0)]
    );
}

#[test]
fn broadcasts_use_the_all_but_self_shorthand() {
    let fake = Fake::default();
    let apic = LocalApic::new(&fake, Features::default());
    apic.send_init_to_others();
    apic.send_startup_to_others(0x9f);
    apic.send_nmi_to_others();
    apic.send_to_others(0xf2);
    let commands: Vec<u32> = fake
        .take_log()
        .into_iter()
        .filter_map(|access| match access {
            Register(0x300, low) => Some(low),
            _ => None,
        })
        .collect();
    assert_eq!(commands, [0xc_4500, 0xc_469f, 0xc_4400, 0xc_40f2]);
}

#[test]
fn one_shot_timer_counts_and_never_gets_a_zero_by_which_it_would_stop() {
    let fake = Fake::default();
    let apic = LocalApic::new(&fake, Features::default());
    assert!(apic.arm(Alarm::AfterTicks(1000)));
    assert!(apic.arm(Alarm::AfterTicks(0)));
    apic.disarm();
    assert_eq!(
        fake.take_log(),
        [
            Register(0x380, 1000),
            Register(0x380, 1),
            Register(0x380, 0)
        ]
    );
}

#[test]
fn tsc_deadline_is_written_behind_a_fence_in_both_flavours() {
    for features in [DEADLINE, BOTH] {
        let fake = Fake::default();
        let apic = LocalApic::new(&fake, features);
        assert!(apic.arm(Alarm::AtTsc(123_456)));
        assert!(
            apic.arm(Alarm::AtTsc(0)),
            "zero would disarm: it becomes one, long past"
        );
        apic.disarm();
        let expected = vec![
            Fence,
            Msr(0x6e0, 123_456),
            Fence,
            Msr(0x6e0, 1),
            Fence,
            Msr(0x6e0, 0),
        ];
        assert_eq!(fake.take_log(), expected);
    }
}

#[test]
fn tsc_deadline_mode_is_set_in_the_timer_line_before_the_first_deadline() {
    let fake = Fake::default();
    LocalApic::new(&fake, BOTH).enable(VECTORS);
    let log = fake.take_log();
    let line = log
        .iter()
        .position(|access| *access == Msr(0x832, 1 << 18 | 0xf1))
        .unwrap();
    let deadline = log
        .iter()
        .position(|access| *access == Msr(0x6e0, 0))
        .unwrap();
    assert!(line < deadline);
    assert_eq!(log[deadline - 1], Fence);
}

#[test]
fn an_alarm_of_the_wrong_kind_is_refused_and_touches_nothing() {
    let fake = Fake::default();
    assert!(!LocalApic::new(&fake, DEADLINE).arm(Alarm::AfterTicks(5)));
    assert!(!LocalApic::new(&fake, Features::default()).arm(Alarm::AtTsc(5)));
    assert_eq!(fake.take_log(), []);
}

#[test]
fn counting_masks_the_interrupt_and_measures_downwards() {
    let fake = Fake::default();
    let apic = LocalApic::new(&fake, Features::default());
    apic.enable(VECTORS);
    apic.start_counting();
    assert_eq!(fake.registers.borrow()[&0x320], 1 << 16 | 0xf1);
    fake.registers.borrow_mut().insert(0x390, u32::MAX - 77);
    assert_eq!(apic.counted(), 77);
    apic.unmask_timer();
    assert_eq!(fake.registers.borrow()[&0x320], 0xf1);
}
