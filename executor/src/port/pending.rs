//! A queued message in its server's hands: it is answered once, by whoever has it.
//!
//! The reply is owed by value: a [`Pending`] is consumed by the answer, handed on to another port, or complains when it is
//! dropped while its caller waits.

use super::{Message, Put, Serve};
use crate::{call::Slot, current, trace::Event};
use core::fmt;

/// A queued message, which its server owes exactly one reply.
///
/// # Panics
/// Dropped without a reply while its caller still waits: that is a bug of the server, and the caller would wait for
/// ever. (When a CPU stops, what is queued goes silently.)
#[must_use = "reply to it: somebody waits"]
pub struct Pending<M: Message> {
    pub(super) message: Option<M>,
    pub(super) id: u32,
    /// None for a posted message.
    pub(super) slot: Option<Slot<M::Reply>>,
}

impl<M: Message> Pending<M> {
    /// The message.
    pub fn message(&self) -> &M {
        self.message
            .as_ref()
            .expect("taken only by reply and serve, which consume the Pending")
    }

    /// True if the caller has gone away: finishing or undoing is the server's choice. A reply is due all the same.
    pub fn is_aborted(&self) -> bool {
        self.slot
            .as_ref()
            .is_some_and(|slot| slot.reply.is_aborted())
    }

    /// Answers the message.
    pub fn reply(mut self, reply: M::Reply) {
        self.message = None;
        if let Some(slot) = self.slot.take() {
            let here = current::try_current();
            if let Some(here) = here {
                here.record(Event::PortReply, 0, here.running_id(), self.id);
            }
            // SAFETY: the slot was in this Pending and is out of it: one reply.
            unsafe { slot.answer(here, reply) };
        }
    }

    /// Lets `server` decide again: replies if it is Done, else gives the message back for slower work.
    ///
    /// # Errors
    /// The pending message, when the server says Later.
    pub fn serve<S: Serve<M>>(mut self, server: &S) -> Result<(), Self> {
        let message = self.message.take().expect("as in `message`");
        match server.put(message) {
            Put::Done(reply) => {
                self.reply(reply);
                Ok(())
            }
            Put::Later(message) => {
                self.message = Some(message);
                Err(self)
            }
        }
    }
}

impl<M: Message> Drop for Pending<M> {
    fn drop(&mut self) {
        let Some(slot) = &self.slot else { return };
        // In a poll, a server lost a message; outside of one, its CPU is stopping.
        let in_poll = current::try_current().is_some_and(|here| here.running_id() != 0);
        assert!(
            slot.reply.is_aborted() || !in_poll,
            "a server dropped a message without a reply, and its caller waits"
        );
    }
}

impl<M: Message + fmt::Debug> fmt::Debug for Pending<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending")
            .field("message", &self.message)
            .finish_non_exhaustive()
    }
}
