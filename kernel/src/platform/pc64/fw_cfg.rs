//! Files that QEMU's command line hands to the guest (`-fw_cfg name=opt/anax/rc,file=..`).
//!
//! Port I/O, a byte at a time: the one file we read is a few hundred bytes, and DMA would not be faster.
//!
//! Source: QEMU docs/specs/fw_cfg.rst. Invariant: called on QEMU or KVM only, where the two ports are fw_cfg's or nobody's.

use alloc::vec::Vec;
use x86_64::instructions::port::{Port, PortWriteOnly};

const SELECTOR: u16 = 0x510;
const DATA: u16 = 0x511;
const KEY_SIGNATURE: u16 = 0x0000;
const KEY_DIRECTORY: u16 = 0x0019;
const FILES_MAX: u32 = 1024;
/// A start-up script larger than this is a mistake.
const FILE_MAX: u32 = 64 << 10;

/// The contents of a file, or None if there is none of this name (or none that is sane).
pub fn read(name: &str) -> Option<Vec<u8>> {
    select(KEY_SIGNATURE);
    if read_array::<4>() != *b"QEMU" {
        return None;
    }
    select(KEY_DIRECTORY);
    let count = u32::from_be_bytes(read_array());
    for _ in 0..count.min(FILES_MAX) {
        let len = u32::from_be_bytes(read_array());
        let key = u16::from_be_bytes(read_array());
        read_array::<2>();
        let entry_name = read_array::<56>();
        let entry_name = entry_name.split(|byte| *byte == 0).next().unwrap_or(&[]);
        if entry_name == name.as_bytes() {
            if len > FILE_MAX {
                return None;
            }
            select(key);
            return Some((0..len).map(|_| read_byte()).collect());
        }
    }
    None
}

fn select(key: u16) {
    // SAFETY: selecting an item has no effect beyond fw_cfg (module head).
    unsafe { PortWriteOnly::new(SELECTOR).write(key) }
}

fn read_byte() -> u8 {
    // SAFETY: reading the selected item has no effect beyond fw_cfg.
    unsafe { Port::new(DATA).read() }
}

fn read_array<const LEN: usize>() -> [u8; LEN] {
    core::array::from_fn(|_| read_byte())
}
