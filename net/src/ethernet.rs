//! Ethernet: which frames are for us, which CPU they go to, and the one place frames leave by.
//!
//! Input runs on the CPU that received the frame and reads no more than it needs to name the
//! flow's CPU; all further checks happen there. Output has a single exit, [`CpuStack::send_frame`],
//! and there stands the rule that a backup sends *nothing* from a virtual MAC address (it would move
//! the address in the switch): whatever a caller decided earlier, for instance before it waited
//! for ARP, is checked again against this CPU's copy of who is master.

use smoltcp::wire::{EthernetFrame, EthernetProtocol};

use crate::address::{InterfaceIndex, MacAddress};
use crate::config;
use crate::counters::{DropReason, Event};
use crate::hash::Flow;
use crate::packet::Packet;
use crate::stack::{Action, CpuMessage, CpuStack, FrameInfo};

/// Length of an Ethernet header, bytes.
pub const ETHERNET_HEADER_BYTES: usize = 14;

impl CpuStack {
    /// Checks a frame's Ethernet header and finds the CPU and protocol it is for.
    pub(crate) fn demultiplex(
        &mut self,
        interface: InterfaceIndex,
        mut packet: Packet,
    ) -> Result<(u16, CpuMessage), DropReason> {
        let config = self
            .tables
            .interface(interface)
            .ok_or(DropReason::FrameInterfaceDown)?;
        let own_mac = config.mac.ok_or(DropReason::FrameInterfaceDown)?;
        if !config.up {
            return Err(DropReason::FrameInterfaceDown);
        }
        if packet.len() < ETHERNET_HEADER_BYTES {
            return Err(DropReason::FrameTooShort);
        }
        if packet.len() > ETHERNET_HEADER_BYTES + usize::from(config.mtu_bytes) {
            return Err(DropReason::FrameTooLong);
        }
        let view = EthernetFrame::new_unchecked(packet.data());
        let frame = FrameInfo {
            interface,
            source_mac: view.src_addr().into(),
            destination_mac: view.dst_addr().into(),
            received_ns: self.now_ns,
        };
        let protocol = view.ethertype();
        if frame.source_mac.is_group() || frame.source_mac == MacAddress::ZERO {
            return Err(DropReason::FrameBadSource);
        }
        if frame.source_mac == own_mac {
            return Err(DropReason::FrameOwnSource);
        }
        if !frame.destination_mac.is_group() && frame.destination_mac != own_mac {
            match self
                .tables
                .virtual_mac_state(interface, frame.destination_mac)
            {
                Some(true) => {}
                Some(false) => return Err(DropReason::FrameVirtualBackup),
                None => return Err(DropReason::FrameNotForUs),
            }
        }
        packet.trim_front(ETHERNET_HEADER_BYTES);
        match protocol {
            EthernetProtocol::Ipv4 => {
                let cpu = Flow::of_ipv4(&packet).cpu(self.cpu_count);
                Ok((cpu, CpuMessage::Ip { frame, packet }))
            }
            EthernetProtocol::Arp => Ok((0, CpuMessage::Arp { frame, packet })),
            _ => Err(DropReason::FrameUnknownType),
        }
    }

    /// Sends a frame: the only way out of an Ethernet interface.
    pub(crate) fn send_frame(
        &mut self,
        interface: InterfaceIndex,
        protocol: EthernetProtocol,
        source: MacAddress,
        destination: MacAddress,
        packet: Packet,
    ) -> Result<(), DropReason> {
        let config = self
            .tables
            .interface(interface)
            .ok_or(DropReason::SendInterfaceDown)?;
        if !config.up {
            return Err(DropReason::SendInterfaceDown);
        }
        match self.tables.virtual_mac_state(interface, source) {
            Some(true) => {}
            Some(false) => return Err(DropReason::SendVirtualBackup),
            None if config.mac == Some(source) => {}
            None => return Err(DropReason::SendForeignSource),
        }
        let needed = ETHERNET_HEADER_BYTES + config::DRIVER_HEADROOM_BYTES;
        let mut packet = ensure_headroom(packet, needed)?;
        let header = packet
            .prepend(ETHERNET_HEADER_BYTES)
            .ok_or(DropReason::SendNoMemory)?;
        let mut view = EthernetFrame::new_unchecked(header);
        view.set_dst_addr(destination.into());
        view.set_src_addr(source.into());
        view.set_ethertype(protocol);
        let transmit = Action::Transmit { interface, packet };
        self.emit_packet(transmit, DropReason::SendNoMemory)?;
        self.counters.event(Event::FrameSent);
        Ok(())
    }
}

/// The packet, copied only if it has less than `needed` bytes of headroom (a received packet that
/// is turned around, from a driver that reserves none).
pub(crate) fn ensure_headroom(packet: Packet, needed: usize) -> Result<Packet, DropReason> {
    if packet.headroom() >= needed {
        return Ok(packet);
    }
    Packet::copy_from(needed.max(config::HEADROOM_BYTES), &packet)
        .map_err(|_| DropReason::SendNoMemory)
}
