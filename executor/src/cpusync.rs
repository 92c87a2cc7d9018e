//! cpusync: what must be done while other CPUs stand still.
//!
//! [`run`] holds every CPU of a mask and the caller's own, runs one function on the caller's with all of them held, then
//! another one on each CPU of the mask, and is ready when all have run it. [`quick`] holds nobody.
//!
//! A CPU that is *held* does not spin for the master in an interrupt handler, as DragonFly's does: its loop goes on, takes
//! messages, sends, and may halt, but it polls no thread, fires no timer and handles no device. So it is held between two
//! polls, where no token and no borrow is in use, a master never spins either, and no two CPUs can wait for each other
//! (trap 32). The master's part is a plain function, which cannot await, and nobody's future drives the whole: each step
//! is a message that the last CPU of the step before sends, so it comes to its end whether or not the master's future is
//! kept, and what they share goes with the last of them.
//!
//! ```text
//!   the caller          CPU 0                    each CPU of the mask, and the master
//!   ask CPU 0      ->   one at a time, in        held
//!                       order: hold them   ->    the last one: tell the master
//!   master: alone()                         <-
//!   tell the mask  ->                            each(), let go; the last one: tell the master
//!   let go, reply  ->   the next one        <-
//! ```
//!
//! CPU 0 grants the mastership, in the order of asking, so that two masters never hold halves of one mask. See
//! docs/decisions/cpusync.md. Source: DragonFly `lwkt_cpusync_interlock`, `_deinterlock`, `_quick`.

use crate::{
    Cpu, CpuId, CpuMask,
    countdown::Countdown,
    cpu::HELD,
    current,
    ipi::{Message, answered, ask, run_on, run_on_mask, send_between_polls, send_shared, send_to},
    reply::Owed,
};
use alloc::{collections::VecDeque, sync::Arc};
use core::{
    cell::{Cell, RefCell, UnsafeCell},
    mem,
};

/// What a CPU keeps of cpusyncs. Owner.
pub(crate) struct Mastership {
    /// Since when this CPU is held.
    held_since_ns: Cell<u64>,
    /// One is in progress. CPU 0's.
    granted: Cell<bool>,
    beginning: Cell<bool>,
    /// What begins the next ones. CPU 0's.
    waiting: RefCell<VecDeque<Message>>,
}

impl Mastership {
    pub(crate) fn new() -> Self {
        Self {
            held_since_ns: Cell::new(0),
            granted: Cell::new(false),
            beginning: Cell::new(false),
            waiting: RefCell::new(VecDeque::new()),
        }
    }

    /// Drops, unrun, what waits, when the node goes. True: something did.
    pub(crate) fn discard(&self) -> bool {
        let waiting = self.waiting.take();
        !waiting.is_empty()
    }

    /// Runs `begin` when those before it are over. On CPU 0.
    fn ask(&self, here: &Cpu, begin: Message) {
        self.waiting.borrow_mut().push_back(begin);
        self.begin_next(here);
    }

    /// The one in progress is over. On CPU 0.
    fn ended(&self, here: &Cpu) {
        self.granted.set(false);
        self.begin_next(here);
    }

    fn begin_next(&self, here: &Cpu) {
        // One of CPU 0 alone is over when it has begun; however many of them wait, they do not nest.
        if self.beginning.replace(true) {
            return;
        }
        while !self.granted.get() {
            let Some(begin) = self.waiting.borrow_mut().pop_front() else {
                break;
            };
            self.granted.set(true);
            // SAFETY: once, on its target.
            unsafe { begin.run(here) };
        }
        self.beginning.set(false);
    }
}

/// One cpusync, shared by all who take part; it goes with the last of them.
struct Control<A, E, R> {
    master: CpuId,
    /// Who runs `each`.
    mask: CpuMask,
    /// Who is held: the mask and the master.
    held: CpuMask,
    alone: UnsafeCell<Alone<A, R>>,
    each: E,
    not_held: Countdown,
    not_done: Countdown,
}

/// What is the master's: the function, its result, and who is told of it.
enum Alone<A, R> {
    ToRun(A, Owed<R>),
    Ran(R, Owed<R>),
    Taken,
}

// SAFETY: the master's CPU alone touches `alone`, in messages that come one after the other; the function and its result
// go there from the caller and back, hence Send. `each` is called by several CPUs, hence Sync, and dropped by any of them.
unsafe impl<A: Send, E: Send + Sync, R: Send> Sync for Control<A, E, R> {}
// SAFETY: as above.
unsafe impl<A: Send, E: Send, R: Send> Send for Control<A, E, R> {}

/// Runs `alone` on this CPU while every other CPU of `mask` is held between two polls, then `each` on every CPU of the
/// mask. Ready when all of them have run it, with what `alone` gave. CPUs that the node has not are left out.
///
/// From before `alone` until each CPU has run its `each`, no thread of it is polled, no timer of it fires and none of its
/// devices is handled; messages are. That holds for this CPU too, until all of the mask have run theirs. Both functions
/// run in hard sections and must be short: everybody waits. They run whether or not this future is kept once it was
/// polled.
///
/// # Panics
/// Outside of every CPU.
pub async fn run<A, E, R>(mask: &CpuMask, alone: A, each: E) -> R
where
    A: FnOnce(&Cpu) -> R + Send + 'static,
    E: Fn(&Cpu) + Send + Sync + 'static,
    R: Send + 'static,
{
    let (awaited, answer) = ask();
    {
        let here = current::current();
        let mut mask = mask.clone();
        mask.retain(|cpu| cpu.index() < here.node().cpu_count());
        let mut held = mask.clone();
        held.insert(here.id());
        let sync = Arc::new(Control {
            master: here.id(),
            // With nobody in the mask, the master counts for itself.
            not_done: Countdown::new(mask.len().max(1)),
            not_held: Countdown::new(held.len()),
            mask,
            held,
            alone: UnsafeCell::new(Alone::ToRun(alone, answer)),
            each,
        });
        send_between_polls(here.node().cpu(CpuId(0)), move |cpu0| {
            let begin = Message::boxed(move |cpu0: &Cpu| hold_all(cpu0, sync));
            cpu0.mastership.ask(cpu0, begin);
        });
    }
    answered(awaited).await
}

/// Runs `f` on every other CPU of `mask`, then on this one if it is in the mask. Nobody is held: they run it when they get
/// the message. Ready when all have run it.
///
/// # Panics
/// Outside of every CPU.
pub async fn quick(mask: &CpuMask, f: impl Fn(&Cpu) + Send + Sync + 'static) {
    let here = current::current().id();
    let mut others = mask.clone();
    let and_here = others.remove(here);
    let f = Arc::new(f);
    let theirs = f.clone();
    run_on_mask(&others, move |cpu| theirs(cpu)).await;
    if and_here {
        run_on(here, move |cpu| f(cpu)).await;
    }
}

type Shared<A, E, R> = Arc<Control<A, E, R>>;

/// On CPU 0, which has granted the mastership.
fn hold_all<A, E, R>(cpu0: &Cpu, sync: Shared<A, E, R>)
where
    A: FnOnce(&Cpu) -> R + Send + 'static,
    E: Fn(&Cpu) + Send + Sync + 'static,
    R: Send + 'static,
{
    let all = sync.clone();
    let hold = Arc::new(move |cpu: &Cpu| {
        cpu.hold();
        if sync.not_held.count_down() {
            let sync = sync.clone();
            send_to(cpu.node().cpu(sync.master), move |master| go(master, sync));
        }
    });
    send_shared(cpu0, &all.held, &hold);
}

/// On the master's CPU, with everybody held.
fn go<A, E, R>(master: &Cpu, sync: Shared<A, E, R>)
where
    A: FnOnce(&Cpu) -> R + Send + 'static,
    E: Fn(&Cpu) + Send + Sync + 'static,
    R: Send + 'static,
{
    // SAFETY: on the master's CPU, which nothing else of this cpusync runs on now.
    let alone = unsafe { &mut *sync.alone.get() };
    if let Alone::ToRun(run, answer) = mem::replace(alone, Alone::Taken) {
        *alone = Alone::Ran(run(master), answer);
    }
    if sync.mask.is_empty() {
        finish(master, &sync);
        return;
    }
    let all = sync.clone();
    let each = Arc::new(move |cpu: &Cpu| {
        (sync.each)(cpu);
        if cpu.id() != sync.master {
            cpu.let_go();
        }
        if sync.not_done.count_down() {
            let sync = sync.clone();
            send_to(cpu.node().cpu(sync.master), move |master| {
                finish(master, &sync)
            });
        }
    });
    send_shared(master, &all.mask, &each);
}

/// On the master's CPU, when all have run their part.
fn finish<A, E, R: Send + 'static>(master: &Cpu, sync: &Control<A, E, R>) {
    // Before CPU 0 hears of it: the next one may hold this CPU again.
    master.let_go();
    master.stats.cpusyncs.add(1);
    // SAFETY: as in `go`.
    let alone = unsafe { &mut *sync.alone.get() };
    if let Alone::Ran(result, answer) = mem::replace(alone, Alone::Taken) {
        let _ = answer.answer(Some(master), result);
    }
    send_to(master.node().cpu(CpuId(0)), |cpu0| {
        cpu0.mastership.ended(cpu0);
    });
}

impl Cpu {
    /// From now on, no thread is polled here. Owner, in a message.
    fn hold(&self) {
        debug_assert!(self.gate.get() & HELD == 0, "cpusyncs do not overlap");
        self.gate.set(self.gate.get() | HELD);
        self.mastership.held_since_ns.set(self.node().clock_ns());
    }

    /// Takes [`hold`](Self::hold) back. Owner, in a message.
    fn let_go(&self) {
        self.gate.set(self.gate.get() & !HELD);
        let since_ns = self.mastership.held_since_ns.get();
        let held_ns = self.node().clock_ns().saturating_sub(since_ns);
        self.stats.held_ns.add(held_ns);
        // It may have halted with the timer off.
        self.arm_timer();
    }
}
