//! A queued message in its server's hands: it is answered once, by whoever has it.
//!
//! The reply is owed by value: a [`Pending`] is consumed by the answer, handed on to another port, or complains when it is
//! dropped while its caller waits.

use super::{Message, Put, Serve, reply_port::Land};
use crate::{CpuId, cpu::is_in_poll, current, reply::Owed, trace::Event};
use alloc::boxed::Box;
use core::{
    fmt,
    future::poll_fn,
    task::{Context, Poll},
};

/// A queued message, which its server owes exactly one reply.
///
/// # Panics
/// Dropped in a poll without a reply while its caller still waits: that is a bug of the server, and the caller would wait for
/// ever. Dropped anywhere else it goes silently: as its CPU or its node stops, while a panic unwinds, outside of every CPU.
#[must_use = "reply to it: somebody waits"]
pub struct Pending<M: Message> {
    pub(super) message: Option<M>,
    pub(super) id: u32,
    pub(super) reply_to: ReplyTo<M::Reply>,
}

/// Who gets the reply.
pub(super) enum ReplyTo<R> {
    /// The message was posted.
    Nobody,
    /// It was called.
    Caller(Owed<R>),
    /// It was sent.
    Port(Box<dyn Land<R>>),
}

impl<M: Message> Pending<M> {
    /// A message that is about to be queued at a port of `cpu`.
    pub(super) fn new(cpu: CpuId, message: M, reply_to: ReplyTo<M::Reply>) -> Self {
        Self {
            message: Some(message),
            id: super::number(cpu),
            reply_to,
        }
    }

    /// The message.
    pub fn message(&self) -> &M {
        self.message
            .as_ref()
            .expect("taken only by reply and serve, which consume the Pending")
    }

    /// True if the caller has asked to abort or has gone away: finishing or undoing is the server's choice. A reply is due
    /// all the same.
    pub fn is_aborted(&self) -> bool {
        matches!(&self.reply_to, ReplyTo::Caller(owed) if owed.is_aborted())
    }

    /// Waits until the caller asks to abort or goes away; for ever, if that never happens. For a thread that has begun to
    /// serve the message and waits for something else meanwhile. The caller's abort wakes it on its own CPU, wherever the
    /// message has been handed on to (DragonFly: the message's abort function).
    pub async fn aborted(&mut self) {
        poll_fn(|context| self.poll_aborted(context)).await;
    }

    /// As [`aborted`](Self::aborted), for a thread that holds many messages: it polls them all, and is woken to search them
    /// when one is aborted.
    pub fn poll_aborted(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.reply_to {
            ReplyTo::Caller(owed) => owed.watch(context.waker()),
            ReplyTo::Nobody | ReplyTo::Port(_) => Poll::Pending,
        }
    }

    /// Answers the message.
    pub fn reply(mut self, reply: M::Reply) {
        self.message = None;
        let reply_to = self.take_reply_to();
        if matches!(reply_to, ReplyTo::Nobody) {
            return;
        }
        let here = current::try_current();
        if let Some(here) = here {
            here.record(Event::PortReply, 0, here.running_id(), self.id);
        }
        match reply_to {
            ReplyTo::Nobody => {}
            ReplyTo::Caller(owed) => {
                // A caller that has gone needs none.
                let _ = owed.answer(here, reply);
            }
            ReplyTo::Port(landing) => landing.land(reply),
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

    /// From here on nobody is owed anything.
    pub(super) fn take_reply_to(&mut self) -> ReplyTo<M::Reply> {
        core::mem::replace(&mut self.reply_to, ReplyTo::Nobody)
    }
}

impl<M: Message> Drop for Pending<M> {
    fn drop(&mut self) {
        let is_owed = match &self.reply_to {
            ReplyTo::Nobody => false,
            ReplyTo::Caller(owed) => !owed.is_gone(),
            ReplyTo::Port(_) => true,
        };
        // In a poll, a server lost a message; outside of one, its CPU is stopping.
        assert!(
            !is_owed || !is_in_poll(),
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
