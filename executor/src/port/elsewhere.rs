//! Readers on other CPUs: several threads of several CPUs may serve one port, and each message is received once.
//!
//! A reader asks the owner by IPI message and stands in the owner's line like any other. Its turn brings the message
//! itself, as a reply:
//!
//! ```text
//!   reader                                  owner
//!   ask, wait for the reply                 its turn: take the message off, reply with it
//!   goes away: leave                        refused, the reader has gone: put it back, next reader
//!   a message was there? send it back       put it back in front of its like, offer it
//!   none? tell the owner to forget me       forget the readers that have gone
//! ```
//!
//! The reply's word decides which of the two has the message, so it is never lost and never received twice (trap 48). No
//! queue is touched by two CPUs; DragonFly's spin port has a lock there.

use super::{Place, PortRef, Server, queue::Linked, queue::Reader};
use crate::{
    critical, current,
    reply::{Awaited, pair},
};
use core::{
    future::poll_fn,
    ptr,
    task::{Context, Poll},
};

impl<S: Server> PortRef<S>
where
    S::Work: Send,
{
    /// The next queued message of a port of any CPU of this node, in turn with the port's other readers. May be dropped at
    /// any time: no message goes with it.
    ///
    /// # Panics
    /// On a CPU of another node, and outside of every CPU.
    pub async fn receive(&self) -> S::Work {
        let mut wanted = Wanted::ask(&self.home);
        poll_fn(|context| wanted.poll(context)).await
    }
}

/// A place in the line of a port of another CPU. Also used on the port's own: a movable thread may come from there.
struct Wanted<S: Server>
where
    S::Work: Send,
{
    port: Place<S>,
    /// None once it has given the message.
    awaited: Option<Awaited<Linked<S::Work>>>,
}

impl<S: Server> Wanted<S>
where
    S::Work: Send,
{
    fn ask(port: &Place<S>) -> Self {
        let here = current::current();
        assert!(
            port.is_home_of(here),
            "a port is served by threads of its own node"
        );
        let (awaited, owed) = pair(ptr::from_ref(here).cast(), ());
        port.visit(move |_, own| own.queue.join(Reader::Elsewhere(owed)));
        Self {
            port: port.clone(),
            awaited: Some(awaited),
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<S::Work> {
        let awaited = self.awaited.as_mut().expect("polled until it is ready");
        awaited.poll(context.waker()).map(|linked| {
            self.awaited = None;
            linked.message
        })
    }
}

impl<S: Server> Drop for Wanted<S>
where
    S::Work: Send,
{
    fn drop(&mut self) {
        let Some(awaited) = self.awaited.take() else {
            return;
        };
        match awaited.leave() {
            Some(linked) => self.port.visit(move |_, own| {
                critical::section(|| {
                    own.queue.put_back(linked);
                    own.queue.offer();
                });
            }),
            None => self.port.visit(|_, own| own.queue.forget_gone()),
        }
    }
}
