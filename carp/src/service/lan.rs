//! What the service needs of a network: [`Lan`]. [`net::Network`] is one, in `network.rs`.
//!
//! Decision: a trait between two parts of one kernel, for the tests: a LAN of two services and no
//! network at all shows an election in milliseconds.

use alloc::string::String;
use alloc::vec::Vec;
use core::future::Future;

use net::{ConfigError, DropReason, InterfaceIndex, Ipv4Prefix, RawIpv4, VirtualAddress};

use super::Input;

/// An interface that could be a parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Its index.
    pub index: InterfaceIndex,
    /// Its name.
    pub name: String,
    /// Its own addresses.
    pub addresses: Vec<Ipv4Prefix>,
    /// It was set up.
    pub up: bool,
    /// It has a carrier.
    pub link: bool,
}

/// A network that CARP can run on.
pub trait Lan: 'static {
    /// Calls `sink` with each advertisement, conflict and change from now on.
    fn listen(
        &self,
        sink: impl Fn(Input) + Clone + Send + Sync + 'static,
    ) -> impl Future<Output = ()>;

    /// The interfaces that can carry multicast.
    fn parents(&self) -> impl Future<Output = Vec<Parent>>;

    /// Takes part in a group on an interface.
    fn join(&self, parent: &Parent, group: core::net::Ipv4Addr) -> impl Future<Output = ()>;

    /// Tells every CPU of a virtual address.
    fn set_virtual(&self, address: VirtualAddress)
    -> impl Future<Output = Result<(), ConfigError>>;

    /// Has every CPU forget a virtual address.
    fn remove_virtual(&self, address: VirtualAddress) -> impl Future<Output = ()>;

    /// Tells every CPU whether this node is master of a vhid.
    fn set_master(
        &self,
        interface: InterfaceIndex,
        vhid: u8,
        master: bool,
    ) -> impl Future<Output = ()>;

    /// Broadcasts a gratuitous ARP for each address of a vhid.
    ///
    /// # Errors
    /// If nothing was sent.
    fn announce(&self, interface: InterfaceIndex, vhid: u8) -> Result<(), DropReason>;

    /// Sends a packet from the virtual MAC address of a vhid, or from the interface's own.
    ///
    /// # Errors
    /// If it was not sent.
    fn send(
        &self,
        interface: InterfaceIndex,
        vhid: Option<u8>,
        packet: RawIpv4<'_>,
    ) -> Result<(), DropReason>;
}
