//! UDP: datagrams in and out. The sockets that use them are in [`crate::UdpSocket`].
//!
//! A datagram is handled on the CPU of its address pair and then belongs to whichever CPU the
//! socket lives on. Source: RFC 768, RFC 1122 section 4.1.

use core::net::{Ipv4Addr, SocketAddrV4};

use smoltcp::wire::{IpAddress, IpProtocol, UdpPacket};

use crate::config;
use crate::counters::{DropReason, Event};
use crate::icmp::IcmpError;
use crate::ipv4::{Ipv4Info, Ipv4Send};
use crate::packet::Packet;
use crate::receive::{Datagram, DatagramKind};
use crate::stack::{CpuStack, Fate, FrameInfo};
use crate::tables::{BindingKind, SocketId};

/// Length of a UDP header, bytes.
pub const UDP_HEADER_BYTES: usize = 8;

impl CpuStack {
    /// Handles a UDP packet; the data still begins with the IP header.
    pub(crate) fn udp_input(
        &mut self,
        frame: FrameInfo,
        info: &Ipv4Info,
        is_unicast: bool,
        mut packet: Packet,
    ) -> Result<Fate, DropReason> {
        self.counters.event(Event::UdpReceived);
        let bytes = packet.get(info.header_bytes..).unwrap_or_default();
        if bytes.len() < UDP_HEADER_BYTES {
            return Err(DropReason::UdpTooShort);
        }
        let view = UdpPacket::new_unchecked(bytes);
        let length = usize::from(view.len());
        if length < UDP_HEADER_BYTES || length > bytes.len() {
            return Err(DropReason::UdpBadLength);
        }
        if view.checksum() == 0 {
            self.counters.event(Event::UdpNoChecksum);
        } else if !view.verify_checksum(
            &IpAddress::Ipv4(info.source),
            &IpAddress::Ipv4(info.destination),
        ) {
            return Err(DropReason::UdpBadChecksum);
        }
        let (source_port, port) = (view.src_port(), view.dst_port());
        if self
            .tables
            .binding(BindingKind::Udp, info.destination, port)
            .is_none()
        {
            if !is_unicast {
                return Err(DropReason::UdpNoPortGroup);
            }
            self.icmp_send_error(IcmpError::PortUnreachable, info, &packet);
            return Err(DropReason::UdpNoPort);
        }
        packet.truncate(info.header_bytes + length);
        packet.trim_front(info.header_bytes + UDP_HEADER_BYTES);
        let datagram = Datagram {
            kind: DatagramKind::Udp,
            remote: SocketAddrV4::new(info.source, source_port),
            local: SocketAddrV4::new(info.destination, port),
            ttl: info.ttl,
            received_ns: frame.received_ns,
            packet,
        };
        self.dispatch(BindingKind::Udp, port, DropReason::UdpNoPort, datagram)
    }

    /// Sends a datagram from a socket of this CPU. The source address is `source`, else the one the
    /// socket is bound to, else the route's.
    pub fn udp_send(
        &mut self,
        now_ns: u64,
        socket: SocketId,
        source: Option<Ipv4Addr>,
        remote: SocketAddrV4,
        data: &[u8],
    ) -> Result<(), DropReason> {
        self.now_ns = now_ns;
        let sent = self.udp_output(socket, source, remote, data);
        self.count_output(sent);
        sent
    }

    fn udp_output(
        &mut self,
        socket: SocketId,
        source: Option<Ipv4Addr>,
        remote: SocketAddrV4,
        data: &[u8],
    ) -> Result<(), DropReason> {
        let binding = self
            .tables
            .binding_of(socket)
            .ok_or(DropReason::NoSourceAddress)?;
        let (bound, port) = (binding.address, binding.port);
        let source = source.or((!bound.is_unspecified()).then_some(bound));
        let source = self.source_for(source, *remote.ip())?;
        let length =
            u16::try_from(data.len() + UDP_HEADER_BYTES).map_err(|_| DropReason::MessageTooLong)?;
        let mut packet = Packet::copy_from(config::HEADROOM_BYTES, data)
            .map_err(|_| DropReason::SendNoMemory)?;
        packet
            .prepend(UDP_HEADER_BYTES)
            .ok_or(DropReason::SendNoMemory)?;
        let mut view = UdpPacket::new_unchecked(packet.data_mut());
        view.set_src_port(port);
        view.set_dst_port(remote.port());
        view.set_len(length);
        view.fill_checksum(&IpAddress::Ipv4(source), &IpAddress::Ipv4(*remote.ip()));
        self.counters.event(Event::UdpSent);
        self.ip_output(
            Ipv4Send::new(Some(source), *remote.ip(), IpProtocol::Udp),
            packet,
        )
    }
}
