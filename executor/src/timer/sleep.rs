//! One wait for a deadline: [`Sleep`], and [`timeout`], which waits for something else no longer than that.
//!
//! A sleep has no reference to its timer, only the wheel's name and the key: a movable thread may take it elsewhere, and it is
//! then cancelled by an IPI message. A message that comes after the timer has fired finds that the key means nothing.

use super::{now_ns, wheel::Key};
use crate::{Cpu, critical, current, ipi};
use core::{
    fmt,
    future::Future,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};
use futures_util::future::{Either, select};

/// A future that is ready at a deadline. Made by [`sleep`] and [`sleep_until`].
#[derive(Debug)]
#[must_use = "a sleep does nothing until it is awaited"]
pub struct Sleep {
    deadline_ns: u64,
    /// Where it is registered, once it was polled.
    timer: Option<(u64, Key)>,
}

impl Sleep {
    /// The deadline, in nanoseconds since boot.
    pub fn deadline_ns(&self) -> u64 {
        self.deadline_ns
    }

    /// Waits until `deadline_ns` nanoseconds since boot instead, earlier or later.
    ///
    /// A sleep that somebody awaits wakes them then, and equal deadlines fire in the order in which they were set. One
    /// that has been ready is as new. To reset a sleep is cheaper than to drop it and make another. Outside of the CPUs of
    /// the node where somebody awaits it, nobody can be told: they hear of another deadline when the old one has come.
    pub fn reset(&mut self, deadline_ns: u64) {
        self.deadline_ns = possible(deadline_ns);
        let Some((wheel, key)) = self.timer else {
            return;
        };
        match current::try_current().filter(|here| here.timers.name() == wheel) {
            Some(here) => {
                let key = here.timers.reset(here.poll_ns(), key, self.deadline_ns);
                self.timer = key.map(|key| (wheel, key));
                critical::section_on(here, || here.arm_timer());
            }
            // Who awaits it there is woken, finds that it has no timer, and makes one where that is.
            None => self.cancel(|cpu, key| {
                ipi::send_to(cpu, move |cpu| {
                    if let Some(waker) = cpu.timers.remove(key) {
                        waker.wake();
                    }
                });
            }),
        }
    }

    /// Takes the timer away: here at once, and by `send` on another CPU of this node.
    fn cancel(&mut self, send: impl FnOnce(&Cpu, Key)) {
        let Some((wheel, key)) = self.timer.take() else {
            return;
        };
        // Outside of every CPU, and on those of other nodes, it is left to fire: then it wakes once too often, if at all.
        let Some(here) = current::try_current() else {
            return;
        };
        if here.timers.name() == wheel {
            drop(here.timers.remove(key));
        } else if let Some(cpu) = here.node().cpus().find(|it| it.timers.name() == wheel) {
            send(cpu, key);
        }
    }

    /// Nobody awaits it.
    fn forget(&mut self) {
        // Fired before it is found, it wakes a thread once too often.
        self.cancel(|cpu, key| {
            ipi::send_passive(cpu, move |cpu: &Cpu| drop(cpu.timers.remove(key)));
        });
    }
}

impl Future for Sleep {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let here = current::current();
        if let Some((wheel, key)) = self.timer {
            if wheel == here.timers.name() && here.timers.update(key, context.waker()) {
                return Poll::Pending;
            }
            if wheel == here.timers.name() {
                // It fired: only a due timer leaves the wheel without `cancel`.
                self.timer = None;
                return Poll::Ready(());
            }
            // A movable thread took it to another CPU.
            self.forget();
        }
        let now_ns = here.poll_ns();
        if now_ns >= self.deadline_ns {
            return Poll::Ready(());
        }
        critical::assert_may_wait();
        let waker = context.waker().clone();
        let key = here.timers.insert(now_ns, self.deadline_ns, waker);
        self.timer = Some((here.timers.name(), key));
        // A section: a handler that arms it earlier meanwhile must not be overruled.
        critical::section_on(here, || here.arm_timer());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.forget();
    }
}

/// Waits for `duration`. A zero duration is ready at once; use [`yield_now`](crate::yield_now) to let others run.
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(now_ns().saturating_add(nanoseconds(duration)))
}

/// Waits until `deadline_ns` nanoseconds since boot.
pub fn sleep_until(deadline_ns: u64) -> Sleep {
    Sleep {
        deadline_ns: possible(deadline_ns),
        timer: None,
    }
}

pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// u64::MAX means "no timer" inside; 584 years will do.
fn possible(deadline_ns: u64) -> u64 {
    deadline_ns.min(u64::MAX - 2)
}

/// The time ran out before the future was ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("timed out")
    }
}

impl core::error::Error for Elapsed {}

/// Waits for `future`, but no longer than `duration`; then the future is dropped.
///
/// # Errors
/// [`Elapsed`] when the time ran out first.
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output, Elapsed> {
    match select(pin!(future), pin!(sleep(duration))).await {
        Either::Left((output, _)) => Ok(output),
        Either::Right(_) => Err(Elapsed),
    }
}
