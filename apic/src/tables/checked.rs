//! The one place where bytes of firmware become tables: lengths and sums are checked before a reference exists.
//!
//! The `acpi` crate maps what a table claims and dereferences it. [`Shown`] is its handler: a mapping that
//! is not wholly memory, or too short for the type, is answered with a block of zeroes, whose signature
//! matches nothing. So every reference that the crate makes is to readable bytes of at least the type's
//! size, whatever the firmware wrote.
//!
//! Invariant of `unsafe` here: [`Memory::bytes`] hands out slices that stay valid as long as the memory
//! value lives; all table types used are plain packed data, valid for any bytes and with alignment 1.

use super::Memory;
use acpi::sdt::{SdtHeader, Signature};
use acpi::{AcpiTable, AcpiTables, Handler, PciAddress, PhysicalMapping, RawPhysicalMapping};
use core::{mem, ptr::NonNull, slice};

const HEADER_LEN: usize = size_of::<SdtHeader>();
/// No table that we read comes near; a length beyond it is nonsense.
const TABLE_MAX: usize = 16 << 20;
/// As long as the longest fixed table type (the FADT's 276 bytes).
static NOTHING: [u8; 512] = [0; 512];

pub(super) struct Tables<M: Memory> {
    memory: M,
    tables: Option<AcpiTables<Shown<M>>>,
}

impl<M: Memory> Tables<M> {
    /// The tables listed in the root table at `root`, whose entries are 4 or 8 bytes.
    pub(super) fn new(memory: M, root: u64, entry_len: usize) -> Tables<M> {
        let tables = usize::try_from(root).ok().and_then(|root| {
            // SAFETY: the handler answers any address with readable bytes (module head), so that no
            // address is invalid. On error (no such today) there are no tables.
            unsafe { AcpiTables::from_rsdt(Shown(memory.clone()), root, entry_len) }.ok()
        });
        Tables { memory, tables }
    }

    /// The first table of type `T` that is wholly there, is no shorter than `T`, and adds up.
    pub(super) fn find<T: AcpiTable>(&self) -> Option<PhysicalMapping<Shown<M>, T>> {
        let mapping = self.tables.as_ref()?.find_table::<T>()?;
        let long_enough = mapping.raw().region_length() >= size_of::<T>();
        (long_enough && adds_up(self.bytes_of(&mapping), T::SIGNATURE)).then_some(mapping)
    }

    /// Like [`Self::find`], for types that grew with the revisions of ACPI: what an older table lacks is zero.
    pub(super) fn padded<T: AcpiTable + Copy>(&self) -> Option<T> {
        let headers = self.tables.as_ref()?.table_headers();
        let (at, _) = { headers }.find(|(_, header)| header.signature == T::SIGNATURE)?;
        let table = self.table_at(at as u64, T::SIGNATURE)?;
        let mut padded = mem::MaybeUninit::<T>::zeroed();
        let len = table.len().min(size_of::<T>());
        // SAFETY: 1. `len` bytes are in both, and one of them is ours alone. 2. The rest is zero, so all of
        // `T` is initialised, and any bytes are a valid `T` (module head).
        unsafe {
            padded
                .as_mut_ptr()
                .cast::<u8>()
                .copy_from_nonoverlapping(table.as_ptr(), len);
            Some(padded.assume_init())
        }
    }

    /// The whole table at this address, if it is one and adds up.
    pub(super) fn table_at(&self, address: u64, signature: Signature) -> Option<&[u8]> {
        let header = self.memory.bytes(address, HEADER_LEN)?;
        let len = u32::from_le_bytes(*header[4..].first_chunk()?) as usize;
        let table = self
            .memory
            .bytes(address, Some(len).filter(|len| *len <= TABLE_MAX)?)?;
        adds_up(table, signature).then_some(table)
    }

    pub(super) fn bytes_of<'m, T>(&self, mapping: &'m PhysicalMapping<Shown<M>, T>) -> &'m [u8] {
        let raw = mapping.raw();
        // SAFETY: the handler below made this mapping of so many readable bytes, and it lives.
        unsafe { slice::from_raw_parts(mapping.as_ptr().cast(), raw.mapped_length()) }
    }
}

/// The entries of a MADT (given whole) neither overrun it nor are shorter than their types.
pub(super) fn madt_entries(madt: &[u8]) -> Result<(), ()> {
    const FIXED_LEN: usize = 44;
    let mut rest = madt.get(FIXED_LEN..).ok_or(())?;
    while let [kind, len, ..] = *rest {
        let least = match kind {
            0 => 8,
            1 => 12,
            2 => 10,
            5 => 12,
            9 => 16,
            _ => 2,
        };
        if len < least {
            return Err(());
        }
        rest = rest.get(usize::from(len)..).ok_or(())?;
    }
    if rest.is_empty() { Ok(()) } else { Err(()) }
}

fn adds_up(table: &[u8], signature: Signature) -> bool {
    let sum = table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    table.len() >= HEADER_LEN && table.starts_with(signature.as_str().as_bytes()) && sum == 0
}

/// The `acpi` crate's view of memory.
#[derive(Clone)]
pub(super) struct Shown<M>(M);

impl<M: Memory> Handler for Shown<M> {
    unsafe fn map_physical_region<T>(&self, address: usize, len: usize) -> RawPhysicalMapping<T> {
        // The crate makes a `&T` of it whatever the length is.
        let wanted = len.max(size_of::<T>());
        let bytes = if wanted <= TABLE_MAX {
            self.0.bytes(address as u64, wanted)
        } else {
            None
        };
        let (start, len) = match bytes {
            Some(bytes) => (NonNull::from(bytes).cast(), len),
            None => (NonNull::from(&NOTHING).cast(), 0),
        };
        const { assert!(size_of::<T>() <= NOTHING.len() && align_of::<T>() == 1) };
        // SAFETY: `start` is readable for the size of `T` and for `len`, as long as `self.0` lives, which
        // the mapping holds a clone of.
        unsafe { RawPhysicalMapping::new(address, start, len, len) }
    }

    unsafe fn unmap_physical_region<T>(&self, _: RawPhysicalMapping<T>) {}

    // Reading tables calls nothing below; it is for the AML interpreter, which we do not build.
    fn read_u8(&self, _: usize) -> u8 {
        0
    }
    fn read_u16(&self, _: usize) -> u16 {
        0
    }
    fn read_u32(&self, _: usize) -> u32 {
        0
    }
    fn read_u64(&self, _: usize) -> u64 {
        0
    }
    fn write_u8(&self, _: usize, _: u8) {}
    fn write_u16(&self, _: usize, _: u16) {}
    fn write_u32(&self, _: usize, _: u32) {}
    fn write_u64(&self, _: usize, _: u64) {}
    fn read_io_u8(&self, _: u16) -> u8 {
        0
    }
    fn read_io_u16(&self, _: u16) -> u16 {
        0
    }
    fn read_io_u32(&self, _: u16) -> u32 {
        0
    }
    fn write_io_u8(&self, _: u16, _: u8) {}
    fn write_io_u16(&self, _: u16, _: u16) {}
    fn write_io_u32(&self, _: u16, _: u32) {}
    fn read_pci_u8(&self, _: PciAddress, _: u16) -> u8 {
        0
    }
    fn read_pci_u16(&self, _: PciAddress, _: u16) -> u16 {
        0
    }
    fn read_pci_u32(&self, _: PciAddress, _: u16) -> u32 {
        0
    }
    fn write_pci_u8(&self, _: PciAddress, _: u16, _: u8) {}
    fn write_pci_u16(&self, _: PciAddress, _: u16, _: u16) {}
    fn write_pci_u32(&self, _: PciAddress, _: u16, _: u32) {}
    fn nanos_since_boot(&self) -> u64 {
        0
    }
    fn stall(&self, _: u64) {}
    fn sleep(&self, _: u64) {}
}
