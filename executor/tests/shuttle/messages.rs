//! Messages over full rings to CPUs that halt, and calls that are answered, or not waited for.

use super::*;
use executor::{
    Message, Pending, Port, Put, Serve, Server, chain, run_on, send_to, spawn, spawn_on,
};
use shuttle::sync::atomic::AtomicUsize;

#[test]
fn traps_27_28_30_storms_over_full_rings_wake_every_cpu_and_lose_nothing() {
    check(
        &[Fault::HaltWithoutCheck, Fault::SleepWithoutAsking],
        || {
            // More than a ring has room for, so that each sender has a backlog.
            const MESSAGES: usize = 7;
            run(3, async || {
                let senders = [0, 1, 2].map(|cpu| {
                    spawn_on(CpuId(cpu), "sender", move || async move {
                        let target = CpuId((cpu + 1) % 3);
                        let seen = Arc::new(AtomicUsize::new(0));
                        for number in 0..MESSAGES {
                            let seen = seen.clone();
                            let node = executor::current().node();
                            send_to(node.cpu(target), move |here| {
                                assert_eq!(here.id(), target);
                                assert_eq!(seen.fetch_add(1, Ordering::SeqCst), number, "in order");
                            });
                        }
                        run_on(target, |_| ()).await;
                        assert_eq!(seen.load(Ordering::SeqCst), MESSAGES);
                    })
                });
                for sender in senders {
                    sender.await;
                }
                let visits = Arc::new(AtomicUsize::new(0));
                let counted = visits.clone();
                chain(move |_| {
                    counted.fetch_add(1, Ordering::SeqCst);
                })
                .await;
                assert_eq!(visits.load(Ordering::SeqCst), 3);
            });
        },
    );
}

/// Doubles odd numbers at once and even ones later.
struct Doubler;
struct Double(u32);
impl Server for Doubler {
    type Work = Pending<Double>;
}
impl Message for Double {
    type Reply = u32;
}
impl Serve<Double> for Doubler {
    fn put(&self, message: Double) -> Put<Double> {
        if message.0 % 2 == 1 {
            Put::Done(message.0 * 2)
        } else {
            Put::Later(message)
        }
    }
    fn queue(pending: Pending<Double>) -> Pending<Double> {
        pending
    }
}

#[test]
fn a_call_is_answered_once_from_anywhere_and_one_that_is_dropped_harms_nobody() {
    check(&[Fault::DoneWithoutSwap, Fault::HaltWithoutCheck], || {
        run(3, async || {
            let port = Port::new(Doubler);
            let handle = port.handle();
            spawn("server", async move {
                loop {
                    let pending = port.receive().await;
                    let double = pending.message().0 * 2;
                    pending.reply(double);
                }
            })
            .detach();
            let callers = [0, 1, 2].map(|cpu| {
                let port = handle.clone();
                spawn_on(CpuId(cpu), "caller", move || async move {
                    for number in 1..4 {
                        let dropped = port.call(Double(number));
                        let kept = port.call(Double(number));
                        drop(dropped);
                        assert_eq!(kept.await, number * 2);
                    }
                })
            });
            for caller in callers {
                caller.await;
            }
        });
    });
}
