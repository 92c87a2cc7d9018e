//! The protocols of one CPU as a sans-I/O state machine: packets and time in, actions out.
//!
//! [`CpuStack`] owns everything the protocols of one CPU know. The executor's tasks, the tests, a
//! fuzzer and a simulator all drive this same type: call a method, then take the [`Action`]s until there
//! are none. It never waits, never looks at a clock and never reaches another CPU: what concerns
//! another CPU leaves as [`Action::Post`]. Nothing here recurses through a packet: a packet to
//! ourselves becomes a message too, so the stack depth does not depend on what arrives.
//!
//! The invariant of the counters: a received frame is counted in [`Event::FrameReceived`] once and
//! ends either in [`Event::FrameConsumed`] or in one drop reason that is not an output reason,
//! on whichever CPU that happens.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use executor::slab::may_fail;

use crate::address::{InterfaceIndex, MacAddress};
use crate::arp::cache::{ArpCache, ArpKey, ArpState};
use crate::config;
use crate::counters::{Counters, DropReason, Event};
use crate::packet::Packet;
use crate::receive::{Datagram, ReceiveQueue};
use crate::tables::{Binding, BindingKind, Change, ConfigError, SocketId, Tables};

/// What input knows about the frame a packet came in.
#[derive(Clone, Copy, Debug)]
pub struct FrameInfo {
    /// Where it arrived.
    pub interface: InterfaceIndex,
    /// The station that sent it; all zero on the loopback interface.
    pub source_mac: MacAddress,
    /// The station or group it was sent to; all zero on the loopback interface.
    pub destination_mac: MacAddress,
    /// When the CPU that received it saw it first.
    pub received_ns: u64,
}

/// A message to the protocols of another CPU (or, for a packet to ourselves, of this one).
#[derive(Debug)]
pub enum CpuMessage {
    /// An IPv4 packet of a flow of that CPU; the data begins with the IP header.
    Ip {
        /// Where it came from.
        frame: FrameInfo,
        /// The packet.
        packet: Packet,
    },
    /// An ARP packet, to CPU 0.
    Arp {
        /// Where it came from.
        frame: FrameInfo,
        /// The packet.
        packet: Packet,
    },
    /// A copy misses a neighbour, to CPU 0.
    ArpAsk {
        /// The neighbour.
        key: ArpKey,
        /// The CPU that asks.
        from: u16,
    },
    /// CPU 0 knows better about a neighbour.
    ArpLearn {
        /// The neighbour.
        key: ArpKey,
        /// Where it is.
        mac: MacAddress,
    },
    /// CPU 0 had to forget a neighbour.
    ArpForget {
        /// The neighbour.
        key: ArpKey,
    },
    /// A datagram for a socket of that CPU.
    Deliver {
        /// The socket.
        socket: SocketId,
        /// What it receives.
        datagram: Datagram,
    },
}

/// A packet of a registered raw protocol (CARP), for its handler on CPU 0.
#[derive(Debug)]
pub struct ProtocolInput {
    /// The IP protocol number.
    pub protocol: u8,
    /// Where it arrived.
    pub frame: FrameInfo,
    /// IP source. It may be an address of ours: seeing one's own packets is the protocol's affair.
    pub source: Ipv4Addr,
    /// IP destination.
    pub destination: Ipv4Addr,
    /// Time to live as received.
    pub ttl: u8,
    /// Type of service as received.
    pub tos: u8,
    /// The packet behind its IP header.
    pub packet: Packet,
}

/// Something happened that others want to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkEvent {
    /// Another station speaks from an address of ours. With a vhid: another master, a split brain.
    /// (Both masters use the same virtual MAC address, so `mac` may well be the virtual one.)
    AddressConflict {
        /// Where it was heard.
        interface: InterfaceIndex,
        /// The address.
        address: Ipv4Addr,
        /// The vhid, if it is a virtual address (and we are its master).
        vhid: Option<u8>,
        /// The station's MAC address.
        mac: MacAddress,
    },
    /// The link of an interface came or went, or it was set up or down.
    LinkChange {
        /// The interface.
        interface: InterfaceIndex,
        /// It is set up and has a link.
        up: bool,
    },
    /// An interface's own addresses changed.
    AddressChange {
        /// The interface.
        interface: InterfaceIndex,
    },
}

/// What the driver of a [`CpuStack`] has to do, in this order.
#[derive(Debug)]
pub enum Action {
    /// Give a frame to an interface's device.
    Transmit {
        /// The interface.
        interface: InterfaceIndex,
        /// The whole frame.
        packet: Packet,
    },
    /// Hand a message to the stack of a CPU; it may be this one.
    Post {
        /// The CPU.
        cpu: u16,
        /// The message.
        message: CpuMessage,
    },
    /// Call the handler of a raw protocol (CPU 0 only).
    Protocol(ProtocolInput),
    /// Tell the subscribers (CPU 0 only).
    Event(NetworkEvent),
}

/// Where a received packet went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It has done its work here.
    Consumed,
    /// Another CPU has it and counts its end.
    Passed,
}

/// The protocols of one CPU.
pub struct CpuStack {
    pub(crate) cpu: u16,
    pub(crate) cpu_count: u16,
    /// Time of the call in progress, nanoseconds since boot.
    pub(crate) now_ns: u64,
    pub(crate) tables: Tables,
    pub(crate) counters: Counters,
    pub(crate) arp: ArpCache,
    /// Before this time no further conflict is answered.
    pub(crate) defend_after_ns: u64,
    pub(crate) sockets: BTreeMap<SocketId, ReceiveQueue>,
    /// Raw protocols with a handler (CPU 0 only).
    pub(crate) protocols: Vec<u8>,
    pub(crate) next_identification: u16,
    /// Where CPU 0 looks for the next free port or echo identifier.
    pub(crate) next_port: u16,
    next_socket: u64,
    /// ICMP errors sent in the second that began at `.0`.
    pub(crate) icmp_errors: (u64, u32),
    actions: VecDeque<Action>,
}

impl CpuStack {
    /// The stack of CPU `cpu` out of `cpu_count`. The seed makes identifications differ between
    /// boots; everything else is determined by the inputs.
    pub fn new(cpu: u16, cpu_count: u16, seed: u64) -> CpuStack {
        CpuStack {
            cpu,
            cpu_count: cpu_count.max(1),
            now_ns: 0,
            tables: Tables::new(),
            counters: Counters::default(),
            arp: ArpCache::default(),
            defend_after_ns: 0,
            sockets: BTreeMap::new(),
            protocols: Vec::new(),
            // CPUs count from different places, so that their identifications rarely meet.
            next_identification: (seed as u16).wrapping_add(cpu.wrapping_mul(4099)),
            next_port: config::FIRST_EPHEMERAL_PORT | (seed >> 16) as u16 & 0x3fff,
            next_socket: 1,
            icmp_errors: (0, 0),
            actions: VecDeque::new(),
        }
    }

    /// Applies a change to this CPU's copy of the tables. Apply it to CPU 0's stack first, and to the
    /// others only if that took it.
    pub fn apply(&mut self, now_ns: u64, change: &Change) -> Result<(), ConfigError> {
        self.now_ns = now_ns;
        self.tables.apply(change)?;
        self.after_change(change);
        Ok(())
    }

    /// Takes a frame that a device received on this CPU.
    pub fn input(&mut self, now_ns: u64, interface: InterfaceIndex, packet: Packet) {
        self.now_ns = now_ns;
        self.counters.event(Event::FrameReceived);
        let posted = self
            .demultiplex(interface, packet)
            .and_then(|(cpu, message)| {
                self.emit_packet(Action::Post { cpu, message }, DropReason::NoMemory)?;
                Ok(cpu)
            });
        match posted {
            Ok(cpu) if cpu != self.cpu => self.counters.event(Event::FrameForwarded),
            Ok(_) => {}
            Err(reason) => self.counters.drop(reason),
        }
    }

    /// Takes a message that a stack posted to this CPU.
    pub fn message(&mut self, now_ns: u64, message: CpuMessage) {
        self.now_ns = now_ns;
        self.handle(message);
    }

    /// Does what is due at this time.
    pub fn poll(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        self.arp_poll();
    }

    /// When [`CpuStack::poll`] next has something to do. `None`: not until something else happens.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.arp.next_deadline_ns()
    }

    /// The next thing to do. Take all of them after each call.
    #[must_use = "an action not carried out is a packet lost without a counter"]
    pub fn take_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// This CPU's copy of the tables.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// This CPU's counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The neighbours this CPU knows or asks for.
    pub fn neighbors(
        &self,
        now_ns: u64,
    ) -> impl Iterator<Item = (ArpKey, Option<MacAddress>, ArpState)> {
        self.arp.iter(now_ns)
    }

    /// Lets packets of an IP protocol through as [`Action::Protocol`]. For CPU 0's stack.
    pub fn register_protocol(&mut self, protocol: u8) {
        if !self.protocols.contains(&protocol) {
            self.protocols.push(protocol);
        }
    }

    /// CPU 0: makes the binding of a new socket, with a free port if `port` is 0. It still has to
    /// be applied, to every CPU's stack.
    pub fn allocate_binding(
        &mut self,
        kind: BindingKind,
        address: Ipv4Addr,
        port: u16,
        owner: u16,
    ) -> Result<Binding, ConfigError> {
        let is_ours = address.is_unspecified()
            || self.tables.virtual_by_address(address).is_some()
            || self.tables.owner_of(address).is_some();
        if !is_ours {
            return Err(ConfigError::NoSuchAddress);
        }
        let port = match port {
            0 => self.free_port(kind).ok_or(ConfigError::TooMany)?,
            port => port,
        };
        // The other CPUs' copies grow as this one does, but cannot refuse.
        may_fail(|| self.tables.bindings.try_reserve(1)).map_err(|_| ConfigError::NoMemory)?;
        let socket = SocketId(self.next_socket);
        self.next_socket += 1;
        Ok(Binding {
            socket,
            kind,
            address,
            port,
            owner,
        })
    }

    fn free_port(&mut self, kind: BindingKind) -> Option<u16> {
        for _ in config::FIRST_EPHEMERAL_PORT..=u16::MAX {
            let port = self.next_port;
            self.next_port = port.checked_add(1).unwrap_or(config::FIRST_EPHEMERAL_PORT);
            if self.tables.bindings_of_port(kind, port).is_empty() {
                return Some(port);
            }
        }
        None
    }

    /// Notes something to do that the stacks' state rests on, and that must not get lost.
    pub(crate) fn emit(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    /// Notes something to do with a packet, which is dropped if there is no memory for the note: for this reason.
    pub(crate) fn emit_packet(
        &mut self,
        action: Action,
        reason: DropReason,
    ) -> Result<(), DropReason> {
        may_fail(|| self.actions.try_reserve(1)).map_err(|_| reason)?;
        self.actions.push_back(action);
        Ok(())
    }

    /// Counts the end of a packet we tried to send.
    pub(crate) fn count_output(&mut self, sent: Result<(), DropReason>) {
        if let Err(reason) = sent {
            self.counters.drop(reason);
        }
    }

    /// Counts a received frame that the driver of this stack could not even hand in.
    pub fn count_refused_frame(&mut self) {
        self.counters.event(Event::FrameReceived);
        self.counters.drop(DropReason::FrameQueueFull);
    }

    /// Counts a packet posted to a CPU that could take no more.
    pub fn count_refused_message(&mut self) {
        self.counters.drop(DropReason::FrameQueueFull);
    }

    fn handle(&mut self, message: CpuMessage) {
        let fate = match message {
            CpuMessage::Ip { frame, packet } => self.ip_input(frame, packet),
            CpuMessage::Arp { frame, packet } => self.arp_input(frame, &packet),
            CpuMessage::Deliver { socket, datagram } => self.deliver(socket, datagram),
            CpuMessage::ArpAsk { key, from } => return self.arp_asked(key, from),
            CpuMessage::ArpLearn { key, mac } => return self.arp_learned(key, mac),
            CpuMessage::ArpForget { key } => return self.forget_neighbor(key),
        };
        match fate {
            Ok(Fate::Consumed) => self.counters.event(Event::FrameConsumed),
            Ok(Fate::Passed) => {}
            Err(reason) => self.counters.drop(reason),
        }
    }

    fn forget_neighbor(&mut self, key: ArpKey) {
        let held = self.arp.forget(key);
        held.iter()
            .for_each(|_| self.counters.drop(DropReason::ArpTimeout));
    }

    fn forget_neighbors(&mut self, matches: impl Fn(ArpKey) -> bool) {
        let keys: Vec<ArpKey> = self
            .arp
            .iter(0)
            .map(|(key, ..)| key)
            .filter(|&key| matches(key))
            .collect();
        keys.into_iter().for_each(|key| self.forget_neighbor(key));
    }

    /// What follows from a change that was just applied.
    fn after_change(&mut self, change: &Change) {
        match *change {
            Change::SetUp { interface, .. } | Change::SetLink { interface, .. } => {
                let Some(config) = self.tables.interface(interface) else {
                    return;
                };
                let up = config.up && config.link;
                match up {
                    true => self.announce_addresses(interface),
                    false => self.forget_neighbors(|key| key.interface == interface),
                }
                self.event_on_cpu_0(NetworkEvent::LinkChange { interface, up });
            }
            Change::AddAddress { interface, address } => {
                self.forget_neighbors(|key| key.address == address.address());
                self.announce_addresses(interface);
                self.event_on_cpu_0(NetworkEvent::AddressChange { interface });
            }
            Change::RemoveAddress { interface, .. } => {
                self.forget_neighbors(|key| key.interface == interface);
                self.event_on_cpu_0(NetworkEvent::AddressChange { interface });
            }
            // The address is ours now, or somebody else's: what was learned of it is void.
            Change::SetMaster {
                interface, vhid, ..
            } => {
                let virtuals = self.tables.virtuals.clone();
                let of_vhid = virtuals.iter().filter(|entry| entry.vhid == vhid);
                for entry in of_vhid.filter(|entry| entry.interface == interface) {
                    self.forget_neighbors(|key| key.address == entry.address.address());
                }
            }
            Change::SetVirtual(entry) => {
                self.forget_neighbors(|key| key.address == entry.address.address());
            }
            Change::Bind(binding) if binding.owner == self.cpu => {
                self.sockets.insert(binding.socket, ReceiveQueue::default());
            }
            Change::Unbind(socket) => {
                self.sockets.remove(&socket);
            }
            Change::ForgetNeighbor { address } => {
                self.forget_neighbors(|key| key.address == address);
            }
            Change::FlushNeighbors => self.forget_neighbors(|_| true),
            _ => {}
        }
    }

    fn event_on_cpu_0(&mut self, event: NetworkEvent) {
        if self.cpu == 0 {
            self.emit(Action::Event(event));
        }
    }

    /// Announces an interface's own addresses, so that neighbours correct what they know.
    fn announce_addresses(&mut self, interface: InterfaceIndex) {
        let Some(config) = self.tables.interface(interface) else {
            return;
        };
        let Some(mac) = config
            .mac
            .filter(|_| self.cpu == 0 && config.up && config.link)
        else {
            return;
        };
        let addresses: Vec<Ipv4Addr> = config.addresses.iter().map(|own| own.address()).collect();
        for address in addresses {
            self.arp_announce(interface, address, mac);
        }
    }
}
