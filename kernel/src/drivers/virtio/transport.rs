//! How a driver reaches a virtio device, whatever bus it sits on.
//!
//! [`Transport`] is the device's common part: status, features, queues, configuration, doorbell.
//! [`negotiate`] and [`read_config`] are the two protocols over it that every driver needs.
//! [`ResetProof`] is the evidence that a device has let go of its memory.
//!
//! Everything is `&mut self` or `&self` on one CPU: a device belongs to the CPU that drives it, and
//! others send it messages. Source: VIRTIO 1.2, 2.1, 2.2, 2.5, 3.1.1.

use bitflags::bitflags;

bitflags! {
    /// Device status (2.1).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Status: u8 {
        /// The driver has seen the device.
        const ACKNOWLEDGE = 1;
        /// The driver knows how to drive it.
        const DRIVER = 2;
        /// Set-up is complete; the device may work.
        const DRIVER_OK = 4;
        /// Features are agreed.
        const FEATURES_OK = 8;
        /// The device is broken until reset.
        const NEEDS_RESET = 64;
        /// The driver has given up.
        const FAILED = 128;
    }
}

/// Feature bits that belong to no device type (6).
pub mod feature {
    /// `used_event` and `avail_event` instead of flags.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// The modern interface; without it we do not drive a device.
    pub const VERSION_1: u64 = 1 << 32;
}

/// What may go wrong between driver and device before any request is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportError {
    /// The device did not finish its reset.
    ResetTimeout,
    /// The device lacks features that the driver cannot do without (the missing bits).
    MissingFeatures(u64),
    /// The device refused the chosen features.
    FeaturesRefused,
    /// The device has no room for this MSI-X vector.
    VectorRefused,
    /// A configuration field outside what the device has.
    ConfigOutOfRange,
    /// The configuration changed each time it was read.
    ConfigUnstable,
    /// A queue number the device does not have, or a queue that is in use.
    QueueUnavailable,
}

/// Evidence that a device was reset and touches no queue memory any more.
#[derive(Debug)]
pub struct ResetProof(());

impl ResetProof {
    /// States that the device has been reset.
    ///
    /// # Safety
    ///
    /// The device must have confirmed the reset (2.4.1): queue memory is freed on this word.
    pub unsafe fn new() -> Self {
        Self(())
    }
}

/// Where a queue lies and what it raises.
#[derive(Clone, Copy, Debug)]
pub struct QueueSetup {
    /// Number of the queue.
    pub index: u16,
    /// Entries, a power of two.
    pub size: u16,
    /// Physical address of the descriptor table.
    pub descriptors_address: u64,
    /// Physical address of the available ring.
    pub available_address: u64,
    /// Physical address of the used ring.
    pub used_address: u64,
    /// MSI-X table entry for completions, if the transport has MSI-X.
    pub vector: Option<u16>,
}

/// A device's common registers.
pub trait Transport {
    /// The virtio device type (5): 1 network, 3 console.
    fn device_type(&self) -> u16;
    /// Resets the device and waits, boundedly, until it says so.
    fn reset(&mut self) -> Result<ResetProof, TransportError>;
    /// Reads the status.
    fn status(&self) -> Status;
    /// Writes the status.
    fn set_status(&mut self, status: Status);
    /// The features offered.
    fn device_features(&mut self) -> u64;
    /// The features taken.
    fn set_driver_features(&mut self, features: u64);
    /// The largest size of a queue, 0 if there is no such queue.
    fn max_queue_size(&mut self, index: u16) -> u16;
    /// Tells the device where a queue is, and starts it.
    fn enable_queue(&mut self, setup: QueueSetup) -> Result<(), TransportError>;
    /// Chooses the MSI-X table entry for configuration changes.
    fn set_config_vector(&mut self, vector: u16) -> Result<(), TransportError>;
    /// Rings the doorbell of a queue.
    fn notify(&self, index: u16);
    /// Changes whenever the device changes its configuration.
    fn config_generation(&self) -> u32;
    /// Reads device configuration: one field of 2 or 4 bytes, or an array of bytes.
    fn read_config_once(&self, offset: usize, out: &mut [u8]) -> Result<(), TransportError>;
}

/// Resets the device and agrees on features (3.1.1, steps 1 to 6): those `wanted` that are
/// offered, with all `required` among them. The caller sets up queues and then calls [`finish`].
pub fn negotiate(
    transport: &mut impl Transport,
    wanted: u64,
    required: u64,
) -> Result<u64, TransportError> {
    transport.reset()?;
    transport.set_status(Status::ACKNOWLEDGE);
    transport.set_status(Status::ACKNOWLEDGE | Status::DRIVER);
    let features = transport.device_features() & (wanted | required);
    let missing = required & !features;
    if missing != 0 {
        transport.set_status(Status::FAILED);
        return Err(TransportError::MissingFeatures(missing));
    }
    transport.set_driver_features(features);
    let agreed = Status::ACKNOWLEDGE | Status::DRIVER | Status::FEATURES_OK;
    transport.set_status(agreed);
    if !transport.status().contains(Status::FEATURES_OK) {
        transport.set_status(Status::FAILED);
        return Err(TransportError::FeaturesRefused);
    }
    Ok(features)
}

/// Lets the device work (3.1.1, step 8).
pub fn finish(transport: &mut impl Transport) {
    let status = Status::ACKNOWLEDGE | Status::DRIVER | Status::FEATURES_OK | Status::DRIVER_OK;
    transport.set_status(status);
}

/// Reads a field of several words that the device may be changing (2.5.1).
pub fn read_config(
    transport: &impl Transport,
    offset: usize,
    out: &mut [u8],
) -> Result<(), TransportError> {
    /// A device that changes its configuration more often than that is not telling us anything.
    const ATTEMPTS: u32 = 16;
    for _ in 0..ATTEMPTS {
        let before = transport.config_generation();
        transport.read_config_once(offset, out)?;
        if transport.config_generation() == before {
            return Ok(());
        }
    }
    Err(TransportError::ConfigUnstable)
}

#[cfg(test)]
mod tests {
    use super::super::fake::{FakeDevice, FakeOptions};
    use super::*;
    use crate::drivers::dma::fake::FakeDma;

    fn device(options: FakeOptions) -> FakeDevice {
        FakeDevice::new(&FakeDma::new(), options)
    }

    #[test]
    fn only_wanted_features_are_taken() {
        let fake = device(FakeOptions {
            features: feature::VERSION_1 | 0xff,
            ..Default::default()
        });
        let mut transport = fake.transport();
        let taken = negotiate(&mut transport, 0x3, feature::VERSION_1).unwrap();
        assert_eq!(taken, feature::VERSION_1 | 0x3);
        assert_eq!(fake.driver_features(), taken);
        assert!(!transport.status().contains(Status::DRIVER_OK));
        finish(&mut transport);
        assert!(transport.status().contains(Status::DRIVER_OK));
    }

    #[test]
    fn legacy_and_refusing_devices_are_given_up() {
        let fake = device(FakeOptions {
            features: 0xff,
            ..Default::default()
        });
        let error = negotiate(&mut fake.transport(), 1, feature::VERSION_1).unwrap_err();
        assert_eq!(error, TransportError::MissingFeatures(feature::VERSION_1));
        assert_eq!(fake.transport().status(), Status::FAILED);

        let refuse = FakeOptions {
            refuse_features: true,
            ..Default::default()
        };
        let error = negotiate(&mut device(refuse).transport(), 1, 0).unwrap_err();
        assert_eq!(error, TransportError::FeaturesRefused);

        let stuck = FakeOptions {
            stuck_in_reset: true,
            ..Default::default()
        };
        let error = negotiate(&mut device(stuck).transport(), 1, 0).unwrap_err();
        assert_eq!(error, TransportError::ResetTimeout);
    }

    #[test]
    fn torn_configuration_is_read_again() {
        let fake = device(FakeOptions {
            config: b"old!".to_vec(),
            ..Default::default()
        });
        fake.change_config_during_next_read(b"new!");
        let mut out = [0; 4];
        read_config(&fake.transport(), 0, &mut out).unwrap();
        assert_eq!(&out, b"new!");
        fake.change_config_always();
        let error = read_config(&fake.transport(), 0, &mut out).unwrap_err();
        assert_eq!(error, TransportError::ConfigUnstable);
        let error = read_config(&fake.transport(), 2, &mut out).unwrap_err();
        assert_eq!(error, TransportError::ConfigOutOfRange);
    }
}
