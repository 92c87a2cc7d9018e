//! What may be typed: each command's words, read by a pure function into a request.
//!
//! Nothing here touches a machine, a network or a node, so the tables of good and bad lines in the
//! tests are the whole specification of the syntax. The commands act on the requests.

pub mod carp;
pub mod ifconfig;
pub mod network;
pub mod system;
