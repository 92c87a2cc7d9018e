//! The network of this kernel: its devices attached, CARP on top.
//!
//! [`start`] brings the protocols up on every CPU, attaches each device as `vtnetN`, and starts CARP.
//!
//! Decision: a device that does not come up is logged and left out; a kernel without any network still
//! boots, with `lo0`.

use alloc::format;
use alloc::vec::Vec;

use carp::service::Carp;
use executor::Node;
use net::{Device, DeviceStatistics, Network};

use crate::drivers::virtio::transport::Transport;
use crate::drivers::vtnet::Vtnet;

/// Brings the network up with these devices. To be called on the CPU that gets their interrupts.
pub async fn start<T: Transport>(node: &Node, devices: Vec<Vtnet<T>>) -> (Network, Carp) {
    let seed = seed(node, &devices);
    let network = Network::start(node, seed).await;
    for (number, vtnet) in devices.into_iter().enumerate() {
        let name = format!("vtnet{number}");
        let device = vtnet.device();
        log::info!("{name}: Ethernet address {}", device.mac());
        match network.attach(&name, device).await {
            Ok(interface) => vtnet.start(interface),
            Err(error) => log::warn!("{name}: {error}"),
        }
    }
    let carp = carp::service::start(network.clone(), seed).await;
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
