//! What commands and CARP ask of the network: changes that every CPU takes, and views.
//!
//! A change is a message chain: CPU 0 decides, and if it takes the change the chain goes on through
//! 1..N; the future is ready when the last CPU has it. Chains do not overtake each other, because
//! each hop sends the next from within, so all copies see all changes in one order. Views that are not
//! of one CPU visit the CPUs one after another.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use executor::CpuId;
use spin::Once;

use crate::address::{InterfaceIndex, Ipv4Prefix, MacAddress, VirtualAddress, multicast_mac};
use crate::arp::cache::ArpState;
use crate::counters::DropReason;
use crate::device::{Device, DeviceStatistics};
use crate::network::{Interface, Network};
use crate::stack::{CpuStack, NetworkEvent, ProtocolInput};
use crate::stats::Snapshot;
use crate::tables::{Change, ConfigError, Route};
use crate::virtual_address::RawIpv4;

/// An interface as `ifconfig` shows it.
#[derive(Clone, Debug)]
pub struct InterfaceStatus {
    /// Its index.
    pub index: InterfaceIndex,
    /// Its name.
    pub name: String,
    /// Set up by the administrator.
    pub up: bool,
    /// Has a link (BSD: RUNNING).
    pub link: bool,
    /// It is `lo0`; all others are Ethernet, with broadcast and multicast.
    pub is_loopback: bool,
    /// Its device's address.
    pub mac: Option<MacAddress>,
    /// Largest IP packet, bytes.
    pub mtu_bytes: u16,
    /// Its own addresses.
    pub addresses: Vec<Ipv4Prefix>,
    /// Multicast groups it listens to, besides all-hosts.
    pub groups: Vec<Ipv4Addr>,
    /// CARP's addresses on it.
    pub virtual_addresses: Vec<VirtualAddress>,
    /// The device's counters.
    pub counters: DeviceStatistics,
}

/// A neighbour as `arp -a` shows it.
#[derive(Clone, Debug)]
pub struct ArpEntry {
    /// Its address.
    pub address: Ipv4Addr,
    /// Where it is, if known.
    pub mac: Option<MacAddress>,
    /// The name of the interface it is on.
    pub interface: String,
    /// How fresh that is.
    pub state: ArpState,
}

/// A route as `netstat -r` shows it.
#[derive(Clone, Debug)]
pub struct RouteStatus {
    /// Where it leads.
    pub destination: Ipv4Prefix,
    /// The neighbour that forwards there; none: the network is directly connected.
    pub gateway: Option<Ipv4Addr>,
    /// The name of the interface it leaves by; empty while the gateway is on no connected network.
    pub interface: String,
}

impl Network {
    /// Attaches a device under a name. The interface starts down and without an address.
    pub async fn attach(
        &self,
        name: &str,
        device: Arc<dyn Device>,
    ) -> Result<Interface, ConfigError> {
        let attach = Change::Attach {
            name: String::from(name),
            mac: device.mac(),
            mtu_bytes: device.mtu_bytes(),
            link: device.link_up(),
        };
        let network = self.clone();
        let index = Arc::new(Once::new());
        let chosen = index.clone();
        self.change_with(move |stack| {
            let count = stack.tables().interfaces.len();
            if let Some(slot) = network.shared.devices.get(count) {
                // The chain runs this on CPU 0 alone and one chain at a time. Should the change be
                // refused, `apply` below says so and the slot must stay empty.
                stack.tables().clone().apply(&attach)?;
                slot.call_once(|| device.clone());
                chosen.call_once(|| InterfaceIndex(count as u16));
            }
            Ok(attach.clone())
        })
        .await?;
        let index = *index.get().ok_or(ConfigError::TooMany)?;
        Ok(Interface {
            network: self.clone(),
            index,
        })
    }

    /// The interface of that name.
    pub fn find(&self, name: &str) -> Result<InterfaceIndex, ConfigError> {
        let index = self.shared.with(|state| state.stack.tables().find(name));
        index.ok_or(ConfigError::NoSuchInterface)
    }

    /// Gives an interface an address.
    pub async fn add_address(&self, name: &str, address: Ipv4Prefix) -> Result<(), ConfigError> {
        let interface = self.find(name)?;
        self.change(Change::AddAddress { interface, address }).await
    }

    /// Takes an address from an interface.
    pub async fn remove_address(&self, name: &str, address: Ipv4Addr) -> Result<(), ConfigError> {
        let interface = self.find(name)?;
        self.change(Change::RemoveAddress { interface, address })
            .await
    }

    /// Sets an interface up or down.
    pub async fn set_up(&self, name: &str, up: bool) -> Result<(), ConfigError> {
        let interface = self.find(name)?;
        self.change(Change::SetUp { interface, up }).await
    }

    /// Listens to a multicast group on an interface.
    pub async fn join_group(&self, name: &str, group: Ipv4Addr) -> Result<(), ConfigError> {
        let interface = self.find(name)?;
        self.change(Change::JoinGroup { interface, group }).await?;
        self.set_receive_filter(interface);
        Ok(())
    }

    /// Adds a static route; `0.0.0.0/0` is the default route.
    pub async fn add_route(
        &self,
        destination: Ipv4Prefix,
        gateway: Ipv4Addr,
    ) -> Result<(), ConfigError> {
        self.change(Change::AddRoute(Route {
            destination,
            gateway,
        }))
        .await
    }

    /// Deletes a static route.
    pub async fn delete_route(&self, destination: Ipv4Prefix) -> Result<(), ConfigError> {
        self.change(Change::DeleteRoute { destination }).await
    }

    /// Forgets a neighbour on every CPU. Whether it was known.
    pub async fn arp_delete(&self, address: Ipv4Addr) -> bool {
        let known = self
            .arp_table()
            .await
            .iter()
            .any(|entry| entry.address == address);
        let forgotten = self.change(Change::ForgetNeighbor { address }).await;
        known && forgotten.is_ok()
    }

    /// Forgets all neighbours on every CPU.
    pub async fn arp_flush(&self) {
        // It cannot be refused.
        let _ = self.change(Change::FlushNeighbors).await;
    }

    /// Adds or replaces a virtual address; every CPU's ARP and IP know it when this is ready.
    pub async fn set_virtual(&self, entry: VirtualAddress) -> Result<(), ConfigError> {
        self.change(Change::SetVirtual(entry)).await?;
        self.set_receive_filter(entry.interface);
        Ok(())
    }

    /// Removes a virtual address.
    pub async fn remove_virtual(
        &self,
        interface: InterfaceIndex,
        address: Ipv4Addr,
    ) -> Result<(), ConfigError> {
        self.change(Change::RemoveVirtual { interface, address })
            .await?;
        self.set_receive_filter(interface);
        Ok(())
    }

    /// Makes this node master of a vhid, or backup. When it is ready every CPU behaves so.
    pub async fn set_master(
        &self,
        interface: InterfaceIndex,
        vhid: u8,
        master: bool,
    ) -> Result<(), ConfigError> {
        self.change(Change::SetMaster {
            interface,
            vhid,
            master,
        })
        .await
    }

    /// Broadcasts where a vhid's addresses are. Refused while we are not its master.
    pub fn announce(&self, interface: InterfaceIndex, vhid: u8) -> Result<(), DropReason> {
        self.shared
            .drive(|stack, now_ns| stack.announce(now_ns, interface, vhid))
    }

    /// Sends a raw packet from a vhid's virtual MAC address. Refused while we are not its master.
    pub fn send_from_virtual(
        &self,
        interface: InterfaceIndex,
        vhid: u8,
        raw: &RawIpv4<'_>,
    ) -> Result<(), DropReason> {
        self.shared
            .drive(|stack, now_ns| stack.send_from_virtual(now_ns, interface, vhid, raw))
    }

    /// Sends a raw packet by an interface, from the interface's own MAC address.
    pub fn send_from_interface(
        &self,
        interface: InterfaceIndex,
        raw: &RawIpv4<'_>,
    ) -> Result<(), DropReason> {
        self.shared
            .drive(|stack, now_ns| stack.send_from_interface(now_ns, interface, raw))
    }

    /// Has `handler` called, on CPU 0, with every packet of an IP protocol that none of ours is.
    /// It must not wait; a handler that has more to do posts to a port. The last one registered counts.
    pub async fn register_protocol(
        &self,
        protocol: u8,
        handler: impl Fn(ProtocolInput) + Send + Sync + 'static,
    ) {
        let network = self.clone();
        let register = move |_: &executor::Cpu| {
            network.shared.with(|state| {
                state.stack.register_protocol(protocol);
                state.protocols.retain(|(other, _)| *other != protocol);
                state.protocols.push((protocol, Arc::new(handler)));
            });
        };
        executor::run_on(CpuId(0), register).await;
    }

    /// Has `subscriber` called, on CPU 0, with every [`NetworkEvent`]. It must not wait.
    pub async fn subscribe(&self, subscriber: impl Fn(&NetworkEvent) + Send + Sync + 'static) {
        let network = self.clone();
        let subscribe = move |_: &executor::Cpu| {
            network
                .shared
                .with(|state| state.subscribers.push(Arc::new(subscriber)));
        };
        executor::run_on(CpuId(0), subscribe).await;
    }

    /// All interfaces, `lo0` first.
    pub fn interfaces(&self) -> Vec<InterfaceStatus> {
        let tables = self.shared.with(|state| state.stack.tables().clone());
        tables
            .enumerate()
            .map(|(index, config)| InterfaceStatus {
                index,
                name: config.name.clone(),
                up: config.up,
                link: config.link,
                is_loopback: config.mac.is_none(),
                mac: config.mac,
                mtu_bytes: config.mtu_bytes,
                addresses: config.addresses.clone(),
                groups: config.groups.clone(),
                virtual_addresses: tables
                    .virtuals
                    .iter()
                    .filter(|entry| entry.interface == index)
                    .copied()
                    .collect(),
                counters: self
                    .shared
                    .device(index)
                    .map_or_else(DeviceStatistics::default, |device| device.statistics()),
            })
            .collect()
    }

    /// The counters of an interface's driver, each with what it counts; none for `lo0`.
    pub fn device_counters(&self, interface: InterfaceIndex) -> Vec<(&'static str, u64)> {
        let mut counters = Vec::new();
        if let Some(device) = self.shared.device(interface) {
            device.each_counter(&mut |text, value| counters.push((text, value)));
        }
        counters
    }

    /// All routes: the static ones, then the connected networks.
    pub fn routes(&self) -> Vec<RouteStatus> {
        let tables = self.shared.with(|state| state.stack.tables().clone());
        let name = |index: InterfaceIndex| {
            tables
                .interface(index)
                .map_or_else(String::new, |config| config.name.clone())
        };
        let fixed = tables.routes.iter().map(|route| RouteStatus {
            destination: route.destination,
            gateway: Some(route.gateway),
            interface: tables
                .connected(route.gateway)
                .map_or_else(String::new, |(index, _)| name(index)),
        });
        let connected =
            tables
                .enumerate()
                .filter(|(_, config)| config.up)
                .flat_map(|(_, config)| {
                    config.addresses.iter().map(|own| RouteStatus {
                        destination: own.network(),
                        gateway: None,
                        interface: config.name.clone(),
                    })
                });
        fixed.chain(connected).collect()
    }

    /// The neighbours that CPU 0 knows or asks for; the other CPUs know some of these.
    pub async fn arp_table(&self) -> Vec<ArpEntry> {
        let network = self.clone();
        let list = move |_: &executor::Cpu| {
            let now_ns = executor::now_ns();
            network.shared.with(|state| {
                let tables = state.stack.tables();
                let name = |index| {
                    tables
                        .interface(index)
                        .map_or_else(String::new, |config| config.name.clone())
                };
                let neighbors = state.stack.neighbors(now_ns);
                let entries = neighbors.map(|(key, mac, arp_state)| ArpEntry {
                    address: key.address,
                    mac,
                    interface: name(key.interface),
                    state: arp_state,
                });
                entries.collect::<Vec<_>>()
            })
        };
        executor::run_on(CpuId(0), list).await
    }

    /// The counters of all CPUs; its `Display` is what `netstat -s` prints.
    pub async fn statistics(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for cpu in 0..self.shared.cpu_count {
            let network = self.clone();
            let read = move |_: &executor::Cpu| {
                network.shared.with(|state| state.stack.counters().clone())
            };
            snapshot.add(&executor::run_on(CpuId(cpu), read).await);
        }
        snapshot
    }

    /// Applies a change to every CPU's tables.
    pub(crate) async fn change(&self, change: Change) -> Result<(), ConfigError> {
        self.change_with(move |_| Ok(change.clone()))
            .await
            .map(|_| ())
    }

    /// Applies to every CPU's tables the change that `decide` makes on CPU 0; returns it.
    pub(crate) async fn change_with(
        &self,
        decide: impl Fn(&mut CpuStack) -> Result<Change, ConfigError> + Send + Sync + 'static,
    ) -> Result<Change, ConfigError> {
        let decision: Arc<Once<Result<Change, ConfigError>>> = Arc::new(Once::new());
        let decided = decision.clone();
        let network = self.clone();
        executor::chain(move |cpu| {
            let now_ns = executor::now_ns();
            network.shared.with(|state| {
                let stack = &mut state.stack;
                if cpu.id() == CpuId(0) {
                    let change = decide(stack)
                        .and_then(|change| stack.apply(now_ns, &change).map(|()| change));
                    decided.call_once(|| change);
                } else if let Some(Ok(change)) = decided.get() {
                    let applied = stack.apply(now_ns, change);
                    debug_assert_eq!(applied, Ok(()), "copies differ: {change:?}");
                }
            });
            // What the change left to do is not done in here, where nothing may take long.
            network.shared.kick(cpu.id());
        })
        .await;
        decision.get().cloned().unwrap_or(Err(ConfigError::TooMany))
    }

    /// Tells a device which addresses to let through.
    fn set_receive_filter(&self, interface: InterfaceIndex) {
        let Some(device) = self.shared.device(interface) else {
            return;
        };
        let (groups, virtuals) = self.shared.with(|state| {
            let tables = state.stack.tables();
            let config = tables.interface(interface);
            let groups = config.map_or_else(Vec::new, |config| config.groups.clone());
            (groups, tables.virtuals.clone())
        });
        let all_hosts = [Ipv4Addr::new(224, 0, 0, 1)];
        let groups: Vec<_> = all_hosts
            .iter()
            .chain(&groups)
            .map(|&group| multicast_mac(group))
            .collect();
        let of_interface = virtuals.iter().filter(|entry| entry.interface == interface);
        let mut unicast: Vec<_> = of_interface.map(|entry| entry.mac).collect();
        unicast.dedup();
        device.set_receive_filter(&groups, &unicast);
    }
}
