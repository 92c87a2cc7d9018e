//! Functions that are as they should be, and configuration spaces that are not.

use super::fake::{FakeBus, FakeFunction, FakeRegisters};
use super::*;

fn one(function: FakeFunction) -> Function<FakeBus> {
    let bus = FakeBus::default().with(0, 3, 0, function);
    Function::open(bus, PciAddress::new(0, 0, 3, 0))
}

#[test]
fn functions_behind_bridges_are_found_once() {
    let bus = FakeBus::default()
        .with(0, 0, 0, FakeFunction::new(0x8086, 1))
        .with(0, 0, 1, FakeFunction::new(0x8086, 2)) // hidden: function 0 is single
        .with(0, 5, 0, FakeFunction::new(0x8086, 3).multifunction())
        .with(0, 5, 7, FakeFunction::new(0x8086, 4))
        .with(0, 6, 0, FakeFunction::new(0x1b36, 5).bridge_to(9))
        .with(0, 7, 0, FakeFunction::new(0x1b36, 6).bridge_to(0)) // not numbered
        .with(9, 0, 0, FakeFunction::new(0x1af4, 7).bridge_to(9)); // leads to itself
    let devices: Vec<_> = enumerate(&bus).iter().map(|info| info.device).collect();
    assert_eq!(devices, [1, 3, 4, 5, 6, 7]);
}

#[test]
fn capability_lists_that_loop_or_leave_are_errors() {
    let good = FakeFunction::new(1, 1)
        .capability(0x40, 0x50, 5, &[])
        .capability(0x50, 0, 9, &[]);
    let list = one(good).capabilities().unwrap();
    assert_eq!(
        list,
        [
            Capability {
                id: 5,
                offset: 0x40
            },
            Capability {
                id: 9,
                offset: 0x50
            }
        ]
    );

    let looped = FakeFunction::new(1, 1)
        .capability(0x40, 0x50, 5, &[])
        .capability(0x50, 0x40, 9, &[]);
    assert_eq!(one(looped).capabilities(), Err(PciError::BadCapabilityList));
    let to_itself = FakeFunction::new(1, 1).capability(0x40, 0x40, 5, &[]);
    assert_eq!(
        one(to_itself).capabilities(),
        Err(PciError::BadCapabilityList)
    );
    let into_header = FakeFunction::new(1, 1).capability(0x40, 0x10, 5, &[]);
    assert_eq!(
        one(into_header).capabilities(),
        Err(PciError::BadCapabilityList)
    );
    assert_eq!(one(FakeFunction::new(1, 1)).capabilities(), Ok(Vec::new()));
    // Status says there is a list, every byte is 0xff.
    let mut ones = FakeFunction::new(1, 1);
    ones.bytes[6..].fill(0xff);
    let list = one(ones).capabilities();
    assert_eq!(list, Err(PciError::BadCapabilityList));
}

#[test]
fn bars_are_sized_with_decoding_off_and_keep_their_addresses() {
    let function = one(FakeFunction::new(1, 1)
        .bar(0, 0xfebd_0000, 0x1000, false)
        .bar(2, 0x8_4000_0000, 0x4000, true)
        .bar(4, 0x10_0000_0000, 0x2_0000_0000, true));
    let bytes = || function.access.function(function.address()).bytes;
    assert_eq!(bytes()[4], 0, "decodes nothing");
    function.enable();
    assert_eq!(bytes()[4], 6, "memory and bus master");
    let bar = |slot| {
        function
            .memory_bar(slot)
            .map(|bar| (bar.address, bar.len_bytes))
    };
    assert_eq!(bar(0), Ok((0xfebd_0000, 0x1000)));
    assert_eq!(bar(2), Ok((0x8_4000_0000, 0x4000)));
    assert_eq!(bar(4), Ok((0x10_0000_0000, 0x2_0000_0000)));
    assert_eq!(bar(1), Err(PciError::NoMemoryBar(1)));
    assert_eq!(bar(6), Err(PciError::NoMemoryBar(6)));
    let addresses: Vec<_> = (0..6).map(|slot| function.read(0x10 + 4 * slot)).collect();
    assert_eq!(
        addresses,
        [0xfebd_0000, 0, 0x4000_0004, 8, 4, 0x10],
        "left as found"
    );

    assert_eq!(function.in_bar(2, 0x3000, 0x1000), Ok(0x8_4000_3000));
    assert_eq!(
        function.in_bar(2, 0x3001, 0x1000),
        Err(PciError::OutsideBar(2))
    );
    assert_eq!(
        function.in_bar(2, u32::MAX, u32::MAX),
        Err(PciError::OutsideBar(2))
    );
}

#[test]
fn odd_bars_are_errors_and_not_panics() {
    let unassigned = FakeFunction::new(1, 1).bar(0, 0, 0x1000, false);
    assert_eq!(
        one(unassigned).memory_bar(0),
        Err(PciError::BarUnassigned(0))
    );
    let wide_in_last = FakeFunction::new(1, 1).bar(5, 0x1000, 0x1000, false);
    let mut wide_in_last = wide_in_last;
    wide_in_last.bytes[0x24] |= 4;
    assert_eq!(
        one(wide_in_last).memory_bar(5),
        Err(PciError::NoMemoryBar(5))
    );
    let mut ports = FakeFunction::new(1, 1);
    ports.set32(0x10, 0xc001);
    assert_eq!(one(ports).memory_bar(0), Err(PciError::NoMemoryBar(0)));
    // Type bits set, no writable address bit at all: sizes of 2^32 and 2^64.
    let mut fixed = FakeFunction::new(1, 1);
    fixed.set32(0x10, 8);
    fixed.set32(0x14, 12);
    assert_eq!(
        one(fixed.clone()).memory_bar(0),
        Err(PciError::NoMemoryBar(0))
    );
    assert_eq!(one(fixed).memory_bar(1), Err(PciError::NoMemoryBar(1)));
}

#[test]
fn msix_entries_are_masked_until_set() {
    let registers = FakeRegisters::default();
    let table = 0xfebd_0000_u64 + 0x800;
    let function = FakeFunction::new(1, 1)
        .bar(1, 0xfebd_0000, 0x1000, false)
        .capability(0x98, 0, 0x11, &[3, 0, 1, 8, 0, 0, 1, 0xc, 0, 0]);
    let mut function = function;
    function.writable[0x9b] = 0xc0;
    let function = one(function);
    let mut msix = Msix::open(&function, &registers).unwrap();
    assert_eq!(msix.entries(), 4);
    assert_eq!(
        function.read(0x98) >> 30,
        0b10,
        "enabled, not masked as a whole"
    );
    assert_eq!(registers.get32(table + 2 * 16 + 12), 1);

    let message = InterruptMessage {
        address: 0x1_fee0_1000,
        data: 0x41,
    };
    msix.set(2, message).unwrap();
    let words = [0, 4, 8, 12].map(|word| registers.get32(table + 2 * 16 + word));
    assert_eq!(words, [0xfee0_1000, 1, 0x41, 0]);
    assert_eq!(registers.get32(table + 16 + 12), 1, "others stay masked");
    msix.mask(2).unwrap();
    assert_eq!(registers.get32(table + 2 * 16 + 12), 1);
    assert_eq!(msix.set(4, message), Err(PciError::NoVector(4)));
}

#[test]
fn a_table_beyond_its_bar_is_an_error() {
    let function = FakeFunction::new(1, 1)
        .bar(1, 0xfebd_0000, 0x1000, false)
        .capability(0x98, 0, 0x11, &[0xff, 7, 1, 8, 0, 0, 1, 0xc, 0, 0]);
    let error = Msix::open(&one(function), &FakeRegisters::default()).err();
    assert_eq!(error, Some(PciError::OutsideBar(1)));
    let error = Msix::open(&one(FakeFunction::new(1, 1)), &FakeRegisters::default()).err();
    assert_eq!(error, Some(PciError::NoVector(0)));
}
