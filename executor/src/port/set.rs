//! Sets of ports: one thread waits for the messages of many ports, of different servers.
//!
//! A set stands in the line of each of its ports as a reader does. A port that promises it a message links its own number
//! in the set's queue, where the thread waits, so a message costs the same however many ports there are. A port goes to
//! the end of both lines after each message: ports take turns, and so do a set and the other readers of a port.

use super::{Place, Port, Server, queue::Queue, queue::Reader};
use crate::critical;
use alloc::{rc::Rc, vec::Vec};
use core::{cell::RefCell, fmt};

/// Ports of this CPU that are waited for together. `T` is what their messages have in common, usually an enum with a variant
/// for each port. A [`ReplyPort`](super::ReplyPort) is a port like any other.
///
/// Several threads may wait at one set; each message is received once.
pub struct PortSet<T> {
    /// The numbers of members with a promised message, each at most once.
    ready: Rc<Queue<usize>>,
    members: RefCell<Vec<Rc<dyn Member<T>>>>,
}

/// A port as its set sees it.
trait Member<T> {
    /// Takes what was promised and lines up again.
    fn collect(&self, set: &Rc<Queue<usize>>, number: usize) -> Option<T>;
    /// Gives up the place in the port's line.
    fn leave(&self, set: &Rc<Queue<usize>>, number: usize);
}

struct Joined<S: Server, F> {
    port: Place<S>,
    wrap: F,
}

impl<S: Server, F> Joined<S, F> {
    fn queue(&self) -> &Queue<S::Work> {
        // SAFETY: a set, like a port, is not Send, and was made where its ports live.
        unsafe { &self.port.own().queue }
    }
}

impl<S: Server, T, F: Fn(S::Work) -> T> Member<T> for Joined<S, F> {
    fn collect(&self, set: &Rc<Queue<usize>>, number: usize) -> Option<T> {
        let message = critical::section(|| {
            let message = self.queue().collect();
            self.queue().join(Reader::Set {
                ready: set.clone(),
                member: number,
            });
            message
        });
        message.map(&self.wrap)
    }

    fn leave(&self, set: &Rc<Queue<usize>>, number: usize) {
        self.queue().leave(|reader| reader.is_member(set, number));
    }
}

impl<T: 'static> PortSet<T> {
    /// A set of no ports.
    pub fn new() -> Self {
        Self {
            ready: Rc::new(Queue::new(None)),
            members: RefCell::default(),
        }
    }

    /// Waits for `port` as well from now on; `wrap` makes a `T` of its messages. The port lives at least as long as the set.
    ///
    /// # Panics
    /// Outside of every CPU.
    pub fn add<S: Server>(&self, port: &Port<S>, wrap: impl Fn(S::Work) -> T + 'static) {
        let member = Rc::new(Joined {
            port: port.home.clone(),
            wrap,
        });
        let number = self.members.borrow().len();
        self.members.borrow_mut().push(member.clone());
        member.queue().join(Reader::Set {
            ready: self.ready.clone(),
            member: number,
        });
    }

    /// The next message of any of the ports. May be dropped at any time: no message goes with it.
    pub async fn receive(&self) -> T {
        loop {
            let number = self.ready.receive().await;
            if let Some(message) = self.collect(number) {
                return message;
            }
        }
    }

    /// The next message of any of the ports if there is one that is promised to no other reader.
    pub fn try_receive(&self) -> Option<T> {
        loop {
            let number = self.ready.try_receive()?;
            if let Some(message) = self.collect(number) {
                return Some(message);
            }
        }
    }

    fn collect(&self, number: usize) -> Option<T> {
        // Out of the borrow: `wrap` may do anything.
        let member = self.members.borrow().get(number)?.clone();
        member.collect(&self.ready, number)
    }
}

impl<T: 'static> Default for PortSet<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for PortSet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortSet")
            .field("ports", &self.members.borrow().len())
            .field("ready", &self.ready.len())
            .finish()
    }
}

impl<T> Drop for PortSet<T> {
    fn drop(&mut self) {
        for (number, member) in self.members.take().into_iter().enumerate() {
            member.leave(&self.ready, number);
        }
    }
}
