//! Making threads: here, there, and movable.
//!
//! Why a future that is not Send may run on another CPU: what crosses is the closure that *builds* it, which is Send,
//! inside a block whose future has never been polled. The closure runs in the first poll, on the target, and from then
//! on the future and everything it holds stay there. Only a [`spawn_movable`] thread moves later, so its whole future
//! must be Send (an `Rc` held over a move would be a data race that compiles).

use crate::{
    Cpu, CpuId, JoinHandle, Priority, current, ipi,
    thread::{self, Birth, flag},
};
use core::{
    future::Future,
    panic::Location,
    pin::Pin,
    task::{Context, Poll},
};

/// How a thread is made: its name and priority.
#[derive(Clone, Copy, Debug)]
#[must_use = "a builder does nothing until one of its spawn methods is called"]
pub struct Builder {
    name: &'static str,
    priority: Priority,
    user_priority: u16,
}

impl Builder {
    /// A thread called `name` with the default priority, [`Priority::KERNEL`].
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            priority: Priority::KERNEL,
            user_priority: 0,
        }
    }

    /// Sets the priority.
    pub const fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Sets the second key, by which woken threads of one priority are ordered: a larger one goes first, equals take turns
    /// (DragonFly: `td_upri`, set by the user scheduler). 0 unless set.
    pub const fn user_priority(mut self, key: u16) -> Self {
        self.user_priority = key;
        self
    }

    /// Spawns `future` on this CPU. It need not be Send and never leaves.
    ///
    /// # Panics
    /// Outside of every CPU.
    #[track_caller]
    pub fn spawn<F: Future + 'static>(self, future: F) -> JoinHandle<F::Output> {
        self.make(current::current(), current::current(), false, future)
    }

    /// Spawns on `cpu` the future that `build` makes there.
    ///
    /// # Panics
    /// Outside of every CPU, or if the node has no such CPU.
    #[track_caller]
    pub fn spawn_on<T, F, B>(self, cpu: CpuId, build: B) -> JoinHandle<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
        B: FnOnce() -> F + Send + 'static,
    {
        self.spawn_to(current::current().node().cpu(cpu), build)
    }

    /// Spawns on the CPU whose turn it is (see [`Node::next_cpu`](crate::Node::next_cpu)) the future that `build` makes there.
    ///
    /// # Panics
    /// Outside of every CPU.
    #[track_caller]
    pub fn spawn_anywhere<T, F, B>(self, build: B) -> JoinHandle<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
        B: FnOnce() -> F + Send + 'static,
    {
        let node = current::current().node();
        self.spawn_to(node.cpu(node.next_cpu()), build)
    }

    #[track_caller]
    pub(crate) fn spawn_to<T, F, B>(self, target: &Cpu, build: B) -> JoinHandle<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
        B: FnOnce() -> F + Send + 'static,
    {
        let here = current::try_current().unwrap_or(target);
        self.make(here, target, false, async move { build().await })
    }

    /// Spawns on this CPU a thread that may move by [`Mobile::migrate_to`].
    ///
    /// # Panics
    /// Outside of every CPU.
    #[track_caller]
    pub fn spawn_movable<T, F, B>(self, build: B) -> JoinHandle<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
        B: FnOnce(Mobile) -> F,
    {
        let future = build(Mobile { _private: () });
        self.make(current::current(), current::current(), true, future)
    }

    #[track_caller]
    fn make<F: Future + 'static>(
        self,
        here: &Cpu,
        target: &Cpu,
        movable: bool,
        future: F,
    ) -> JoinHandle<F::Output> {
        let at_home = core::ptr::eq(current::pointer(), target);
        let birth = Birth {
            id: match current::try_current() {
                Some(here) => here.next_thread_id(),
                None => target.node().take_thread_ids().0,
            },
            name: self.name,
            site: Location::caller(),
            priority: self.priority,
            user_priority: self.user_priority,
            movable,
            flags: if at_home {
                0
            } else {
                flag::IN_TRANSIT | flag::NEW
            },
        };
        let (ours, handle) = thread::create(target, birth, future);
        if core::ptr::eq(current::pointer(), here) {
            here.stats.threads_spawned.add(1);
        }
        if at_home {
            target.record_spawn(&ours);
            target.adopt(ours);
        } else {
            ipi::send_arrival(target, ours);
        }
        JoinHandle::new::<F>(handle)
    }
}

/// Spawns `future` as a thread of this CPU. It need not be Send and never leaves.
///
/// # Panics
/// Outside of every CPU.
#[track_caller]
pub fn spawn<F: Future + 'static>(name: &'static str, future: F) -> JoinHandle<F::Output> {
    Builder::new(name).spawn(future)
}

/// Spawns a thread on `cpu` of this node: `build` is sent there and makes the future, which need not be Send.
///
/// # Panics
/// Outside of every CPU, or if the node has no such CPU.
#[track_caller]
pub fn spawn_on<T, F, B>(cpu: CpuId, name: &'static str, build: B) -> JoinHandle<T>
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
    B: FnOnce() -> F + Send + 'static,
{
    Builder::new(name).spawn_on(cpu, build)
}

/// Spawns a thread on the CPU whose turn it is, whichever CPU asks. It stays there.
///
/// # Panics
/// Outside of every CPU.
#[track_caller]
pub fn spawn_anywhere<T, F, B>(name: &'static str, build: B) -> JoinHandle<T>
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
    B: FnOnce() -> F + Send + 'static,
{
    Builder::new(name).spawn_anywhere(build)
}

/// Spawns a thread of this CPU that may move to another one by itself, and by nobody else.
///
/// # Panics
/// Outside of every CPU.
#[track_caller]
pub fn spawn_movable<T, F, B>(name: &'static str, build: B) -> JoinHandle<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
    B: FnOnce(Mobile) -> F,
{
    Builder::new(name).spawn_movable(build)
}

/// Given to the closure that builds a movable thread's future, which moves by it.
///
/// It can be given away, so it proves nothing: that the running thread's whole future is Send is checked at the move.
#[derive(Debug)]
pub struct Mobile {
    _private: (),
}

impl Mobile {
    /// Moves the thread to `cpu`; ready at once if it is there. What comes after runs there.
    ///
    /// # Panics
    /// If the node has no such CPU, or the thread that awaits it was not made by [`spawn_movable`].
    pub fn migrate_to(&self, cpu: CpuId) -> Migrate<'_> {
        Migrate {
            target: cpu,
            _mobile: self,
        }
    }
}

/// The future of [`Mobile::migrate_to`].
#[derive(Debug)]
#[must_use = "a thread moves when this is awaited"]
pub struct Migrate<'m> {
    target: CpuId,
    _mobile: &'m Mobile,
}

impl Future for Migrate<'_> {
    type Output = ();
    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        let here = current::current();
        if here.id() == self.target {
            return Poll::Ready(());
        }
        assert!(
            self.target.index() < here.node().cpu_count(),
            "no {} to migrate to",
            self.target
        );
        here.request_migration(self.target);
        Poll::Pending
    }
}

/// Lets the other runnable threads of this priority (and all of higher ones) run first.
pub fn yield_now() -> Yield {
    Yield { yielded: false }
}

/// The future of [`yield_now`].
#[derive(Debug)]
#[must_use = "a thread yields when this is awaited"]
pub struct Yield {
    yielded: bool,
}

impl Future for Yield {
    type Output = ();
    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.yielded {
            return Poll::Ready(());
        }
        self.yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    }
}
