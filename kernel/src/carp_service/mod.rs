//! CARP as a service: the thread on CPU 0 that owns every vhid of this node.
//!
//! [`start`] makes the thread and returns [`Carp`], its handle. The protocol is [`carp::Vhid`]'s; here is
//! what surrounds it: which interface is whose parent, the network's copies of the virtual addresses,
//! timers, commands, and the carrying out of actions *in order*, awaiting each. What happens meanwhile
//! waits in the port's queue, so that a state change is on every CPU before the advertisement that
//! tells of it is sent.
//!
//! Decision: one thread for all vhids, of a priority above the protocols'. Elections are rare and short;
//! what matters is that an advertisement never waits for data (keepalived's most reported false
//! failover), and that a node's vhids are never seen half-way.
//!
//! Source: DragonFly `sys/netinet/ip_carp.c` (interface `carpN`, the parent that is found by subnet).

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::Cell;
use core::fmt;
use core::net::Ipv4Addr;

use executor::{Builder, Message, Pending, Port, PortRef, Priority, Put, Serve, Server};
use net::{InterfaceIndex, Ipv4Prefix, MacAddress, Packet};

use crate::commands::syntax::ifconfig::Change;
use lan::Lan;
use vhids::Vhids;

pub mod lan;

mod interface;
mod vhids;

#[cfg(test)]
mod tests;

/// Why a change to a CARP interface was refused. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CarpError {
    /// There is no such interface; create it first.
    NoSuchInterface(String),
    /// There is one of that name already.
    Exists(String),
    /// The name is not `carp` and a number.
    BadName(String),
    /// A setting is refused.
    Setting(carp::ConfigError),
    /// Another CARP interface has this vhid on the same parent.
    VhidInUse(u8),
    /// The state can only be forced while the interface takes part.
    NotRunning(String),
    /// The interface does not have this address.
    NoSuchAddress(Ipv4Addr),
    /// The network refused a virtual address.
    Network(net::ConfigError),
}

impl From<carp::ConfigError> for CarpError {
    fn from(error: carp::ConfigError) -> Self {
        Self::Setting(error)
    }
}

impl From<net::ConfigError> for CarpError {
    fn from(error: net::ConfigError) -> Self {
        Self::Network(error)
    }
}

impl fmt::Display for CarpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchInterface(name) => {
                write!(f, "no interface {name}; `ifconfig {name} create` makes it")
            }
            Self::Exists(name) => write!(f, "{name} exists already"),
            Self::BadName(name) => {
                write!(
                    f,
                    "{name} cannot be created; only carp interfaces can, such as carp0"
                )
            }
            Self::Setting(error) => error.fmt(f),
            Self::VhidInUse(vhid) => write!(f, "another carp interface here has vhid {vhid}"),
            Self::NotRunning(name) => write!(
                f,
                "{name} takes no part yet; it needs `up`, a vhid, and an address of a network that \
                 an interface is on"
            ),
            Self::NoSuchAddress(address) => write!(f, "there is no address {address} here"),
            Self::Network(error) => error.fmt(f),
        }
    }
}

/// A CARP interface as `ifconfig` shows it.
#[derive(Clone, Debug)]
pub struct CarpStatus {
    /// `carp0`.
    pub name: String,
    /// Whether it was set up.
    pub up: bool,
    /// The virtual host id, once given.
    pub vhid: Option<u8>,
    /// The state; INIT while it does not take part.
    pub state: carp::State,
    /// The interface behind it, once found.
    pub parent: Option<String>,
    /// The real address that advertisements come from.
    pub source: Option<Ipv4Addr>,
    /// The configured interval.
    pub timing: carp::Timing,
    /// What is advertised: slower while demoted.
    pub effective_timing: carp::Timing,
    /// The virtual addresses, and whether the parent's network holds them.
    pub addresses: Vec<(Ipv4Prefix, bool)>,
    /// While BACKUP: the master, if heard.
    pub master: Option<Ipv4Addr>,
    /// Reasons to be demoted, with their weights.
    pub demotions: Vec<(String, u8)>,
    /// What was counted.
    pub counters: carp::Counters,
}

/// All of CARP as `netstat -s` shows it.
#[derive(Clone, Debug)]
pub struct CarpReport {
    /// The interfaces, by name.
    pub interfaces: Vec<CarpStatus>,
    /// Advertisements dropped before a vhid was known.
    pub strays: carp::Counters,
}

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

/// What `ifconfig` and others ask for.
pub(crate) enum Request {
    Configure {
        name: String,
        create: bool,
        changes: Vec<Change>,
    },
    Destroy {
        name: String,
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

/// The answer always comes from the thread, after what was asked before: `Later`.
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

/// The handle of the CARP service, for CPU 0.
#[derive(Clone)]
pub struct Carp {
    port: PortRef<CarpServer>,
    preempt: Rc<Cell<bool>>,
}

impl Carp {
    /// Makes or changes an interface; all changes at once, so that no half-way list of addresses
    /// ever reaches the wire.
    ///
    /// # Errors
    /// If a setting is refused.
    pub async fn configure(
        &self,
        name: &str,
        create: bool,
        changes: Vec<Change>,
    ) -> Result<(), CarpError> {
        self.port
            .call(Request::Configure {
                name: name.into(),
                create,
                changes,
            })
            .await
    }

    /// Bows out and removes an interface.
    ///
    /// # Errors
    /// If there is none.
    pub async fn destroy(&self, name: &str) -> Result<(), CarpError> {
        self.port.call(Request::Destroy { name: name.into() }).await
    }

    /// All interfaces and counters.
    pub async fn report(&self) -> CarpReport {
        self.port.call(Report).await
    }

    /// Bows out everywhere: an orderly stop. Returns when the last bow-out is sent.
    pub async fn stop(&self) {
        // Stop is refused for no reason.
        let _ = self.port.call(Request::Stop).await;
    }

    /// Whether a slower master is taken over from (`net.inet.carp.preempt`).
    #[must_use]
    pub fn preempts(&self) -> bool {
        self.preempt.get()
    }

    /// Sets it; in force when the service has seen it.
    pub fn set_preempt(&self, preempt: bool) {
        self.preempt.set(preempt);
        // Nobody waits; the call is in the queue already.
        drop(self.port.call(Request::SetPreempt(preempt)));
    }
}

/// Starts the service on this CPU, which must be CPU 0. `seed` should differ from boot to boot and from
/// node to node: cookies are made of it.
pub async fn start(lan: impl Lan, seed: u64) -> Carp {
    let port = Port::new(CarpServer);
    let handle = port.handle();
    let inputs = handle.clone();
    lan.listen(move |input| inputs.post(input)).await;
    Builder::new("carp")
        .priority(Priority::SOFT)
        .spawn(Vhids::new(lan, seed).run(port))
        .detach();
    Carp {
        port: handle,
        preempt: Rc::new(Cell::new(false)),
    }
}
