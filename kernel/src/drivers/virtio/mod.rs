//! Virtio devices, version 1 ("modern") only.
//!
//! [`transport`] is how a driver reaches its device, [`pci`] the one transport for hardware so far;
//! [`queue`] is our asynchronous split virtqueue over the words of [`ring`]; [`net`] and [`console`]
//! are devices. Legacy and transitional interfaces are left out: every hypervisor of the last ten
//! years offers version 1, and legacy rings change layout, byte order and header size.
//!
//! The queue is our own because the ready-made crate blocks until a request completes and knows no
//! MSI-X; in tests that crate is the oracle that ours is compared with.
//! Source: OASIS, Virtual I/O Device (VIRTIO) 1.2; section numbers below are of that text.

pub mod console;
pub mod net;
pub mod pci;
pub mod queue;
pub mod ring;
pub mod transport;

#[cfg(test)]
pub(crate) mod fake;
