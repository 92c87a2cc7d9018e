//! Drivers, written against traits instead of a machine.
//!
//! A driver here sees three things of the world: memory a device can reach ([`dma::Dma`]), registers
//! ([`mmio::Registers`]) and a way to turn an interrupt line into a message ([`pci::InterruptLines`]).
//! The platform implements them for hardware and `cargo test` implements them with fake devices,
//! so that every driver runs on the host against a device that behaves and one that does not.
//!
//! Drivers are sans-I/O: they are told of interrupts and polled, and never wait. The threads that
//! await an event and poll are kept apart from them ([`vtnet`]), because a wait inside a driver would
//! tie it to one executor and make the fake-device tests need threads. [`probe`] finds what is there.

pub mod dma;
pub mod mmio;
pub mod pci;
pub mod probe;
pub mod virtio;
pub mod vke;
pub mod vtnet;
