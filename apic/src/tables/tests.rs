//! Tables as QEMU writes them, and tables as nobody should.

use super::*;
use alloc::{rc::Rc, vec, vec::Vec};

const BASE: u64 = 0x7fe_0000;

/// Physical memory with tables in it.
#[derive(Clone, Default)]
struct Image(Rc<Vec<u8>>);

impl Memory for Image {
    fn bytes(&self, address: u64, len: usize) -> Option<&[u8]> {
        let at = usize::try_from(address.checked_sub(BASE)?).ok()?;
        self.0.get(at..at.checked_add(len)?)
    }
}

fn add_sum(bytes: &mut [u8], at: usize) {
    bytes[at] = 0;
    bytes[at] = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
}

fn table(signature: &[u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut table = Vec::from(*signature);
    table.extend((36 + body.len() as u32).to_le_bytes());
    table.extend([revision, 0]);
    table.extend(*b"BOCHSBXPC    \x01\0\0\0BXPC\x01\0\0\0");
    table.resize(36, 0);
    table.extend(body);
    add_sum(&mut table, 9);
    table
}

/// Lays tables out one after another; gives their addresses.
fn place(image: &mut Vec<u8>, table: Vec<u8>) -> u64 {
    let at = BASE + image.len() as u64;
    image.extend(table);
    at
}

fn madt_body(entries: &[&[u8]]) -> Vec<u8> {
    let mut body = Vec::from(0xfee0_0000u32.to_le_bytes());
    body.extend(1u32.to_le_bytes());
    entries.iter().for_each(|entry| body.extend(*entry));
    body
}

const CPU0: &[u8] = &[0, 8, 0, 0, 1, 0, 0, 0];
const CPU1: &[u8] = &[0, 8, 1, 1, 1, 0, 0, 0];
const CPU2_OFF: &[u8] = &[0, 8, 2, 2, 0, 0, 0, 0];
const CPU300_X2: &[u8] = &[9, 16, 0, 0, 44, 1, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0];
const IO_APIC: &[u8] = &[1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0];
const IRQ0_TO_2: &[u8] = &[2, 10, 0, 0, 2, 0, 0, 0, 0, 0];
const IRQ9_LEVEL: &[u8] = &[2, 10, 0, 9, 9, 0, 0, 0, 0x0d, 0];

fn q35_fadt(dsdt: u64) -> Vec<u8> {
    let mut body = vec![0; 244 - 36];
    let mut put =
        |at: usize, bytes: &[u8]| body[at - 36..at - 36 + bytes.len()].copy_from_slice(bytes);
    put(40, &(dsdt as u32).to_le_bytes());
    put(48, &0xb2u32.to_le_bytes());
    put(52, &[2]);
    put(64, &0x604u32.to_le_bytes());
    put(76, &0x608u32.to_le_bytes());
    put(88, &[4, 2, 0, 4]);
    put(112, &0x84a5u32.to_le_bytes());
    put(112, &(1u32 << 10 | 1 << 8).to_le_bytes());
    put(116, &[1, 8, 0, 1]);
    put(120, &0xcf9u64.to_le_bytes());
    put(128, &[0x0f]);
    table(b"FACP", 3, &body)
}

fn microvm_fadt(dsdt: u64) -> Vec<u8> {
    let mut body = vec![0; 268 - 36];
    let mut put =
        |at: usize, bytes: &[u8]| body[at - 36..at - 36 + bytes.len()].copy_from_slice(bytes);
    put(112, &(1u32 << 20 | 1 << 10).to_le_bytes());
    put(116, &[0, 8, 0, 1]);
    put(120, &0xfea0_0202u64.to_le_bytes());
    put(128, &[0x42]);
    put(140, &dsdt.to_le_bytes());
    put(244, &[0, 8, 0, 1]);
    put(248, &0xfea0_0200u64.to_le_bytes());
    table(b"FACP", 5, &body)
}

fn root_pointer(table: u64, revision: u8) -> Vec<u8> {
    let mut pointer = Vec::from(*b"RSD PTR \0BOCHS ");
    pointer.push(revision);
    pointer.extend(if revision < 2 { table as u32 } else { 0 }.to_le_bytes());
    add_sum(&mut pointer, 8);
    pointer.extend(36u32.to_le_bytes());
    pointer.extend(table.to_le_bytes());
    pointer.extend([0; 4]);
    add_sum(&mut pointer, 32);
    pointer
}

/// The root pointer and memory of a machine like q35, with this MADT and DSDT.
fn q35_with(madt: Vec<u8>, dsdt: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    let mut image = vec![0; 16];
    let dsdt = place(&mut image, dsdt);
    let fadt = place(&mut image, q35_fadt(dsdt));
    let madt = place(&mut image, madt);
    let mut hpet = vec![0; 20];
    hpet[8..16].copy_from_slice(&0xfed0_0000u64.to_le_bytes());
    let hpet = place(&mut image, table(b"HPET", 1, &hpet));
    let mut mcfg = vec![0; 24];
    mcfg[8..16].copy_from_slice(&0xb000_0000u64.to_le_bytes());
    mcfg[19] = 255;
    let mcfg = place(&mut image, table(b"MCFG", 1, &mcfg));
    let entries = [fadt, madt, hpet, mcfg]
        .map(|at| (at as u32).to_le_bytes())
        .concat();
    let root = place(&mut image, table(b"RSDT", 1, &entries));
    (root_pointer(root, 0), image)
}

fn q35() -> (Vec<u8>, Vec<u8>) {
    let entries = [CPU0, CPU1, CPU2_OFF, IO_APIC, IRQ0_TO_2, IRQ9_LEVEL];
    let dsdt = table(b"DSDT", 1, b"\x08_S5_\x12\x06\x04\0\0\0\0");
    q35_with(table(b"APIC", 1, &madt_body(&entries)), dsdt)
}

fn read((pointer, image): (Vec<u8>, Vec<u8>)) -> Result<Firmware, Error> {
    Firmware::read(Image(Rc::new(image)), &pointer)
}

#[test]
fn reads_a_q35() {
    let firmware = read(q35()).unwrap();
    assert_eq!(
        firmware.processors,
        [0, 1],
        "a processor that is not usable is no processor"
    );
    assert_eq!(firmware.local_apic, 0xfee0_0000);
    assert_eq!(
        firmware.io_apics,
        [IoApicEntry {
            address: 0xfec0_0000,
            first: 0
        }]
    );
    assert_eq!(firmware.isa(0), (2, Signal::ISA));
    assert_eq!(firmware.isa(4), (4, Signal::ISA));
    assert_eq!(
        firmware.isa(9),
        (
            9,
            Signal {
                level: true,
                active_low: false
            }
        )
    );
    assert_eq!(
        firmware.soft_off,
        Some(SoftOff::Pm1 {
            a: Register::Port(0x604),
            b: None,
            types: SleepTypes { a: 0, b: 0 },
            acquire: Some((0xb2, 2)),
        })
    );
    assert_eq!(firmware.reset, Some((Register::Port(0xcf9), 0x0f)));
    assert_eq!(
        firmware.pm_timer,
        Some(PmTimer {
            register: Register::Port(0x608),
            wide: true
        })
    );
    assert_eq!(firmware.hpet, Some(0xfed0_0000));
    let range = PciRange {
        address: 0xb000_0000,
        segment: 0,
        first_bus: 0,
        last_bus: 255,
    };
    assert_eq!(firmware.pci, [range]);
}

#[test]
fn reads_a_microvm_through_its_xsdt() {
    let mut image = vec![0; 16];
    let dsdt = place(
        &mut image,
        table(b"DSDT", 2, b"\x08_S5_\x12\x08\x04\x0a\x05\0\0\0"),
    );
    let fadt = place(&mut image, microvm_fadt(dsdt));
    let second = [1, 12, 1, 0, 0, 0, 0xc1, 0xfe, 24, 0, 0, 0];
    let madt = table(b"APIC", 3, &madt_body(&[CPU0, CPU300_X2, IO_APIC, &second]));
    let madt = place(&mut image, madt);
    let entries = [fadt, madt].map(u64::to_le_bytes).concat();
    let root = place(&mut image, table(b"XSDT", 1, &entries));
    let firmware = read((root_pointer(root, 2), image)).unwrap();
    assert_eq!(firmware.processors, [0, 300]);
    assert_eq!(
        firmware.io_apics[1],
        IoApicEntry {
            address: 0xfec1_0000,
            first: 24
        }
    );
    let register = Register::Memory(0xfea0_0200);
    let types = SleepTypes { a: 5, b: 0 };
    assert_eq!(
        firmware.soft_off,
        Some(SoftOff::Control { register, types })
    );
    assert_eq!(firmware.reset, Some((Register::Memory(0xfea0_0202), 0x42)));
    assert_eq!((firmware.pm_timer, firmware.hpet), (None, None));
}

#[test]
fn a_fadt_of_acpi_1_reads_its_missing_fields_as_absent() {
    let (pointer, mut image) = q35();
    let at = image
        .windows(4)
        .position(|window| window == b"FACP")
        .unwrap();
    image[at + 4..at + 8].copy_from_slice(&116u32.to_le_bytes());
    image[at + 8] = 1;
    add_sum(&mut image[at..at + 116], 9);
    let firmware = read((pointer, image)).unwrap();
    assert_eq!(firmware.reset, None, "the reset register lies beyond");
    assert!(firmware.soft_off.is_some());
}

#[test]
fn a_bad_root_pointer_is_an_error() {
    let (mut pointer, image) = q35();
    pointer[16] ^= 1;
    assert_eq!(read((pointer, image.clone())), Err(Error::BadRootPointer));
    assert_eq!(read((vec![], image)), Err(Error::BadRootPointer));
}

#[test]
fn a_root_table_that_is_nowhere_means_no_madt() {
    let pointer = root_pointer(0x10, 0);
    assert_eq!(read((pointer, vec![0; 64])), Err(Error::NoMadt));
}

#[test]
fn an_apic_entry_of_length_zero_is_an_error_and_no_endless_loop() {
    let dsdt = table(b"DSDT", 1, b"");
    let madt = table(b"APIC", 1, &madt_body(&[CPU0, &[0, 0, 0, 0, 0, 0, 0, 0]]));
    assert_eq!(read(q35_with(madt, dsdt.clone())), Err(Error::BadMadtEntry));
    let madt = table(b"APIC", 1, &madt_body(&[&[1, 4, 0, 0]]));
    assert_eq!(read(q35_with(madt, dsdt.clone())), Err(Error::BadMadtEntry));
    let madt = table(b"APIC", 1, &madt_body(&[CPU0, &[0, 8, 1]]));
    assert_eq!(read(q35_with(madt, dsdt)), Err(Error::BadMadtEntry));
}

#[test]
fn tables_with_a_wrong_sum_count_as_absent() {
    let (pointer, image) = q35();
    let spoil = |signature: &[u8]| {
        let mut image = image.clone();
        let at = image
            .windows(4)
            .position(|window| window == signature)
            .unwrap();
        image[at + 20] ^= 1;
        read((pointer.clone(), image))
    };
    assert_eq!(spoil(b"APIC"), Err(Error::NoMadt));
    assert_eq!(spoil(b"HPET").unwrap().hpet, None);
    assert_eq!(spoil(b"MCFG").unwrap().pci, []);
    assert_eq!(spoil(b"DSDT").unwrap().soft_off, None);
    assert_eq!(spoil(b"FACP").unwrap().pm_timer, None);
}

#[test]
fn no_byte_of_firmware_can_panic_us() {
    let (pointer, image) = q35();
    for at in 0..image.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bent = image.clone();
            bent[at] = value;
            let _ = read((pointer.clone(), bent));
        }
        let _ = read((pointer.clone(), image[..at].to_vec()));
    }
    for at in 0..pointer.len() {
        let mut bent = pointer.clone();
        bent[at] ^= 0xff;
        let _ = read((bent, image.clone()));
        let _ = read((pointer[..at].to_vec(), image.clone()));
    }
}

#[test]
fn no_sum_corrected_length_can_panic_us() {
    // A wrong sum hides most nonsense; here the nonsense adds up.
    let (pointer, image) = q35();
    for signature in [b"APIC", b"FACP", b"HPET", b"MCFG", b"DSDT", b"RSDT"] {
        let at = image
            .windows(4)
            .position(|window| window == signature)
            .unwrap();
        for len in [
            0,
            1,
            35,
            36,
            37,
            43,
            44,
            45,
            50,
            60,
            100,
            300,
            1 << 20,
            u32::MAX,
        ] {
            let mut bent = image.clone();
            bent[at + 4..at + 8].copy_from_slice(&len.to_le_bytes());
            let end = (at + len as usize).min(bent.len());
            if end > at + 10 {
                add_sum(&mut bent[at..end], 9);
            }
            let _ = read((pointer.clone(), bent));
        }
    }
}
