//! CARP as a service: the thread on CPU 0 that owns every vhid of this node.
//!
//! [`start`] makes the thread and returns [`Carp`], its handle. The protocol is [`crate::Vhid`]'s; here is
//! what surrounds it: which interface is whose parent, the network's copies of the virtual addresses,
//! timers, requests, and the carrying out of actions *in order*, awaiting each. What happens meanwhile
//! waits in the port's queue, so that a state change is on every CPU before the advertisement that
//! tells of it is sent. A vhid that bows out is waited for by its timer, not by the thread: the others
//! go on (`departure.rs`).
//!
//! Decision: one thread for all vhids, of a priority above the protocols' ([`PRIORITY`]). Elections are rare
//! and short; what matters is that an advertisement never waits for data (keepalived's most reported false
//! failover), and that a node's vhids are never seen half-way.
//!
//! Source: DragonFly `sys/netinet/ip_carp.c` (interface `carpN`, the parent that is found by subnet).

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use executor::{Builder, Port, PortRef, Priority};

use message::{CarpServer, Report, Request};
use vhids::Vhids;

pub use error::CarpError;
pub use lan::{Lan, Parent};
pub use message::Input;
pub use settings::{Change, WantedState};
pub use status::{CarpReport, CarpStatus};

mod act;
mod adjust;
mod departure;
mod error;
mod interface;
mod lan;
mod message;
mod network;
mod settings;
mod status;
mod vhids;

#[cfg(test)]
mod tests;

/// The thread's priority: above that of the protocols, or a CPU busy with data would advertise late. Below the
/// drivers' own threads, which hand out what is received and rest after every batch.
///
/// A packet that is being handled is finished first, as nothing here is preempted; and behind us there is
/// only the device's queue, which serves in order.
pub const PRIORITY: Priority = Priority::TIMER;

const _: () = assert!(PRIORITY.value() > net::config::PRIORITY.value());

/// The handle of the service. Clones are the same service; any CPU of the node may use one.
#[derive(Clone)]
pub struct Carp {
    port: PortRef<CarpServer>,
    preempt: Arc<AtomicBool>,
}

impl Carp {
    /// Makes or changes an interface; all changes at once, so that no half-way list of addresses
    /// ever reaches the wire. A change of the vhid is over when the old one has bowed out.
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

    /// Removes an interface; returns when it has bowed out.
    ///
    /// # Errors
    /// If there is none.
    pub async fn destroy(&self, name: &str) -> Result<(), CarpError> {
        self.port.call(Request::Destroy { name: name.into() }).await
    }

    /// Sets a reason why this node should rather not be master, for every vhid that is there or comes; a weight
    /// of 0 clears it.
    ///
    /// # Errors
    /// If the reason is one that vhids set themselves.
    pub async fn demote(&self, reason: &str, weight: u8) -> Result<(), CarpError> {
        let reason = String::from(reason);
        self.port.call(Request::Demote { reason, weight }).await
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
        self.preempt.load(Ordering::Relaxed)
    }

    /// Sets it; in force when the service has seen it.
    pub fn set_preempt(&self, preempt: bool) {
        self.preempt.store(preempt, Ordering::Relaxed);
        // Nobody waits; the call is in the queue already.
        drop(self.port.call(Request::SetPreempt(preempt)));
    }
}

impl core::fmt::Debug for Carp {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Carp")
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
        .priority(PRIORITY)
        .spawn(Vhids::new(lan, seed).run(port))
        .detach();
    Carp {
        port: handle,
        preempt: Arc::default(),
    }
}
