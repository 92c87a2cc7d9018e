//! CARP version 2: several nodes share virtual addresses, exactly one of them answers.
//!
//! [`wire`] is the 36-byte advertisement, [`auth`] its HMAC-SHA1, [`timers`] the arithmetic of
//! intervals, [`Vhid`] the state machine of one virtual host. The machine does no I/O and owns no
//! clock: every input carries `now_ns`, every output is an [`Action`] in a must-use [`Actions`],
//! and [`Vhid::next_deadline_ns`] says when to call [`Vhid::on_timer`]. A kernel task, a
//! simulator and a fuzzer drive the same code; the alternative, timers and sockets inside the
//! machine, would make a three-node election untestable at virtual milliseconds.
//!
//! [`service`] is that task: one thread per node that owns every vhid and carries the actions out on a
//! network.
//!
//! What we follow where the BSDs differ, and why, is in `docs/decisions/carp-*.md`.
//! Source: OpenBSD, FreeBSD and DragonFly `sys/netinet/ip_carp.c`, ucarp 1.5.2.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod action;
pub mod auth;
pub mod config;
pub mod counters;
pub mod demotion;
pub mod service;
pub mod split_brain;
pub mod timers;
pub mod vhid;
pub mod wire;

pub use action::{Action, Actions, Reason, State, StateChange};
pub use auth::{Authenticator, LinkLocal, Password};
pub use config::{Config, ConfigError};
pub use counters::{Counters, DropReason};
pub use split_brain::{SplitBrain, SplitBrainCause};
pub use timers::Timing;
pub use vhid::{Link, Received, Vhid};
