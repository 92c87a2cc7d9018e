//! The network: Ethernet, ARP, IPv4, ICMP and UDP, one task per protocol per CPU.
//!
//! The crate has two layers. The lower is sans-I/O: [`CpuStack`] holds the protocols of one CPU, takes
//! packets, messages and time, and returns [`Action`]s; tests, a fuzzer and a simulator drive it as the
//! tasks do. The upper layer puts a [`CpuStack`] on each CPU of a node: [`Network`] with its message ports and
//! tasks, [`UdpSocket`], [`Ping`].
//!
//! A packet's way in: the driver calls [`Interface::input`] on the CPU that received it; Ethernet
//! checks the header and names the CPU of the flow ([`hash::Flow`]); there ARP, IP and UDP check the rest,
//! and every packet that goes no further is counted under its [`DropReason`]. docs/decisions has
//! the page on who owns which state.
//!
//! We use smoltcp's `wire` module to read and write header fields and nothing else of it.
//! Source of the structure: DragonFly BSD's netisr (sys/net/netisr.c).

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod address;
mod arp;
pub mod config;
mod control;
mod counters;
mod device;
mod ethernet;
pub mod hash;
mod icmp;
mod ipv4;
mod lookup;
mod network;
mod packet;
mod receive;
mod socket;
mod stack;
mod stats;
mod tables;
mod udp;
mod virtual_address;

pub use address::{
    BadPrefix, InterfaceIndex, Ipv4Prefix, MacAddress, VirtualAddress, multicast_mac, virtual_mac,
};
pub use arp::cache::{ArpKey, ArpState};
pub use control::{ArpEntry, InterfaceStatus, RouteStatus};
pub use counters::{Counters, DropReason, Event, Protocol};
pub use device::{Device, DeviceStatistics};
pub use ethernet::ETHERNET_HEADER_BYTES;
pub use ipv4::IPV4_HEADER_BYTES;
pub use lookup::Hop;
pub use network::{Interface, Network};
pub use packet::{OutOfMemory, Packet};
pub use receive::{Datagram, DatagramKind};
pub use socket::{EchoEvent, EchoReply, Ping, PingError, RoundTrip, UdpSocket, serve_udp_echo};
pub use stack::{Action, CpuMessage, CpuStack, FrameInfo, NetworkEvent, ProtocolInput};
pub use stats::Snapshot;
pub use tables::{
    Binding, BindingKind, Change, ConfigError, InterfaceConfig, Route, SocketId, Tables,
};
pub use udp::UDP_HEADER_BYTES;
pub use virtual_address::RawIpv4;
