//! The network of this kernel: its devices attached, CARP on top.
//!
//! [`start`] brings the protocols up on every CPU, attaches each device under its driver's name and a number
//! (`vtnet0`), and starts CARP.
//!
//! Decision: a device that does not come up is logged and left out; a kernel without any network still
//! boots, with `lo0`.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

use carp::service::Carp;
use executor::Node;
use net::{Device, DeviceStatistics, Interface, Network};

/// A network device that is up and waits to be driven.
pub trait NetworkDevice {
    /// The driver's name, which begins the interface's: `vtnet`.
    fn driver(&self) -> &'static str;

    /// The device for the protocols.
    fn device(&self) -> Arc<dyn Device>;

    /// Runs the device's threads on this CPU, for good; what it receives goes to `interface`.
    fn start(self: Box<Self>, interface: Interface);
}

/// Brings the network up with these devices. To be called on the CPU that gets their interrupts.
pub async fn start(node: &Node, devices: Vec<Box<dyn NetworkDevice>>) -> (Network, Carp) {
    let seed = seed(node, &devices);
    let network = Network::start(node, seed).await;
    let mut numbers = BTreeMap::new();
    for driver in devices {
        let number = numbers.entry(driver.driver()).or_insert(0_u32);
        let name = format!("{}{number}", driver.driver());
        *number += 1;
        let device = driver.device();
        log::info!("{name}: Ethernet address {}", device.mac());
        match network.attach(&name, device).await {
            Ok(interface) => driver.start(interface),
            Err(error) => log::warn!("{name}: {error}"),
        }
    }
    let carp = carp::service::start(network.clone(), seed).await;
    (network, carp)
}

/// A number that differs from node to node (the devices' addresses) and from boot to boot (the clock):
/// FNV-1a of both. Nothing secret depends on it.
fn seed(node: &Node, devices: &[Box<dyn NetworkDevice>]) -> u64 {
    let macs = devices.iter().flat_map(|driver| driver.device().mac().0);
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
