//! Files that QEMU's command line hands to the guest (`-fw_cfg name=opt/anax/rc,file=..`).
//!
//! A byte at a time: the one file we read is a few hundred bytes, and DMA would not be faster.
//!
//! Source: QEMU docs/specs/fw_cfg.rst.

use alloc::vec::Vec;

/// The port to which the number of an item is written.
pub const SELECTOR_PORT: u16 = 0x510;
/// The port from which the selected item is read.
pub const DATA_PORT: u16 = 0x511;
const KEY_SIGNATURE: u16 = 0x0000;
const KEY_DIRECTORY: u16 = 0x0019;
const FILES_MAX: u32 = 1024;
/// A start-up script larger than this is a mistake.
const FILE_MAX: u32 = 64 << 10;

/// The two ports.
pub trait Ports {
    /// Selects an item, from its beginning.
    fn select(&mut self, key: u16);
    /// The next byte of the selected item; 0 after its end.
    fn read_byte(&mut self) -> u8;
}

/// The contents of a file, or None if there is none of this name (or none that is sane).
pub fn read(ports: &mut impl Ports, name: &str) -> Option<Vec<u8>> {
    ports.select(KEY_SIGNATURE);
    if array::<4>(ports) != *b"QEMU" {
        return None;
    }
    ports.select(KEY_DIRECTORY);
    let count = u32::from_be_bytes(array(ports));
    for _ in 0..count.min(FILES_MAX) {
        let len = u32::from_be_bytes(array(ports));
        let key = u16::from_be_bytes(array(ports));
        array::<2>(ports);
        let entry_name = array::<56>(ports);
        let entry_name = entry_name.split(|byte| *byte == 0).next().unwrap_or(&[]);
        if entry_name == name.as_bytes() {
            if len > FILE_MAX {
                return None;
            }
            ports.select(key);
            return Some((0..len).map(|_| ports.read_byte()).collect());
        }
    }
    None
}

fn array<const LEN: usize>(ports: &mut impl Ports) -> [u8; LEN] {
    core::array::from_fn(|_| ports.read_byte())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Items by their keys, and what is left of the selected one.
    struct Fake {
        items: Vec<(u16, Vec<u8>)>,
        left: alloc::vec::IntoIter<u8>,
    }

    impl Ports for Fake {
        fn select(&mut self, key: u16) {
            let item = self.items.iter().find(|(it, _)| *it == key);
            self.left = item
                .map_or(Vec::new(), |(_, bytes)| bytes.clone())
                .into_iter();
        }
        fn read_byte(&mut self) -> u8 {
            self.left.next().unwrap_or(0)
        }
    }

    fn fake(signature: &[u8], count: u32, files: &[(&str, u32)]) -> Fake {
        let mut directory = Vec::from(count.to_be_bytes());
        for ((name, len), key) in files.iter().zip(0x20u16..) {
            directory.extend(len.to_be_bytes());
            directory.extend(key.to_be_bytes());
            directory.extend([0; 2]);
            let end = directory.len() + 56;
            directory.extend(name.as_bytes());
            directory.resize(end, 0);
        }
        let items = Vec::from([
            (KEY_SIGNATURE, signature.to_vec()),
            (KEY_DIRECTORY, directory),
            (0x20, b"not this".to_vec()),
            (0x21, b"echo hello".to_vec()),
        ]);
        let left = Vec::new().into_iter();
        Fake { items, left }
    }

    #[test]
    fn a_file_is_found_by_its_whole_name() {
        let mut ports = fake(b"QEMU", 2, &[("opt/anax/rc2", 8), ("opt/anax/rc", 10)]);
        assert_eq!(read(&mut ports, "opt/anax/rc").unwrap(), b"echo hello");
        assert_eq!(read(&mut ports, "opt/anax"), None);
    }

    #[test]
    fn nonsense_is_no_file() {
        let files = [("a", 8), ("rc", FILE_MAX + 1)];
        assert_eq!(read(&mut fake(b"QEMU", 2, &files), "rc"), None, "too long");
        let files = [("a", 8), ("rc", 10)];
        assert_eq!(read(&mut fake(b"KVMK", 2, &files), "rc"), None);
        assert_eq!(read(&mut fake(b"QEMU", 1, &files), "rc"), None);
        assert_eq!(read(&mut fake(b"QEMU", u32::MAX, &files), "no"), None);
    }
}
