//! Why the service refuses a change: [`CarpError`].
//!
//! Each text says what to do instead; the console prints it as it is.

use alloc::string::String;
use core::fmt;
use core::net::Ipv4Addr;

use crate::demotion::SEND_ERRORS;

/// Why a change was refused. Unless said otherwise, nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CarpError {
    /// There is no such interface; create it first.
    NoSuchInterface(String),
    /// There is one of that name already.
    Exists(String),
    /// The name is not `carp` and a number.
    BadName(String),
    /// A setting is refused.
    Setting(crate::ConfigError),
    /// Another CARP interface has this vhid on the same parent.
    VhidInUse(u8),
    /// The state can only be forced while the interface takes part. The request's settings are in force.
    NotRunning(String),
    /// The interface does not have this address.
    NoSuchAddress(Ipv4Addr),
    /// Each vhid sets and clears this reason by itself.
    OwnReason,
    /// The network refused a virtual address. The request's other settings are in force.
    Network(net::ConfigError),
}

impl From<crate::ConfigError> for CarpError {
    fn from(error: crate::ConfigError) -> Self {
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
            Self::OwnReason => write!(
                f,
                "`{SEND_ERRORS}` is set and cleared by each vhid itself; choose another reason"
            ),
            Self::Network(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for CarpError {}
