//! Every limit of the network in one place.
//!
//! A limit is here when reaching it makes a packet or a request be refused; each such refusal has
//! a [`crate::DropReason`] or a [`crate::NetworkError`]. They are constants and not tunables
//! because none of them has yet been worth a knob.

use executor::Priority;

/// Priority of the threads of the protocols. CARP's is above it.
pub const PRIORITY: Priority = Priority::SOFT;

/// Headroom a packet of ours is allocated with, bytes: Ethernet (14), IPv4 (20), UDP (8) and 22
/// for whatever the driver puts in front (virtio-net's header has 12). A packet handed to
/// [`crate::Device::transmit`] still has at least [`DRIVER_HEADROOM_BYTES`] of it.
pub const HEADROOM_BYTES: usize = 64;

/// Headroom left for the driver in a packet that is transmitted, bytes.
pub const DRIVER_HEADROOM_BYTES: usize = 16;

/// Messages one protocol thread handles before it yields (DragonFly's rollup limit).
pub const BATCH_MESSAGES: usize = 32;

/// Resolved and unresolved neighbours one CPU remembers.
pub const ARP_ENTRIES: usize = 1024;

/// Packets that wait for one unresolved neighbour.
pub const ARP_HELD_PACKETS: usize = 8;

/// Time between the first two requests for one neighbour, nanoseconds; it doubles with each. A new CARP master asks for
/// its clients when it takes over: one lost request must not cost them a second.
pub const ARP_FIRST_RETRY_NS: u64 = 10_000_000;

/// The longest time between two requests for one neighbour, nanoseconds (RFC 1122, 2.3.2.1: one a second is the
/// recommended most; seven requests in the first second are more, and then it is one).
pub const ARP_RETRY_NS: u64 = 1_000_000_000;

/// Requests without an answer after which held packets are given up: 4.3 s after the first.
pub const ARP_TRIES: u8 = 10;

/// How long an answer counts as fresh, nanoseconds (BSD's 20 minutes).
pub const ARP_REACHABLE_NS: u64 = 1_200_000_000_000;

/// Least time between two defences of one of our addresses, nanoseconds (RFC 5227, 2.4).
pub const ARP_DEFEND_NS: u64 = 10_000_000_000;

/// ICMP errors a CPU may send in one second.
pub const ICMP_ERRORS_PER_SECOND: u32 = 100;

/// Bytes of the offending packet, its IP header included, that an ICMP error carries back: as many
/// as fit a packet that every host takes (RFC 1812, 4.3.2.3: 576 bytes in all). Some stacks
/// understand no error with less than the whole of a short datagram.
pub const ICMP_QUOTED_BYTES: usize = 576 - 20 - 8;

/// Datagrams that wait in one socket.
pub const SOCKET_DATAGRAMS: usize = 64;

/// Sockets (UDP and echo) a node may have open.
pub const SOCKETS: usize = 4096;

/// Static routes a node may have.
pub const ROUTES: usize = 256;

/// Packets that wait in the ports of one CPU together. What comes beyond them is dropped: a flow's CPU
/// that does not keep up must not fill the memory.
pub const QUEUED_PACKETS: u32 = 1024;

/// Interfaces a node may have, `lo0` included.
pub const INTERFACES: usize = 32;

/// Addresses, virtual addresses or groups one interface may have, each.
pub const ADDRESSES: usize = 64;

/// Time to live of packets we originate.
pub const DEFAULT_TTL: u8 = 64;

/// MTU of the loopback interface, bytes.
pub const LOOPBACK_MTU_BYTES: u16 = 16384;

/// First port of the range from which unbound sockets get theirs (IANA's dynamic ports).
pub const FIRST_EPHEMERAL_PORT: u16 = 49152;
