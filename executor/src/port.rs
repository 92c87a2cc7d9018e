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
//! Source: DragonFly `lwkt_msgport`; the typed form is argued in docs/decisions/typed-ports.md.

use crate::{
    Call, Cpu, CpuId, Node,
    call::{Flight, Slot},
    critical, current, ipi,
    slab::has_room,
    sync::CachePadded,
    trace::Event,
};
use alloc::{
    alloc::Layout,
    collections::VecDeque,
    sync::{Arc, Weak},
};
use core::{
    cell::{Cell, RefCell},
    fmt,
    future::poll_fn,
    hint,
    mem::ManuallyDrop,
    ops::Deref,
    ptr,
    task::{Poll, Waker},
};

mod pending;

pub use pending::Pending;

/// How deep inline handlers may call ports before calls are queued instead.
const INLINE_DEPTH: u32 = 8;

/// A request and the type of its reply.
pub trait Message: 'static {
    /// What the server answers.
    type Reply: 'static;

    /// Messages of this type overtake the others that wait at the port, and one another never (DragonFly: `MSGF_PRIORITY`).
    /// Each of the two classes keeps the order of its sending.
    const PRIORITY: bool = false;
}

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

/// A message on its way to another CPU's port.
struct Request<S: Server, M> {
    port: Shared<S>,
    message: M,
    id: u32,
}

/// A call on its way to another CPU's port.
type Sent<S, M> = Flight<<M as Message>::Reply, Cell<Option<Request<S, M>>>>;

/// Two parts on cache lines of their own: the handles' count and the owner's name, which every caller touches, and what
/// is the owner's.
struct Inner<S: Server> {
    owner: *const Cpu,
    cpu: CpuId,
    /// A handle may outlive the node, and with it the owner.
    node: Weak<Node>,
    /// Keeps the owner's address from naming a CPU of another node.
    _addresses: Weak<[Cpu]>,
    hot: CachePadded<Hot<S>>,
}

impl<S: Server> Deref for Inner<S> {
    type Target = Hot<S>;
    #[inline(always)]
    fn deref(&self) -> &Hot<S> {
        &self.hot
    }
}

/// What the owner CPU alone touches.
struct Hot<S: Server> {
    server: S,
    busy: Cell<bool>,
    /// How many messages wait, where a call sees it without a borrow; and how many of them have priority.
    queued: Cell<usize>,
    urgent: Cell<usize>,
    /// Those with priority first.
    queue: RefCell<VecDeque<S::Work>>,
    receiver: Cell<Option<Waker>>,
}

/// The memory of a port. Whoever drops the last handle, the server dies on its own CPU.
struct Shared<S: Server>(ManuallyDrop<Arc<Inner<S>>>);

// SAFETY: all but `owner` is touched on the owner CPU alone: every path checks, or goes there by IPI message, the last
// drop included.
unsafe impl<S: Server> Send for Shared<S> {}
// SAFETY: as above.
unsafe impl<S: Server> Sync for Shared<S> {}

impl<S: Server> Clone for Shared<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: Server> Deref for Shared<S> {
    type Target = Inner<S>;
    #[inline]
    fn deref(&self) -> &Inner<S> {
        &self.0
    }
}

impl<S: Server> Drop for Shared<S> {
    fn drop(&mut self) {
        // SAFETY: taken once, here, where it is not used again.
        let inner = unsafe { ManuallyDrop::take(&mut self.0) };
        if ptr::eq(inner.owner, current::pointer()) {
            return;
        }
        // Not the owner: if this is the last handle, the server must die over there.
        let Some(last) = Arc::into_inner(inner).map(alloc::boxed::Box::new) else {
            return;
        };
        last.busy.set(true);
        struct Moved<S: Server>(
            #[expect(dead_code, reason = "carried only to be dropped")] alloc::boxed::Box<Inner<S>>,
        );
        // SAFETY: the last handle is gone, so the box moves to the owner CPU with nobody else looking.
        unsafe impl<S: Server> Send for Moved<S> {}
        let (owner, node) = (last.owner, last.node.clone());
        let mut moved = Some(Moved(last));
        with_owner(owner, &node, |owner| {
            let moved = moved.take();
            ipi::send_to(owner, move |_| drop(moved));
        });
        // Not sent: the node is gone, and nobody shares with the server any more.
        drop(moved);
    }
}

/// Gives the CPU that a port lives on to `f`, unless its node is gone.
fn with_owner(owner: *const Cpu, node: &Weak<Node>, f: impl FnOnce(&Cpu)) {
    // The Weak keeps the node's address from being used again, so that an equal address is the same node.
    let here = current::try_current().is_some_and(|here| ptr::eq(here.node(), node.as_ptr()));
    let node = if here { None } else { node.upgrade() };
    if here || node.is_some() {
        // SAFETY: this CPU belongs to the same node, or the node is held for the time of the call.
        f(unsafe { &*owner });
    }
}

impl<S: Server> Inner<S> {
    /// The owner, if it is the current CPU.
    #[inline]
    fn here(&self) -> Option<&Cpu> {
        // SAFETY: the current CPU is alive.
        ptr::eq(self.owner, current::pointer()).then(|| unsafe { &*self.owner })
    }

    /// Owner, in a poll. Tries to answer at once.
    #[inline(always)]
    fn try_put<M: Message>(&self, here: &Cpu, message: M) -> Put<M>
    where
        S: Serve<M>,
    {
        // Only what it must not overtake keeps a message from being answered.
        let before = if M::PRIORITY {
            &self.urgent
        } else {
            &self.queued
        };
        if self.busy.get()
            || before.get() != 0
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

    /// Owner, any context but an interrupt handler. Appends to the queue and wakes the server's thread.
    fn enqueue<M: Message>(&self, pending: Pending<M>)
    where
        S: Serve<M>,
    {
        critical::section(|| {
            let work = S::queue(pending);
            if M::PRIORITY {
                // Behind its like, before all others.
                self.queue.borrow_mut().insert(self.urgent.get(), work);
                self.urgent.set(self.urgent.get() + 1);
            } else {
                self.queue.borrow_mut().push_back(work);
            }
            self.queued.set(self.queued.get() + 1);
            if let Some(receiver) = self.receiver.take() {
                receiver.wake();
            }
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

/// A port, as its server's CPU holds it. Not Send; others use a [`PortRef`].
pub struct Port<S: Server> {
    inner: Shared<S>,
    _here: core::marker::PhantomData<*const ()>,
}

impl<S: Server> Port<S> {
    /// A port of this CPU.
    ///
    /// # Panics
    /// Outside of every CPU.
    pub fn new(server: S) -> Self {
        let here = current::current();
        let inner = Inner {
            owner: ptr::from_ref(here),
            cpu: here.id(),
            node: here.node().weak(),
            _addresses: here.node().addresses(),
            hot: CachePadded(Hot {
                server,
                busy: Cell::new(false),
                queued: Cell::new(0),
                urgent: Cell::new(0),
                queue: RefCell::new(VecDeque::new()),
                receiver: Cell::new(None),
            }),
        };
        Self {
            inner: Shared(ManuallyDrop::new(Arc::new(inner))),
            _here: core::marker::PhantomData,
        }
    }

    /// The server behind the port.
    pub fn server(&self) -> &S {
        &self.inner.server
    }

    /// A handle that any CPU may keep and use.
    pub fn handle(&self) -> PortRef<S> {
        PortRef {
            inner: self.inner.clone(),
        }
    }

    /// The next queued message. One thread at a time may wait here.
    pub async fn receive(&self) -> S::Work {
        poll_fn(|context| {
            // One section: a post from an interrupt handler must not come between the look and the waker.
            critical::section(|| {
                if let Some(work) = self.try_receive() {
                    return Poll::Ready(work);
                }
                let old = self.inner.receiver.take();
                let keep = old.filter(|old| old.will_wake(context.waker()));
                self.inner
                    .receiver
                    .set(keep.or_else(|| Some(context.waker().clone())));
                Poll::Pending
            })
        })
        .await
    }

    /// The next queued message if there is one.
    pub fn try_receive(&self) -> Option<S::Work> {
        critical::section(|| {
            let work = self.inner.queue.borrow_mut().pop_front()?;
            self.inner.queued.set(self.inner.queued.get() - 1);
            let urgent = &self.inner.urgent;
            urgent.set(urgent.get().saturating_sub(1));
            Some(work)
        })
    }

    /// How many messages are queued.
    pub fn queued(&self) -> usize {
        self.inner.queued.get()
    }

    /// Sends a request from this CPU. See [`PortRef::call`]; here neither message nor reply need be Send.
    #[inline(always)]
    pub fn call<M: Message>(&self, message: M) -> Call<M::Reply>
    where
        S: Serve<M>,
    {
        call_local(&self.inner, current::current(), message)
    }
}

impl<S: Server> fmt::Debug for Port<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port")
            .field("queued", &self.queued())
            .finish_non_exhaustive()
    }
}

/// A handle to a port, from any CPU.
pub struct PortRef<S: Server> {
    inner: Shared<S>,
}

impl<S: Server> Clone for PortRef<S> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

impl<S: Server> fmt::Debug for PortRef<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PortRef({})", self.cpu())
    }
}

impl<S: Server> PortRef<S> {
    /// The CPU that the port lives on.
    pub fn cpu(&self) -> CpuId {
        self.inner.cpu
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
        match self.inner.here() {
            Some(here) => call_local(&self.inner, here, message),
            None => {
                // Not rare, but the inline answer is the one that counts branches.
                hint::cold_path();
                Call::waiting(self.send_call(message))
            }
        }
    }

    /// As [`call`](Self::call), where memory is short an error: for what can do without the reply, as a user's request can.
    ///
    /// # Errors
    /// The message, which was not sent.
    pub fn try_call<M>(&self, message: M) -> Result<Call<M::Reply>, M>
    where
        M: Message + Send,
        M::Reply: Send,
        S: Serve<M>,
    {
        if has_room(Layout::new::<Sent<S, M>>()) {
            Ok(self.call(message))
        } else {
            Err(message)
        }
    }

    /// Outlined, as everything that is not the inline answer. Gives the slot, in registers, and not the Call: that
    /// would be written to memory in parts and read back as a whole, a stall longer than the inline answer.
    #[inline(never)]
    fn send_call<M>(&self, message: M) -> Slot<M::Reply>
    where
        M: Message + Send,
        M::Reply: Send,
        S: Serve<M>,
    {
        /// # Safety
        /// `a` is the counted flight made below, and this is the owner CPU or none.
        unsafe fn arrive<S: Serve<M>, M: Message>(cpu: Option<&Cpu>, a: usize, _: usize) {
            // SAFETY: as above; run once.
            let slot = unsafe { Arc::from_raw(ptr::with_exposed_provenance::<Sent<S, M>>(a)) };
            let request = slot.cargo.take().filter(|_| cpu.is_some());
            if let Some(Request { port, message, id }) = request {
                port.enqueue(Pending {
                    message: Some(message),
                    id,
                    slot: Some(slot),
                });
            }
        }
        let same_node = current::try_current()
            .filter(|here| ptr::eq(here.node(), self.inner.node.as_ptr()))
            .map_or(ptr::null(), ptr::from_ref);
        let request = Request {
            id: queued(self.inner.cpu),
            port: self.inner.clone(),
            message,
        };
        let flight = Flight::new(same_node, Cell::new(Some(request)));
        with_owner(self.inner.owner, &self.inner.node, |owner| {
            let sent = Arc::into_raw(flight.clone()).expose_provenance();
            // SAFETY: the count just made goes with the message.
            unsafe { ipi::send_word(owner, arrive::<S, M>, sent) };
        });
        flight
    }

    /// Sends a message that has no reply, from anywhere: other CPUs, IPI functions, outside of every CPU.
    #[inline]
    pub fn post<M>(&self, message: M)
    where
        M: Message<Reply = ()> + Send,
        S: Serve<M>,
    {
        let Some(here) = self.inner.here() else {
            self.send(message);
            return;
        };
        if let Put::Later(message) = self.inner.try_put(here, message) {
            let id = queued(self.inner.cpu);
            self.inner.enqueue(Pending {
                message: Some(message),
                id,
                slot: None,
            });
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
        let Some(here) = self.inner.here() else {
            pending.id = queued(self.inner.cpu);
            let (inner, mut pending) = (self.inner.clone(), Some(pending));
            with_owner(self.inner.owner, &self.inner.node, |owner| {
                if let Some(pending) = pending.take() {
                    ipi::send_to(owner, move |_| inner.enqueue(pending));
                }
            });
            if let Some(mut lost) = pending {
                // The node is gone: nobody will answer, as with a call to it.
                lost.slot = None;
            }
            return;
        };
        let message = pending.message.take().expect("as in `message`");
        match self.inner.try_put(here, message) {
            Put::Done(reply) => pending.reply(reply),
            Put::Later(message) => {
                pending.message = Some(message);
                pending.id = queued(self.inner.cpu);
                self.inner.enqueue(pending);
            }
        }
    }

    fn send<M>(&self, message: M)
    where
        M: Message<Reply = ()> + Send,
        S: Serve<M>,
    {
        let id = queued(self.inner.cpu);
        let inner = self.inner.clone();
        let pending = Pending {
            message: Some(message),
            id,
            slot: None,
        };
        with_owner(self.inner.owner, &self.inner.node, |owner| {
            ipi::send_to(owner, move |_| inner.enqueue(pending));
        });
    }
}

/// Counts and traces a message that is queued, and gives its number: the sender's CPU in the top six bits.
fn queued(port: CpuId) -> u32 {
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
fn call_local<S: Serve<M>, M: Message>(inner: &Inner<S>, here: &Cpu, message: M) -> Call<M::Reply> {
    match inner.try_put(here, message) {
        Put::Done(reply) => Call::ready(reply),
        Put::Later(message) => {
            hint::cold_path();
            Call::waiting(queue_call(inner, message))
        }
    }
}

/// Outlined as [`PortRef::send_call`] is.
#[inline(never)]
fn queue_call<S: Serve<M>, M: Message>(inner: &Inner<S>, message: M) -> Slot<M::Reply> {
    let slot = Flight::new(inner.owner, ());
    let id = queued(inner.cpu);
    inner.enqueue(Pending {
        message: Some(message),
        id,
        slot: Some(slot.clone()),
    });
    slot
}
