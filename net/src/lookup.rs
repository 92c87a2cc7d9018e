//! The questions input and output ask of the [`Tables`]: whose address is this, where does this
//! destination go, which source address speaks for us.
//!
//! Automatic source selection knows real addresses only. A virtual address is a source where the
//! caller names it (an answer to a packet sent to it), and only while this node is its master:
//! that makes "never from a virtual address we do not own" a property of one function.

use core::net::Ipv4Addr;

use crate::address::{InterfaceIndex, Ipv4Prefix, MacAddress, VirtualAddress};
use crate::counters::DropReason;
use crate::tables::{Binding, BindingKind, InterfaceConfig, SocketId, Tables};

/// What an address means to this node as the destination of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// An address of ours, or a virtual one we are master of.
    Ours,
    /// A virtual address we are backup for: the master's, not ours.
    VirtualBackup,
    /// Everybody on a network of ours.
    Broadcast,
    /// A group.
    Multicast,
    /// Somebody else.
    Other,
}

/// Where a packet leaves, and to whom it is addressed there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The interface.
    pub interface: InterfaceIndex,
    /// The neighbour: the destination itself or a gateway.
    pub neighbor: Ipv4Addr,
}

impl Tables {
    /// The interface of that name.
    pub fn find(&self, name: &str) -> Option<InterfaceIndex> {
        let position = self
            .interfaces
            .iter()
            .position(|interface| interface.name == name)?;
        u16::try_from(position).ok().map(InterfaceIndex)
    }

    /// An interface's configuration.
    pub fn interface(&self, index: InterfaceIndex) -> Option<&InterfaceConfig> {
        self.interfaces.get(index.index())
    }

    pub(crate) fn enumerate(&self) -> impl Iterator<Item = (InterfaceIndex, &InterfaceConfig)> {
        (0u16..).map(InterfaceIndex).zip(self.interfaces.iter())
    }

    /// The interface that has this real address.
    pub(crate) fn owner_of(&self, address: Ipv4Addr) -> Option<InterfaceIndex> {
        let has = |own: &Ipv4Prefix| own.address() == address;
        let mut interfaces = self.enumerate();
        interfaces
            .find(|(_, interface)| interface.addresses.iter().any(has))
            .map(|(index, _)| index)
    }

    pub(crate) fn virtual_by_address(&self, address: Ipv4Addr) -> Option<&VirtualAddress> {
        self.virtuals
            .iter()
            .find(|entry| entry.address.address() == address)
    }

    /// The virtual addresses of an interface that use this MAC address: whether there is one, and
    /// whether we are master of one.
    pub(crate) fn virtual_mac_state(
        &self,
        interface: InterfaceIndex,
        mac: MacAddress,
    ) -> Option<bool> {
        let mut same = self
            .virtuals
            .iter()
            .filter(|entry| entry.interface == interface && entry.mac == mac)
            .peekable();
        same.peek()?;
        Some(same.any(|entry| entry.master))
    }

    /// Whether `address` is on a network directly connected to `interface`.
    pub(crate) fn is_on_link(&self, interface: InterfaceIndex, address: Ipv4Addr) -> bool {
        let own = self
            .interface(interface)
            .map(|config| config.addresses.iter());
        let virtuals = self
            .virtuals
            .iter()
            .filter(|entry| entry.interface == interface);
        own.into_iter()
            .flatten()
            .chain(virtuals.map(|entry| &entry.address))
            .any(|prefix| prefix.contains(address))
    }

    /// What `address` means as a destination.
    pub(crate) fn classify(&self, address: Ipv4Addr) -> Destination {
        if let Some(entry) = self.virtual_by_address(address) {
            return match entry.master {
                true => Destination::Ours,
                false => Destination::VirtualBackup,
            };
        }
        if address.is_multicast() {
            return Destination::Multicast;
        }
        if address.is_broadcast() || self.broadcast_interface(address).is_some() {
            return Destination::Broadcast;
        }
        match address.is_loopback() || self.owner_of(address).is_some() {
            true => Destination::Ours,
            false => Destination::Other,
        }
    }

    /// The interface whose directed broadcast address this is.
    pub(crate) fn broadcast_interface(&self, address: Ipv4Addr) -> Option<InterfaceIndex> {
        let is = |own: &Ipv4Prefix| own.broadcast() == Some(address);
        let mut interfaces = self
            .enumerate()
            .filter(|(_, interface)| interface.mac.is_some());
        interfaces
            .find(|(_, interface)| interface.addresses.iter().any(is))
            .map(|(index, _)| index)
    }

    /// Whether `interface` listens to `group`.
    pub(crate) fn is_member(&self, interface: InterfaceIndex, group: Ipv4Addr) -> bool {
        group == Ipv4Addr::new(224, 0, 0, 1)
            || self
                .interface(interface)
                .is_some_and(|config| config.groups.contains(&group))
    }

    /// The directly connected network with the longest prefix that has `address`.
    pub(crate) fn connected(&self, address: Ipv4Addr) -> Option<(InterfaceIndex, Ipv4Prefix)> {
        self.enumerate()
            .filter(|(_, interface)| interface.up)
            .flat_map(|(index, interface)| interface.addresses.iter().map(move |own| (index, *own)))
            .filter(|(_, own)| own.contains(address))
            .max_by_key(|(index, own)| (own.length(), core::cmp::Reverse(*index)))
    }

    /// Where a packet to `destination` leaves. A limited broadcast or a group goes out of the first
    /// interface that is up and has an address, unless a route says otherwise.
    pub fn route(&self, destination: Ipv4Addr) -> Result<Hop, DropReason> {
        if destination.is_broadcast() || destination.is_multicast() {
            let usable = |config: &InterfaceConfig| {
                config.up && config.mac.is_some() && !config.addresses.is_empty()
            };
            let mut interfaces = self.enumerate();
            let (interface, _) = interfaces
                .find(|(_, config)| usable(config))
                .ok_or(DropReason::NoRoute)?;
            return Ok(Hop {
                interface,
                neighbor: destination,
            });
        }
        let connected = self.connected(destination);
        let connected_length = connected.map(|(_, prefix)| prefix.length());
        let mut best = self
            .routes
            .iter()
            .filter(|route| route.destination.contains(destination))
            .filter(|route| connected_length.is_none_or(|len| route.destination.length() > len))
            .filter_map(|route| Some((route, self.connected(route.gateway)?)));
        let longest = best
            .by_ref()
            .max_by_key(|(route, _)| route.destination.length());
        match (longest, connected) {
            (Some((route, (interface, _))), _) => Ok(Hop {
                interface,
                neighbor: route.gateway,
            }),
            (None, Some((interface, _))) => Ok(Hop {
                interface,
                neighbor: destination,
            }),
            (None, None) => Err(DropReason::NoRoute),
        }
    }

    /// The source address of a packet that leaves by `hop`: the interface's address on the
    /// neighbour's network, else its first. Never a virtual address.
    pub fn select_source(&self, hop: Hop) -> Result<Ipv4Addr, DropReason> {
        let addresses = self
            .interface(hop.interface)
            .map(|config| &config.addresses);
        addresses
            .and_then(|own| {
                own.iter()
                    .find(|own| own.contains(hop.neighbor))
                    .or(own.first())
            })
            .map(Ipv4Prefix::address)
            .ok_or(DropReason::NoSourceAddress)
    }

    /// Whether we may send from `source` (given by the caller) now.
    pub(crate) fn check_source(&self, source: Ipv4Addr) -> Result<(), DropReason> {
        match self.virtual_by_address(source) {
            Some(entry) if entry.master => Ok(()),
            Some(_) => Err(DropReason::SourceVirtualBackup),
            None if source.is_loopback() || self.owner_of(source).is_some() => Ok(()),
            None => Err(DropReason::SourceNotOurs),
        }
    }

    /// The MAC address that frames with this IP source leave `interface` from.
    pub(crate) fn mac_of_source(
        &self,
        interface: InterfaceIndex,
        source: Ipv4Addr,
    ) -> Result<MacAddress, DropReason> {
        match self.virtual_by_address(source) {
            Some(entry) if entry.interface == interface => Ok(entry.mac),
            _ => self
                .interface(interface)
                .and_then(|config| config.mac)
                .ok_or(DropReason::NoRoute),
        }
    }

    /// The binding that catches a packet to this address and port.
    pub(crate) fn binding(
        &self,
        kind: BindingKind,
        address: Ipv4Addr,
        port: u16,
    ) -> Option<&Binding> {
        let mut claims = self.bindings_of_port(kind, port).iter();
        claims.find(|claim| claim.address == address || claim.address.is_unspecified())
    }

    /// All bindings of a port, each to another address.
    pub(crate) fn bindings_of_port(&self, kind: BindingKind, port: u16) -> &[Binding] {
        let key = |binding: &Binding| (binding.kind, binding.port);
        let start = self
            .bindings
            .partition_point(|binding| key(binding) < (kind, port));
        let same = self.bindings.get(start..).unwrap_or_default();
        let count = same.partition_point(|binding| key(binding) == (kind, port));
        same.get(..count).unwrap_or_default()
    }

    /// The binding of a socket.
    pub(crate) fn binding_of(&self, socket: SocketId) -> Option<&Binding> {
        self.bindings
            .iter()
            .find(|binding| binding.socket == socket)
    }
}

#[cfg(test)]
#[path = "lookup_tests.rs"]
mod tests;
