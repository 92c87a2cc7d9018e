//! The network of this kernel: its devices attached, CARP on top.
//!
//! [`start`] brings the protocols up on every CPU and attaches each device as `vtnetN`. [`NetworkLan`] is the network as the CARP service sees it.
//!
//! Decision: a device that does not come up is logged and left out; a kernel without any network still
//! boots, with `lo0`.

use alloc::format;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use executor::Node;
use net::{
    ConfigError, Device, DeviceStatistics, DropReason, Interface, InterfaceIndex, Network,
    NetworkEvent, Packet, ProtocolInput, RawIpv4, VirtualAddress,
};

use crate::carp_service::lan::{Lan, Parent};
use crate::carp_service::{self, Carp, Input};
use crate::drivers::virtio::transport::Transport;
use crate::drivers::vtnet::{Receiver, Vtnet};

/// Brings the network up with these devices. To be called on the CPU that gets their interrupts.
pub async fn start<T: Transport>(node: &Node, devices: Vec<Vtnet<T>>) -> (Network, Carp) {
    let seed = seed(node, &devices);
    let network = Network::start(node, seed).await;
    for (number, vtnet) in devices.into_iter().enumerate() {
        let name = format!("vtnet{number}");
        let device = vtnet.device();
        log::info!("{name}: Ethernet address {}", device.mac());
        match network.attach(&name, device).await {
            Ok(interface) => vtnet.start(InterfaceReceiver(interface)),
            Err(error) => log::warn!("{name}: {error}"),
        }
    }
    let carp = carp_service::start(NetworkLan(network.clone()), seed).await;
    (network, carp)
}

/// A number that differs from node to node (the devices' addresses) and from boot to boot (the clock):
/// FNV-1a of both. Nothing secret depends on it.
fn seed<T: Transport>(node: &Node, devices: &[Vtnet<T>]) -> u64 {
    let macs = devices.iter().flat_map(|vtnet| vtnet.device().mac().0);
    macs.fold(node.clock_ns(), |seed, byte| {
        (seed ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// Hands what a device receives to its interface.
struct InterfaceReceiver(Interface);

impl Receiver for InterfaceReceiver {
    fn input(&self, packet: Packet) {
        self.0.input(packet);
    }

    fn link_changed(&self, _: bool) {
        self.0.link_changed();
    }
}

/// The network as CARP sees it.
pub struct NetworkLan(pub Network);

impl Lan for NetworkLan {
    async fn listen(&self, sink: impl Fn(Input) + Clone + Send + Sync + 'static) {
        let adverts = sink.clone();
        let protocol = carp::wire::PROTOCOL;
        let advert = move |input: ProtocolInput| {
            adverts(Input::Advert {
                interface: input.frame.interface,
                source: input.source,
                ttl: input.ttl,
                packet: input.packet,
            });
        };
        self.0.register_protocol(protocol, advert).await;
        let event = move |event: &NetworkEvent| match *event {
            NetworkEvent::AddressConflict {
                interface,
                address,
                vhid: Some(vhid),
                mac,
            } => {
                sink(Input::Conflict {
                    interface,
                    vhid,
                    address,
                    mac,
                });
            }
            NetworkEvent::AddressConflict {
                vhid: None,
                address,
                mac,
                ..
            } => {
                log::warn!("{address} is also used by {mac}");
            }
            NetworkEvent::LinkChange { .. } | NetworkEvent::AddressChange { .. } => {
                sink(Input::NetworkChanged);
            }
        };
        self.0.subscribe(event).await;
    }

    async fn parents(&self) -> Vec<Parent> {
        let interfaces = self
            .0
            .interfaces()
            .into_iter()
            .filter(|status| !status.is_loopback);
        interfaces
            .map(|status| Parent {
                index: status.index,
                name: status.name,
                addresses: status.addresses,
                up: status.up,
                link: status.link,
            })
            .collect()
    }

    async fn join(&self, parent: &Parent, group: Ipv4Addr) {
        if let Err(error) = self.0.join_group(&parent.name, group).await {
            log::warn!("{}: cannot join {group}: {error}", parent.name);
        }
    }

    async fn set_virtual(&self, address: VirtualAddress) -> Result<(), ConfigError> {
        self.0.set_virtual(address).await
    }

    async fn remove_virtual(&self, address: VirtualAddress) {
        // Refused only if it is gone already.
        let _ = self
            .0
            .remove_virtual(address.interface, address.address.address())
            .await;
    }

    async fn set_master(&self, interface: InterfaceIndex, vhid: u8, master: bool) {
        // Refused only if the vhid has no address, and then there is nothing to answer for.
        let _ = self.0.set_master(interface, vhid, master).await;
    }

    fn announce(&self, interface: InterfaceIndex, vhid: u8) -> Result<(), DropReason> {
        self.0.announce(interface, vhid)
    }

    fn send(
        &self,
        interface: InterfaceIndex,
        vhid: Option<u8>,
        packet: RawIpv4<'_>,
    ) -> Result<(), DropReason> {
        match vhid {
            Some(vhid) => self.0.send_from_virtual(interface, vhid, &packet),
            None => self.0.send_from_interface(interface, &packet),
        }
    }
}

/// Counters of an interface as one row of `netstat -i`.
#[must_use]
pub fn interface_row(
    name: &str,
    mtu_bytes: u16,
    counters: &DeviceStatistics,
) -> alloc::string::String {
    format!(
        "{name:<8} {mtu_bytes:>6} {:>10} {:>12} {:>7} {:>10} {:>12} {:>7}",
        counters.received_packets,
        counters.received_bytes,
        counters.received_drops,
        counters.sent_packets,
        counters.sent_bytes,
        counters.sent_drops
    )
}
