//! The virtual LAN: a learning Ethernet switch on this host, without root.
//!
//! [`switch::Switch`] decides where a frame goes (no input or output of its own, tested as such);
//! [`handle`] runs it: one thread, one UNIX stream socket per port, to which a node connects
//! (QEMU with `-netdev stream,server=off`). A killed node's port is free at once and taken again by the next
//! connection. Datagram sockets would keep frame borders for us, but lose bursts (10 datagrams of
//! queue), while a stream carries 190,000 frames a second. [`capture`] writes what passes as pcapng.

pub mod capture;
pub mod handle;
mod server;
pub mod switch;

pub use handle::{Lan, LocalFrame, LocalPort};
pub use switch::{Counters, Link, Port};
