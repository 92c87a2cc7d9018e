//! What CARP sends: announcements of a vhid's addresses and raw packets, both from its virtual
//! MAC address.
//!
//! Both refuse while this node is not master; that is checked at the exit ([`crate::ethernet`]),
//! not here, so that there is one such check.

use alloc::vec::Vec;
use core::net::Ipv4Addr;

use smoltcp::wire::IpProtocol;

use crate::address::{InterfaceIndex, VirtualAddress};
use crate::config;
use crate::counters::DropReason;
use crate::ipv4::Ipv4Send;
use crate::packet::Packet;
use crate::stack::CpuStack;

/// An IPv4 packet of a raw protocol.
#[derive(Clone, Copy, Debug)]
pub struct RawIpv4<'a> {
    /// IP protocol number; CARP's is 112.
    pub protocol: u8,
    /// Time to live.
    pub ttl: u8,
    /// Type of service.
    pub tos: u8,
    /// Forbids fragmentation.
    pub dont_fragment: bool,
    /// A real address of ours.
    pub source: Ipv4Addr,
    /// The group or peer.
    pub destination: Ipv4Addr,
    /// What follows the IP header.
    pub payload: &'a [u8],
}

impl CpuStack {
    /// Broadcasts an announcement (gratuitous ARP) for each address of a vhid we are master of.
    pub fn announce(
        &mut self,
        now_ns: u64,
        interface: InterfaceIndex,
        vhid: u8,
    ) -> Result<(), DropReason> {
        self.now_ns = now_ns;
        let of_vhid: Vec<VirtualAddress> = self.vhid(interface, vhid).copied().collect();
        if !of_vhid.iter().any(|entry| entry.master) {
            self.counters.drop(DropReason::SendVirtualBackup);
            return Err(DropReason::SendVirtualBackup);
        }
        for entry in of_vhid {
            self.arp_announce(interface, entry.address.address(), entry.mac);
        }
        Ok(())
    }

    /// Sends a raw packet by `interface` from the virtual MAC address of a vhid we are master of.
    pub fn send_from_virtual(
        &mut self,
        now_ns: u64,
        interface: InterfaceIndex,
        vhid: u8,
        raw: &RawIpv4<'_>,
    ) -> Result<(), DropReason> {
        self.now_ns = now_ns;
        let mac = self.vhid(interface, vhid).next().map(|entry| entry.mac);
        let sent = self.raw_output(interface, mac, raw);
        self.count_output(sent);
        sent
    }

    /// Sends a raw packet by `interface` from the interface's own MAC address.
    pub fn send_from_interface(
        &mut self,
        now_ns: u64,
        interface: InterfaceIndex,
        raw: &RawIpv4<'_>,
    ) -> Result<(), DropReason> {
        self.now_ns = now_ns;
        let mac = self
            .tables
            .interface(interface)
            .and_then(|config| config.mac);
        let sent = self.raw_output(interface, mac, raw);
        self.count_output(sent);
        sent
    }

    fn raw_output(
        &mut self,
        interface: InterfaceIndex,
        mac: Option<crate::MacAddress>,
        raw: &RawIpv4<'_>,
    ) -> Result<(), DropReason> {
        let mac = mac.ok_or(DropReason::SendForeignSource)?;
        let packet = Packet::copy_from(config::HEADROOM_BYTES, raw.payload)
            .map_err(|_| DropReason::SendNoMemory)?;
        let send = Ipv4Send {
            source: Some(raw.source),
            destination: raw.destination,
            protocol: IpProtocol::from(raw.protocol),
            ttl: raw.ttl,
            tos: raw.tos,
            dont_fragment: raw.dont_fragment,
            leave_from: Some((interface, mac)),
        };
        self.ip_output(send, packet)
    }

    fn vhid(&self, interface: InterfaceIndex, vhid: u8) -> impl Iterator<Item = &VirtualAddress> {
        let is = move |entry: &&VirtualAddress| (entry.interface, entry.vhid) == (interface, vhid);
        self.tables.virtuals.iter().filter(is)
    }
}
