//! What the service is told and asked, and its queue: [`Input`] from the network, requests from
//! commands.
//!
//! Decision: every answer comes from the thread, after what was asked before. An answer given inside the
//! `put` could tell of a state that the actions still waited for have not made true yet.

use alloc::string::String;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use executor::{Message, Pending, Put, Serve, Server};
use net::{InterfaceIndex, MacAddress, Packet};

use super::settings::Change;
use super::{CarpError, CarpReport};

/// What the network tells.
#[derive(Debug)]
pub enum Input {
    /// A packet of IP protocol 112.
    Advert {
        /// Where it arrived.
        interface: InterfaceIndex,
        /// Its IP source.
        source: Ipv4Addr,
        /// Its time to live.
        ttl: u8,
        /// What is behind the IP header.
        packet: Packet,
    },
    /// Somebody else speaks from a virtual address.
    Conflict {
        /// Where it was heard.
        interface: InterfaceIndex,
        /// The vhid.
        vhid: u8,
        /// The virtual address.
        address: Ipv4Addr,
        /// The station's.
        mac: MacAddress,
    },
    /// A link, an interface or an address changed.
    NetworkChanged,
}

impl Message for Input {
    type Reply = ();
}

/// What commands ask for.
pub(crate) enum Request {
    Configure {
        name: String,
        create: bool,
        changes: Vec<Change>,
    },
    Destroy {
        name: String,
    },
    Demote {
        reason: String,
        weight: u8,
    },
    SetPreempt(bool),
    /// Bows out everywhere and stays silent.
    Stop,
}

impl Message for Request {
    type Reply = Result<(), CarpError>;
}

pub(crate) struct Report;

impl Message for Report {
    type Reply = CarpReport;
}

pub(crate) struct CarpServer;

pub(crate) enum Work {
    Input(Pending<Input>),
    Request(Pending<Request>),
    Report(Pending<Report>),
}

impl Server for CarpServer {
    type Work = Work;
}

macro_rules! serve_later {
    ($message:ident) => {
        impl Serve<$message> for CarpServer {
            fn put(&self, message: $message) -> Put<$message> {
                Put::Later(message)
            }

            fn queue(pending: Pending<$message>) -> Work {
                Work::$message(pending)
            }
        }
    };
}
serve_later!(Input);
serve_later!(Request);
serve_later!(Report);
