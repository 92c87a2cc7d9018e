//! A handle to a port: how all CPUs, and what is no CPU, send to it.
//!
//! What can be answered here is; the rest travels to the port's owner by IPI message and is queued there. A call takes one
//! allocation with it, which brings the reply back (`call.rs`); anything else goes in a box.

use super::{
    Message, Own, Pending, Place, Put, ReplyTo, Serve, Server, bounded, call_local, number,
};
use crate::{
    Call, Cpu, CpuId, ipi,
    reply::{self, Awaited, Owed},
};
use core::{cell::Cell, fmt, hint};

/// A handle to a port, from any CPU.
pub struct PortRef<S: Server> {
    pub(super) home: Place<S>,
}

impl<S: Server> Clone for PortRef<S> {
    fn clone(&self) -> Self {
        Self {
            home: self.home.clone(),
        }
    }
}

impl<S: Server> fmt::Debug for PortRef<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PortRef({})", self.cpu())
    }
}

/// A message on its way to another CPU's port.
pub(super) struct Request<S: Server, M> {
    port: Place<S>,
    message: M,
    id: u32,
}

/// What a call to another CPU's port sends along.
pub(super) type Sent<S, M> = Cell<Option<Request<S, M>>>;

impl<S: Server> PortRef<S> {
    /// The CPU that the port lives on.
    pub fn cpu(&self) -> CpuId {
        self.home.cpu()
    }

    /// Sends a request. The message is on its way (or answered) when this returns; the future gives the reply.
    ///
    /// Dropping the future asks the server to abort; the server may finish all the same.
    #[inline(always)]
    pub fn call<M>(&self, message: M) -> Call<M::Reply>
    where
        M: Message + Send,
        M::Reply: Send,
        S: Serve<M>,
    {
        match self.home.here() {
            Some((here, own)) => call_local(&self.home, here, own, message),
            None => {
                // Not rare, but the inline answer is the one that counts branches.
                hint::cold_path();
                Call::waiting(self.enter_and_send_call(message))
            }
        }
    }

    #[inline(never)]
    fn enter_and_send_call<M>(&self, message: M) -> Awaited<M::Reply>
    where
        M: Message + Send,
        M::Reply: Send,
        S: Serve<M>,
    {
        bounded::enter(&self.home);
        self.send_call(message)
    }

    /// Not inlined with its caller, as everything that is not the inline answer. Gives the caller's end, in a register, and not the
    /// Call: that would be written to memory in parts and read back as a whole, a stall longer than the inline answer.
    pub(super) fn send_call<M>(&self, message: M) -> Awaited<M::Reply>
    where
        M: Message + Send,
        M::Reply: Send,
        S: Serve<M>,
    {
        /// # Safety
        /// `a` is the replier's end made below, and this is the owner CPU or none.
        unsafe fn arrive<S: Serve<M>, M: Message>(cpu: Option<&Cpu>, a: usize, _: usize) {
            // SAFETY: as above; run once. The cargo is its own, and Send.
            let (owed, request) = unsafe {
                let owed = Owed::<M::Reply>::from_raw(a);
                let request = owed.cargo::<Sent<S, M>>().take();
                (owed, request.filter(|_| cpu.is_some()))
            };
            if let Some(Request { port, message, id }) = request {
                let pending = Pending {
                    message: Some(message),
                    id,
                    reply_to: ReplyTo::Caller(owed),
                };
                // SAFETY: this is the owner CPU.
                unsafe { port.own() }.enqueue(pending, None);
            }
        }
        let request = Request {
            id: number(self.cpu()),
            port: self.home.clone(),
            message,
        };
        let (awaited, owed) = reply::pair::<M::Reply, Sent<S, M>>(
            self.home.caller().cast(),
            Cell::new(Some(request)),
        );
        // If the node is gone, it is dropped here: nobody will answer.
        let mut owed = Some(owed);
        self.home.with_owner(|owner| {
            if let Some(owed) = owed.take() {
                // SAFETY: this end goes with the message.
                unsafe { ipi::send_word(owner, arrive::<S, M>, owed.into_raw()) };
            }
        });
        awaited
    }

    /// Sends a message that has no reply, from anywhere: other CPUs, IPI functions, outside of every CPU. Waits for nothing,
    /// so it goes beyond the bound of a port that is full; see [`try_post`](Self::try_post) and
    /// [`post_in_turn`](Self::post_in_turn).
    #[inline]
    pub fn post<M>(&self, message: M)
    where
        M: Message<Reply = ()> + Send,
        S: Serve<M>,
    {
        if let Put::Later(message) = self.put_here(message) {
            bounded::enter(&self.home);
            self.queue_post(message, None);
        }
    }

    /// Hands a message that a server has taken on to this port, which owes the reply from now on; the caller waits on and
    /// sees nothing of it (DragonFly: `lwkt_forwardmsg`). Answered at once where a call would be.
    pub fn forward<M>(&self, mut pending: Pending<M>)
    where
        M: Message + Send,
        M::Reply: Send,
        S: Serve<M>,
    {
        let message = pending.message.take().expect("as in `message`");
        match self.put_here(message) {
            Put::Done(reply) => pending.reply(reply),
            Put::Later(message) => {
                pending.message = Some(message);
                pending.id = number(self.cpu());
                bounded::enter(&self.home);
                self.carry(pending, Own::enqueue_forwarded);
            }
        }
    }

    /// Answers at once if that can be done here.
    #[inline]
    pub(super) fn put_here<M: Message>(&self, message: M) -> Put<M>
    where
        S: Serve<M>,
    {
        match self.home.here() {
            Some((here, own)) => own.try_put(here, message),
            None => Put::Later(message),
        }
    }

    /// Queues a message that nobody waits for. Room was made for it.
    #[inline]
    pub(super) fn queue_post<M>(&self, message: M, entrance: Option<Owed<()>>)
    where
        M: Message<Reply = ()> + Send,
        S: Serve<M>,
    {
        let pending = Pending::new(self.cpu(), message, ReplyTo::Nobody);
        self.carry(pending, |own, pending| own.enqueue(pending, entrance));
    }

    /// Brings a message to the owner, which queues it by `queue`.
    #[inline]
    pub(super) fn carry<M>(
        &self,
        pending: Pending<M>,
        queue: impl FnOnce(&Own<S>, Pending<M>) + Send + 'static,
    ) where
        M: Message + Send,
        M::Reply: Send,
        S: Serve<M>,
    {
        if let Some((_, own)) = self.home.here() {
            queue(own, pending);
            return;
        }
        let mut cargo = Some((pending, queue));
        self.home.with_owner(|owner| {
            let (home, cargo) = (self.home.clone(), cargo.take());
            ipi::send_to(owner, move |_| {
                if let Some((pending, queue)) = cargo {
                    // SAFETY: the message runs on the owner.
                    queue(unsafe { home.own() }, pending);
                }
            });
        });
        if let Some((mut lost, _)) = cargo {
            // The node is gone: nobody will answer, as with a call to it.
            lost.take_reply_to();
        }
    }
}
