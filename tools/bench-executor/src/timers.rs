//! Timers: many of them pending, and what it costs to insert, to cancel and to fire one.
//!
//! The same for every executor: futures in one array, polled with a waker that only counts, so that the timer is all
//! there is. Deadlines are random, from a fixed seed.

use std::cell::Cell;
use std::pin::Pin;
use std::ptr;
use std::task::{Context, RawWaker, RawWakerVTable, Waker};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::host::wall_time;
use crate::measure::{Sample, Stopwatch};
use crate::ours::Ours;
use crate::peers::tokio::CurrentThread;
use crate::traffic::{Runtime, yield_by_wake};

/// An executor with timers.
pub trait Timed: Runtime {
    /// A future that is ready at its deadline.
    type Timer: Future;
    /// One that is ready after `delay`. It counts from its first poll on, not before.
    fn timer(delay: Duration) -> Self::Timer;
}

impl Timed for Ours {
    type Timer = executor::Sleep;

    fn timer(delay: Duration) -> Self::Timer {
        executor::sleep(delay)
    }
}

impl Timed for CurrentThread<true> {
    type Timer = tokio::time::Sleep;

    fn timer(delay: Duration) -> Self::Timer {
        tokio::time::sleep(delay)
    }
}

thread_local! {
    /// Timers of this thread that have fired.
    static FIRED: Cell<u64> = const { Cell::new(0) };
}

/// A waker that counts in [`FIRED`] and has nobody to wake. It costs no reference count.
static COUNTING: Waker = {
    fn fired(_: *const ()) {
        FIRED.set(FIRED.get() + 1);
    }
    static TABLE: RawWakerVTable =
        RawWakerVTable::new(|_| RawWaker::new(ptr::null(), &TABLE), fired, fired, |_| ());
    // SAFETY: the functions have no data, so any thread may call them at any time.
    unsafe { Waker::from_raw(RawWaker::new(ptr::null(), &TABLE)) }
};

/// Timers that wait, or have fired, or are gone.
struct Timers<T>(Pin<Box<[Option<T>]>>);

impl<T: Future> Timers<T> {
    fn each(&mut self) -> impl DoubleEndedIterator<Item = Pin<&mut Option<T>>> {
        // SAFETY: nothing moves out of the slice or within it.
        let timers = unsafe { self.0.as_mut().get_unchecked_mut() };
        // SAFETY: as above: each element is pinned as the slice is.
        timers
            .iter_mut()
            .map(|timer| unsafe { Pin::new_unchecked(timer) })
    }

    /// Polls all of them, and says how many are ready.
    fn poll(&mut self) -> usize {
        let mut context = Context::from_waker(&COUNTING);
        let ready = |timer: Pin<&mut Option<T>>| match timer.as_pin_mut() {
            Some(timer) => timer.poll(&mut context).is_ready(),
            None => false,
        };
        self.each().map(ready).filter(|ready| *ready).count()
    }

    /// Drops all of them in place.
    fn cancel(&mut self) {
        self.each().for_each(|mut timer| timer.set(None));
    }
}

/// Makes `count` timers with random delays from `least` to twice that, and one at the end with the longest.
fn make<R: Timed>(count: u64, least: Duration) -> Timers<R::Timer> {
    let span = least.as_nanos() as u64;
    // A linear congruential generator; its high bits are random enough to scatter deadlines.
    let mut state = 1u64;
    let random = (1..count).map(|_| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        ((u128::from(state) * u128::from(span)) >> 64) as u64
    });
    let delays = random.chain([span]);
    let timers = delays.map(|more| Some(R::timer(least + Duration::from_nanos(more))));
    Timers(Box::into_pin(timers.collect()))
}

/// The delays of timers that never fire: time-outs.
const LONG: Duration = Duration::from_secs(500);

/// One turn: one of `count` timers is inserted.
pub fn insert<R: Timed>(count: u64) -> Result<Sample> {
    insert_of::<R>(count, count)
}

/// One turn: one of `count` timers is cancelled.
pub fn cancel<R: Timed>(count: u64) -> Result<Sample> {
    cancel_of::<R>(count, count)
}

/// One turn: one of `count` timers is cancelled, and another inserted; each is four times, so that what either puts off is
/// paid here.
pub fn replace<R: Timed>(count: u64) -> Result<Sample> {
    R::run(0, false, move || async move {
        let mut timers = make::<R>(count, LONG);
        timers.poll();
        mean((0..4).map(|_| {
            let mut others = make::<R>(count, LONG);
            let watch = Stopwatch::one_thread();
            let mut context = Context::from_waker(&COUNTING);
            for (mut old, new) in timers.each().zip(others.each()) {
                old.set(None);
                let is_pending = |timer: Pin<&mut R::Timer>| timer.poll(&mut context).is_pending();
                assert!(new.as_pin_mut().is_some_and(is_pending), "it is long");
            }
            let sample = watch.stop(count);
            timers = others;
            sample
        }))
    })
}

/// One turn: one of `count` timers, all of them due by now, fires.
pub fn fire<R: Timed>(count: u64) -> Result<Sample> {
    fire_of::<R>(count, count)
}

/// [`insert`], again and again until there were so many turns.
pub fn insert_of<R: Timed>(count: u64, turns: u64) -> Result<Sample> {
    R::run(0, false, move || async move {
        mean((0..turns.div_ceil(count)).map(|_| {
            let mut timers = make::<R>(count, LONG);
            let watch = Stopwatch::one_thread();
            timers.poll();
            watch.stop(count)
        }))
    })
}

/// [`cancel`], again and again until there were so many turns.
pub fn cancel_of<R: Timed>(count: u64, turns: u64) -> Result<Sample> {
    R::run(0, false, move || async move {
        mean((0..turns.div_ceil(count)).map(|_| {
            let mut timers = make::<R>(count, LONG);
            timers.poll();
            let watch = Stopwatch::one_thread();
            timers.cancel();
            watch.stop(count)
        }))
    })
}

/// [`fire`], again and again until there were so many turns.
pub fn fire_of<R: Timed>(count: u64, turns: u64) -> Result<Sample> {
    let samples = (0..turns.div_ceil(count)).map(|_| fire_once::<R>(count));
    Ok(mean(samples.collect::<Result<Vec<_>>>()?.into_iter()))
}

fn fire_once<R: Timed>(count: u64) -> Result<Sample> {
    // A host that is slow gets more time to insert before the first is due.
    for patience in [1, 4, 16] {
        let least = Duration::from_millis(2) + Duration::from_nanos(500 * count * patience);
        let fired = R::run(0, false, move || async move {
            FIRED.set(0);
            let mut timers = make::<R>(count, least);
            if timers.poll() > 0 {
                return None;
            }
            // Longer by the coarsest tick of a timer.
            let due = wall_time() + 2 * least + Duration::from_millis(2);
            while wall_time() < due {
                std::hint::spin_loop();
            }
            let watch = Stopwatch::one_thread();
            // The last is waited for, as a thread would; what it overtook comes while the thread looks on.
            if let Some(last) = timers.each().next_back().and_then(Option::as_pin_mut) {
                last.await;
            }
            while FIRED.get() + 1 < count {
                yield_by_wake().await;
            }
            Some(watch.stop(count))
        })?;
        if let Some(sample) = fired {
            return Ok(sample);
        }
    }
    bail!("timers were due before the last of them was inserted")
}

fn mean(samples: impl Iterator<Item = Sample>) -> Sample {
    let (sum, count) = samples.fold((0.0, 0.0), |(sum, count), sample| {
        (sum + sample.value, count + 1.0)
    });
    Sample::from(sum / count)
}
