//! IPv4: the checks of input, the choices of output.
//!
//! Input answers one question after the other (form, checksum, source, destination, fragment,
//! protocol), each with its own [`DropReason`]. We are a host and do not forward. Output is
//! [`CpuStack::ip_output`] for everybody: it selects route and source, loops packets to ourselves back
//! as messages and hands the rest to ARP. A time to live below 2 is no reason for a host to discard
//! (RFC 1122, 3.2.1.7), so none is checked here; CARP checks its own. Fragments are
//! dropped with a counter; what we send is never fragmented.
//! Sources: RFC 791, RFC 1122 section 3.

use core::net::Ipv4Addr;

use smoltcp::wire::{IpProtocol, Ipv4Packet};

use crate::address::{InterfaceIndex, MacAddress, is_martian_source, multicast_mac};
use crate::arp::cache::{ArpKey, Held};
use crate::config;
use crate::counters::{DropReason, Event};
use crate::ethernet::ensure_headroom;
use crate::hash::Flow;
use crate::icmp::{self, IcmpError};
use crate::lookup::{Destination, Hop};
use crate::packet::Packet;
use crate::stack::{Action, CpuMessage, CpuStack, Fate, FrameInfo, NetworkEvent, ProtocolInput};

/// Length of an IPv4 header without options, bytes.
pub const IPV4_HEADER_BYTES: usize = 20;

/// What input learned from a header that passed the checks of form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ipv4Info {
    pub(crate) header_bytes: usize,
    pub(crate) total_bytes: usize,
    pub(crate) source: Ipv4Addr,
    pub(crate) destination: Ipv4Addr,
    pub(crate) protocol: IpProtocol,
    pub(crate) ttl: u8,
    pub(crate) tos: u8,
    pub(crate) is_fragment: bool,
}

/// Checks the form of an IPv4 packet.
pub(crate) fn parse(bytes: &[u8]) -> Result<Ipv4Info, DropReason> {
    if bytes.len() < IPV4_HEADER_BYTES {
        return Err(DropReason::IpTooShort);
    }
    let view = Ipv4Packet::new_unchecked(bytes);
    if view.version() != 4 {
        return Err(DropReason::IpBadVersion);
    }
    let header_bytes = usize::from(view.header_len());
    if header_bytes < IPV4_HEADER_BYTES || header_bytes > bytes.len() {
        return Err(DropReason::IpBadHeaderLength);
    }
    if !view.verify_checksum() {
        return Err(DropReason::IpBadChecksum);
    }
    let total_bytes = usize::from(view.total_len());
    if total_bytes < header_bytes || total_bytes > bytes.len() {
        return Err(DropReason::IpBadTotalLength);
    }
    check_options(
        bytes
            .get(IPV4_HEADER_BYTES..header_bytes)
            .unwrap_or_default(),
    )?;
    Ok(Ipv4Info {
        header_bytes,
        total_bytes,
        source: view.src_addr(),
        destination: view.dst_addr(),
        protocol: view.next_header(),
        ttl: view.hop_limit(),
        tos: bytes[1],
        is_fragment: view.more_frags() || view.frag_offset() != 0,
    })
}

/// Options are stepped over; source routes are refused (RFC 7126), and so is what does not add up.
fn check_options(mut options: &[u8]) -> Result<(), DropReason> {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const LOOSE_SOURCE_ROUTE: u8 = 131;
    const STRICT_SOURCE_ROUTE: u8 = 137;
    while let [kind, rest @ ..] = options {
        options = match *kind {
            END => return Ok(()),
            NO_OPERATION => rest,
            LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE => return Err(DropReason::IpSourceRoute),
            _ => {
                let length = rest.first().copied().map_or(0, usize::from);
                let next = options.get(length..).filter(|_| length >= 2);
                next.ok_or(DropReason::IpBadOptions)?
            }
        };
    }
    Ok(())
}

/// A packet to be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ipv4Send {
    /// `None`: selected by the route.
    pub(crate) source: Option<Ipv4Addr>,
    pub(crate) destination: Ipv4Addr,
    pub(crate) protocol: IpProtocol,
    pub(crate) ttl: u8,
    pub(crate) tos: u8,
    pub(crate) dont_fragment: bool,
    /// Leave by this interface from this MAC address, whatever route and source say.
    pub(crate) leave_from: Option<(InterfaceIndex, MacAddress)>,
}

impl Ipv4Send {
    pub(crate) fn new(
        source: Option<Ipv4Addr>,
        destination: Ipv4Addr,
        protocol: IpProtocol,
    ) -> Ipv4Send {
        Ipv4Send {
            source,
            destination,
            protocol,
            ttl: config::DEFAULT_TTL,
            tos: 0,
            dont_fragment: false,
            leave_from: None,
        }
    }
}

impl CpuStack {
    /// Handles an IPv4 packet of one of this CPU's flows.
    pub(crate) fn ip_input(
        &mut self,
        frame: FrameInfo,
        mut packet: Packet,
    ) -> Result<Fate, DropReason> {
        self.counters.event(Event::IpReceived);
        let info = parse(&packet)?;
        // The frame may be padded to Ethernet's minimum.
        packet.truncate(info.total_bytes);
        let is_raw = self.protocols.contains(&info.protocol.into());
        if frame.interface != InterfaceIndex::LOOPBACK {
            self.check_received_addresses(frame, &info, is_raw)?;
        }
        let destination = self.tables.classify(info.destination);
        let is_group_frame = frame.destination_mac.is_group();
        match destination {
            // A host answers no unicast packet that came to everybody (RFC 1122, 3.3.6).
            Destination::Ours if is_group_frame => return Err(DropReason::IpUnicastInGroupFrame),
            Destination::Ours | Destination::Broadcast => {}
            Destination::Multicast if self.tables.is_member(frame.interface, info.destination) => {}
            Destination::VirtualBackup => return Err(DropReason::IpVirtualBackup),
            Destination::Multicast | Destination::Other => return Err(DropReason::IpNotForUs),
        }
        if info.is_fragment {
            return Err(DropReason::IpFragment);
        }
        self.counters.event(Event::IpDelivered);
        let is_unicast = destination == Destination::Ours;
        match info.protocol {
            IpProtocol::Icmp => self.icmp_input(frame, &info, is_unicast, packet),
            IpProtocol::Udp => self.udp_input(frame, &info, is_unicast, packet),
            protocol if is_raw => {
                packet.trim_front(info.header_bytes);
                let input = Action::Protocol(ProtocolInput {
                    protocol: protocol.into(),
                    frame,
                    source: info.source,
                    destination: info.destination,
                    ttl: info.ttl,
                    tos: info.tos,
                    packet,
                });
                self.emit_packet(input, DropReason::NoMemory)?;
                self.counters.event(Event::RawDelivered);
                Ok(Fate::Consumed)
            }
            _ => {
                if is_unicast {
                    self.icmp_send_error(IcmpError::ProtocolUnreachable, &info, &packet);
                }
                Err(DropReason::IpUnknownProtocol)
            }
        }
    }

    /// Addresses that cannot come from a wire.
    fn check_received_addresses(
        &mut self,
        frame: FrameInfo,
        info: &Ipv4Info,
        is_raw: bool,
    ) -> Result<(), DropReason> {
        if is_martian_source(info.source) || self.tables.broadcast_interface(info.source).is_some()
        {
            return Err(DropReason::IpMartianSource);
        }
        if info.destination.is_loopback() || info.destination.is_unspecified() {
            return Err(DropReason::IpNotForUs);
        }
        if is_raw || self.tables.classify(info.source) != Destination::Ours {
            return Ok(());
        }
        if let Some(entry) = self.tables.virtual_by_address(info.source) {
            let event = NetworkEvent::AddressConflict {
                interface: frame.interface,
                address: info.source,
                vhid: Some(entry.vhid),
                mac: frame.source_mac,
            };
            self.emit(Action::Event(event));
        }
        Err(DropReason::IpOwnSource)
    }

    /// Sends a packet; its data is what follows the IP header.
    pub(crate) fn ip_output(&mut self, send: Ipv4Send, packet: Packet) -> Result<(), DropReason> {
        if let Some(source) = send.source {
            self.tables.check_source(source)?;
        }
        let class = self.tables.classify(send.destination);
        if class == Destination::Ours {
            return self.ip_loop_back(send, packet);
        }
        let hop = match send.leave_from {
            Some((interface, _)) => Hop {
                interface,
                neighbor: send.destination,
            },
            None => self.tables.route(send.destination)?,
        };
        let source = match send.source {
            Some(source) => source,
            None => self.tables.select_source(hop)?,
        };
        let source_mac = match send.leave_from {
            Some((_, mac)) => mac,
            None => self.tables.mac_of_source(hop.interface, source)?,
        };
        let mtu_bytes = self
            .tables
            .interface(hop.interface)
            .map_or(0, |config| config.mtu_bytes);
        let packet = self.ip_header(send, source, mtu_bytes, packet)?;
        self.counters.event(Event::IpSent);
        let group_mac = match class {
            Destination::Broadcast => Some(MacAddress::BROADCAST),
            Destination::Multicast => Some(multicast_mac(send.destination)),
            _ => None,
        };
        let protocol = smoltcp::wire::EthernetProtocol::Ipv4;
        match group_mac {
            Some(mac) => self.send_frame(hop.interface, protocol, source_mac, mac, packet),
            None => {
                let key = ArpKey {
                    interface: hop.interface,
                    address: hop.neighbor,
                };
                self.arp_output(key, Held { packet, source_mac })
            }
        }
    }

    /// A packet to ourselves: to the CPU of its flow, as if it had arrived on `lo0`.
    fn ip_loop_back(&mut self, send: Ipv4Send, packet: Packet) -> Result<(), DropReason> {
        let source = send.source.unwrap_or(send.destination);
        let packet = self.ip_header(send, source, config::LOOPBACK_MTU_BYTES, packet)?;
        let frame = FrameInfo {
            interface: InterfaceIndex::LOOPBACK,
            source_mac: MacAddress::ZERO,
            destination_mac: MacAddress::ZERO,
            received_ns: self.now_ns,
        };
        let cpu = Flow::of_ipv4(&packet).cpu(self.cpu_count);
        let message = CpuMessage::Ip { frame, packet };
        self.emit_packet(Action::Post { cpu, message }, DropReason::SendNoMemory)?;
        self.counters.event(Event::IpLooped);
        self.counters.event(Event::FrameReceived);
        Ok(())
    }

    fn ip_header(
        &mut self,
        send: Ipv4Send,
        source: Ipv4Addr,
        mtu_bytes: u16,
        packet: Packet,
    ) -> Result<Packet, DropReason> {
        let total_bytes = u16::try_from(packet.len() + IPV4_HEADER_BYTES)
            .ok()
            .filter(|&total| total <= mtu_bytes)
            .ok_or(DropReason::MessageTooLong)?;
        let mut packet = ensure_headroom(packet, config::HEADROOM_BYTES / 2 + IPV4_HEADER_BYTES)?;
        let identification = self.next_identification;
        self.next_identification = identification.wrapping_add(1);
        let header = packet
            .prepend(IPV4_HEADER_BYTES)
            .ok_or(DropReason::SendNoMemory)?;
        header.fill(0);
        header[1] = send.tos;
        let mut view = Ipv4Packet::new_unchecked(header);
        view.set_version(4);
        view.set_header_len(IPV4_HEADER_BYTES as u8);
        view.set_total_len(total_bytes);
        view.set_ident(identification);
        view.set_dont_frag(send.dont_fragment);
        view.set_hop_limit(send.ttl);
        view.set_next_header(send.protocol);
        view.set_src_addr(source);
        view.set_dst_addr(send.destination);
        view.fill_checksum();
        Ok(packet)
    }

    /// The source a packet to `destination` would have.
    pub(crate) fn source_for(
        &self,
        source: Option<Ipv4Addr>,
        destination: Ipv4Addr,
    ) -> Result<Ipv4Addr, DropReason> {
        match source {
            Some(source) => Ok(source),
            None if self.tables.classify(destination) == Destination::Ours => Ok(destination),
            None => self.tables.select_source(self.tables.route(destination)?),
        }
    }

    /// Whether an error may be sent about a packet at all (RFC 1122, 3.2.2): not about ICMP errors.
    pub(crate) fn may_report(info: &Ipv4Info, packet: &[u8]) -> bool {
        info.protocol != IpProtocol::Icmp
            || packet
                .get(info.header_bytes)
                .is_some_and(|&kind| icmp::is_query(kind))
    }
}
