//! The CARP service: carp interfaces on a running network, and the one task that owns them.
//!
//! Every vhid belongs to CPU 0's CARP task. Configuration, adverts, ARP conflicts and timers are messages to it, handled
//! one at a time, so the state machine needs no lock (DragonFly sends all of it to netisr 0 for the same reason). What
//! the other CPUs must know, which addresses are ours to answer, they read in their own copy: the task changes those
//! copies by a chain and goes on when the last CPU has it, so an address answers everywhere before it is advertised.
//!
//! [`Carp`] is the handle that commands use; [`interface`] is one `carpN`; [`task`] carries actions out.
//! Source: DragonFly `sys/netinet/ip_carp.c` (the netisr version), carp(4).

mod interface;
mod task;

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::Ipv4Addr;

use executor::{Message, Pending, Port, PortRef, Put, Serve, Server};
use net::{Ipv4Prefix, Network};

use crate::{ConfigError, Counters, State, Timing};

/// Random bytes for the cookies, one call for each vhid.
pub type Random = fn() -> [u8; 8];

/// What to change on a carp interface, all in one step: nodes with different lists of addresses reject each other, so
/// a half-made change must never reach the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// Virtual host id, 1 to 255.
    pub vhid: Option<u8>,
    /// The shared secret, at most 19 characters.
    pub password: Option<String>,
    /// Advertisement interval in seconds; 0 for sub-second operation.
    pub advbase: Option<u8>,
    /// Advertisement skew in 1/256 s, 0 to 254.
    pub advskew: Option<u8>,
    /// Virtual addresses to add.
    pub add: Vec<Ipv4Prefix>,
    /// Virtual addresses to remove.
    pub remove: Vec<Ipv4Addr>,
    /// Take the interface up or down.
    pub up: Option<bool>,
    /// Take over (MASTER) or hand over (BACKUP) now; INIT is ignored.
    pub state: Option<State>,
}

/// A carp interface as `ifconfig` shows it.
#[derive(Clone, Debug)]
pub struct InterfaceStatus {
    /// `carp0`.
    pub name: String,
    /// Taken up by the operator.
    pub up: bool,
    /// Its virtual host id, once one was given.
    pub vhid: Option<u8>,
    /// Its state; INIT until it has a vhid, an address and a parent.
    pub state: State,
    /// The configured interval.
    pub timing: Timing,
    /// The virtual addresses.
    pub addresses: Vec<Ipv4Prefix>,
    /// The interface that carries it, found by its address in the same subnet.
    pub parent: Option<String>,
    /// The real address that adverts are sent from.
    pub source: Option<Ipv4Addr>,
    /// Whose adverts a BACKUP follows.
    pub master: Option<Ipv4Addr>,
    /// Why it is demoted, and by how much.
    pub demotions: Vec<(String, u8)>,
    /// What was counted.
    pub counters: Counters,
}

/// What the whole service counted and is set to.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Adverts that belonged to no vhid of ours, by reason.
    pub unclaimed: Counters,
    /// `net.inet.carp.preempt`.
    pub preempt: bool,
    /// The interfaces, in the order of their making.
    pub interfaces: Vec<InterfaceStatus>,
}

/// Why a configuration was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CarpError {
    /// There is one already.
    Exists(String),
    /// There is none; `ifconfig NAME create` makes it.
    NoInterface(String),
    /// Interfaces are called carp0, carp1 and so on.
    BadName(String),
    /// Addresses and state need a vhid first: `ifconfig carp0 vhid N`.
    NoVhid(String),
    /// Another carp interface has this vhid.
    VhidInUse(u8, String),
    /// It is not an address of this interface.
    NoAddress(Ipv4Addr),
    /// The settings cannot work.
    Config(ConfigError),
    /// The network refused an address.
    Network(String),
}

impl fmt::Display for CarpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exists(name) => write!(f, "{name} exists already"),
            Self::NoInterface(name) => {
                write!(f, "there is no {name}: make it with `ifconfig {name} create`")
            }
            Self::BadName(name) => {
                write!(f, "{name}: carp interfaces are called carp0, carp1 and so on")
            }
            Self::NoVhid(name) => {
                write!(f, "{name} has no vhid yet: give one with `ifconfig {name} vhid NUMBER`")
            }
            Self::VhidInUse(vhid, name) => write!(f, "vhid {vhid} belongs to {name} already"),
            Self::NoAddress(address) => write!(f, "{address} is not an address of this interface"),
            Self::Config(error) => error.fmt(f),
            Self::Network(error) => f.write_str(error),
        }
    }
}

impl core::error::Error for CarpError {}

impl From<ConfigError> for CarpError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

/// Declares the requests of the service: each a message, a variant of [`Work`] and its `Serve` implementation.
macro_rules! requests {
    ($($name:ident { $($field:ident: $type:ty),* } -> $reply:ty;)*) => {
        $(pub(crate) struct $name { $(pub(crate) $field: $type),* }
        impl Message for $name { type Reply = $reply; }
        impl Serve<$name> for Service {
            // The task does everything: an answer may have to wait for a chain over all CPUs.
            fn put(&self, message: $name) -> Put<$name> { Put::Later(message) }
            fn queue(pending: Pending<$name>) -> Work { Work::$name(pending) }
        })*
        pub(crate) enum Work { $($name(Pending<$name>)),* }
    };
}

requests! {
    Create { name: String } -> Result<(), CarpError>;
    Destroy { name: String } -> Result<(), CarpError>;
    Configure { name: String, update: Update } -> Result<(), CarpError>;
    Describe {} -> Summary;
    SetPreempt { on: bool } -> ();
    Demote { reason: String, weight: u8 } -> ();
    Stop {} -> ();
    Advert { input: net::ProtocolInput } -> ();
    Event { event: net::NetworkEvent } -> ();
}

/// What the port stands for; the state itself is the task's own.
#[derive(Debug)]
pub(crate) struct Service;

impl Server for Service {
    type Work = Work;
}

/// The handle of the CARP service, from any CPU.
#[derive(Clone, Debug)]
pub struct Carp {
    port: PortRef<Service>,
}

impl Carp {
    /// Starts the service on this CPU, which must be CPU 0, over `network`.
    ///
    /// # Panics
    /// On another CPU than 0.
    pub async fn start(network: &Network, random: Random) -> Self {
        assert_eq!(executor::current_cpu().0, 0, "the CARP service lives on CPU 0");
        let port = Port::new(Service);
        let carp = Self { port: port.handle() };
        let (adverts, events) = (port.handle(), port.handle());
        network.register_protocol(crate::wire::PROTOCOL, move |input| adverts.post(Advert { input }));
        network.subscribe(move |event| events.post(Event { event: *event }));
        executor::Builder::new("carp")
            .priority(executor::Priority::SOFT)
            .spawn(task::run(network.clone(), port, random))
            .detach();
        carp
    }

    /// `ifconfig carpN create`.
    ///
    /// # Errors
    /// If there is one already, or the name is not `carp` and a number.
    pub async fn create(&self, name: &str) -> Result<(), CarpError> {
        self.port.call(Create { name: name.into() }).await
    }

    /// `ifconfig carpN destroy`: bows out first if it is MASTER.
    ///
    /// # Errors
    /// If there is none.
    pub async fn destroy(&self, name: &str) -> Result<(), CarpError> {
        self.port.call(Destroy { name: name.into() }).await
    }

    /// `ifconfig carpN ...`. All of `update` is applied, or nothing.
    ///
    /// # Errors
    /// What cannot be: see [`CarpError`].
    pub async fn configure(&self, name: &str, update: Update) -> Result<(), CarpError> {
        self.port.call(Configure { name: name.into(), update }).await
    }

    /// The interfaces, settings and counters.
    pub async fn summary(&self) -> Summary {
        self.port.call(Describe {}).await
    }

    /// `sysctl net.inet.carp.preempt`: whether to take over from a live master that is slower.
    pub async fn set_preempt(&self, on: bool) {
        self.port.call(SetPreempt { on }).await;
    }

    /// Demotes every vhid for a named reason; weight 0 takes the reason back.
    pub async fn demote(&self, reason: &str, weight: u8) {
        self.port.call(Demote { reason: reason.into(), weight }).await;
    }

    /// Bows out of everything. Returns when the peers have been told and no address is ours any more.
    pub async fn stop(&self) {
        self.port.call(Stop {}).await;
    }
}
