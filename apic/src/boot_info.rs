//! What the boot loader said: memory map, ACPI root, command line, in one form for both protocols.
//!
//! [`BootInfo::parse`] reads a PVH start-info structure (QEMU `-kernel`) or a multiboot2 information block
//! (GRUB) through a function that shows it physical memory, and *copies* everything it keeps: the blocks
//! lie in memory that we hand out a moment later, and under UEFI right where an AP trampoline could go.
//! It is plain code over byte slices, so that `cargo test` feeds it blocks that no loader would produce.
//!
//! Sources: Xen `public/arch-x86/hvm/start_info.h`; Multiboot2 Specification 2.0, section 3.6.

#[cfg(test)]
mod tests;

use core::fmt;
use core::ops::Range;

/// `ebx` points to a `hvm_start_info` (its own magic number, also what `entry.s` passes).
pub const PVH_MAGIC: u32 = 0x336e_c578;
/// `eax` at a multiboot2 entry.
pub const MULTIBOOT2_MAGIC: u32 = 0x36d7_6289;

/// Of [`BootInfo::low_page`].
pub const LOW_PAGE_BYTES: u64 = 4096;

const REGIONS_MAX: usize = 64;
const COMMAND_LINE_MAX: usize = 2048;
const MULTIBOOT2_BLOCK_MAX: usize = 1 << 20;
/// The end of conventional memory, and of what a start-up message can name.
const CONVENTIONAL_END: u64 = 0xa_0000;

/// Why nothing can be learned from the loader. Either means that we were entered by something that is
/// neither QEMU nor GRUB; the boot stops with this text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootInfoError {
    /// The magic number belongs to no protocol that we speak.
    UnknownLoader(u32),
    /// The block is not where the loader said, is cut short, or has no memory map.
    Malformed,
}

impl fmt::Display for BootInfoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownLoader(magic) => {
                write!(f, "no protocol that we speak has magic {magic:#x}")
            }
            Self::Malformed => f.write_str("it is malformed or has no memory map"),
        }
    }
}

/// Which protocol started us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loader {
    /// QEMU `-kernel`, or another hypervisor's direct boot.
    Pvh,
    /// GRUB from an ISO image, under BIOS or UEFI.
    Multiboot2,
}

/// Where the ACPI root pointer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootPointer {
    /// At this physical address.
    At(u64),
    /// The loader handed out a copy (20 bytes count for revision 0, 36 otherwise).
    Copy([u8; 36]),
    /// The loader knows of none.
    Absent,
}

/// Everything kept from the loader.
pub struct BootInfo {
    /// The protocol.
    pub loader: Loader,
    /// The ACPI root pointer.
    pub root_pointer: RootPointer,
    /// Where the loader's own block lies: not a place for a trampoline until nobody reads it any more.
    pub block: Range<u64>,
    regions: [Range<u64>; REGIONS_MAX],
    region_count: usize,
    regions_dropped: usize,
    command_line: [u8; COMMAND_LINE_MAX],
    command_line_len: usize,
}

impl BootInfo {
    /// Reads the loader's block. `memory(address, length)` shows physical memory, or None where there is none.
    pub fn parse<'m>(
        magic: u32,
        address: u64,
        memory: impl Fn(u64, usize) -> Option<&'m [u8]>,
    ) -> Result<BootInfo, BootInfoError> {
        match magic {
            PVH_MAGIC => parse_pvh(address, memory),
            MULTIBOOT2_MAGIC => parse_multiboot2(address, memory),
            other => Err(BootInfoError::UnknownLoader(other)),
        }
    }

    /// Usable memory, in the loader's order, byte granular.
    pub fn usable(&self) -> &[Range<u64>] {
        &self.regions[..self.region_count]
    }

    /// Usable memory without what is below `from`, or in one of two other places.
    pub fn usable_without(
        &self,
        from: u64,
        taken: [Range<u64>; 2],
    ) -> impl Iterator<Item = Range<u64>> {
        let [first, second] = taken;
        self.usable()
            .iter()
            .flat_map(move |region| around(&(region.start.max(from)..region.end), &first))
            .flat_map(move |part| around(&part, &second))
            .filter(|part| !part.is_empty())
    }

    /// The end of the highest region.
    pub fn memory_end(&self) -> u64 {
        self.usable()
            .iter()
            .map(|region| region.end)
            .max()
            .unwrap_or(0)
    }

    /// All usable bytes.
    pub fn usable_bytes(&self) -> u64 {
        self.usable()
            .iter()
            .map(|region| region.end - region.start)
            .sum()
    }

    /// The highest free page of conventional memory that is not part of the loader's block: for a trampoline.
    pub fn low_page(&self) -> Option<u64> {
        let free = |page: &u64| {
            let page = *page..*page + LOW_PAGE_BYTES;
            let holds = |region: &Range<u64>| region.start <= page.start && page.end <= region.end;
            let apart = page.end <= self.block.start || self.block.end <= page.start;
            apart && self.usable().iter().any(holds)
        };
        (1..CONVENTIONAL_END / LOW_PAGE_BYTES)
            .rev()
            .map(|page| page * LOW_PAGE_BYTES)
            .find(free)
    }

    /// Regions that did not fit into our table (their memory stays unused).
    pub fn regions_dropped(&self) -> usize {
        self.regions_dropped
    }

    /// The command line; bytes that are not UTF-8 end it.
    pub fn command_line(&self) -> &str {
        let bytes = &self.command_line[..self.command_line_len];
        match core::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => core::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or(""),
        }
    }

    fn empty(loader: Loader, block: Range<u64>) -> BootInfo {
        BootInfo {
            loader,
            root_pointer: RootPointer::Absent,
            block,
            regions: [const { 0..0 }; REGIONS_MAX],
            region_count: 0,
            regions_dropped: 0,
            command_line: [0; COMMAND_LINE_MAX],
            command_line_len: 0,
        }
    }

    fn add_region(&mut self, base: u64, len: u64, kind: u32) {
        const USABLE: u32 = 1; // the same number in both protocols (it is the BIOS's E820)
        let end = base.saturating_add(len);
        if kind != USABLE || end <= base {
            return;
        }
        match self.regions.get_mut(self.region_count) {
            Some(slot) => {
                *slot = base..end;
                self.region_count += 1;
            }
            None => self.regions_dropped += 1,
        }
    }

    fn set_command_line(&mut self, text: &[u8]) {
        let len = text
            .iter()
            .position(|&byte| byte == 0)
            .unwrap_or(text.len());
        let len = len.min(COMMAND_LINE_MAX);
        self.command_line[..len].copy_from_slice(&text[..len]);
        self.command_line_len = len;
    }
}

/// What remains of a region around a hole.
fn around(region: &Range<u64>, hole: &Range<u64>) -> [Range<u64>; 2] {
    [
        region.start..region.end.min(hole.start),
        region.start.max(hole.end)..region.end,
    ]
}

fn parse_pvh<'m>(
    address: u64,
    memory: impl Fn(u64, usize) -> Option<&'m [u8]>,
) -> Result<BootInfo, BootInfoError> {
    const LEN: usize = 56;
    const MAP_ENTRY_LEN: usize = 24;
    let info = memory(address, LEN).ok_or(BootInfoError::Malformed)?;
    if u32_at(info, 0)? != PVH_MAGIC || u32_at(info, 4)? < 1 {
        return Err(BootInfoError::Malformed);
    }
    let mut boot = BootInfo::empty(Loader::Pvh, address..address + LEN as u64);
    if let at @ 1.. = u64_at(info, 32)? {
        boot.root_pointer = RootPointer::At(at);
    }
    let command_line_at = u64_at(info, 24)?;
    if command_line_at != 0 {
        // The length is not told: take what is mapped, up to our limit.
        let text = (0..=11)
            .rev()
            .find_map(|shift| memory(command_line_at, 1 << shift));
        boot.set_command_line(text.unwrap_or(&[]));
    }
    let map_at = u64_at(info, 40)?;
    let map_len = u32_at(info, 48)? as usize;
    let bytes = map_len
        .checked_mul(MAP_ENTRY_LEN)
        .ok_or(BootInfoError::Malformed)?;
    let map = memory(map_at, bytes).ok_or(BootInfoError::Malformed)?;
    for entry in map.chunks_exact(MAP_ENTRY_LEN) {
        boot.add_region(u64_at(entry, 0)?, u64_at(entry, 8)?, u32_at(entry, 16)?);
    }
    finish(boot)
}

fn parse_multiboot2<'m>(
    address: u64,
    memory: impl Fn(u64, usize) -> Option<&'m [u8]>,
) -> Result<BootInfo, BootInfoError> {
    const TAG_END: u32 = 0;
    const TAG_COMMAND_LINE: u32 = 1;
    const TAG_MEMORY_MAP: u32 = 6;
    const TAG_RSDP_OLD: u32 = 14;
    const TAG_RSDP_NEW: u32 = 15;

    let head = memory(address, 8).ok_or(BootInfoError::Malformed)?;
    let total = u32_at(head, 0)? as usize;
    if !(8..=MULTIBOOT2_BLOCK_MAX).contains(&total) {
        return Err(BootInfoError::Malformed);
    }
    let block = memory(address, total).ok_or(BootInfoError::Malformed)?;
    let mut boot = BootInfo::empty(Loader::Multiboot2, address..address + total as u64);
    let mut at = 8;
    while at + 8 <= block.len() {
        let kind = u32_at(block, at)?;
        let len = u32_at(block, at + 4)? as usize;
        if kind == TAG_END {
            break;
        }
        let tag = at.checked_add(len).and_then(|end| block.get(at..end));
        let tag = tag
            .filter(|tag| tag.len() >= 8)
            .ok_or(BootInfoError::Malformed)?;
        match kind {
            TAG_COMMAND_LINE => boot.set_command_line(&tag[8..]),
            TAG_MEMORY_MAP => {
                let entry_len = u32_at(tag, 8)? as usize;
                if entry_len < 20 {
                    return Err(BootInfoError::Malformed);
                }
                for entry in tag.get(16..).unwrap_or(&[]).chunks_exact(entry_len) {
                    boot.add_region(u64_at(entry, 0)?, u64_at(entry, 8)?, u32_at(entry, 16)?);
                }
            }
            // The new form wins whichever order they come in.
            TAG_RSDP_OLD if boot.root_pointer != RootPointer::Absent => {}
            TAG_RSDP_OLD | TAG_RSDP_NEW => {
                let mut copy = [0; 36];
                let body = &tag[8..];
                let len = body.len().min(copy.len());
                copy[..len].copy_from_slice(&body[..len]);
                boot.root_pointer = RootPointer::Copy(copy);
            }
            _ => {}
        }
        at += len.next_multiple_of(8);
    }
    finish(boot)
}

fn finish(boot: BootInfo) -> Result<BootInfo, BootInfoError> {
    if boot.region_count == 0 {
        Err(BootInfoError::Malformed)
    } else {
        Ok(boot)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, BootInfoError> {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk());
    field
        .map(|field| u32::from_le_bytes(*field))
        .ok_or(BootInfoError::Malformed)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, BootInfoError> {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk());
    field
        .map(|field| u64::from_le_bytes(*field))
        .ok_or(BootInfoError::Malformed)
}
