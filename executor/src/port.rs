//! Message ports: requests that answer at once when they can.
//!
//! A [`Server`] decides in [`Serve::put`], before any side effect: [`Put::Done`] with the reply, or [`Put::Later`] with
//! the message back. A call to a port of this CPU whose queue is empty runs `put` inside [`PortRef::call`], and Done
//! makes the returned future ready before its first poll: no queue, no wake, no allocation. Everything else is queued
//! for the thread that serves the port ([`Port::receive`]), travelling by IPI message from another CPU, and the reply
//! wakes the caller.
//!
//! `put` runs in no critical section and under no token of the caller: inside either, and inside another handler of
//! the same port, the call is queued. Messages of one sender to one port are handled in the order of sending, because
//! a call runs inline only when nothing is queued before it. Later is not an error and no error is Later (trap 38:
//! DragonFly's EASYNC is an errno by its type only): they are different variants.
//!
//! | what | where |
//! |---|---|
//! | a port's memory, which lives and dies on one CPU | `home.rs` |
//! | handles, and how messages get to the port | `handle.rs` |
//! | the queue and the readers that wait at it | `queue.rs` |
//! | ... and those of other CPUs | `elsewhere.rs` |
//! | a queued message in its server's hands, and its abort | `pending.rs` |
//! | messages whose reply lands on a port of the sender | `reply_port.rs` |
//! | ports with a limit | `bounded.rs` |
//! | ports that always answer at once | `put_only.rs` |
//! | many ports and one thread | `set.rs` |
//!
//! Source: DragonFly `lwkt_msgport`; the typed form is argued in docs/decisions/typed-ports.md.

use crate::{
    Call, Cpu, CpuId, critical, current,
    reply::{self, Awaited, Owed},
    room::Room,
    trace::Event,
};
use alloc::{boxed::Box, sync::Arc};
use core::{cell::Cell, fmt, hint, marker::PhantomData, ptr};

mod bounded;
mod elsewhere;
mod handle;
mod home;
mod pending;
mod put_only;
mod queue;
mod reply_port;
mod set;

pub use handle::PortRef;
pub use pending::Pending;
pub use put_only::{Answer, PutPort, PutRef};
pub use queue::Receive;
pub use reply_port::ReplyPort;
pub use set::PortSet;

use home::Home;
use pending::ReplyTo;
use queue::Queue;

/// How deep inline handlers may call ports before calls are queued instead.
const INLINE_DEPTH: u32 = 8;

/// A request and the type of its reply.
pub trait Message: 'static {
    /// What the server answers.
    type Reply: 'static;

    /// Messages of this type overtake the others that wait at the port, and one another never (DragonFly: `MSGF_PRIORITY`).
    /// Each of the two classes keeps the order of its sending.
    const PRIORITY: bool = false;

    /// Gives away what is to run when this message has been queued: once, on the port's CPU, after the message is linked and
    /// before anybody can receive it. Not for a message that is answered at once, and not again when it is handed on
    /// (DragonFly: `MSGF_RECEIPT`).
    fn receipt(&mut self) -> Option<Receipt> {
        None
    }
}

/// What a message runs as it is queued. In a critical section, from other CPUs a hard one: it must be short.
pub type Receipt = Box<dyn FnOnce()>;

/// A server's decision about a message.
#[derive(Debug)]
pub enum Put<M: Message> {
    /// Done already: this is the reply. DragonFly: any value but EASYNC.
    Done(M::Reply),
    /// Queue it for my thread; the reply comes later. DragonFly: EASYNC.
    Later(M),
}

/// What serves a port. It lives on the port's CPU and is only ever called there, one handler at a time.
pub trait Server: 'static {
    /// The queued work of all message types that this server takes, usually an enum of [`Pending`]s.
    type Work: 'static;
}

/// A server that takes messages of type `M`.
pub trait Serve<M: Message>: Server {
    /// Answers at once or says Later; decides before any side effect.
    fn put(&self, message: M) -> Put<M>;
    /// Wraps a queued message for the server's thread.
    fn queue(pending: Pending<M>) -> Self::Work;
}

/// A bounded port is full, or memory is: the message, not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full<M>(pub M);

impl<M> fmt::Display for Full<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the port, or memory, is full")
    }
}

impl<M: fmt::Debug> core::error::Error for Full<M> {}

/// Where a port lives, and its room if it is bounded.
type Place<S> = Home<Option<Arc<Room>>, Own<S>>;

/// What the owner CPU alone touches. In this order what an inline call looks at, the queue's counts and `busy`, and the
/// start of the server lie on one cache line: the second of a [`Home`]'s.
#[repr(C)]
struct Own<S: Server> {
    queue: Queue<S::Work>,
    busy: Cell<bool>,
    server: S,
}

impl<S: Server> Own<S> {
    /// In a poll. Tries to answer at once.
    #[inline(always)]
    fn try_put<M: Message>(&self, here: &Cpu, message: M) -> Put<M>
    where
        S: Serve<M>,
    {
        if self.busy.get()
            || !self.queue.lets_pass(M::PRIORITY)
            || here.critical.get() != 0
            || here.inline_load.get() >= INLINE_DEPTH
        {
            return Put::Later(message);
        }
        let _inline = Inline::enter(here, &self.busy);
        let put = self.server.put(message);
        if matches!(put, Put::Done(_)) {
            here.stats.ports_inline.add(1);
            here.record_running(Event::PortInline);
        }
        put
    }

    /// Queues a message, gives its receipt and tells the readers. Any context. Room was made for it.
    #[inline]
    fn enqueue<M: Message>(&self, mut pending: Pending<M>, entrance: Option<Owed<()>>)
    where
        S: Serve<M>,
    {
        critical::section(|| {
            let receipt = pending.message.as_mut().and_then(Message::receipt);
            self.queue.link(S::queue(pending), M::PRIORITY, entrance);
            if let Some(receipt) = receipt {
                receipt();
            }
            self.queue.offer();
        });
    }

    /// As [`enqueue`](Self::enqueue), for a message that another port has had.
    fn enqueue_forwarded<M: Message>(&self, pending: Pending<M>)
    where
        S: Serve<M>,
    {
        critical::section(|| {
            self.queue.link(S::queue(pending), M::PRIORITY, None);
            self.queue.offer();
        });
    }
}

/// An inline handler in progress; ends also when the handler panics.
struct Inline<'a> {
    here: &'a Cpu,
    busy: &'a Cell<bool>,
    /// The depth to go back to: set, not counted down, so that one call need not wait for the store of the last.
    depth: u32,
}

impl<'a> Inline<'a> {
    #[inline]
    fn enter(here: &'a Cpu, busy: &'a Cell<bool>) -> Self {
        let depth = here.inline_load.get();
        busy.set(true);
        here.inline_load.set(depth + 1);
        Self { here, busy, depth }
    }
}

impl Drop for Inline<'_> {
    #[inline]
    fn drop(&mut self) {
        self.busy.set(false);
        self.here.inline_load.set(self.depth);
    }
}

/// A port, as its server's CPU holds it. Not Send, so what only the threads of that CPU may do is done through it; others
/// use a [`PortRef`].
pub struct Port<S: Server> {
    home: Place<S>,
    _here: PhantomData<*const ()>,
}

impl<S: Server> Port<S> {
    /// A port of this CPU. Its queue has no limit; see [`Port::bounded`].
    ///
    /// # Panics
    /// Outside of every CPU.
    pub fn new(server: S) -> Self {
        Self::make(server, None, Queue::new(None))
    }

    fn make(server: S, room: Option<Arc<Room>>, queue: Queue<S::Work>) -> Self {
        let own = Own {
            queue,
            busy: Cell::new(false),
            server,
        };
        Self {
            home: Home::new(room, own),
            _here: PhantomData,
        }
    }

    fn own(&self) -> &Own<S> {
        // SAFETY: a Port is not Send: this is the CPU that it was made on.
        unsafe { self.home.own() }
    }

    /// The server behind the port.
    pub fn server(&self) -> &S {
        &self.own().server
    }

    /// A handle that any CPU may keep and use.
    pub fn handle(&self) -> PortRef<S> {
        PortRef {
            home: self.home.clone(),
        }
    }

    /// The next queued message. Several threads may wait, here and by [`PortRef::receive`]; each message is received once,
    /// by the one that has waited longest.
    pub fn receive(&self) -> Receive<'_, S::Work> {
        self.own().queue.receive()
    }

    /// The next queued message if there is one that is promised to no reader that waits.
    pub fn try_receive(&self) -> Option<S::Work> {
        self.own().queue.try_receive()
    }

    /// Takes back the first queued message that `is_wanted`. None if none is queued any more: who has received it has it. Posted
    /// messages may be dropped then, others are owed a reply (DragonFly: `lwkt_dropmsg`). `is_wanted` must not use the port.
    ///
    /// Only the port's CPU can: a [`PortRef`] has no such method.
    ///
    /// ```compile_fail
    /// # fn f<S: executor::Server>(port: executor::PortRef<S>) {
    /// port.withdraw(|_| true);
    /// # }
    /// ```
    pub fn withdraw(&self, is_wanted: impl FnMut(&S::Work) -> bool) -> Option<S::Work> {
        self.own().queue.withdraw(is_wanted)
    }

    /// How many messages are queued.
    pub fn queued(&self) -> usize {
        self.own().queue.len()
    }

    /// Sends a request from this CPU. See [`PortRef::call`]; here neither message nor reply need be Send.
    #[inline(always)]
    pub fn call<M: Message>(&self, message: M) -> Call<M::Reply>
    where
        S: Serve<M>,
    {
        call_local(&self.home, current::current(), self.own(), message)
    }
}

impl<S: Server> fmt::Debug for Port<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port")
            .field("queued", &self.queued())
            .field("readers", &self.own().queue.readers())
            .finish_non_exhaustive()
    }
}

/// Counts and traces a message that is queued, and gives its number: the sender's CPU in the top six bits.
fn number(port: CpuId) -> u32 {
    let Some(here) = current::try_current() else {
        return 0;
    };
    here.stats.ports_queued.add(1);
    let id =
        u32::from(here.id().0 & 63) << 26 | (here.stats.ports_queued.get() as u32 & 0x3ff_ffff);
    here.record(Event::PortQueue, port.0 as u8, here.running_id(), id);
    id
}

#[inline(always)]
fn call_local<S: Serve<M>, M: Message>(
    home: &Place<S>,
    here: &Cpu,
    own: &Own<S>,
    message: M,
) -> Call<M::Reply> {
    match own.try_put(here, message) {
        Put::Done(reply) => Call::ready(reply),
        Put::Later(message) => {
            hint::cold_path();
            Call::waiting(enter_and_queue_call(home, here, own, message))
        }
    }
}

/// Not inlined, as [`PortRef::enter_and_send_call`].
#[inline(never)]
fn enter_and_queue_call<S: Serve<M>, M: Message>(
    home: &Place<S>,
    here: &Cpu,
    own: &Own<S>,
    message: M,
) -> Awaited<M::Reply> {
    bounded::enter(home);
    queue_call(here, own, message)
}

fn queue_call<S: Serve<M>, M: Message>(here: &Cpu, own: &Own<S>, message: M) -> Awaited<M::Reply> {
    let (awaited, owed) = reply::pair(ptr::from_ref(here).cast(), ());
    let pending = Pending::new(here.id(), message, ReplyTo::Caller(owed));
    own.enqueue(pending, None);
    awaited
}

#[cfg(all(test, not(loom), not(shuttle)))]
mod tests {
    use super::*;
    use core::mem::offset_of;

    struct Small(#[expect(dead_code, reason = "only its place counts")] u64);

    impl Server for Small {
        type Work = ();
    }

    #[test]
    fn an_inline_call_touches_one_line_of_a_port() {
        let line = |offset: usize| offset / 64;
        let server = line(offset_of!(Own<Small>, server) + size_of::<Small>() - 1);
        assert_eq!(line(Queue::<()>::COUNTS), server);
        assert_eq!(line(offset_of!(Own<Small>, busy)), server);
        const { assert!(Place::<Small>::BYTES <= 256) };
    }
}
