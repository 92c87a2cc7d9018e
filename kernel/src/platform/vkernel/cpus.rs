//! Virtual CPUs: host threads that sleep in `ppoll` and are stopped by a signal.
//!
//! A doorbell is an eventfd, which an awake CPU is never sent (the executor sees to that); the timer is the sleep's
//! time-out. So an idle CPU makes no system call at all until there is something for it, and a busy one none either,
//! but for a look at the cables every [`POLL_INTERVAL_NS`] on CPU 0.
//!
//! [`Cpus::stop`] is what an NMI is on hardware: [`on_stop_signal`] runs on each CPU's thread wherever that is, notes
//! what the CPU was doing and does not return before [`Cpus::resume`]. What others see of a stopped CPU is that
//! note: nobody but the CPU itself reads what belongs to it.

use alloc::boxed::Box;
use core::num::NonZeroU64;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use executor::ticks::Ticks;
use executor::{Cpu, CpuId, Platform};
use nix::sys::pthread::{Pthread, pthread_kill, pthread_self};
use nix::sys::signal::Signal;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::thread::futex;

use super::Refused;
use super::cable::MAX_INTERFACES;
use super::machine::Vkernel;
use super::watchdog;
use crate::debugger::Note;

/// How long a busy CPU 0 leaves its cables alone.
const POLL_INTERVAL_NS: u64 = 50_000;
/// How long a CPU may take to stop. It obeys within microseconds, if the host lets it run.
const STOP_PATIENCE: Duration = Duration::from_secs(1);
/// The signal that stops a CPU.
pub const STOP_SIGNAL: Signal = Signal::SIGUSR1;

struct VirtualCpu {
    doorbell: OwnedFd,
    deadline_ns: AtomicU64,
    thread: OnceLock<Pthread>,
    /// Points into the stack of the stopped CPU's handler; null while it runs.
    note: AtomicPtr<Note>,
}

impl VirtualCpu {
    fn stands_still(&self) -> bool {
        !self.note.load(Ordering::Acquire).is_null()
    }
}

/// A descriptor that is readable once it was written to.
pub(super) fn new_eventfd() -> Result<OwnedFd, Refused> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|error| Refused::new("no descriptor", error, "see `ulimit -n`"))
}

/// The CPUs of the machine.
pub struct Cpus {
    start: Instant,
    ticks: Ticks,
    /// The host's.
    pub(super) cores: usize,
    pinned: bool,
    list: Box<[VirtualCpu]>,
    next_look_ns: AtomicU64,
    /// 1 while CPUs must stand still.
    stop: AtomicU32,
}

impl Cpus {
    /// So many CPUs, not running yet.
    pub(super) fn new(count: u16, pinned: bool) -> Result<Self, Refused> {
        let cpu = |_| {
            Ok(VirtualCpu {
                doorbell: new_eventfd()?,
                deadline_ns: AtomicU64::new(u64::MAX),
                thread: OnceLock::new(),
                note: AtomicPtr::new(ptr::null_mut()),
            })
        };
        Ok(Self {
            start: Instant::now(),
            ticks: Ticks::start(),
            cores: std::thread::available_parallelism().map_or(1, |n| n.get()),
            pinned,
            list: (0..count).map(cpu).collect::<Result<_, _>>()?,
            next_look_ns: AtomicU64::new(0),
            stop: AtomicU32::new(0),
        })
    }

    /// Makes the calling thread that of a CPU.
    pub(super) fn prepare(&self, id: CpuId) {
        let _ = self.list[id.index()].thread.set(pthread_self());
        if self.stop.load(Ordering::SeqCst) != 0 {
            // Too late to have been told.
            let _ = pthread_kill(pthread_self(), STOP_SIGNAL);
        }
        watchdog::watch_this_thread();
        // A deadline is met to the nanosecond, not to the default 50 us. Without it timers are late, no more.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        if self.pinned {
            let mut set = rustix::thread::CpuSet::new();
            set.set(id.index() % self.cores);
            // Where the host forbids it, the CPU runs where it may.
            let _ = rustix::thread::sched_setaffinity(None, &set);
        }
    }

    /// Stops every CPU but `except`. False: one of them did not obey.
    pub(super) fn stop(&self, except: Option<CpuId>) -> bool {
        self.stop.store(1, Ordering::SeqCst);
        let others = || {
            let started = self.list.iter().filter(|cpu| cpu.thread.get().is_some());
            let except = except.map(|id| &self.list[id.index()]);
            started.filter(move |cpu| !except.is_some_and(|except| ptr::eq(*cpu, except)))
        };
        for thread in others().filter_map(|cpu| cpu.thread.get()) {
            // A thread that is gone stands still.
            let _ = pthread_kill(*thread, STOP_SIGNAL);
        }
        wait_until(|| others().all(VirtualCpu::stands_still))
    }

    /// Lets the CPUs go on.
    pub(super) fn resume(&self) {
        self.stop.store(0, Ordering::SeqCst);
        let _ = futex::wake(&self.stop, futex::Flags::PRIVATE, i32::MAX as u32);
        // One of them may stop the others again at once, because it has failed.
        wait_until(|| !self.list.iter().any(VirtualCpu::stands_still));
    }

    /// What a stopped CPU was doing. For who has called [`stop`](Self::stop), until it calls [`resume`](Self::resume).
    pub(super) fn note(&self, id: CpuId) -> Option<Note> {
        // SAFETY: not null only between the handler's store and its wake-up in `resume`, which the caller has not called
        // yet; the handler's frame is alive in between, and the note was written before the pointer was published.
        unsafe { self.list[id.index()].note.load(Ordering::Acquire).as_ref() }.copied()
    }
}

/// Waits for other CPUs, not for ever. False: in vain.
fn wait_until(condition: impl Fn() -> bool) -> bool {
    let began = Instant::now();
    while !condition() {
        if began.elapsed() > STOP_PATIENCE {
            return false;
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    true
}

/// The handler of [`STOP_SIGNAL`]: stands still as long as it is asked to. Only reads its own CPU's cells (words that are
/// whole at any instruction), stores atomics and makes one system call, all of which a handler may do.
pub(super) fn on_stop_signal(machine: &Vkernel) {
    let Some(cpu) = executor::try_current() else {
        return;
    };
    let cpus = &machine.cpus;
    let own = &cpus.list[cpu.id().index()];
    let mut note = Note::of(cpu);
    own.note.store(&mut note, Ordering::Release);
    while cpus.stop.load(Ordering::SeqCst) != 0 {
        let _ = futex::wait(&cpus.stop, futex::Flags::PRIVATE, 1, None);
    }
    own.note.store(ptr::null_mut(), Ordering::Release);
}

impl Vkernel {
    /// Waits for the CPU's doorbell, on CPU 0 for the cables too, no longer than `timeout_ns`, and does what an
    /// interrupt's handler would.
    fn look(&self, cpu: &Cpu, timeout_ns: Option<u64>) {
        let doorbell = &self.cpus.list[cpu.id().index()].doorbell;
        let mut places: [_; 1 + MAX_INTERFACES] =
            core::array::from_fn(|_| PollFd::new(doorbell, PollFlags::IN));
        let mut listening = [None; MAX_INTERFACES];
        let mut count = 1;
        if cpu.id() == CpuId(0) {
            for cable in self.cables() {
                if let Some(flags) = cable.wanted() {
                    listening[count - 1] = Some(cable);
                    places[count] = PollFd::new(&**cable, flags);
                    count += 1;
                }
            }
        }
        let timeout = timeout_ns.map(|ns| Timespec {
            tv_sec: (ns / 1_000_000_000) as i64,
            tv_nsec: (ns % 1_000_000_000) as i64,
        });
        if !matches!(poll(&mut places[..count], timeout.as_ref()), Ok(1..)) {
            return;
        }
        if !places[0].revents().is_empty() {
            // It counts itself empty: one reading takes every ring so far.
            let _ = rustix::io::read(doorbell, &mut [0; 8]);
            cpu.interrupt_doorbell();
        }
        for (cable, place) in listening.iter().zip(&places[1..count]) {
            if let Some(cable) = cable.filter(|_| !place.revents().is_empty()) {
                cpu.stats().interrupts.add(1);
                cable.interrupt(place.revents());
            }
        }
    }
}

impl Platform for &'static Vkernel {
    fn clock_ns(&self) -> u64 {
        self.cpus.start.elapsed().as_nanos() as u64
    }

    fn ticks(&self) -> u64 {
        self.cpus.ticks.now()
    }

    fn ticks_to_ns(&self, ticks: u64) -> u64 {
        self.cpus.ticks.to_ns(ticks)
    }

    fn doorbell(&self, target: CpuId) {
        // Full means that 2^64 rings wait, so the CPU is rung.
        let _ = rustix::io::write(
            &self.cpus.list[target.index()].doorbell,
            &1_u64.to_ne_bytes(),
        );
    }

    fn idle(&self, cpu: &Cpu) {
        let own = &self.cpus.list[cpu.id().index()];
        let deadline_ns = own.deadline_ns.load(Ordering::Relaxed);
        // A ring from here on leaves the doorbell readable: it is not lost.
        if !cpu.may_sleep() {
            return;
        }
        let timeout_ns =
            (deadline_ns != u64::MAX).then(|| deadline_ns.saturating_sub(self.clock_ns()));
        self.look(cpu, timeout_ns);
    }

    fn set_timer(&self, deadline_ns: Option<u64>) {
        let own = &self.cpus.list[executor::current_cpu().index()];
        own.deadline_ns
            .store(deadline_ns.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn interrupts_are_polled(&self) -> bool {
        true
    }

    fn poll_interrupts(&self, cpu: &Cpu) {
        if cpu.id() != CpuId(0) || self.cables().is_empty() {
            return;
        }
        let (now_ns, next) = (self.clock_ns(), &self.cpus.next_look_ns);
        if now_ns >= next.load(Ordering::Relaxed) {
            next.store(now_ns + POLL_INTERVAL_NS, Ordering::Relaxed);
            self.look(cpu, Some(0));
        }
    }
}
