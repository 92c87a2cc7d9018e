//! What a network driver is to the protocols.
//!
//! A driver implements [`Device`] and hands each frame it receives to [`crate::Interface::input`], on the
//! CPU where it received it. Everything else it decides itself: queues, interrupts, its own CPU.

use crate::address::MacAddress;
use crate::packet::Packet;

/// Counters a driver keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceStatistics {
    /// Frames received and handed on.
    pub received_packets: u64,
    /// Bytes of those.
    pub received_bytes: u64,
    /// Frames the device could not hand on: errors, no memory, no buffer.
    pub received_drops: u64,
    /// Frames sent.
    pub sent_packets: u64,
    /// Bytes of those.
    pub sent_bytes: u64,
    /// Frames not sent: queue full, link down, errors.
    pub sent_drops: u64,
}

/// An Ethernet device. Its methods are called on any CPU.
pub trait Device: Send + Sync {
    /// Its own address; it does not change.
    fn mac(&self) -> MacAddress;

    /// Largest IP packet, bytes; it does not change.
    fn mtu_bytes(&self) -> u16;

    /// Whether the link is there now. A driver that sees a change calls
    /// [`crate::Interface::link_changed`].
    fn link_up(&self) -> bool;

    /// Takes a whole frame (from the destination address on, no checksum at the end) to be sent. It
    /// has at least [`crate::config::DRIVER_HEADROOM_BYTES`] of headroom. The frame is sent or counted in
    /// [`DeviceStatistics::sent_drops`]; nobody waits for it.
    fn transmit(&self, packet: Packet);

    /// The counters.
    fn statistics(&self) -> DeviceStatistics;

    /// Shows each of the driver's own counters, with what it counts. Together they have every frame that went no
    /// further, by its reason.
    fn each_counter(&self, show: &mut dyn FnMut(&'static str, u64)) {
        let _ = show;
    }

    /// The addresses that must be let through besides its own and broadcast. A device that lets
    /// everything through ignores it.
    fn set_receive_filter(&self, groups: &[MacAddress], unicast: &[MacAddress]) {
        let _ = (groups, unicast);
    }
}
