//! ICMP: answers echo requests, sends and receives errors, sends echo requests for `ping`.
//!
//! It runs inside the IP task: it needs no state of its own but the rate limit of errors, and its flow
//! is CPU 0's anyway. Echo requests to a group are not answered (they make amplifiers). Errors are sent
//! only where RFC 1122, 3.2.2 allows them, and at most [`config::ICMP_ERRORS_PER_SECOND`] by each
//! CPU. Sources: RFC 792, RFC 1122.

use core::net::{Ipv4Addr, SocketAddrV4};

use smoltcp::wire::{Icmpv4Message, Icmpv4Packet, IpProtocol};

use crate::config;
use crate::counters::{DropReason, Event};
use crate::ipv4::{IPV4_HEADER_BYTES, Ipv4Info, Ipv4Send};
use crate::packet::Packet;
use crate::receive::{Datagram, DatagramKind};
use crate::stack::{CpuStack, Fate, FrameInfo};
use crate::tables::{BindingKind, SocketId};

/// Length of the ICMP header of echoes and of errors, bytes.
const ICMP_HEADER_BYTES: usize = 8;

/// One second, nanoseconds.
const SECOND_NS: u64 = 1_000_000_000;

/// Whether an ICMP type is a query or its answer, and not an error.
pub(crate) fn is_query(icmp_type: u8) -> bool {
    !matches!(
        Icmpv4Message::from(icmp_type),
        Icmpv4Message::DstUnreachable
            | Icmpv4Message::TimeExceeded
            | Icmpv4Message::ParamProblem
            | Icmpv4Message::Redirect
            | Icmpv4Message::Unknown(4)
    )
}

/// An error we may send about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IcmpError {
    ProtocolUnreachable,
    PortUnreachable,
}

impl IcmpError {
    fn code(self) -> u8 {
        match self {
            IcmpError::ProtocolUnreachable => 2,
            IcmpError::PortUnreachable => 3,
        }
    }
}

impl CpuStack {
    /// Handles an ICMP packet; the data still begins with the IP header.
    pub(crate) fn icmp_input(
        &mut self,
        frame: FrameInfo,
        info: &Ipv4Info,
        is_unicast: bool,
        mut packet: Packet,
    ) -> Result<Fate, DropReason> {
        self.counters.event(Event::IcmpReceived);
        let bytes = packet.get(info.header_bytes..).unwrap_or_default();
        if bytes.len() < ICMP_HEADER_BYTES {
            return Err(DropReason::IcmpTooShort);
        }
        let view = Icmpv4Packet::new_unchecked(bytes);
        if !view.verify_checksum() {
            return Err(DropReason::IcmpBadChecksum);
        }
        let (kind, code) = (view.msg_type(), view.msg_code());
        let datagram = |kind, packet| Datagram {
            kind,
            remote: SocketAddrV4::new(info.source, 0),
            local: SocketAddrV4::new(info.destination, 0),
            ttl: info.ttl,
            received_ns: frame.received_ns,
            packet,
        };
        match kind {
            Icmpv4Message::EchoRequest => {
                self.counters.event(Event::IcmpEchoRequestReceived);
                if !is_unicast {
                    return Err(DropReason::IcmpGroupEcho);
                }
                packet.trim_front(info.header_bytes);
                self.icmp_answer_echo(info, packet);
                Ok(Fate::Consumed)
            }
            Icmpv4Message::EchoReply => {
                let (identifier, sequence) = (view.echo_ident(), view.echo_seq_no());
                packet.trim_front(info.header_bytes + ICMP_HEADER_BYTES);
                let reply = datagram(DatagramKind::EchoReply { sequence }, packet);
                let unclaimed = DropReason::IcmpUnexpected;
                self.dispatch(BindingKind::Echo, identifier, unclaimed, reply)
            }
            Icmpv4Message::DstUnreachable
            | Icmpv4Message::TimeExceeded
            | Icmpv4Message::ParamProblem => {
                self.counters.event(Event::IcmpErrorReceived);
                let quoted = bytes.get(ICMP_HEADER_BYTES..).unwrap_or_default();
                let echo = quoted_echo(quoted).ok_or(DropReason::IcmpUnexpected)?;
                let kind = DatagramKind::EchoError {
                    sequence: echo.sequence,
                    icmp_type: kind.into(),
                    icmp_code: code,
                };
                packet.trim_front(info.header_bytes + ICMP_HEADER_BYTES);
                let error = datagram(kind, packet);
                let unclaimed = DropReason::IcmpUnexpected;
                self.dispatch(BindingKind::Echo, echo.identifier, unclaimed, error)
            }
            _ => Err(DropReason::IcmpUnknownType),
        }
    }

    /// Turns an echo request around in its own buffer.
    fn icmp_answer_echo(&mut self, info: &Ipv4Info, mut packet: Packet) {
        let mut view = Icmpv4Packet::new_unchecked(packet.data_mut());
        view.set_msg_type(Icmpv4Message::EchoReply);
        view.set_msg_code(0);
        view.fill_checksum();
        let send = Ipv4Send::new(Some(info.destination), info.source, IpProtocol::Icmp);
        let sent = self.ip_output(send, packet);
        if sent.is_ok() {
            self.counters.event(Event::IcmpEchoReplySent);
        }
        self.count_output(sent);
    }

    /// Sends an error about a received packet (which begins with its IP header), if it may.
    pub(crate) fn icmp_send_error(&mut self, error: IcmpError, info: &Ipv4Info, packet: &[u8]) {
        if !CpuStack::may_report(info, packet) {
            return;
        }
        let (second_ns, sent) = self.icmp_errors;
        let is_same_second = self.now_ns.saturating_sub(second_ns) < SECOND_NS && sent > 0;
        let (second_ns, sent) = if is_same_second {
            (second_ns, sent)
        } else {
            (self.now_ns, 0)
        };
        if sent >= config::ICMP_ERRORS_PER_SECOND {
            return self.counters.drop(DropReason::IcmpRateLimited);
        }
        self.icmp_errors = (second_ns, sent + 1);
        let quoted_bytes = packet
            .len()
            .min(info.header_bytes + config::ICMP_QUOTED_BYTES);
        let quoted = packet.get(..quoted_bytes).unwrap_or_default();
        let Ok(mut message) = Packet::copy_from(config::HEADROOM_BYTES, quoted) else {
            return self.counters.drop(DropReason::SendNoMemory);
        };
        let Some(header) = message.prepend(ICMP_HEADER_BYTES) else {
            return self.counters.drop(DropReason::SendNoMemory);
        };
        header.fill(0);
        let mut view = Icmpv4Packet::new_unchecked(message.data_mut());
        view.set_msg_type(Icmpv4Message::DstUnreachable);
        view.set_msg_code(error.code());
        view.fill_checksum();
        let send = Ipv4Send::new(Some(info.destination), info.source, IpProtocol::Icmp);
        let sent = self.ip_output(send, message);
        if sent.is_ok() {
            self.counters.event(Event::IcmpUnreachableSent);
        }
        self.count_output(sent);
    }

    /// Sends an echo request from an echo socket of this CPU.
    pub fn echo_send(
        &mut self,
        now_ns: u64,
        socket: SocketId,
        destination: Ipv4Addr,
        sequence: u16,
        data: &[u8],
    ) -> Result<(), DropReason> {
        self.now_ns = now_ns;
        let sent = self.echo_output(socket, destination, sequence, data);
        self.count_output(sent);
        sent
    }

    fn echo_output(
        &mut self,
        socket: SocketId,
        destination: Ipv4Addr,
        sequence: u16,
        data: &[u8],
    ) -> Result<(), DropReason> {
        let binding = self
            .tables
            .binding_of(socket)
            .ok_or(DropReason::NoSourceAddress)?;
        let (identifier, bound) = (binding.port, binding.address);
        let source = (!bound.is_unspecified()).then_some(bound);
        let mut packet = Packet::copy_from(config::HEADROOM_BYTES, data)
            .map_err(|_| DropReason::SendNoMemory)?;
        packet
            .prepend(ICMP_HEADER_BYTES)
            .ok_or(DropReason::SendNoMemory)?
            .fill(0);
        let mut view = Icmpv4Packet::new_unchecked(packet.data_mut());
        view.set_msg_type(Icmpv4Message::EchoRequest);
        view.set_echo_ident(identifier);
        view.set_echo_seq_no(sequence);
        view.fill_checksum();
        self.ip_output(Ipv4Send::new(source, destination, IpProtocol::Icmp), packet)?;
        self.counters.event(Event::IcmpEchoRequestSent);
        Ok(())
    }
}

/// The echo request that an ICMP error quotes.
struct QuotedEcho {
    identifier: u16,
    sequence: u16,
}

fn quoted_echo(quoted: &[u8]) -> Option<QuotedEcho> {
    let header_bytes = usize::from(quoted.first()? & 0xf) * 4;
    let is_icmp = IpProtocol::from(*quoted.get(9)?) == IpProtocol::Icmp;
    if header_bytes < IPV4_HEADER_BYTES || !is_icmp {
        return None;
    }
    let echo = quoted.get(header_bytes..header_bytes + ICMP_HEADER_BYTES)?;
    let view = Icmpv4Packet::new_unchecked(echo);
    (view.msg_type() == Icmpv4Message::EchoRequest).then(|| QuotedEcho {
        identifier: view.echo_ident(),
        sequence: view.echo_seq_no(),
    })
}
