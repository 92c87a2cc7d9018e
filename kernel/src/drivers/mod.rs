//! Drivers, written against traits instead of a machine.
//!
//! A driver here sees three things of the world: memory a device can reach ([`dma::Dma`]), registers
//! ([`mmio::Registers`]) and a way to turn an interrupt line into a message ([`pci::MessageRouter`]).
//! The platform implements them for hardware and `cargo test` implements them with fake devices,
//! so that every driver runs on the host against a device that behaves and one that does not.
//!
//! Drivers are sans-I/O: they are told of interrupts and polled, and never wait. The thin tasks
//! that await an event and poll are kept apart from them (see [`virtio::net`]), because a wait
//! inside a driver would tie it to one executor and make the fake-device tests need threads.

pub mod dma;
pub mod mmio;
pub mod pci;
pub mod virtio;
