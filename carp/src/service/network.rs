//! The node's network as the service sees it: [`Lan`] for [`net::Network`].
//!
//! Decision: what reaches us from the network is one message each, posted on CPU 0 where the network calls
//! its handlers; nothing of CARP runs inside the network's own work.

use alloc::vec::Vec;
use core::net::Ipv4Addr;

use net::{
    ConfigError, DropReason, InterfaceIndex, Network, NetworkEvent, ProtocolInput, RawIpv4,
    VirtualAddress,
};

use super::Input;
use super::lan::{Lan, Parent};
use crate::wire::PROTOCOL;

impl Lan for Network {
    async fn listen(&self, sink: impl Fn(Input) + Clone + Send + Sync + 'static) {
        let adverts = sink.clone();
        let advert = move |input: ProtocolInput| {
            adverts(Input::Advert {
                interface: input.frame.interface,
                source: input.source,
                ttl: input.ttl,
                packet: input.packet,
            });
        };
        self.register_protocol(PROTOCOL, advert).await;
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
        self.subscribe(event).await;
    }

    async fn parents(&self) -> Vec<Parent> {
        let interfaces = self
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
        if let Err(error) = self.join_group(&parent.name, group).await {
            log::warn!("{}: cannot join {group}: {error}", parent.name);
        }
    }

    async fn set_virtual(&self, address: VirtualAddress) -> Result<(), ConfigError> {
        Network::set_virtual(self, address).await
    }

    async fn remove_virtual(&self, address: VirtualAddress) {
        // Refused only if it is gone already.
        let _ = Network::remove_virtual(self, address.interface, address.address.address()).await;
    }

    async fn set_master(&self, interface: InterfaceIndex, vhid: u8, master: bool) {
        // Refused only if the vhid has no address, and then there is nothing to answer for.
        let _ = Network::set_master(self, interface, vhid, master).await;
    }

    fn announce(&self, interface: InterfaceIndex, vhid: u8) -> Result<(), DropReason> {
        Network::announce(self, interface, vhid)
    }

    fn send(
        &self,
        interface: InterfaceIndex,
        vhid: Option<u8>,
        packet: RawIpv4<'_>,
    ) -> Result<(), DropReason> {
        match vhid {
            Some(vhid) => self.send_from_virtual(interface, vhid, &packet),
            None => self.send_from_interface(interface, &packet),
        }
    }
}
