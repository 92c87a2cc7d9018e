//! Device registers behind a trait.
//!
//! [`Registers`] is a window of registers; [`MmioWindow`] is the real one, volatile accesses to a
//! mapped range; tests have models of devices in its place. [`MapRegisters`] is how a driver asks
//! the platform for a window. Accesses are calls through a vtable: a register access leaves the
//! CPU (or the guest), which costs far more than the call.
//!
//! A register outside the window reads as all ones and ignores writes, as an absent PCI device
//! does. The offsets come from capabilities that the device wrote, and this is the one answer to a
//! bad one that is neither a panic nor a stray access.

use alloc::boxed::Box;
use core::ptr::NonNull;

/// A window of device registers, little-endian, naturally aligned.
pub trait Registers: Send {
    /// Length of the window in bytes.
    fn len_bytes(&self) -> usize;
    /// Reads one byte.
    fn read8(&self, offset: usize) -> u8;
    /// Reads 16 bits.
    fn read16(&self, offset: usize) -> u16;
    /// Reads 32 bits.
    fn read32(&self, offset: usize) -> u32;
    /// Writes one byte.
    fn write8(&self, offset: usize, value: u8);
    /// Writes 16 bits.
    fn write16(&self, offset: usize, value: u16);
    /// Writes 32 bits.
    fn write32(&self, offset: usize, value: u32);
}

/// Maps physical register ranges into the kernel, uncached.
pub trait MapRegisters {
    /// A window on `len_bytes` at `physical_address`, or `None` if it cannot be mapped.
    fn map(&self, physical_address: u64, len_bytes: usize) -> Option<Box<dyn Registers>>;
}

/// Registers in memory.
///
/// Having an `MmioWindow` tells you that its range is mapped, uncached, for as long as it exists.
#[derive(Debug)]
pub struct MmioWindow {
    base: NonNull<u8>,
    len_bytes: usize,
}

// SAFETY: registers are not tied to a CPU; every access is one volatile instruction through a raw
// pointer, and no reference to the range is ever made.
unsafe impl Send for MmioWindow {}

impl MmioWindow {
    /// A window on mapped registers.
    ///
    /// # Safety
    ///
    /// `base .. base + len_bytes` must be mapped uncached device registers, aligned to 4, that stay
    /// mapped for the life of the window, and whose reads and writes affect no memory but what the
    /// driver gave the device.
    pub unsafe fn new(base: NonNull<u8>, len_bytes: usize) -> Self {
        Self { base, len_bytes }
    }

    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        let size = size_of::<T>();
        let fits = offset
            .checked_add(size)
            .is_some_and(|end| end <= self.len_bytes);
        // SAFETY: the offset lies inside the window.
        (fits && offset.is_multiple_of(size))
            .then(|| unsafe { self.base.add(offset) }.as_ptr().cast())
    }

    fn read<T: Copy>(&self, offset: usize, absent: T) -> T {
        match self.at::<T>(offset) {
            // SAFETY: in range, aligned, mapped (contract of `new`).
            Some(register) => unsafe { register.read_volatile() },
            None => absent,
        }
    }

    fn write<T>(&self, offset: usize, value: T) {
        if let Some(register) = self.at::<T>(offset) {
            // SAFETY: in range, aligned, mapped (contract of `new`).
            unsafe { register.write_volatile(value) }
        }
    }
}

impl Registers for MmioWindow {
    fn len_bytes(&self) -> usize {
        self.len_bytes
    }
    fn read8(&self, offset: usize) -> u8 {
        self.read(offset, u8::MAX)
    }
    fn read16(&self, offset: usize) -> u16 {
        self.read(offset, u16::MAX)
    }
    fn read32(&self, offset: usize) -> u32 {
        self.read(offset, u32::MAX)
    }
    fn write8(&self, offset: usize, value: u8) {
        self.write(offset, value);
    }
    fn write16(&self, offset: usize, value: u16) {
        self.write(offset, value);
    }
    fn write32(&self, offset: usize, value: u32) {
        self.write(offset, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_outside_read_as_ones() {
        let mut memory = [0x1122_3344_u32, 0x5566_7788];
        // SAFETY: the array is alive and aligned for the whole test, and used by nobody else.
        let window = unsafe { MmioWindow::new(NonNull::from(&mut memory).cast(), 8) };
        assert_eq!(window.read32(4), 0x5566_7788);
        assert_eq!(window.read8(4), 0x88);
        assert_eq!(
            (window.read32(8), window.read16(7), window.read32(2)),
            (!0, !0, !0)
        );
        window.write32(usize::MAX, 7);
        window.write16(0, 0xabcd);
        assert_eq!(memory[0], 0x1122_abcd);
    }
}
