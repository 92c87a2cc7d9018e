//! What every CPU must know alike: interfaces, addresses, routes, virtual addresses, bindings.
//!
//! [`Tables`] is one CPU's copy; a [`Change`] is applied to CPU 0's first and then, if that
//! accepted it, to each other CPU's in turn (architecture rule 12). Readers look only at their own
//! copy and need no lock. The same change gives the same result on equal copies, so only CPU 0 can
//! refuse one. Lookups are linear: tables are short (see [`crate::config`]) and flat memory beats
//! a radix tree at this size; the interface is the seam if that ever changes.
//! Source: dragonfly sys/net/route.c (rtrequest1_global), section 6.6 of its fact sheet.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::Ipv4Addr;

use crate::address::{InterfaceIndex, Ipv4Prefix, MacAddress, VirtualAddress, is_host_address};
use crate::config;

/// One interface as the protocols see it.
#[derive(Clone, Debug)]
pub struct InterfaceConfig {
    /// `lo0`, `vtnet0`.
    pub name: String,
    /// The device's own address; the loopback interface has none.
    pub mac: Option<MacAddress>,
    /// Largest IP packet, bytes.
    pub mtu_bytes: u16,
    /// Set up by the administrator.
    pub up: bool,
    /// The device has a link.
    pub link: bool,
    /// Its own addresses; the first is the preferred source.
    pub addresses: Vec<Ipv4Prefix>,
    /// Multicast groups it listens to, besides all-hosts (224.0.0.1).
    pub groups: Vec<Ipv4Addr>,
}

/// A static route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it leads.
    pub destination: Ipv4Prefix,
    /// The neighbour that forwards there.
    pub gateway: Ipv4Addr,
}

/// Names a socket for its life; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SocketId(pub u64);

/// What kind of packets a binding catches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BindingKind {
    /// UDP datagrams to a port.
    Udp,
    /// ICMP echo replies with an identifier.
    Echo,
}

/// A socket's claim on a port (or echo identifier), known to every CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The socket.
    pub socket: SocketId,
    /// What it catches.
    pub kind: BindingKind,
    /// Only packets to this address; unspecified means any of ours.
    pub address: Ipv4Addr,
    /// The port or identifier.
    pub port: u16,
    /// The CPU that the socket and its receive queue live on.
    pub owner: u16,
}

/// One change to the tables. It is applied to every CPU's copy, CPU 0's first.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each field is what its name says")]
pub enum Change {
    /// Adds an interface; its index is the number of interfaces before it. It starts down.
    Attach {
        name: String,
        mac: MacAddress,
        mtu_bytes: u16,
        link: bool,
    },
    /// Sets an interface up or down.
    SetUp { interface: InterfaceIndex, up: bool },
    /// The device's link came or went.
    SetLink { interface: InterfaceIndex, up: bool },
    /// Adds an address; replaces the prefix length if the interface has the address already.
    AddAddress {
        interface: InterfaceIndex,
        address: Ipv4Prefix,
    },
    /// Removes an address.
    RemoveAddress {
        interface: InterfaceIndex,
        address: Ipv4Addr,
    },
    /// Listens to a multicast group.
    JoinGroup {
        interface: InterfaceIndex,
        group: Ipv4Addr,
    },
    /// Adds a static route.
    AddRoute(Route),
    /// Deletes the static route to a prefix.
    DeleteRoute { destination: Ipv4Prefix },
    /// Adds a virtual address or replaces the one with the same interface and address.
    SetVirtual(VirtualAddress),
    /// Removes a virtual address.
    RemoveVirtual {
        interface: InterfaceIndex,
        address: Ipv4Addr,
    },
    /// Makes this node master of a vhid, or not.
    SetMaster {
        interface: InterfaceIndex,
        vhid: u8,
        master: bool,
    },
    /// Opens a socket's binding.
    Bind(Binding),
    /// Closes it.
    Unbind(SocketId),
    /// Forgets one neighbour's MAC address.
    ForgetNeighbor { address: Ipv4Addr },
    /// Forgets all of them.
    FlushNeighbors,
}

/// Why a change was refused. Nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// No interface has that name or index.
    NoSuchInterface,
    /// An interface of that name exists.
    InterfaceExists,
    /// Group, zero and reserved addresses can be given to nobody.
    BadAddress,
    /// Another interface or a virtual address has it; remove it there first.
    AddressInUse,
    /// The interface does not have that address.
    NoSuchAddress,
    /// There is a route to that prefix; delete it first.
    RouteExists,
    /// There is no static route to that prefix.
    NoSuchRoute,
    /// The gateway is on no directly connected network; add an address first.
    GatewayUnreachable,
    /// No virtual address of that vhid on the interface.
    NoSuchVirtual,
    /// Another socket has the port; choose another.
    PortInUse,
    /// A limit of [`crate::config`] is reached.
    TooMany,
    /// Memory is short; let go of something, or try again later.
    NoMemory,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            ConfigError::NoSuchInterface => "no such interface",
            ConfigError::InterfaceExists => "interface exists",
            ConfigError::BadAddress => "address cannot be used",
            ConfigError::AddressInUse => "address already in use",
            ConfigError::NoSuchAddress => "no such address",
            ConfigError::RouteExists => "route exists",
            ConfigError::NoSuchRoute => "no such route",
            ConfigError::GatewayUnreachable => "gateway is not on a connected network",
            ConfigError::NoSuchVirtual => "no such virtual address",
            ConfigError::PortInUse => "port already in use",
            ConfigError::TooMany => "too many",
            ConfigError::NoMemory => "no memory for it",
        })
    }
}

impl core::error::Error for ConfigError {}

/// One CPU's copy of the tables.
#[derive(Clone, Debug)]
pub struct Tables {
    pub(crate) interfaces: Vec<InterfaceConfig>,
    pub(crate) routes: Vec<Route>,
    pub(crate) virtuals: Vec<VirtualAddress>,
    /// Sorted by kind and port.
    pub(crate) bindings: Vec<Binding>,
}

impl Tables {
    /// The tables of a node that has just started: `lo0` with 127.0.0.1/8.
    pub fn new() -> Tables {
        let loopback = Ipv4Prefix::new(Ipv4Addr::LOCALHOST, 8);
        Tables {
            interfaces: Vec::from([InterfaceConfig {
                name: String::from("lo0"),
                mac: None,
                mtu_bytes: config::LOOPBACK_MTU_BYTES,
                up: true,
                link: true,
                addresses: loopback.into_iter().collect(),
                groups: Vec::new(),
            }]),
            routes: Vec::new(),
            virtuals: Vec::new(),
            bindings: Vec::new(),
        }
    }

    /// Applies a change, or refuses it and changes nothing.
    pub fn apply(&mut self, change: &Change) -> Result<(), ConfigError> {
        match change {
            Change::Attach {
                name,
                mac,
                mtu_bytes,
                link,
            } => {
                if self.find(name).is_some() {
                    return Err(ConfigError::InterfaceExists);
                }
                room(self.interfaces.len(), config::INTERFACES)?;
                self.interfaces.push(InterfaceConfig {
                    name: name.clone(),
                    mac: Some(*mac),
                    mtu_bytes: *mtu_bytes,
                    up: false,
                    link: *link,
                    addresses: Vec::new(),
                    groups: Vec::new(),
                });
            }
            Change::SetUp { interface, up } => self.config_mut(*interface)?.up = *up,
            Change::SetLink { interface, up } => self.config_mut(*interface)?.link = *up,
            Change::AddAddress { interface, address } => self.add_address(*interface, *address)?,
            Change::RemoveAddress { interface, address } => {
                let addresses = &mut self.config_mut(*interface)?.addresses;
                let position = addresses.iter().position(|own| own.address() == *address);
                addresses.remove(position.ok_or(ConfigError::NoSuchAddress)?);
            }
            Change::JoinGroup { interface, group } => {
                if !group.is_multicast() {
                    return Err(ConfigError::BadAddress);
                }
                let groups = &mut self.config_mut(*interface)?.groups;
                if !groups.contains(group) {
                    room(groups.len(), config::ADDRESSES)?;
                    groups.push(*group);
                }
            }
            Change::AddRoute(route) => self.add_route(*route)?,
            Change::DeleteRoute { destination } => {
                let same = |route: &Route| route.destination == destination.network();
                let position = self.routes.iter().position(same);
                self.routes
                    .remove(position.ok_or(ConfigError::NoSuchRoute)?);
            }
            Change::SetVirtual(new) => self.set_virtual(*new)?,
            Change::RemoveVirtual { interface, address } => {
                let position = self.virtuals.iter().position(|entry| {
                    entry.interface == *interface && entry.address.address() == *address
                });
                self.virtuals
                    .remove(position.ok_or(ConfigError::NoSuchVirtual)?);
            }
            Change::SetMaster {
                interface,
                vhid,
                master,
            } => {
                let mut found = false;
                for entry in self.virtuals.iter_mut() {
                    if (entry.interface, entry.vhid) == (*interface, *vhid) {
                        entry.master = *master;
                        found = true;
                    }
                }
                return found.then_some(()).ok_or(ConfigError::NoSuchVirtual);
            }
            Change::Bind(binding) => self.bind(*binding)?,
            Change::Unbind(socket) => self.bindings.retain(|binding| binding.socket != *socket),
            Change::ForgetNeighbor { .. } | Change::FlushNeighbors => {}
        }
        Ok(())
    }

    fn add_address(
        &mut self,
        interface: InterfaceIndex,
        address: Ipv4Prefix,
    ) -> Result<(), ConfigError> {
        let host = address.address();
        let is_edge = address.length() < 31
            && (host == address.network().address() || Some(host) == address.broadcast());
        if !is_host_address(host) || is_edge {
            return Err(ConfigError::BadAddress);
        }
        let owner = self.owner_of(host);
        if self.virtual_by_address(host).is_some() || owner.is_some_and(|owner| owner != interface)
        {
            return Err(ConfigError::AddressInUse);
        }
        let addresses = &mut self.config_mut(interface)?.addresses;
        match addresses.iter_mut().find(|own| own.address() == host) {
            Some(own) => *own = address,
            None => {
                room(addresses.len(), config::ADDRESSES)?;
                addresses.push(address);
            }
        }
        Ok(())
    }

    fn add_route(&mut self, route: Route) -> Result<(), ConfigError> {
        let destination = route.destination.network();
        if self.routes.iter().any(|old| old.destination == destination) {
            return Err(ConfigError::RouteExists);
        }
        if self.connected(route.gateway).is_none() || self.owner_of(route.gateway).is_some() {
            return Err(ConfigError::GatewayUnreachable);
        }
        room(self.routes.len(), config::ROUTES)?;
        self.routes.push(Route {
            destination,
            ..route
        });
        Ok(())
    }

    fn set_virtual(&mut self, new: VirtualAddress) -> Result<(), ConfigError> {
        let host = new.address.address();
        if !is_host_address(host) || new.vhid == 0 || new.interface == InterfaceIndex::LOOPBACK {
            return Err(ConfigError::BadAddress);
        }
        self.config_mut(new.interface)?;
        if self.owner_of(host).is_some() {
            return Err(ConfigError::AddressInUse);
        }
        match self
            .virtuals
            .iter_mut()
            .find(|old| old.address.address() == host)
        {
            Some(old) if old.interface != new.interface => return Err(ConfigError::AddressInUse),
            Some(old) => *old = new,
            None => {
                room(self.virtuals.len(), config::ADDRESSES)?;
                self.virtuals.push(new);
            }
        }
        Ok(())
    }

    fn bind(&mut self, binding: Binding) -> Result<(), ConfigError> {
        let any = Ipv4Addr::UNSPECIFIED;
        let clashes = |old: &Binding| {
            old.address == binding.address || old.address == any || binding.address == any
        };
        if self
            .bindings_of_port(binding.kind, binding.port)
            .iter()
            .any(clashes)
        {
            return Err(ConfigError::PortInUse);
        }
        room(self.bindings.len(), config::SOCKETS)?;
        let key = (binding.kind, binding.port);
        let position = self
            .bindings
            .partition_point(|old| (old.kind, old.port) < key);
        self.bindings.insert(position, binding);
        Ok(())
    }

    fn config_mut(
        &mut self,
        interface: InterfaceIndex,
    ) -> Result<&mut InterfaceConfig, ConfigError> {
        self.interfaces
            .get_mut(interface.index())
            .ok_or(ConfigError::NoSuchInterface)
    }
}

impl Default for Tables {
    fn default() -> Tables {
        Tables::new()
    }
}

fn room(count: usize, limit: usize) -> Result<(), ConfigError> {
    (count < limit).then_some(()).ok_or(ConfigError::TooMany)
}
