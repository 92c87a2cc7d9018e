//! Virtio over PCI, the modern interface: registers found through vendor capabilities.
//!
//! [`PciTransport::open`] finds the structures (4.1.4), maps them and enables the function and its
//! MSI-X; [`PciTransport::set_message`] connects a vector to the platform's interrupt line. Without
//! MSI-X we do not drive a device: a shared, level-triggered line would need a register read in
//! every interrupt, and no machine we run on lacks it.
//!
//! Each structure is checked against its BAR once, at `open`; a doorbell's place comes from a device
//! register and is checked by the window it is written through.

use alloc::boxed::Box;
use alloc::vec::Vec;

use pci_types::ConfigRegionAccess;

use super::transport::{QueueSetup, ResetProof, Status, Transport, TransportError};
use crate::drivers::mmio::{MapRegisters, Registers};
use crate::drivers::pci::{self, Function, FunctionInfo, InterruptMessage, Msix, PciError};

const VENDOR: u16 = 0x1af4;
const VENDOR_CAPABILITY: u8 = 9;
/// Vector register: no vector.
const NO_VECTOR: u16 = 0xffff;

/// Structure kinds (4.1.4, `cfg_type`).
mod kind {
    pub(super) const COMMON: u8 = 1;
    pub(super) const NOTIFY: u8 = 2;
    pub(super) const DEVICE: u8 = 4;
}

/// Offsets in the common configuration structure (4.1.4.3).
mod common {
    pub(super) const DEVICE_FEATURE_SELECT: usize = 0x00;
    pub(super) const DEVICE_FEATURE: usize = 0x04;
    pub(super) const DRIVER_FEATURE_SELECT: usize = 0x08;
    pub(super) const DRIVER_FEATURE: usize = 0x0c;
    pub(super) const CONFIG_VECTOR: usize = 0x10;
    pub(super) const QUEUE_COUNT: usize = 0x12;
    pub(super) const STATUS: usize = 0x14;
    pub(super) const GENERATION: usize = 0x15;
    pub(super) const QUEUE_SELECT: usize = 0x16;
    pub(super) const QUEUE_SIZE: usize = 0x18;
    pub(super) const QUEUE_VECTOR: usize = 0x1a;
    pub(super) const QUEUE_ENABLE: usize = 0x1c;
    pub(super) const QUEUE_NOTIFY_OFFSET: usize = 0x1e;
    pub(super) const QUEUE_DESCRIPTORS: usize = 0x20;
    pub(super) const QUEUE_AVAILABLE: usize = 0x28;
    pub(super) const QUEUE_USED: usize = 0x30;
    pub(super) const LEN_BYTES: u32 = 0x38;
}

/// Why a function could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// The PCI part is wrong.
    Pci(PciError),
    /// Not a virtio device with a modern interface (the missing structure's kind).
    MissingStructure(u8),
}

impl From<PciError> for OpenError {
    fn from(error: PciError) -> Self {
        Self::Pci(error)
    }
}

/// The virtio type of a function, or `None` if it is no virtio device.
///
/// Transitional functions (1000h to 103fh) have our interface too, beside the legacy one; their type
/// is in the subsystem id (4.1.2.1).
pub fn device_type(info: &FunctionInfo, access: impl ConfigRegionAccess) -> Option<u16> {
    match (info.vendor, info.device) {
        (VENDOR, 0x1000..0x1040) => Some(pci::subsystem(&access, info.address).1),
        (VENDOR, 0x1040..0x1080) => Some(info.device - 0x1040),
        _ => None,
    }
}

/// A virtio device on PCI.
pub struct PciTransport {
    device_type: u16,
    common: Box<dyn Registers>,
    notify: Box<dyn Registers>,
    notify_multiplier: u32,
    device: Option<Box<dyn Registers>>,
    /// Where each queue's doorbell is in `notify`, once the queue is enabled.
    doorbells: Vec<Option<usize>>,
    msix: Msix,
}

struct Structure {
    window: Box<dyn Registers>,
    capability: u16,
}

impl PciTransport {
    /// Opens the function as a virtio device of `device_type` (see [`device_type`]).
    pub fn open(
        function: &Function<impl ConfigRegionAccess>,
        device_type: u16,
        mapper: &dyn MapRegisters,
    ) -> Result<Self, OpenError> {
        let require =
            |kind, len| find(function, mapper, kind, len)?.ok_or(OpenError::MissingStructure(kind));
        let common = require(kind::COMMON, common::LEN_BYTES)?.window;
        let notify = require(kind::NOTIFY, 2)?;
        let device = find(function, mapper, kind::DEVICE, 0)?.map(|structure| structure.window);
        function.enable();
        let msix = Msix::open(function, mapper)?;
        Ok(Self {
            device_type,
            common,
            notify_multiplier: function.read(notify.capability + 16),
            notify: notify.window,
            device,
            doorbells: Vec::new(),
            msix,
        })
    }

    /// Number of MSI-X entries.
    pub fn vectors(&self) -> u16 {
        self.msix.entries()
    }

    /// Lets MSI-X entry `vector` send `message`.
    pub fn set_message(&mut self, vector: u16, message: InterruptMessage) -> Result<(), PciError> {
        self.msix.set(vector, message)
    }

    fn write64(&self, register: usize, value: u64) {
        self.common.write32(register, value as u32);
        self.common.write32(register + 4, (value >> 32) as u32);
    }

    fn select(&self, queue: u16) -> Result<(), TransportError> {
        if queue >= self.common.read16(common::QUEUE_COUNT) {
            return Err(TransportError::QueueUnavailable);
        }
        self.common.write16(common::QUEUE_SELECT, queue);
        Ok(())
    }
}

/// Finds the first usable structure of a kind, at least `min_len` long.
fn find(
    function: &Function<impl ConfigRegionAccess>,
    mapper: &dyn MapRegisters,
    kind: u8,
    min_len: u32,
) -> Result<Option<Structure>, OpenError> {
    for capability in function.capabilities()? {
        let place = function.read(capability.offset + 4);
        let bar = place as u8;
        let found = (function.read(capability.offset) >> 24) as u8;
        // Capabilities whose BAR number is reserved are to be skipped (4.1.4.1).
        if capability.id != VENDOR_CAPABILITY || found != kind || bar > 5 {
            continue;
        }
        // The longest form of the capability has 20 bytes and must end within the 256.
        if capability.offset > 0x100 - 20 {
            return Err(PciError::BadCapabilityList.into());
        }
        let offset = function.read(capability.offset + 8);
        let len_bytes = function.read(capability.offset + 12);
        if len_bytes < min_len {
            return Err(PciError::OutsideBar(bar).into());
        }
        let address = function.in_bar(bar, offset, len_bytes)?;
        let window = mapper
            .map(address, len_bytes as usize)
            .ok_or(PciError::NotMapped(bar))?;
        return Ok(Some(Structure {
            window,
            capability: capability.offset,
        }));
    }
    Ok(None)
}

impl Transport for PciTransport {
    fn device_type(&self) -> u16 {
        self.device_type
    }

    fn reset(&mut self) -> Result<ResetProof, TransportError> {
        /// Register reads; under emulation one is enough, hardware may take its time.
        const ATTEMPTS: u32 = 100_000;
        self.common.write8(common::STATUS, 0);
        self.doorbells.clear();
        for _ in 0..ATTEMPTS {
            if self.common.read8(common::STATUS) == 0 {
                // SAFETY: status 0 is the device's confirmation (4.1.4.3.2).
                return Ok(unsafe { ResetProof::new() });
            }
            core::hint::spin_loop();
        }
        Err(TransportError::ResetTimeout)
    }

    fn status(&self) -> Status {
        Status::from_bits_retain(self.common.read8(common::STATUS))
    }

    fn set_status(&mut self, status: Status) {
        self.common.write8(common::STATUS, status.bits());
    }

    fn device_features(&mut self) -> u64 {
        let word = |select| {
            self.common.write32(common::DEVICE_FEATURE_SELECT, select);
            u64::from(self.common.read32(common::DEVICE_FEATURE))
        };
        word(0) | word(1) << 32
    }

    fn set_driver_features(&mut self, features: u64) {
        for select in 0..2 {
            self.common.write32(common::DRIVER_FEATURE_SELECT, select);
            self.common
                .write32(common::DRIVER_FEATURE, (features >> (32 * select)) as u32);
        }
    }

    fn max_queue_size(&mut self, index: u16) -> u16 {
        match self.select(index) {
            Ok(()) => self.common.read16(common::QUEUE_SIZE),
            Err(_) => 0,
        }
    }

    fn enable_queue(&mut self, setup: QueueSetup) -> Result<(), TransportError> {
        self.select(setup.index)?;
        if self.common.read16(common::QUEUE_ENABLE) != 0 {
            return Err(TransportError::QueueUnavailable);
        }
        let vector = setup.vector.unwrap_or(NO_VECTOR);
        self.common.write16(common::QUEUE_VECTOR, vector);
        // The device answers with "none" when it has no room for the vector (4.1.5.1.2).
        if self.common.read16(common::QUEUE_VECTOR) != vector {
            return Err(TransportError::VectorRefused);
        }
        let doorbell = u64::from(self.common.read16(common::QUEUE_NOTIFY_OFFSET))
            * u64::from(self.notify_multiplier);
        if doorbell + 2 > self.notify.len_bytes() as u64 {
            return Err(TransportError::QueueUnavailable);
        }
        let queue = usize::from(setup.index);
        if self.doorbells.len() <= queue {
            self.doorbells.resize(queue + 1, None);
        }
        self.doorbells[queue] = Some(doorbell as usize);
        self.common.write16(common::QUEUE_SIZE, setup.size);
        self.write64(common::QUEUE_DESCRIPTORS, setup.descriptors_address);
        self.write64(common::QUEUE_AVAILABLE, setup.available_address);
        self.write64(common::QUEUE_USED, setup.used_address);
        self.common.write16(common::QUEUE_ENABLE, 1);
        Ok(())
    }

    fn set_config_vector(&mut self, vector: u16) -> Result<(), TransportError> {
        self.common.write16(common::CONFIG_VECTOR, vector);
        if self.common.read16(common::CONFIG_VECTOR) == vector {
            Ok(())
        } else {
            Err(TransportError::VectorRefused)
        }
    }

    fn notify(&self, index: u16) {
        if let Some(&Some(doorbell)) = self.doorbells.get(usize::from(index)) {
            self.notify.write16(doorbell, index);
        }
    }

    fn config_generation(&self) -> u32 {
        self.common.read8(common::GENERATION).into()
    }

    fn read_config_once(&self, offset: usize, out: &mut [u8]) -> Result<(), TransportError> {
        let window = self
            .device
            .as_ref()
            .ok_or(TransportError::ConfigOutOfRange)?;
        let end = offset
            .checked_add(out.len())
            .ok_or(TransportError::ConfigOutOfRange)?;
        if end > window.len_bytes() {
            return Err(TransportError::ConfigOutOfRange);
        }
        // Fields are read in their own width (4.1.3.1): 2 or 4 bytes at once, arrays bytewise.
        match out {
            [low, high] if offset.is_multiple_of(2) => {
                [*low, *high] = window.read16(offset).to_le_bytes();
            }
            [a, b, c, d] if offset.is_multiple_of(4) => {
                [*a, *b, *c, *d] = window.read32(offset).to_le_bytes();
            }
            bytes => {
                for (at, byte) in bytes.iter_mut().enumerate() {
                    *byte = window.read8(offset + at);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
