//! Functions on other CPUs, and waiting for what was sent.

use super::{Message, Urgency, send, send_to};
use crate::{
    Cpu, CpuId, CpuMask,
    countdown::Last,
    critical, current,
    reply::{Awaited, Owed, pair},
};
use alloc::sync::Arc;
use core::{future::poll_fn, sync::atomic::Ordering};

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
    let (awaited, answer) = ask();
    send_to(current::current().node().cpu(cpu), move |cpu| {
        // A caller that has gone needs no result.
        let _ = answer.answer(Some(cpu), f(cpu));
    });
    answered(awaited).await
}

/// A reply for the thread that runs here, and what is owed for it.
pub(crate) fn ask<R>() -> (Awaited<R>, Owed<R>) {
    pair(current::pointer().cast(), ())
}

/// Waits for the reply.
pub(crate) async fn answered<R>(mut awaited: Awaited<R>) -> R {
    poll_fn(|context| {
        critical::assert_may_wait();
        awaited.poll(context.waker())
    })
    .await
}

/// Runs `f` on every CPU of `mask`, soon, in hard sections, and gives their number. Those that the node has not are left
/// out. They are told in the order of their numbers, beginning after the current one (DragonFly `lwkt_send_ipiq_mask`: so
/// CPU 0 is not favoured), which runs it here, at the end, if it is in the mask.
///
/// # Panics
/// Outside of every CPU.
pub fn send_to_mask(mask: &CpuMask, f: impl Fn(&Cpu) + Send + Sync + 'static) -> usize {
    send_shared(current::current(), mask, &Arc::new(f))
}

/// As [`send_to_mask`], with a function that is shared already.
pub(crate) fn send_shared<F>(here: &Cpu, mask: &CpuMask, f: &Arc<F>) -> usize
where
    F: Fn(&Cpu) + Send + Sync + 'static,
{
    let node = here.node();
    let mut count = 0;
    for cpu in mask.after(here.id()) {
        if cpu.index() < node.cpu_count() {
            count += 1;
            send(node.cpu(cpu), Message::shared(f.clone()), Urgency::Active);
        }
    }
    count
}

/// Runs `f` on every CPU of `mask` as [`send_to_mask`] does; ready when all of them have run it, and their number.
///
/// # Panics
/// Outside of every CPU.
pub async fn run_on_mask(mask: &CpuMask, f: impl Fn(&Cpu) + Send + Sync + 'static) -> usize {
    let awaited = {
        let here = current::current();
        let mut mask = mask.clone();
        mask.retain(|cpu| cpu.index() < here.node().cpu_count());
        if mask.is_empty() {
            return 0;
        }
        let (awaited, answer) = ask();
        let (answer, all) = (Last::new(mask.len(), answer), mask.len());
        let each = Arc::new(move |cpu: &Cpu| {
            f(cpu);
            if let Some(answer) = answer.count_down() {
                let _ = answer.answer(Some(cpu), all);
            }
        });
        send_shared(here, &mask, &each);
        awaited
    };
    answered(awaited).await
}

/// Runs `f` on every CPU of the node as [`send_to_mask`] does; ready when all of them have run it.
///
/// # Panics
/// Outside of every CPU.
pub async fn run_on_all(f: impl Fn(&Cpu) + Send + Sync + 'static) {
    let all = CpuMask::all(current::current().node());
    run_on_mask(&all, f).await;
}

/// Ready when every CPU has run what this one had sent it, in whatever way (DragonFly `lwkt_synchronize_ipiqs`).
///
/// # Panics
/// Outside of every CPU.
pub async fn synchronize() {
    // Behind all of it in each ring.
    run_on_all(|_| ()).await;
}

/// A place in the messages of one CPU to another: behind what had been sent when it was made.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    from: CpuId,
    to: CpuId,
    count: usize,
}

/// What this CPU has sent to `cpu` up to now, to be waited for (DragonFly: the sequence number that `lwkt_send_ipiq` gives
/// and `lwkt_wait_ipiq` takes).
///
/// # Panics
/// Outside of every CPU, or if the node has no such CPU.
pub fn sent_to(cpu: CpuId) -> Sent {
    let here = current::current();
    Sent {
        from: here.id(),
        to: cpu,
        count: critical::section_on(here, || here.outbound[cpu.index()].sent()),
    }
}

impl Sent {
    /// True if all of it has been run; what it did is seen then.
    ///
    /// # Panics
    /// Outside of the node's CPUs.
    pub fn is_done(&self) -> bool {
        let ring = &current::current().node().cpu(self.to).inbound[self.from.index()];
        // SAFETY: a ring, once published, lives as long as its target.
        let ring = unsafe { ring.load(Ordering::Acquire).as_ref() };
        self.count == 0 || ring.is_some_and(|ring| ring.has_done(self.count))
    }

    /// Ready when all of it has been run. DragonFly spins for this; here it is a message behind the others, and nothing
    /// if it is done already.
    ///
    /// # Panics
    /// Outside of the node's CPUs.
    pub async fn wait(self) {
        if !self.is_done() {
            // From where it was sent: this thread may have moved since.
            let (awaited, answer) = ask();
            send_to(current::current().node().cpu(self.from), move |from| {
                send_to(from.node().cpu(self.to), move |to| {
                    let _ = answer.answer(Some(to), ());
                });
            });
            answered(awaited).await;
        }
    }
}

/// Runs `f` on CPU 0, then 1, and so on to the last: a message chain. Returns when every CPU has run it.
///
/// This is how a copy that each CPU keeps is brought up to date (architecture rule 12; DragonFly `netmsg` chains).
pub async fn chain(f: impl Fn(&Cpu) + Send + Sync + 'static) {
    fn hop<F: Fn(&Cpu) + Send + Sync + 'static>(cpu: &Cpu, f: Arc<F>, done: Owed<()>) {
        f(cpu);
        let next = cpu.id().index() + 1;
        if next < cpu.node().cpu_count() {
            let target = cpu.node().cpu(CpuId(next as u16));
            send_to(target, move |cpu| hop(cpu, f, done));
        } else {
            let _ = done.answer(Some(cpu), ());
        }
    }
    let (awaited, done) = ask();
    let f = Arc::new(f);
    send_to(current::current().node().cpu(CpuId(0)), move |cpu| {
        hop(cpu, f, done)
    });
    answered(awaited).await;
}
