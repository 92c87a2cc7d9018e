//! What sockets receive: datagrams, and the queue they wait in.
//!
//! A socket lives on one CPU and its queue in that CPU's stack; the CPU a datagram's flow belongs
//! to posts it there. The queue is bounded: a reader that does not keep up loses the newest, with a
//! counter, as UDP sockets do everywhere.

use alloc::collections::VecDeque;
use core::net::SocketAddrV4;
use core::task::Waker;

use executor::slab::may_fail;

use crate::config;
use crate::counters::{DropReason, Event};
use crate::packet::Packet;
use crate::stack::{CpuStack, Fate};
use crate::tables::{BindingKind, SocketId};

/// What a [`Datagram`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatagramKind {
    /// A UDP datagram.
    Udp,
    /// An ICMP echo reply.
    EchoReply {
        /// The sequence number of the request it answers.
        sequence: u16,
    },
    /// An ICMP error about an echo request of ours.
    EchoError {
        /// The sequence number of the request.
        sequence: u16,
        /// ICMP type, for example 3, unreachable.
        icmp_type: u8,
        /// ICMP code.
        icmp_code: u8,
    },
}

/// A received datagram.
#[derive(Debug)]
pub struct Datagram {
    /// What it is.
    pub kind: DatagramKind,
    /// Who sent it (port 0 for ICMP).
    pub remote: SocketAddrV4,
    /// Whom it was sent to: an address of ours, a group, or a broadcast address.
    pub local: SocketAddrV4,
    /// Time to live as received.
    pub ttl: u8,
    /// When it was received, nanoseconds since boot.
    pub received_ns: u64,
    /// The data behind the protocol's header.
    pub packet: Packet,
}

impl Datagram {
    /// The data.
    pub fn payload(&self) -> &[u8] {
        self.packet.data()
    }
}

/// The datagrams that wait in one socket, and who waits for them.
#[derive(Debug, Default)]
pub(crate) struct ReceiveQueue {
    datagrams: VecDeque<Datagram>,
    waker: Option<Waker>,
}

impl CpuStack {
    /// Puts a datagram into a socket of this CPU.
    pub(crate) fn deliver(
        &mut self,
        socket: SocketId,
        datagram: Datagram,
    ) -> Result<Fate, DropReason> {
        let queue = self
            .sockets
            .get_mut(&socket)
            .ok_or(DropReason::SocketClosed)?;
        if queue.datagrams.len() >= config::SOCKET_DATAGRAMS {
            return Err(DropReason::SocketFull);
        }
        may_fail(|| queue.datagrams.try_reserve(1)).map_err(|_| DropReason::SocketNoMemory)?;
        match datagram.kind {
            DatagramKind::Udp => self.counters.event(Event::UdpDelivered),
            DatagramKind::EchoReply { .. } => self.counters.event(Event::IcmpEchoReplyReceived),
            DatagramKind::EchoError { .. } => {}
        }
        queue.datagrams.push_back(datagram);
        if let Some(waker) = queue.waker.take() {
            waker.wake();
        }
        Ok(Fate::Consumed)
    }

    /// Hands a datagram to the socket that claims it, here or on its CPU.
    pub(crate) fn dispatch(
        &mut self,
        kind: BindingKind,
        port: u16,
        unclaimed: DropReason,
        datagram: Datagram,
    ) -> Result<Fate, DropReason> {
        let binding = self.tables.binding(kind, *datagram.local.ip(), port);
        let &crate::tables::Binding { socket, owner, .. } = binding.ok_or(unclaimed)?;
        if owner == self.cpu {
            return self.deliver(socket, datagram);
        }
        let message = crate::stack::CpuMessage::Deliver { socket, datagram };
        let post = crate::stack::Action::Post {
            cpu: owner,
            message,
        };
        self.emit_packet(post, DropReason::NoMemory)?;
        Ok(Fate::Passed)
    }

    /// Takes the oldest datagram of a socket of this CPU.
    pub fn receive(&mut self, socket: SocketId) -> Option<Datagram> {
        self.sockets.get_mut(&socket)?.datagrams.pop_front()
    }

    /// Whom to wake when the socket receives something. One waiter: the last one counts.
    pub fn set_waker(&mut self, socket: SocketId, waker: &Waker) {
        if let Some(queue) = self.sockets.get_mut(&socket) {
            match &mut queue.waker {
                Some(old) => old.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
        }
    }
}
