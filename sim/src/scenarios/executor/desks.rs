//! Desks: ports with many readers, in sets, with bounds, and messages that are aborted, handed on and taken back.
//!
//! Where `threads.rs` has one thread for each port, a desk is served by several: threads of its own CPU, threads of others,
//! and threads that wait for a set of desks; some of them lose patience and come back. Papers go there by every way there is,
//! and their senders abort them, walk away, are refused, or wait for room. What happens to each paper is written down in
//! the [`Register`], which knows what must be true of it.
//!
//! | what | where |
//! |---|---|
//! | which desks there are, and what threads do with them | `plan.rs` |
//! | what must be true of each paper | `register.rs`, `notes.rs` |
//! | who serves them | `readers.rs` |
//! | who sends them | `senders.rs` |

mod notes;
pub mod plan;
mod readers;
pub mod register;
mod senders;

use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use executor::{
    CpuId, Message, Pending, Port, PortRef, PortSet, Put, Receipt, Serve, Server, current_cpu,
    spawn, spawn_on,
};

use plan::{Manner, OfficePlan};
use readers::{Reader, attend};
use register::Register;
pub use senders::{ask, hand, letters};

/// A request, whose reply says which one it was and how it ended.
struct Errand {
    paper: u32,
    manner: Manner,
    register: Arc<Register>,
}

/// A message that nobody waits for.
struct Slip(Errand);

/// One that overtakes the others.
struct Rush(Errand);

impl Errand {
    /// The same for all kinds: the paper is noted as it is linked.
    fn receipt(&self) -> Option<Receipt> {
        let (register, paper) = (self.register.clone(), self.paper);
        Some(Box::new(move || register.linked(paper, current_cpu().0)))
    }
}

impl Message for Errand {
    type Reply = u64;
    fn receipt(&mut self) -> Option<Receipt> {
        Errand::receipt(self)
    }
}

impl Message for Slip {
    type Reply = ();
    fn receipt(&mut self) -> Option<Receipt> {
        self.0.receipt()
    }
}

impl Message for Rush {
    type Reply = ();
    const PRIORITY: bool = true;
    fn receipt(&mut self) -> Option<Receipt> {
        self.0.receipt()
    }
}

/// How an errand ended, in the low bits of its reply.
const DONE: u64 = 0;
const ABORTED: u64 = 1;
const TAKEN_BACK: u64 = 2;

fn reply(paper: u32, how: u64) -> u64 {
    u64::from(paper) << 2 | how
}

/// The server of a desk.
struct Desk {
    at_once: bool,
    register: Arc<Register>,
}

enum Work {
    Errand(Pending<Errand>),
    Slip(Pending<Slip>),
    Rush(Pending<Rush>),
}

impl Desk {
    /// True if it is answered now, which is noted.
    fn answers(&self, errand: &Errand) -> bool {
        let answers = self.at_once && matches!(errand.manner, Manner::AtOnce);
        if answers {
            self.register.answered_at_once(errand.paper);
        }
        answers
    }
}

impl Server for Desk {
    type Work = Work;
}

impl Serve<Errand> for Desk {
    fn put(&self, message: Errand) -> Put<Errand> {
        if self.answers(&message) {
            Put::Done(reply(message.paper, DONE))
        } else {
            Put::Later(message)
        }
    }

    fn queue(pending: Pending<Errand>) -> Work {
        Work::Errand(pending)
    }
}

impl Serve<Slip> for Desk {
    fn put(&self, message: Slip) -> Put<Slip> {
        if self.answers(&message.0) {
            Put::Done(())
        } else {
            Put::Later(message)
        }
    }

    fn queue(pending: Pending<Slip>) -> Work {
        Work::Slip(pending)
    }
}

impl Serve<Rush> for Desk {
    fn put(&self, message: Rush) -> Put<Rush> {
        if self.answers(&message.0) {
            Put::Done(())
        } else {
            Put::Later(message)
        }
    }

    fn queue(pending: Pending<Rush>) -> Work {
        Work::Rush(pending)
    }
}

/// All desks of a node, as its threads see them. No desk refers to it, so that it goes when they do.
pub struct Desks {
    register: Arc<Register>,
    ports: OnceLock<Vec<PortRef<Desk>>>,
}

impl Desks {
    fn port(&self, desk: usize) -> &PortRef<Desk> {
        let ports = self.ports.get();
        &ports.expect("nobody sends before all desks are open")[desk]
    }
}

/// Opens the desks, with all their readers. Called on a CPU.
pub async fn open(plans: &[OfficePlan], register: &Arc<Register>) -> Arc<Desks> {
    let desks = Arc::new(Desks {
        register: register.clone(),
        ports: OnceLock::new(),
    });
    let mut ports = Vec::new();
    for plan in plans {
        let (first, plan, desks) = (ports.len(), plan.clone(), desks.clone());
        let cpu = CpuId(plan.cpu);
        let office = move || async move { open_office(first, &plan, &desks) };
        ports.extend(spawn_on(cpu, "office", office).await);
    }
    let far = ports.clone();
    let _ = desks.ports.set(ports);
    for (desk, plan) in plans.iter().flat_map(|plan| &plan.desks).enumerate() {
        for (group, (cpu, fickle)) in plan.far.iter().enumerate() {
            let (desks, port) = (desks.clone(), far[desk].clone());
            let place = Some((desk, plan.near.len() + group));
            let stays = plan.has_steady_reader();
            let reader = Reader::new(desks, group + 1, place, *fickle, stays);
            let body = move || async move {
                attend(reader, || port.receive(), |work| (work, None)).await;
            };
            spawn_on(CpuId(*cpu), "far reader", body).detach();
        }
    }
    desks
}

/// Opens the desks of one CPU that may be in a set together.
fn open_office(first: usize, plan: &OfficePlan, desks: &Arc<Desks>) -> Vec<PortRef<Desk>> {
    let set = Rc::new(PortSet::new());
    let mut handles = Vec::new();
    let mut ports = Vec::new();
    for (number, desk) in plan.desks.iter().enumerate() {
        let server = Desk {
            at_once: desk.at_once,
            register: desks.register.clone(),
        };
        let port = Rc::new(match desk.capacity {
            Some(capacity) => Port::bounded(server, capacity),
            None => Port::new(server),
        });
        handles.push(port.handle());
        for (place, fickle) in desk.near.iter().copied().enumerate() {
            let place = Some((first + number, place));
            let stays = desk.has_steady_reader();
            let reader = Reader::new(desks.clone(), 0, place, fickle, stays);
            let port = port.clone();
            spawn("near reader", async move {
                attend(reader, || port.receive(), |work| (work, Some(&*port))).await;
            })
            .detach();
        }
        if !plan.set.is_empty() {
            set.add(&port, move |work| (number, work));
        }
        debug_assert!(desks.register.is_at(first + number, plan.cpu));
        ports.push(port);
    }
    let ports = Rc::new(ports);
    let stays = plan.set.contains(&false);
    for fickle in plan.set.iter().copied() {
        let (reader, set, ports) = (
            Reader::new(desks.clone(), 0, None, fickle, stays),
            set.clone(),
            ports.clone(),
        );
        spawn("set reader", async move {
            let which = |(number, work): (usize, Work)| (work, Some(&*ports[number]));
            attend(reader, || set.receive(), which).await;
        })
        .detach();
    }
    handles
}
