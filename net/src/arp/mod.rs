//! Address resolution: the cache, and the input of ARP packets.
//!
//! [`cache::ArpCache`] is a state machine without packets of its own; this file's [`CpuStack`]
//! methods read and write the packets. Every CPU has a cache, so that output never leaves its CPU for a
//! lookup; CPU 0 alone talks ARP on the wire and owns the truth. A CPU that misses keeps its
//! packets, sends CPU 0 [`CpuMessage::ArpAsk`] and gets [`CpuMessage::ArpLearn`]. Everything a copy
//! knows is in CPU 0's cache too (an eviction or deletion there is told to all), so a neighbour
//! that moves, as a virtual address does at a failover, is corrected on every CPU by one frame.
//! The alternative, a cache per CPU that asks for itself, puts up to one request per CPU on
//! the wire for one neighbour and leaves copies that no frame corrects.
//! Sources: RFC 826; RFC 5227 (announcements, defence); dragonfly sys/netinet/if_ether.c.

pub(crate) mod cache;

use core::net::Ipv4Addr;

use smoltcp::wire::{ArpHardware, ArpOperation, ArpPacket, EthernetProtocol};

use crate::address::{InterfaceIndex, MacAddress, is_martian_source};
use crate::config;
use crate::counters::{DropReason, Event};
use crate::packet::Packet;
use crate::stack::{Action, CpuMessage, CpuStack, Fate, FrameInfo, NetworkEvent};
use cache::{ArpKey, Held};

/// Length of an ARP packet for Ethernet and IPv4, bytes.
const ARP_BYTES: usize = 28;

/// An ARP packet that passed the checks of form.
struct Arp {
    is_request: bool,
    sender_mac: MacAddress,
    sender: Ipv4Addr,
    target: Ipv4Addr,
}

impl Arp {
    fn parse(bytes: &[u8]) -> Result<Arp, DropReason> {
        if bytes.len() < ARP_BYTES {
            return Err(DropReason::ArpTooShort);
        }
        let view = ArpPacket::new_unchecked(bytes);
        let form = (view.hardware_type(), view.protocol_type());
        let lengths = (view.hardware_len(), view.protocol_len());
        if form != (ArpHardware::Ethernet, EthernetProtocol::Ipv4) || lengths != (6, 4) {
            return Err(DropReason::ArpBadFormat);
        }
        let is_request = match view.operation() {
            ArpOperation::Request => true,
            ArpOperation::Reply => false,
            ArpOperation::Unknown(_) => return Err(DropReason::ArpBadOperation),
        };
        Ok(Arp {
            is_request,
            sender_mac: mac(view.source_hardware_addr()),
            sender: address(view.source_protocol_addr()),
            target: address(view.target_protocol_addr()),
        })
    }
}

fn address(bytes: &[u8]) -> Ipv4Addr {
    bytes
        .try_into()
        .map_or(Ipv4Addr::UNSPECIFIED, |octets: [u8; 4]| {
            Ipv4Addr::from(octets)
        })
}

fn mac(bytes: &[u8]) -> MacAddress {
    bytes.try_into().map_or(MacAddress::ZERO, MacAddress)
}

impl CpuStack {
    /// Handles an ARP packet (CPU 0 only: every ARP frame's flow is CPU 0's).
    pub(crate) fn arp_input(
        &mut self,
        frame: FrameInfo,
        packet: &[u8],
    ) -> Result<Fate, DropReason> {
        self.counters.event(Event::ArpReceived);
        let arp = Arp::parse(packet)?;
        self.counters.event(match arp.is_request {
            true => Event::ArpRequestReceived,
            false => Event::ArpReplyReceived,
        });
        if arp.sender_mac.is_group() || arp.sender_mac == MacAddress::ZERO {
            return Err(DropReason::ArpBadSender);
        }
        self.arp_check_conflict(frame, &arp)?;
        // A probe (RFC 5227): the sender wants to know whether the target is free.
        let is_probe = arp.is_request && arp.sender.is_unspecified();
        if !is_probe {
            if is_martian_source(arp.sender)
                || self.tables.broadcast_interface(arp.sender).is_some()
            {
                return Err(DropReason::ArpBadSender);
            }
            if !self.tables.is_on_link(frame.interface, arp.sender) {
                return Err(DropReason::ArpNotLocal);
            }
        }
        let ours = self.arp_answer_mac(frame.interface, arp.target);
        // RFC 826: what is known is corrected by whatever packet says so, but a new entry is made
        // only for somebody who speaks to us. An announcement (sender = target, whatever its
        // target hardware field holds, request or reply) therefore corrects and creates nothing.
        let learned = !is_probe && self.arp_learn(frame, arp.sender, arp.sender_mac, ours.is_ok());
        match (arp.is_request, ours) {
            (true, Ok(mac)) => {
                let reply = Arp {
                    is_request: false,
                    sender_mac: mac,
                    sender: arp.target,
                    target: arp.sender,
                };
                self.arp_send(frame.interface, &reply, arp.sender_mac, arp.sender_mac, mac);
                self.counters.event(Event::ArpReplySent);
                Ok(Fate::Consumed)
            }
            (false, _) if !learned => Err(DropReason::ArpUnsolicited),
            (true, Err(reason)) if !learned => Err(reason),
            _ => Ok(Fate::Consumed),
        }
    }

    /// The MAC address with which we answer for `target` on `interface`.
    fn arp_answer_mac(
        &self,
        interface: InterfaceIndex,
        target: Ipv4Addr,
    ) -> Result<MacAddress, DropReason> {
        let not_ours = Err(DropReason::ArpNotForUs);
        match self.tables.virtual_by_address(target) {
            Some(entry) if entry.interface != interface => not_ours,
            Some(entry) if entry.master => Ok(entry.mac),
            Some(_) => Err(DropReason::ArpVirtualBackup),
            None if self.tables.owner_of(target) == Some(interface) => {
                self.tables.mac_of_source(interface, target)
            }
            None => not_ours,
        }
    }

    /// Somebody else speaking from an address of ours: tells the subscribers (CARP's sign of a
    /// split brain), defends a real address, and never learns it.
    fn arp_check_conflict(&mut self, frame: FrameInfo, arp: &Arp) -> Result<(), DropReason> {
        let vhid = match self.tables.virtual_by_address(arp.sender) {
            Some(entry) if entry.master && entry.interface == frame.interface => Some(entry.vhid),
            Some(_) => return Ok(()),
            None if self.tables.owner_of(arp.sender) == Some(frame.interface) => None,
            None => return Ok(()),
        };
        self.emit(Action::Event(NetworkEvent::AddressConflict {
            interface: frame.interface,
            address: arp.sender,
            vhid,
            mac: arp.sender_mac,
        }));
        if vhid.is_none() && self.now_ns >= self.defend_after_ns {
            self.defend_after_ns = self.now_ns + config::ARP_DEFEND_NS;
            if let Ok(mac) = self.tables.mac_of_source(frame.interface, arp.sender) {
                self.arp_announce(frame.interface, arp.sender, mac);
            }
        }
        Err(DropReason::ArpConflict)
    }

    /// Takes a neighbour's MAC address from a packet into CPU 0's cache and, where another CPU waits
    /// for it or knows otherwise, into the copies. Returns whether anything was learned.
    fn arp_learn(
        &mut self,
        frame: FrameInfo,
        neighbor: Ipv4Addr,
        mac: MacAddress,
        create: bool,
    ) -> bool {
        let key = ArpKey {
            interface: frame.interface,
            address: neighbor,
        };
        let now_ns = self.now_ns;
        let Some(learned) = self.arp.learn(now_ns, key, mac, create) else {
            return false;
        };
        if learned.moved {
            self.counters.event(Event::ArpMoved);
        }
        for cpu in 0..self.cpu_count {
            if cpu != self.cpu && (learned.moved || learned.asked_by.contains(cpu)) {
                let message = CpuMessage::ArpLearn { key, mac };
                self.emit(Action::Post { cpu, message });
            }
        }
        self.arp_forget_evicted(learned.evicted);
        self.arp_release(key.interface, mac, learned.released);
        true
    }

    /// A copy's part of [`CpuStack::arp_learn`].
    pub(crate) fn arp_learned(&mut self, key: ArpKey, mac: MacAddress) {
        if let Some(learned) = self.arp.learn(self.now_ns, key, mac, false) {
            self.arp_release(key.interface, mac, learned.released);
        }
    }

    /// CPU 0's answer to a copy that misses `key` or finds it stale.
    pub(crate) fn arp_asked(&mut self, key: ArpKey, from: u16) {
        let answer = self.arp.ask(self.now_ns, key, from);
        self.arp_forget_evicted(answer.evicted);
        match answer.mac {
            Some(mac) => {
                let message = CpuMessage::ArpLearn { key, mac };
                self.emit(Action::Post { cpu: from, message });
            }
            None if answer.request => self.arp_request(key, None),
            None => {}
        }
    }

    /// Tells the other CPUs to forget what CPU 0 had to forget for lack of room.
    fn arp_forget_evicted(&mut self, evicted: Option<ArpKey>) {
        let Some(key) = evicted else { return };
        self.counters.event(Event::ArpEvicted);
        let here = self.cpu;
        for cpu in (0..self.cpu_count).filter(|&cpu| cpu != here) {
            let message = CpuMessage::ArpForget { key };
            self.emit(Action::Post { cpu, message });
        }
    }

    fn arp_release(&mut self, interface: InterfaceIndex, mac: MacAddress, released: cache::Queue) {
        for held in released {
            let sent = self.send_frame(
                interface,
                EthernetProtocol::Ipv4,
                held.source_mac,
                mac,
                held.packet,
            );
            self.count_output(sent);
        }
    }

    /// Sends an IPv4 packet to a neighbour, now or when its MAC address is known.
    pub(crate) fn arp_output(&mut self, key: ArpKey, held: Held) -> Result<(), DropReason> {
        let resolved = self.arp.resolve(self.now_ns, key, held);
        if self.cpu == 0 {
            self.arp_forget_evicted(resolved.evicted);
        }
        if resolved.ask {
            self.arp_ask(key, resolved.send.as_ref().map(|(mac, _)| *mac));
        }
        if let Some(reason) = resolved.dropped {
            return Err(reason);
        }
        match resolved.send {
            Some((mac, held)) => self.send_frame(
                key.interface,
                EthernetProtocol::Ipv4,
                held.source_mac,
                mac,
                held.packet,
            ),
            None => Ok(()),
        }
    }

    /// Asks for a neighbour: CPU 0 on the wire, the others CPU 0. A neighbour that was `known` and is
    /// only being confirmed gets the request by unicast (RFC 1122, 2.3.2.1).
    fn arp_ask(&mut self, key: ArpKey, known: Option<MacAddress>) {
        match self.cpu {
            0 => self.arp_request(key, known),
            from => {
                let message = CpuMessage::ArpAsk { key, from };
                self.emit(Action::Post { cpu: 0, message });
            }
        }
    }

    fn arp_request(&mut self, key: ArpKey, known: Option<MacAddress>) {
        let hop = crate::lookup::Hop {
            interface: key.interface,
            neighbor: key.address,
        };
        let sender = self.tables.select_source(hop);
        let mac = self
            .tables
            .interface(key.interface)
            .and_then(|config| config.mac);
        let (Ok(sender), Some(sender_mac)) = (sender, mac) else {
            return;
        };
        let request = Arp {
            is_request: true,
            sender_mac,
            sender,
            target: key.address,
        };
        let to = known.unwrap_or(MacAddress::BROADCAST);
        self.arp_send(key.interface, &request, MacAddress::ZERO, to, sender_mac);
        self.counters.event(Event::ArpRequestSent);
    }

    /// Broadcasts that `address` is at `mac`: a request whose sender and target are both it.
    pub(crate) fn arp_announce(
        &mut self,
        interface: InterfaceIndex,
        address: Ipv4Addr,
        mac: MacAddress,
    ) {
        let announcement = Arp {
            is_request: true,
            sender_mac: mac,
            sender: address,
            target: address,
        };
        self.arp_send(
            interface,
            &announcement,
            MacAddress::ZERO,
            MacAddress::BROADCAST,
            mac,
        );
        self.counters.event(Event::ArpAnnouncementSent);
    }

    fn arp_send(
        &mut self,
        interface: InterfaceIndex,
        arp: &Arp,
        target_mac: MacAddress,
        to: MacAddress,
        from: MacAddress,
    ) {
        let Ok(mut packet) = Packet::allocate(config::HEADROOM_BYTES, ARP_BYTES) else {
            return self.counters.drop(DropReason::SendNoMemory);
        };
        let mut view = ArpPacket::new_unchecked(packet.data_mut());
        view.set_hardware_type(ArpHardware::Ethernet);
        view.set_protocol_type(EthernetProtocol::Ipv4);
        view.set_hardware_len(6);
        view.set_protocol_len(4);
        view.set_operation(match arp.is_request {
            true => ArpOperation::Request,
            false => ArpOperation::Reply,
        });
        view.set_source_hardware_addr(&arp.sender_mac.0);
        view.set_source_protocol_addr(&arp.sender.octets());
        view.set_target_hardware_addr(&target_mac.0);
        view.set_target_protocol_addr(&arp.target.octets());
        let sent = self.send_frame(interface, EthernetProtocol::Arp, from, to, packet);
        self.count_output(sent);
    }

    /// Retries and gives up what waits too long.
    pub(crate) fn arp_poll(&mut self) {
        while let Some((key, expired)) = self.arp.poll(self.now_ns) {
            match expired {
                None => self.arp_ask(key, None),
                Some(held) => {
                    held.iter()
                        .for_each(|_| self.counters.drop(DropReason::ArpTimeout));
                }
            }
        }
    }
}
