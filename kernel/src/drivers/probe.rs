//! Finding the devices of a machine and bringing them up.
//!
//! [`Hardware`] is all that a machine offers its drivers; [`probe`] walks its PCI buses and returns what it
//! could bring up ([`Devices`]), saying what it could not. Everything happens on the calling CPU, whose
//! interrupt lines the devices get.
//!
//! There is no registry of drivers: three lines of `match` on the virtio type are the whole table, and
//! a device's own options are visible where it is made.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::sync::Arc;
use alloc::vec::Vec;

use pci_types::ConfigRegionAccess;

use super::dma::Dma;
use super::mmio::MapRegisters;
use super::pci::{self, Function, FunctionInfo, InterruptLines};
use super::virtio::console::{self, VirtioConsole};
use super::virtio::net::{self, Vectors};
use super::virtio::pci::{PciTransport, device_type};
use super::vtnet::{Events, Vtnet};
use crate::network::NetworkDevice;

/// What a machine offers its drivers.
pub trait Hardware: MapRegisters + InterruptLines {
    /// Memory for devices.
    fn dma(&self) -> Arc<dyn Dma>;
    /// PCI configuration space, if there is PCI.
    fn pci(&self) -> Option<Box<dyn ConfigRegionAccess>>;
}

/// What was found and works.
#[derive(Default)]
pub struct Devices {
    /// Network devices, in PCI order.
    pub networks: Vec<Box<dyn NetworkDevice>>,
    /// The first console.
    pub console: Option<VirtioConsole<PciTransport>>,
}

/// Brings up all devices that we have a driver for.
pub fn probe(hardware: &dyn Hardware) -> Devices {
    let mut devices = Devices::default();
    let Some(access) = hardware.pci() else {
        return devices;
    };
    let mut functions = pci::enumerate(&*access);
    functions.sort_by_key(|info| info.address);
    for info in functions {
        let Some(kind) = device_type(&info, &*access) else {
            continue;
        };
        let Some(transport) = open(hardware, &*access, &info, kind) else {
            continue;
        };
        match kind {
            net::DEVICE_TYPE => {
                let vtnet = network(hardware, transport, &info);
                devices
                    .networks
                    .extend(vtnet.map(|it| Box::new(it) as Box<dyn NetworkDevice>));
            }
            console::DEVICE_TYPE if devices.console.is_none() => {
                match VirtioConsole::new(transport, &hardware.dma()) {
                    Ok(console) => devices.console = Some(console),
                    Err(error) => log::warn!("virtio console at {}: {error:?}", info.address),
                }
            }
            _ => {}
        }
    }
    devices
}

fn open(
    hardware: &dyn Hardware,
    access: &dyn ConfigRegionAccess,
    info: &FunctionInfo,
    kind: u16,
) -> Option<PciTransport> {
    if kind != net::DEVICE_TYPE && kind != console::DEVICE_TYPE {
        return None;
    }
    PciTransport::open(&Function::open(access, info.address), kind, hardware)
        .inspect_err(|error| log::warn!("virtio device at {}: {error:?}", info.address))
        .ok()
}

fn network(
    hardware: &dyn Hardware,
    mut transport: PciTransport,
    info: &FunctionInfo,
) -> Option<Vtnet<PciTransport>> {
    let events = Arc::new(Events::default());
    let signals: [fn(&Events); 3] = [
        |events| events.config.signal(),
        |events| events.receive.signal(),
        |events| events.transmit.signal(),
    ];
    for (vector, signal) in (0..).zip(signals) {
        let Some(line) = hardware.take_line() else {
            log::warn!("vtnet at {}: no interrupt line left", info.address);
            return None;
        };
        let signalled = events.clone();
        executor::current().on_interrupt(line.line, Rc::new(move || signal(&signalled)));
        if let Err(error) = transport.set_message(vector, line.message) {
            log::warn!("vtnet at {}: {error:?}", info.address);
            return None;
        }
    }
    let vectors = Vectors {
        config: 0,
        receive: 1,
        transmit: 2,
    };
    Vtnet::bring_up(transport, &hardware.dma(), vectors, events)
        .inspect_err(|error| log::warn!("vtnet at {}: {error:?}", info.address))
        .ok()
}
