//! What an operator sets on a vhid, and what is refused.
//!
//! Values that cannot work are errors here instead of being cut to size: `ifconfig` of the BSDs
//! silently truncates a long password, and two nodes that truncate differently split.

use core::fmt;

use crate::auth::{LinkLocal, Password};
use crate::timers::Timing;

/// The largest configurable advskew; 255 is reserved for the bow-out.
pub const ADVSKEW_MAX: u8 = 254;

/// The settings of a vhid that may change while it runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// advbase in seconds (0 for sub-second operation among ours and OpenBSD's) and advskew.
    pub timing: Timing,
    /// The shared secret.
    pub password: Password,
    /// Whether to take over from a live master that is slower than we are.
    pub preempt: bool,
    /// How long after becoming BACKUP at start a live master is left alone. It never delays the
    /// takeover from a dead one. To wait for a *condition*, set a named demotion instead.
    pub preempt_delay_ns: u64,
    /// Whether link-local IPv6 virtual addresses are part of the digests we send.
    pub link_local: LinkLocal,
    /// Repeat the gratuitous ARP at least this often while MASTER; for gateways that forget.
    pub announce_refresh_ns: Option<u64>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            timing: Timing {
                advbase: 1,
                advskew: 0,
            },
            password: Password::default(),
            preempt: false,
            preempt_delay_ns: 0,
            link_local: LinkLocal::default(),
            announce_refresh_ns: None,
        }
    }
}

impl Config {
    /// Refuses what cannot be put on the wire.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.timing.advskew > ADVSKEW_MAX {
            return Err(ConfigError::Advskew(self.timing.advskew));
        }
        Ok(())
    }
}

/// A setting that was refused; the operator has to choose another value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// vhid must be 1 to 255.
    Vhid,
    /// advskew must be 0 to 254.
    Advskew(u8),
    /// The password has this many bytes; 19 are the most all implementations agree on.
    PasswordTooLong(usize),
    /// The password contains a NUL byte, which would end it on the wire key.
    PasswordNul,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vhid => write!(f, "vhid must be 1 to 255"),
            Self::Advskew(got) => write!(f, "advskew must be 0 to {ADVSKEW_MAX}, not {got}"),
            Self::PasswordTooLong(len) => {
                write!(
                    f,
                    "password has {len} characters, at most {} work",
                    Password::MAX_LEN
                )
            }
            Self::PasswordNul => write!(f, "password must not contain a NUL"),
        }
    }
}

impl core::error::Error for ConfigError {}
