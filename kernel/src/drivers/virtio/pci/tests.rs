//! The PCI transport against register windows of plain memory.

use super::*;
use crate::drivers::pci::PciError;
use crate::drivers::pci::fake::{FakeBus, FakeFunction, FakeRegisters};
use pci_types::PciAddress;

const BAR4: u64 = 0x8_0000_0000;

/// A vendor capability's bytes behind the two of the list.
fn structure(kind: u8, bar: u8, offset: u32, len: u32) -> [u8; 18] {
    let mut bytes = [0; 18];
    bytes[0] = 20;
    bytes[1] = kind;
    bytes[2] = bar;
    bytes[6..10].copy_from_slice(&offset.to_le_bytes());
    bytes[10..14].copy_from_slice(&len.to_le_bytes());
    bytes[14] = 4; // notify_off_multiplier
    bytes
}

/// QEMU's virtio-net-pci with disable-legacy=on, as the boot facts have it.
fn qemu() -> FakeFunction {
    FakeFunction::new(0x1af4, 0x1041)
        .bar(1, 0xfebd_0000, 0x1000, false)
        .bar(4, BAR4, 0x4000, true)
        .capability(0x98, 0x84, 0x11, &[3, 0, 1, 0, 0, 0, 1, 8, 0, 0])
        .capability(0x84, 0x70, 9, &structure(5, 0, 0, 0))
        .capability(0x70, 0x60, 9, &structure(kind::NOTIFY, 4, 0x3000, 0x1000))
        .capability(
            0x60,
            0x50,
            9,
            &structure(kind::DEVICE, 4, 0x2000, 0x1000)[..14],
        )
        .capability(0x50, 0x40, 9, &structure(3, 4, 0x1000, 0x1000)[..14])
        .capability(0x40, 0, 9, &structure(kind::COMMON, 4, 0, 0x1000)[..14])
}

fn open(function: FakeFunction) -> (FakeRegisters, Result<PciTransport, OpenError>) {
    let bus = FakeBus::default().with(0, 3, 0, function);
    let registers = FakeRegisters::default();
    let function = Function::open(bus, PciAddress::new(0, 0, 3, 0));
    let transport = PciTransport::open(&function, 1, &registers);
    (registers, transport)
}

fn poke(registers: &FakeRegisters, address: u64, bytes: &[u8]) {
    let mut memory = registers.0.lock().unwrap();
    for (at, &byte) in bytes.iter().enumerate() {
        memory.insert(address + at as u64, byte);
    }
}

#[test]
fn queues_are_set_up_and_rung_where_the_device_says() {
    let (registers, transport) = open(qemu());
    let mut transport = transport.ok().unwrap();
    poke(&registers, BAR4 + 0x12, &[2, 0]);
    poke(&registers, BAR4 + 0x18, &[0, 1]);
    poke(&registers, BAR4 + 0x1e, &[5, 0]);
    assert_eq!(transport.max_queue_size(1), 256);
    assert_eq!(transport.max_queue_size(2), 0);
    let setup = QueueSetup {
        index: 1,
        size: 128,
        descriptors_address: 0x1_0000_1000,
        available_address: 0x1_0000_2000,
        used_address: 0x1_0000_3000,
        vector: Some(2),
    };
    transport.enable_queue(setup).unwrap();
    let word = |offset| registers.get32(BAR4 + offset);
    assert_eq!(word(0x14) >> 16, 1, "queue selected");
    assert_eq!(word(0x18), 2 << 16 | 128);
    assert_eq!(word(0x1c) as u16, 1, "enabled");
    assert_eq!([word(0x20), word(0x24)], [0x1000, 1]);
    assert_eq!(
        [word(0x28), word(0x2c), word(0x30), word(0x34)],
        [0x2000, 1, 0x3000, 1]
    );
    transport.notify(1);
    assert_eq!(word(0x3000 + 5 * 4) as u16, 1);
    transport.notify(0); // not enabled: nowhere to write
    assert_eq!(
        transport.enable_queue(setup),
        Err(TransportError::QueueUnavailable)
    );
}

#[test]
fn status_features_and_configuration_pass_through() {
    let (registers, transport) = open(qemu());
    let mut transport = transport.ok().unwrap();
    poke(&registers, BAR4 + 4, &[1, 2, 3, 4]);
    assert_eq!(transport.device_features(), 0x0403_0201_0403_0201);
    transport.set_driver_features(0x1_0000_0020);
    assert_eq!(
        registers.get32(BAR4 + 0xc),
        1,
        "the high word was written last"
    );
    transport.set_status(Status::ACKNOWLEDGE | Status::DRIVER);
    assert_eq!(transport.status().bits(), 3);
    assert!(transport.reset().is_ok());
    assert_eq!(transport.status(), Status::empty());
    poke(&registers, BAR4 + 0x2000, &[0x52, 0x54, 0, 1, 2, 3, 1, 0]);
    let (mut mac, mut status) = ([0; 6], [0; 2]);
    transport.read_config_once(0, &mut mac).unwrap();
    transport.read_config_once(6, &mut status).unwrap();
    assert_eq!((mac, status), ([0x52, 0x54, 0, 1, 2, 3], [1, 0]));
    let beyond = transport.read_config_once(0xfff, &mut status);
    assert_eq!(beyond, Err(TransportError::ConfigOutOfRange));
    let message = InterruptMessage {
        address: 0xfee0_0000,
        data: 0x40,
    };
    assert_eq!(transport.set_message(3, message), Ok(()));
    assert_eq!(
        transport.set_message(4, message),
        Err(PciError::NoVector(4))
    );
}

#[test]
fn a_doorbell_outside_its_window_is_refused() {
    let (registers, transport) = open(qemu());
    let mut transport = transport.ok().unwrap();
    poke(&registers, BAR4 + 0x12, &[1, 0]);
    poke(&registers, BAR4 + 0x1e, &[0, 4]);
    let setup = QueueSetup {
        index: 0,
        size: 8,
        descriptors_address: 0,
        available_address: 0,
        used_address: 0,
        vector: None,
    };
    assert_eq!(
        transport.enable_queue(setup),
        Err(TransportError::QueueUnavailable)
    );
}

#[test]
fn structures_that_are_missing_or_outside_their_bar_are_errors() {
    let bare = FakeFunction::new(0x1af4, 0x1041);
    assert_eq!(
        open(bare).1.err(),
        Some(OpenError::MissingStructure(kind::COMMON))
    );
    let reserved = FakeFunction::new(0x1af4, 0x1041).capability(
        0x40,
        0,
        9,
        &structure(kind::COMMON, 6, 0, 0x1000),
    );
    assert_eq!(
        open(reserved).1.err(),
        Some(OpenError::MissingStructure(kind::COMMON))
    );
    for (offset, len) in [(0x3800, 0x1000), (0, 0x37), (u32::MAX, u32::MAX)] {
        let outside = FakeFunction::new(0x1af4, 0x1041)
            .bar(4, BAR4, 0x4000, true)
            .capability(0x40, 0, 9, &structure(kind::COMMON, 4, offset, len));
        assert_eq!(
            open(outside).1.err(),
            Some(OpenError::Pci(PciError::OutsideBar(4)))
        );
    }
    let at_the_end = FakeFunction::new(0x1af4, 0x1041).capability(0xf0, 0, 9, &[16, 1, 4, 0]);
    assert_eq!(
        open(at_the_end).1.err(),
        Some(OpenError::Pci(PciError::BadCapabilityList))
    );
}

#[test]
fn types_of_modern_and_transitional_functions() {
    let mut transitional = FakeFunction::new(0x1af4, 0x1000);
    transitional.set32(0x2c, 1 << 16 | 0x1af4);
    let bus = FakeBus::default()
        .with(0, 1, 0, transitional)
        .with(0, 2, 0, FakeFunction::new(0x1af4, 0x1043))
        .with(0, 3, 0, FakeFunction::new(0x8086, 0x1041));
    let functions = crate::drivers::pci::enumerate(&bus);
    let types: Vec<_> = functions
        .iter()
        .map(|info| device_type(info, &bus))
        .collect();
    assert_eq!(types, [Some(1), Some(3), None]);
}
