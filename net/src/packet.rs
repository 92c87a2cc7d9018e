//! A packet: one owned buffer with room in front, so that each layer puts its header before the
//! data without copying.
//!
//! Drivers allocate a [`Packet`] per received frame and hand it to [`crate::Interface::input`];
//! the protocols allocate one per packet they originate and it ends in
//! [`crate::Device::transmit`]. A packet has one owner at any time and moves between CPUs whole.
//! We do not chain buffers as BSD's mbufs do: frames here fit one slab object, and a flat slice is
//! what the wire views and a virtqueue both want. Allocation is fallible (architecture rule 8):
//! whoever cannot get a packet counts a drop and goes on.

use alloc::vec::Vec;
use core::fmt;
use core::ops::{Deref, DerefMut};

use executor::slab::may_fail;

/// There was no memory for a packet. The caller drops what it was about to send or receive and
/// counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

impl fmt::Display for OutOfMemory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("out of memory")
    }
}

impl core::error::Error for OutOfMemory {}

/// An empty buffer for so many bytes.
fn room_for(size: usize) -> Result<Vec<u8>, OutOfMemory> {
    let mut buffer = Vec::new();
    may_fail(|| buffer.try_reserve_exact(size)).map_err(|_| OutOfMemory)?;
    Ok(buffer)
}

/// An owned packet. Having one tells you: nobody else can see or change its bytes.
pub struct Packet {
    /// Headroom, data and nothing behind: the data is `buffer[start..]`.
    buffer: Vec<u8>,
    start: usize,
}

impl Packet {
    /// A packet of `length` zero bytes with `headroom` bytes before them.
    pub fn allocate(headroom: usize, length: usize) -> Result<Packet, OutOfMemory> {
        let size = headroom.checked_add(length).ok_or(OutOfMemory)?;
        let mut buffer = room_for(size)?;
        buffer.resize(size, 0);
        Ok(Packet {
            buffer,
            start: headroom,
        })
    }

    /// A packet holding a copy of `data`, with `headroom` bytes before it.
    pub fn copy_from(headroom: usize, data: &[u8]) -> Result<Packet, OutOfMemory> {
        let size = headroom.checked_add(data.len()).ok_or(OutOfMemory)?;
        let mut buffer = room_for(size)?;
        buffer.resize(headroom, 0);
        buffer.extend_from_slice(data);
        Ok(Packet {
            buffer,
            start: headroom,
        })
    }

    /// The packet's bytes.
    pub fn data(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
    }

    /// The packet's bytes, to be written.
    pub fn data_mut(&mut self) -> &mut [u8] {
        self.buffer.get_mut(self.start..).unwrap_or_default()
    }

    /// Bytes that [`Packet::prepend`] can still give.
    pub fn headroom(&self) -> usize {
        self.start
    }

    /// Puts `length` bytes of headroom in front of the data and returns them (their content is
    /// whatever was there before). `None`, and no change, if there is not that much headroom.
    pub fn prepend(&mut self, length: usize) -> Option<&mut [u8]> {
        self.start = self.start.checked_sub(length)?;
        self.buffer.get_mut(self.start..self.start + length)
    }

    /// Takes `length` bytes off the front (they become headroom). At most all of them.
    pub fn trim_front(&mut self, length: usize) {
        self.start += length.min(self.data().len());
    }

    /// Shortens the data to `length` bytes; does nothing if it is not longer.
    pub fn truncate(&mut self, length: usize) {
        self.buffer.truncate(self.start.saturating_add(length));
    }
}

impl Deref for Packet {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.data()
    }
}

impl DerefMut for Packet {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.data_mut()
    }
}

impl fmt::Debug for Packet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Packet({} bytes)", self.data().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_go_in_front_and_come_off_again() {
        let mut packet = Packet::copy_from(8, b"data").unwrap();
        packet.prepend(2).unwrap().copy_from_slice(b"ip");
        packet.prepend(3).unwrap().copy_from_slice(b"eth");
        assert_eq!(packet.data(), b"ethipdata");
        assert_eq!(packet.headroom(), 3);
        packet.trim_front(3);
        packet.truncate(4);
        assert_eq!(packet.data(), b"ipda");
    }

    #[test]
    fn prepend_beyond_the_headroom_changes_nothing() {
        let mut packet = Packet::allocate(4, 1).unwrap();
        assert!(packet.prepend(5).is_none());
        assert_eq!((packet.headroom(), packet.data().len()), (4, 1));
    }

    #[test]
    fn trimming_and_truncating_too_much_leaves_an_empty_packet() {
        let mut packet = Packet::copy_from(0, b"abc").unwrap();
        packet.truncate(usize::MAX);
        assert_eq!(packet.data(), b"abc");
        packet.trim_front(10);
        assert_eq!(packet.data(), b"");
    }

    #[test]
    fn impossible_sizes_are_an_error() {
        assert_eq!(Packet::allocate(1, usize::MAX).err(), Some(OutOfMemory));
        assert_eq!(
            Packet::allocate(0, isize::MAX as usize).err(),
            Some(OutOfMemory)
        );
    }
}
