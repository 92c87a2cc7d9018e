//! A queue of the owner's CPU and the readers that wait at it: what every port, reply port and set is made of.
//!
//! Messages with priority come first; each of the two classes keeps its order. Readers stand in one line and are served in
//! turn, whatever they are:
//!
//! | reader | what it gets |
//! |---|---|
//! | a thread of this CPU ([`Receive`]) | it is woken, and a message is promised to it |
//! | a set of ports (`set.rs`) | the same; the set's own queue gets the port's number |
//! | a thread of another CPU (`elsewhere.rs`) | the message, which comes back if the reader has gone |
//!
//! A promised message stays linked until its reader is polled: what is linked keeps later messages from being answered
//! before it, a reader that goes away passes the promise on, and nothing can be lost in between. Nobody else takes what is
//! promised. All of this is done in critical sections, because interrupt handlers post.
//!
//! Source: DragonFly `lwkt_msgport` (two lists in each port; a spin port serves many readers).

use super::bounded::Line;
use crate::{critical, current, reply::Owed};
use alloc::{boxed::Box, collections::VecDeque, rc::Rc};
use core::{
    cell::{Cell, RefCell},
    future::Future,
    mem,
    pin::Pin,
    ptr,
    task::{Context, Poll, Waker},
};

/// A queue of one CPU. The counts are u32 so that a port is small; memory ends before they do. They come last, beside
/// what else a call looks at (see `Own`).
#[repr(C)]
pub(super) struct Queue<W> {
    /// For a bounded port.
    line: Option<Box<Line>>,
    readers: RefCell<VecDeque<Reader<W>>>,
    /// Those with priority first.
    messages: RefCell<VecDeque<W>>,
    tickets: Cell<u32>,
    /// How many messages are promised to readers that were woken and not polled yet.
    promised: Cell<u32>,
    /// How many messages are linked, where a call sees it without a borrow, and how many of them have priority.
    urgent: Cell<u32>,
    queued: Cell<u32>,
}

/// Somebody who waits for a message.
pub(super) enum Reader<W> {
    Thread {
        ticket: u32,
        waker: Waker,
    },
    Set {
        ready: Rc<Queue<usize>>,
        member: usize,
    },
    Elsewhere(Owed<Linked<W>>),
}

/// A message that is off the queue, and can be put back in its place.
pub(super) struct Linked<W> {
    pub(super) message: W,
    urgent: bool,
}

impl<W> Queue<W> {
    /// Where what a call looks at begins.
    #[cfg(test)]
    pub(super) const COUNTS: usize = mem::offset_of!(Self, urgent);

    pub(super) fn new(line: Option<Box<Line>>) -> Self {
        Self {
            queued: Cell::new(0),
            urgent: Cell::new(0),
            promised: Cell::new(0),
            tickets: Cell::new(0),
            messages: RefCell::new(VecDeque::new()),
            readers: RefCell::new(VecDeque::new()),
            line,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.queued.get() as usize
    }

    /// How many readers wait.
    pub(super) fn readers(&self) -> usize {
        self.readers.borrow().len()
    }

    /// True if nothing is linked that a message, with priority or without, must not overtake.
    #[inline(always)]
    pub(super) fn lets_pass(&self, urgent: bool) -> bool {
        let before = if urgent { &self.urgent } else { &self.queued };
        before.get() == 0
    }

    /// Links a message behind its like; [`offer`](Self::offer) tells the readers. `entrance` is answered when the message has
    /// room. In a critical section.
    #[inline(always)]
    pub(super) fn link(&self, message: W, urgent: bool, entrance: Option<Owed<()>>) {
        let index = if urgent {
            self.urgent.get()
        } else {
            self.queued.get()
        };
        self.insert(index, message, urgent);
        if let Some(line) = &self.line {
            line.arrived(self.len(), entrance);
        }
    }

    /// Puts a message back in front of its like. In a critical section.
    pub(super) fn put_back(&self, Linked { message, urgent }: Linked<W>) {
        let index = if urgent { 0 } else { self.urgent.get() };
        self.insert(index, message, urgent);
        if let Some(line) = &self.line {
            line.came_back(self.len());
        }
    }

    #[inline(always)]
    fn insert(&self, index: u32, message: W, urgent: bool) {
        let mut messages = self.messages.borrow_mut();
        if index == self.queued.get() {
            messages.push_back(message);
        } else {
            messages.insert(index as usize, message);
        }
        self.queued.set(self.queued.get() + 1);
        self.urgent.set(self.urgent.get() + u32::from(urgent));
    }

    #[inline(always)]
    fn remove(&self, index: usize) -> Option<Linked<W>> {
        let mut messages = self.messages.borrow_mut();
        let message = if index == 0 {
            messages.pop_front()?
        } else {
            messages.remove(index)?
        };
        drop(messages);
        let urgent = index < self.urgent.get() as usize;
        self.queued.set(self.queued.get() - 1);
        self.urgent.set(self.urgent.get() - u32::from(urgent));
        if let Some(line) = &self.line {
            line.left();
        }
        Some(Linked { message, urgent })
    }

    /// Gives what is linked and promised to nobody to the readers, in turn. In a critical section.
    pub(super) fn offer(&self) {
        while self.queued.get() > self.promised.get() {
            let Some(reader) = self.readers.borrow_mut().pop_front() else {
                return;
            };
            match reader {
                Reader::Thread { waker, .. } => {
                    self.promised.set(self.promised.get() + 1);
                    waker.wake();
                }
                Reader::Set { ready, member } => {
                    self.promised.set(self.promised.get() + 1);
                    ready.link(member, false, None);
                    ready.offer();
                }
                Reader::Elsewhere(owed) => {
                    let Some(linked) = self.remove(0) else { return };
                    if let Err(refused) = owed.answer(current::try_current(), linked) {
                        self.put_back(refused);
                    }
                }
            }
        }
    }

    /// The first message, for the thread that runs here. In a critical section.
    #[inline(always)]
    fn receive_first(&self) -> Option<W> {
        let linked = self.remove(0)?;
        current::current().count_message();
        Some(linked.message)
    }

    /// The first message, unless all are promised.
    #[inline(always)]
    pub(super) fn try_receive(&self) -> Option<W> {
        critical::section(|| {
            if self.queued.get() <= self.promised.get() {
                return None;
            }
            self.receive_first()
        })
    }

    /// The first message that `is_wanted`, promised or not.
    pub(super) fn withdraw(&self, is_wanted: impl FnMut(&W) -> bool) -> Option<W> {
        critical::section(|| {
            let index = self.messages.borrow().iter().position(is_wanted)?;
            self.remove(index).map(|linked| linked.message)
        })
    }

    /// The next message, for a thread of this CPU.
    #[inline]
    pub(super) fn receive(&self) -> Receive<'_, W> {
        Receive {
            queue: self,
            ticket: None,
        }
    }

    /// Puts a reader at the end of the line.
    pub(super) fn join(&self, reader: Reader<W>) {
        critical::section(|| {
            self.readers.borrow_mut().push_back(reader);
            self.offer();
        });
    }

    /// Takes the promise that a woken reader has. None if its message was withdrawn. In a critical section.
    #[inline]
    pub(super) fn collect(&self) -> Option<W> {
        self.promised.set(self.promised.get() - 1);
        self.receive_first()
    }

    /// Takes the reader that `is_leaving` out of the line, or its promise, if it is out of it already.
    pub(super) fn leave(&self, is_leaving: impl FnMut(&Reader<W>) -> bool) {
        critical::section(|| {
            let place = self.readers.borrow().iter().position(is_leaving);
            if let Some(place) = place {
                let reader = self.readers.borrow_mut().remove(place);
                drop(reader);
            } else {
                self.promised.set(self.promised.get() - 1);
                self.offer();
            }
        });
    }

    /// Takes readers of other CPUs that have gone out of the line.
    pub(super) fn forget_gone(&self) {
        critical::section(|| {
            self.readers
                .borrow_mut()
                .retain(|reader| !matches!(reader, Reader::Elsewhere(owed) if owed.is_gone()));
        });
    }

    fn new_ticket(&self) -> u32 {
        let ticket = self.tickets.get();
        self.tickets.set(ticket.wrapping_add(1));
        ticket
    }

    /// Keeps the newest waker of a thread in the line. False: it is out of it, hence woken.
    fn still_waits(&self, ticket: u32, newest: &Waker) -> bool {
        let mut readers = self.readers.borrow_mut();
        let waits = readers.iter_mut().find_map(|reader| match reader {
            Reader::Thread {
                ticket: theirs,
                waker,
            } if *theirs == ticket => Some(waker),
            _ => None,
        });
        let Some(waker) = waits else { return false };
        if !waker.will_wake(newest) {
            let old = mem::replace(waker, newest.clone());
            // What a combinator's waker does as it goes may come back here, so it goes after the borrow has ended.
            drop(readers);
            drop(old);
        }
        true
    }
}

impl<W> Reader<W> {
    /// True for this member of this set.
    pub(super) fn is_member(&self, of: &Rc<Queue<usize>>, number: usize) -> bool {
        matches!(self, Self::Set { ready, member } if ptr::eq(&raw const **ready, &raw const **of) && *member == number)
    }
}

/// The next message of a port of this CPU, as a future. It may be dropped at any time: no message goes with it.
#[must_use = "a receive does nothing until it is awaited"]
pub struct Receive<'q, W> {
    queue: &'q Queue<W>,
    /// The place in the line, once it has one; also while a message is promised.
    ticket: Option<u32>,
}

impl<W> Future for Receive<'_, W> {
    type Output = W;
    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<W> {
        let queue = self.queue;
        // One section: a post from an interrupt handler must not come between the look and the place in the line.
        critical::section(|| {
            let message = match self.ticket {
                None => queue.try_receive(),
                Some(ticket) if queue.still_waits(ticket, context.waker()) => return Poll::Pending,
                Some(_) => queue.collect(),
            };
            let first = self.ticket.take().is_some();
            if let Some(message) = message {
                return Poll::Ready(message);
            }
            let ticket = queue.new_ticket();
            let waker = context.waker().clone();
            let reader = Reader::Thread { ticket, waker };
            self.ticket = Some(ticket);
            // One whose message was withdrawn under its hands has not had its turn.
            let mut readers = queue.readers.borrow_mut();
            if first {
                readers.push_front(reader);
            } else {
                readers.push_back(reader);
            }
            Poll::Pending
        })
    }
}

impl<W> Drop for Receive<'_, W> {
    #[inline]
    fn drop(&mut self) {
        if let Some(own) = self.ticket {
            self.queue
                .leave(|reader| matches!(reader, Reader::Thread { ticket, .. } if *ticket == own));
        }
    }
}
