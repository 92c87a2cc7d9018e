//! The words of one split virtqueue in shared memory, and nothing else.
//!
//! [`RingMemory`] lays out descriptor table, available ring and used ring (2.7) in one
//! [`DmaBuffer`] and gives each word a name. It keeps no state and trusts none: what it reads of the
//! used ring is the device's claim, which [`super::queue`] checks.
//!
//! Every word is accessed as an atomic, so a device (or a test's device thread) that stores at the
//! wrong moment can yield an odd value but no undefined behaviour. Orders, and what each pairs with:
//!
//! | word | driver | device |
//! | --- | --- | --- |
//! | descriptors, available slots | relaxed stores | reads after it has read `available.idx` |
//! | `available.idx` | release store | acquire load: sees slots and descriptors before it |
//! | `used.idx` | acquire load | release store: we see used elements and payload before it |
//! | `available.idx`, then `available_event` | store, SeqCst fence, load | the reverse, fenced |
//! | `used_event`, then `used.idx` | store, SeqCst fence, load | the reverse, fenced |
//!
//! The last two rows are Dekker's pattern: each side writes its own word and then reads the other's,
//! so with a full fence in between at least one of the two sees the other. Without it both could
//! miss (x86 delays stores past loads), and a notification is lost for good.

use core::sync::atomic::{Ordering, fence};

use alloc::sync::Arc;

use crate::drivers::dma::{Dma, DmaBuffer};

/// Descriptor flag: another descriptor follows.
pub const DESCRIPTOR_NEXT: u16 = 1;
/// Descriptor flag: the device writes this buffer.
pub const DESCRIPTOR_WRITE: u16 = 2;
/// Available ring flag: do not interrupt (a hint, without EVENT_IDX).
pub const AVAILABLE_NO_INTERRUPT: u16 = 1;
/// Used ring flag: no notification needed (without EVENT_IDX).
pub const USED_NO_NOTIFY: u16 = 1;

/// One entry of the descriptor table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Physical address of the buffer.
    pub address: u64,
    /// Length of the buffer in bytes.
    pub len_bytes: u32,
    /// `DESCRIPTOR_*`.
    pub flags: u16,
    /// The next descriptor if [`DESCRIPTOR_NEXT`] is set.
    pub next: u16,
}

/// The shared memory of one queue.
#[derive(Debug)]
pub struct RingMemory {
    memory: DmaBuffer,
    size: u16,
}

impl RingMemory {
    /// Allocates the rings of a queue of `size` entries, a power of two (`None`: out of memory).
    pub fn allocate(dma: &Arc<dyn Dma>, size: u16) -> Option<Self> {
        debug_assert!(size.is_power_of_two());
        let used_end = Self::used_offset(size) + 6 + 8 * usize::from(size);
        Some(Self {
            memory: DmaBuffer::allocate(dma, used_end)?,
            size,
        })
    }

    const fn available_offset(size: u16) -> usize {
        16 * size as usize
    }

    const fn used_offset(size: u16) -> usize {
        (Self::available_offset(size) + 6 + 2 * size as usize).next_multiple_of(4)
    }

    /// Physical address of the descriptor table.
    pub fn descriptors_address(&self) -> u64 {
        self.memory.physical_address(0)
    }

    /// Physical address of the available ring ("driver area").
    pub fn available_address(&self) -> u64 {
        self.memory
            .physical_address(Self::available_offset(self.size))
    }

    /// Physical address of the used ring ("device area").
    pub fn used_address(&self) -> u64 {
        self.memory.physical_address(Self::used_offset(self.size))
    }

    fn slot(&self, index: u16) -> usize {
        usize::from(index & (self.size - 1))
    }

    fn available(&self, offset: usize) -> &core::sync::atomic::AtomicU16 {
        self.memory
            .word16(Self::available_offset(self.size) + offset)
    }

    fn used(&self, offset: usize) -> &core::sync::atomic::AtomicU16 {
        self.memory.word16(Self::used_offset(self.size) + offset)
    }

    /// Writes descriptor `index` (modulo the size).
    pub fn write_descriptor(&self, index: u16, descriptor: Descriptor) {
        let offset = 16 * self.slot(index);
        let tail = u64::from(descriptor.len_bytes)
            | u64::from(descriptor.flags) << 32
            | u64::from(descriptor.next) << 48;
        self.memory
            .word64(offset)
            .store(descriptor.address.to_le(), Ordering::Relaxed);
        self.memory
            .word64(offset + 8)
            .store(tail.to_le(), Ordering::Relaxed);
    }

    /// Puts `head` into the available ring's slot for `index`.
    pub fn write_available(&self, index: u16, head: u16) {
        self.available(4 + 2 * self.slot(index))
            .store(head.to_le(), Ordering::Relaxed);
    }

    /// Publishes everything before `index` to the device.
    pub fn publish(&self, index: u16) {
        self.available(2).store(index.to_le(), Ordering::Release);
    }

    /// Sets the available ring's flags.
    pub fn set_available_flags(&self, flags: u16) {
        self.available(0).store(flags.to_le(), Ordering::Relaxed);
    }

    /// Asks for an interrupt once the used index passes `index` (EVENT_IDX).
    pub fn set_used_event(&self, index: u16) {
        self.available(4 + 2 * usize::from(self.size))
            .store(index.to_le(), Ordering::Relaxed);
    }

    /// How far the device says it has used buffers.
    pub fn used_index(&self) -> u16 {
        u16::from_le(self.used(2).load(Ordering::Acquire))
    }

    /// The used element for `index`: id and length, as the device claims.
    pub fn used_element(&self, index: u16) -> (u32, u32) {
        let offset = Self::used_offset(self.size) + 4 + 8 * self.slot(index);
        let id = self.memory.word32(offset).load(Ordering::Relaxed);
        let len = self.memory.word32(offset + 4).load(Ordering::Relaxed);
        (u32::from_le(id), u32::from_le(len))
    }

    /// The used ring's flags.
    pub fn used_flags(&self) -> u16 {
        u16::from_le(self.used(0).load(Ordering::Relaxed))
    }

    /// The available index at which the device wants to be notified (EVENT_IDX).
    pub fn available_event(&self) -> u16 {
        u16::from_le(
            self.used(4 + 8 * usize::from(self.size))
                .load(Ordering::Relaxed),
        )
    }

    /// Between writing one of our words and reading one of the device's (see the module's table).
    pub fn full_fence(&self) {
        fence(Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::dma::fake::FakeDma;

    /// Offsets of 2.7.5, 2.7.6 and 2.7.8, read back by the device through physical addresses.
    #[test]
    fn layout_is_the_specifications() {
        let dma = FakeDma::new();
        let ring = RingMemory::allocate(&dma.handle(), 8).unwrap();
        assert_eq!(ring.descriptors_address() % 16, 0);
        assert_eq!(ring.available_address() - ring.descriptors_address(), 128);
        assert_eq!(ring.used_address() % 4, 0);

        let descriptor = Descriptor {
            address: 0x1122_3344_5566,
            len_bytes: 7,
            flags: 3,
            next: 5,
        };
        ring.write_descriptor(9, descriptor);
        let mut bytes = [0; 16];
        dma.read(ring.descriptors_address() + 16, &mut bytes)
            .unwrap();
        assert_eq!(
            bytes,
            *b"\x66\x55\x44\x33\x22\x11\0\0\x07\0\0\0\x03\0\x05\0"
        );

        ring.write_available(10, 6);
        ring.set_available_flags(1);
        ring.publish(11);
        ring.set_used_event(0x1234);
        let mut bytes = [0; 22];
        dma.read(ring.available_address(), &mut bytes).unwrap();
        assert_eq!(bytes[..4], [1, 0, 11, 0]);
        assert_eq!(bytes[8..10], [6, 0]);
        assert_eq!(bytes[20..], [0x34, 0x12]);

        dma.write(ring.used_address(), &[1, 0, 5, 0]).unwrap();
        dma.write(ring.used_address() + 4 + 16, &[2, 0, 0, 0, 9, 0, 0, 0])
            .unwrap();
        dma.write(ring.used_address() + 4 + 64, &[0xcd, 0xab])
            .unwrap();
        assert_eq!((ring.used_flags(), ring.used_index()), (1, 5));
        assert_eq!(ring.used_element(2 + 8), (2, 9));
        assert_eq!(ring.available_event(), 0xabcd);
    }
}
