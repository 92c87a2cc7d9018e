//! LWKT: threads as futures, one executor per CPU, and what they talk through.
//!
//! - [`Node`], [`Cpu`], [`Platform`]: a kernel, one of its CPUs, the machine below.
//! - [`spawn`], [`spawn_on`], [`spawn_movable`]: threads. They stay on their CPU; only a movable one moves, by itself.
//! - [`Port`], [`Message`]: requests that answer at once when they can.
//! - [`Token`], [`Guarded`]: shared state, held exactly while its holder runs.
//! - [`run_on`], [`chain`], [`send_to`], [`synchronize`]: plain functions on other CPUs, by IPI message.
//! - [`cpusync`]: functions that run while other CPUs stand still.
//! - [`sleep`], [`interval`], [`timeout`], [`Event`], [`CpuLocal`], [`critical`].
//! - [`slab`]: the per-CPU allocator. [`trace`]: what happened.
//!
//! The rules are DragonFly's: no CPU touches another's run queue, kernel threads run to their next await, and nothing
//! is locked. Start at `cpu.rs`, whose loop is the whole machine; `thread.rs` says how a thread lives and is woken,
//! `inbox.rs` why no wake is lost.
//!
//! Under `--cfg loom` only the lock-free structures are compiled, for the models in `tests/loom/`; under `--cfg shuttle`
//! everything is, on a machine of `tests/shuttle/` whose CPUs take turns at every atomic operation.
#![no_std]

extern crate alloc;

pub mod slab;
pub mod sync;
pub mod trace;

/// The lock-free structures, public so that models can drive them; use them through the types above.
#[doc(hidden)]
pub mod parts {
    pub use crate::{
        countdown::{Countdown, Last},
        inbox::Inbox,
        life::Life,
        mark::WakeMark,
        owner::{Flags, Owner, flag},
        reply::{Awaited, Owed, Stored, pair},
        ring::{CAPACITY, Ring},
        room::Room,
        token::{Found, TokenWord},
    };
}

mod countdown;
mod inbox;
mod life;
mod mark;
mod owner;
mod packed;
mod reply;
mod ring;
mod room;
mod token;

#[cfg(not(loom))]
mod whole {
    //! Everything that is more than one structure.
    pub use crate::{
        call::Call,
        cpu::{Broken, Cpu, InterruptHandler, Name, Overrun, ThreadInfo},
        current::{current, try_current},
        event::Event,
        ipi::{
            Sent, chain, run_on, run_on_all, run_on_mask, send_passive, send_to, send_to_mask,
            sent_to, synchronize,
        },
        local::CpuLocal,
        mask::CpuMask,
        node::Node,
        platform::Platform,
        port::{
            Answer, Full, Message, Pending, Port, PortRef, PortSet, Put, PutPort, PutRef, Receipt,
            Receive, ReplyPort, Serve, Server,
        },
        runqueue::Priority,
        spawn::{
            Builder, Migrate, Mobile, Yield, spawn, spawn_anywhere, spawn_movable, spawn_on,
            yield_now,
        },
        stats::{Counter, Stats},
        thread::{Account, Exit, JoinHandle, Thread, exit, set_priority},
        timer::{Elapsed, Interval, Sleep, interval, now_ns, poll_ns, sleep, sleep_until, timeout},
        token::{
            Claim, Guarded, Held, HeldShared, Token, TokenCounts, TokenInfo, TokenPool, hold_all,
        },
    };
}
#[cfg(not(loom))]
pub use whole::*;

#[cfg(not(loom))]
mod call;
#[cfg(not(loom))]
mod cpu;
#[cfg(not(loom))]
pub mod cpusync;
#[cfg(not(loom))]
pub mod critical;
#[cfg(not(loom))]
mod current;
#[cfg(not(loom))]
mod event;
#[cfg(all(feature = "hosted", not(loom)))]
pub mod hosted;
#[cfg(not(loom))]
mod ipi;
#[cfg(not(loom))]
mod local;
#[cfg(not(loom))]
mod mask;
#[cfg(not(loom))]
mod node;
#[cfg(not(loom))]
mod platform;
#[cfg(not(loom))]
mod port;
#[cfg(not(loom))]
mod runqueue;
#[cfg(not(loom))]
mod spawn;
#[cfg(not(loom))]
mod stats;
#[cfg(not(loom))]
mod thread;
#[cfg(all(feature = "hosted", not(loom)))]
pub mod ticks;
#[cfg(not(loom))]
mod timer;

/// A CPU's number in its node, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuId(pub u16);

impl CpuId {
    /// As an index.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl core::fmt::Display for CpuId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "cpu{}", self.0)
    }
}

/// The CPU that runs this code.
///
/// # Panics
/// Outside of every CPU.
#[cfg(not(loom))]
#[inline]
pub fn current_cpu() -> CpuId {
    current().id()
}
