//! IPI messages: a plain function and two words, run once on the target CPU.
//!
//! Messages of one (sender, target) pair are run in the order of sending and no other order holds (DragonFly
//! `lwkt_send_ipiq`). A send to oneself runs at once (trap 26). A send never waits: when the ring is full the message
//! waits in the sender's backlog, behind those that already do, and the sender goes on receiving (traps 27 and 28
//! cannot arise: no sender ever spins for room). The function runs in a hard section; being a plain `fn`, it cannot
//! await (trap 14).

use crate::{
    Cpu, CpuId, critical, current,
    inbox::{OUTSIDE, sender_bit},
    reply::ReplySlot,
    ring::Ring,
    thread::{Header, ThreadRef, flag},
    trace::{Class, Event},
};
use alloc::{boxed::Box, collections::VecDeque, sync::Arc};
use core::{
    cell::{Cell, RefCell},
    future::poll_fn,
    mem::ManuallyDrop,
    ptr,
    sync::atomic::Ordering,
};

/// What a message runs: its target and two words. Without a target (the node went before the message was run) it drops
/// what the words stand for.
pub(crate) type Run = unsafe fn(Option<&Cpu>, usize, usize);

/// One message. Having one tells you that `run` may be called with its words exactly once, on its target. One that is
/// dropped instead drops what it carries.
#[derive(Debug)]
pub(crate) struct Message {
    run: Run,
    a: usize,
    b: usize,
}

impl Message {
    /// A message that calls `f` on its target.
    fn boxed<F: FnOnce(&Cpu) + Send>(f: F) -> Self {
        /// # Safety
        /// `a` is the box made below.
        unsafe fn run<F: FnOnce(&Cpu)>(cpu: Option<&Cpu>, a: usize, _: usize) {
            // SAFETY: as above; run once.
            let f = unsafe { Box::from_raw(ptr::with_exposed_provenance_mut::<F>(a)) };
            if let Some(cpu) = cpu {
                f(cpu);
            }
        }
        Self {
            run: run::<F>,
            a: Box::into_raw(Box::new(f)).expose_provenance(),
            b: 0,
        }
    }

    /// # Safety
    /// Called once, on the message's target.
    pub(crate) unsafe fn run(self, cpu: &Cpu) {
        let message = ManuallyDrop::new(self);
        // SAFETY: the caller's promise.
        unsafe { (message.run)(Some(cpu), message.a, message.b) }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: never run, and not used again.
        unsafe { (self.run)(None, self.a, self.b) }
    }
}

/// The sending side of one pair: the ring (made at the first send) and what found no room in it. Sender only.
pub(crate) struct Outbound {
    ring: Cell<*const Ring<Message>>,
    backlog: RefCell<VecDeque<Message>>,
}

impl Outbound {
    pub(crate) fn new() -> Self {
        Self {
            ring: Cell::new(ptr::null()),
            backlog: RefCell::new(VecDeque::new()),
        }
    }

    fn ring(&self, here: &Cpu, target: &Cpu) -> &Ring<Message> {
        if self.ring.get().is_null() {
            // 64 CPUs have 4032 pairs, of which few ever talk: a ring is made when its first message is.
            let ring = Box::into_raw(Box::new(Ring::new()));
            self.ring.set(ring);
            target.inbound[here.id().index()].store(ring, Ordering::Release);
        }
        // SAFETY: just made, or made earlier; the target frees it when the node goes.
        unsafe { &*self.ring.get() }
    }

    pub(crate) fn has_backlog(&self) -> bool {
        !self.backlog.borrow().is_empty()
    }

    pub(crate) fn ask_for_room(&self) {
        if self.has_backlog() {
            // SAFETY: a backlog exists, so the ring does.
            unsafe { &*self.ring.get() }.ask_for_room();
        }
    }

    /// True if nothing waits here for room, or the target will tell when there is some.
    pub(crate) fn is_expected(&self) -> bool {
        // SAFETY: a backlog exists, so the ring does.
        !self.has_backlog() || unsafe { &*self.ring.get() }.room_is_wanted()
    }

    /// Drops the backlog, when the node goes. True: there was one.
    pub(crate) fn discard(&self) -> bool {
        let backlog = self.backlog.take();
        !backlog.is_empty()
    }

    /// Moves what fits from the backlog into the ring. True: something did.
    pub(crate) fn flush(&self, here: &Cpu, target: &Cpu) -> bool {
        let mut backlog = self.backlog.borrow_mut();
        let before = backlog.len();
        while let Some(message) = backlog.pop_front() {
            let sent_ns = here.traced_ns(Class::Ipi);
            // SAFETY: this CPU is the ring's one producer.
            match unsafe { self.ring(here, target).push(message) } {
                Ok(sequence) => announce(here, target, sequence, sent_ns),
                Err(message) => {
                    backlog.push_front(message);
                    break;
                }
            }
        }
        if backlog.is_empty() {
            here.backlog.set(here.backlog.get() - 1);
        }
        backlog.len() < before
    }
}

/// Tells `target` that `here` has something for it, or (after a drain) room for it.
pub(crate) fn tell(here: &Cpu, target: &Cpu) -> bool {
    let ring = target.inbox.tell(sender_bit(here.id().index()));
    if ring {
        here.stats.doorbells_rung.add(1);
        here.node().platform().doorbell(target.id());
    }
    ring
}

/// Tells the target of a message that is in the ring. `sent_ns` was read before it went in (0 when nobody traces): the
/// target may have run it by now, and an effect must not come before its cause.
fn announce(here: &Cpu, target: &Cpu, sequence: usize, sent_ns: u64) {
    here.stats.ipi_sent.add(1);
    let event = if tell(here, target) {
        Event::IpiSend
    } else {
        here.stats.doorbells_saved.add(1);
        Event::IpiDoorbellSaved
    };
    if sent_ns != 0 {
        let waker = here.running_id();
        here.record_at(sent_ns, event, target.id().0 as u8, waker, sequence as u32);
    }
}

fn send(target: &Cpu, message: Message) {
    let Some(here) = current::try_current().filter(|here| same_node(here, target)) else {
        target.outside.push(message);
        if target.inbox.tell(OUTSIDE) {
            target.node().platform().doorbell(target.id());
        }
        return;
    };
    if ptr::eq(here, target) {
        here.hard.set(here.hard.get() + 1);
        // SAFETY: on its target, once.
        critical::section_on(here, || unsafe { message.run(here) });
        here.hard.set(here.hard.get() - 1);
        return;
    }
    critical::section_on(here, || {
        let outbound = &here.outbound[target.id().index()];
        let message = if outbound.has_backlog() {
            message
        } else {
            let sent_ns = here.traced_ns(Class::Ipi);
            // SAFETY: this CPU is the ring's one producer, and the critical section keeps its handlers out.
            match unsafe { outbound.ring(here, target).push(message) } {
                Ok(sequence) => return announce(here, target, sequence, sent_ns),
                Err(message) => message,
            }
        };
        if !outbound.has_backlog() {
            here.backlog.set(here.backlog.get() + 1);
        }
        here.stats.ipi_backlogged.add(1);
        outbound.backlog.borrow_mut().push_back(message);
    });
}

fn same_node(a: &Cpu, b: &Cpu) -> bool {
    ptr::eq(a.node(), b.node())
}

/// Runs `f` on `target`, soon, in a hard section: it must not run long. At once when `target` is the current CPU.
pub fn send_to(target: &Cpu, f: impl FnOnce(&Cpu) + Send + 'static) {
    send(target, Message::boxed(f));
}

/// As [`send_to`], with a function and a word instead of a closure in a box.
///
/// # Safety
/// `run` may be called once with `a`, on `target`, in a hard section, or with no CPU at all.
pub(crate) unsafe fn send_word(target: &Cpu, run: Run, a: usize) {
    send(target, Message { run, a, b: 0 });
}

/// The current CPU and the running thread in a message's second word, for the trace.
fn pack_waker() -> usize {
    let (cpu, thread) = current::try_current().map_or((0xff, 0), |here| {
        (usize::from(here.id().0 as u8), here.running_id() as usize)
    });
    cpu | thread << 8
}

/// What [`pack_waker`] has packed.
fn unpack_waker(b: usize) -> Option<(u8, u32)> {
    Some((b as u8, (b >> 8) as u32))
}

/// Wakes a thread that began to wait on `target` for what has just been stored: a reply. Nothing of the thread is
/// touched here, not even its mark, for there is one such message for each reply.
pub(crate) fn send_reply_wake(target: &Cpu, thread: ThreadRef) {
    /// # Safety
    /// `a` is a counted thread pointer.
    unsafe fn run(cpu: Option<&Cpu>, a: usize, b: usize) {
        // SAFETY: made below; run once.
        let thread = unsafe { ThreadRef::from_raw(ptr::with_exposed_provenance(a)) };
        let Some(cpu) = cpu else { return };
        if ptr::eq(thread.owner.load(Ordering::Acquire), cpu) {
            cpu.schedule_for(&thread, unpack_waker(b));
        } else {
            // It has moved on.
            thread.wake();
        }
    }
    let header: *const Header = thread.into_raw();
    send(
        target,
        Message {
            run,
            a: header.expose_provenance(),
            b: pack_waker(),
        },
    );
}

/// Wakes a thread that belongs to another CPU. The reference travels with the message.
pub(crate) fn send_wake(target: *const Cpu, thread: ThreadRef) {
    /// # Safety
    /// `a` is a counted thread pointer.
    unsafe fn run(cpu: Option<&Cpu>, a: usize, b: usize) {
        // SAFETY: made below; run once.
        let thread = unsafe { ThreadRef::from_raw(ptr::with_exposed_provenance(a)) };
        let Some(cpu) = cpu else { return };
        let owner = thread.owner.load(Ordering::Acquire);
        if !ptr::eq(owner, cpu) {
            // It has moved on: chase it. The mark stays set, so there is still one message.
            send_wake(owner, thread);
            return;
        }
        // Cleared before it is scheduled, never after (see mark.rs).
        thread
            .mark
            .clear(|| cpu.schedule_for(&thread, unpack_waker(b)));
    }
    // SAFETY: the owner of a thread that has not ended is alive: a node abandons its threads before it drops its CPUs,
    // and `Header::wake` goes no further once a thread has ended.
    let target = unsafe { &*target };
    let header: *const Header = thread.into_raw();
    send(
        target,
        Message {
            run,
            a: header.expose_provenance(),
            b: pack_waker(),
        },
    );
}

/// Hands a thread to its new owner. `owner` already names it.
pub(crate) fn send_arrival(target: &Cpu, thread: ThreadRef) {
    /// # Safety
    /// `a` is a counted thread pointer, whose owner is `cpu`.
    unsafe fn run(cpu: Option<&Cpu>, a: usize, _: usize) {
        // SAFETY: made below; run once.
        let thread = unsafe { ThreadRef::from_raw(ptr::with_exposed_provenance(a)) };
        let Some(cpu) = cpu else {
            // SAFETY: it is in transit, so it has no owner but this message. What is dropped here may be dropped
            // anywhere: a closure that was sent, or a future that may move.
            unsafe { thread.abandon() };
            return;
        };
        // One that moves is in transit; any other is new, and is made here as far as the trace goes.
        if thread.is(flag::NEW) {
            cpu.record_spawn(&thread);
        }
        cpu.adopt(thread);
    }
    let header: *const Header = thread.into_raw();
    send(
        target,
        Message {
            run,
            a: header.expose_provenance(),
            b: 0,
        },
    );
}

/// Runs a plain function on `cpu` of the current node and gives what it returns.
///
/// The function runs in a hard section at the target's next poll point, or at once when `cpu` is the current one.
///
/// # Panics
/// Outside of every CPU, or if the node has no such CPU.
pub async fn run_on<R: Send + 'static>(
    cpu: CpuId,
    f: impl FnOnce(&Cpu) -> R + Send + 'static,
) -> R {
    let slot = Arc::new(ReplySlot::default());
    let answer = slot.clone();
    send_to(current::current().node().cpu(cpu), move |cpu| {
        // SAFETY: once per slot.
        unsafe { answer.reply(f(cpu)) }
    });
    // SAFETY: this future is the slot's one caller.
    poll_fn(|context| unsafe { slot.poll(context.waker()) }).await
}

/// Runs `f` on CPU 0, then 1, and so on to the last: a message chain. Returns when every CPU has run it.
///
/// This is how a copy that each CPU keeps is brought up to date (architecture rule 12; DragonFly `netmsg` chains).
pub async fn chain(f: impl Fn(&Cpu) + Send + Sync + 'static) {
    fn hop<F: Fn(&Cpu) + Send + Sync + 'static>(cpu: &Cpu, f: Arc<F>, done: Arc<ReplySlot<()>>) {
        f(cpu);
        let next = cpu.id().index() + 1;
        if next < cpu.node().cpu_count() {
            let target = cpu.node().cpu(CpuId(next as u16));
            send_to(target, move |cpu| hop(cpu, f, done));
        } else {
            // SAFETY: the last hop alone replies.
            unsafe { done.reply(()) };
        }
    }
    let slot = Arc::new(ReplySlot::default());
    let (f, done) = (Arc::new(f), slot.clone());
    send_to(current::current().node().cpu(CpuId(0)), move |cpu| {
        hop(cpu, f, done)
    });
    // SAFETY: this future is the slot's one caller.
    poll_fn(|context| unsafe { slot.poll(context.waker()) }).await
}
