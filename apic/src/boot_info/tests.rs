//! The boot loaders' blocks, made by hand, cut and bent.

use super::*;
use alloc::vec::Vec;

const BASE: u64 = 0x9000;

fn shown<'a>(image: &'a [u8]) -> impl Fn(u64, usize) -> Option<&'a [u8]> {
    move |address, len| {
        let at = usize::try_from(address.checked_sub(BASE)?).ok()?;
        image.get(at..at.checked_add(len)?)
    }
}

fn pvh_image() -> Vec<u8> {
    let mut image = Vec::new();
    for word in [PVH_MAGIC, 1, 0, 0] {
        image.extend(word.to_le_bytes());
    }
    for quad in [0, BASE + 200, 0xf_5000, BASE + 56] {
        image.extend(u64::to_le_bytes(quad));
    }
    image.extend(3u32.to_le_bytes());
    image.extend(0u32.to_le_bytes());
    for (base, len, kind) in [(0u64, 0x9fc00u64, 1u32), (0xf0000, 0x10000, 2), (0, 0, 0)] {
        image.extend(base.to_le_bytes());
        image.extend(len.to_le_bytes());
        image.extend(kind.to_le_bytes());
        image.extend(0u32.to_le_bytes());
    }
    image.resize(200, 0);
    image.extend(b"hostname=a quiet\0rubbish");
    image
}

fn multiboot_image() -> Vec<u8> {
    let mut tags = Vec::new();
    let mut tag = |kind: u32, body: &[u8]| {
        tags.extend(kind.to_le_bytes());
        tags.extend((body.len() as u32 + 8).to_le_bytes());
        tags.extend(body);
        tags.resize(tags.len().next_multiple_of(8), 0);
    };
    tag(1, b"rc=\"carp\"\0");
    tag(15, &[15; 36]);
    tag(14, &[14; 20]);
    let mut map = Vec::new();
    map.extend(24u32.to_le_bytes());
    map.extend(0u32.to_le_bytes());
    map.extend(0x10_0000u64.to_le_bytes());
    map.extend(0x700_0000u64.to_le_bytes());
    map.extend(1u32.to_le_bytes());
    map.extend(0u32.to_le_bytes());
    tag(6, &map);
    tag(0, &[]);
    let mut image = Vec::from((tags.len() as u32 + 8).to_le_bytes());
    image.extend([0; 4]);
    image.extend(tags);
    image
}

#[test]
fn reads_a_pvh_block_and_skips_the_all_zero_entry_of_microvm() {
    let image = pvh_image();
    let boot = BootInfo::parse(PVH_MAGIC, BASE, shown(&image)).unwrap();
    assert_eq!(boot.usable(), core::slice::from_ref(&(0..0x9fc00)));
    assert_eq!(boot.root_pointer, RootPointer::At(0xf_5000));
    assert_eq!(boot.command_line(), "hostname=a quiet");
    assert_eq!(boot.loader, Loader::Pvh);
}

#[test]
fn what_is_taken_is_left_out_of_the_usable_memory() {
    let image = multiboot_image();
    let boot = BootInfo::parse(MULTIBOOT2_MAGIC, BASE, shown(&image)).unwrap();
    let rest = |from, taken| boot.usable_without(from, taken).collect::<Vec<_>>();
    assert_eq!(rest(0, [0..0, 0..0]), boot.usable());
    assert_eq!(
        rest(0x18_0000, [0x20_0000..0x30_0000, 0x2f_0000..0x40_0000]),
        [0x18_0000..0x20_0000, 0x40_0000..0x710_0000]
    );
    assert_eq!(
        rest(0, [0..0x20_0000, 0x700_0000..0x800_0000]),
        core::slice::from_ref(&(0x20_0000..0x700_0000))
    );
    assert!(rest(0x710_0000, [0..0, 0..0]).is_empty());
    assert_eq!(
        (boot.memory_end(), boot.usable_bytes()),
        (0x710_0000, 0x700_0000)
    );
}

#[test]
fn a_low_page_is_whole_and_not_the_loaders() {
    let image = pvh_image();
    let mut boot = BootInfo::parse(PVH_MAGIC, BASE, shown(&image)).unwrap();
    assert_eq!(
        boot.low_page(),
        Some(0x9_e000),
        "memory ends in the page above"
    );
    boot.block = 0x9_eff8..0x9_f010;
    assert_eq!(boot.low_page(), Some(0x9_d000));
    boot.block = 0x1000..0x9_e008;
    assert_eq!(boot.low_page(), None);
    let image = multiboot_image();
    let boot = BootInfo::parse(MULTIBOOT2_MAGIC, BASE, shown(&image)).unwrap();
    assert_eq!(boot.low_page(), None, "all memory is above");
}

#[test]
fn reads_a_multiboot2_block_and_prefers_the_new_root_pointer() {
    let image = multiboot_image();
    let boot = BootInfo::parse(MULTIBOOT2_MAGIC, BASE, shown(&image)).unwrap();
    assert_eq!(
        boot.usable(),
        core::slice::from_ref(&(0x10_0000..0x710_0000))
    );
    assert_eq!(boot.root_pointer, RootPointer::Copy([15; 36]));
    assert_eq!(boot.command_line(), "rc=\"carp\"");
}

#[test]
fn a_block_cut_anywhere_is_an_error_or_a_shorter_truth_but_never_a_panic() {
    for (magic, whole) in [
        (PVH_MAGIC, pvh_image()),
        (MULTIBOOT2_MAGIC, multiboot_image()),
    ] {
        for len in 0..whole.len() {
            let _ = BootInfo::parse(magic, BASE, shown(&whole[..len]));
        }
        for at in 0..whole.len() {
            let mut bent = whole.clone();
            bent[at] ^= 0xff;
            let _ = BootInfo::parse(magic, BASE, shown(&bent));
        }
    }
}

#[test]
fn an_unknown_magic_is_named() {
    let error = BootInfo::parse(0x2bad_b002, BASE, shown(&[])).err();
    assert_eq!(error, Some(BootInfoError::UnknownLoader(0x2bad_b002)));
}
