//! Who serves a desk: each reader receives papers, and does with each what its manner says.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use executor::{CpuId, Message, Pending, Port, now_ns, sleep_until, spawn_on, yield_now};
use futures_util::future::{Either, select};

use super::plan::Manner;
use super::{ABORTED, DONE, Desk, Desks, Errand, Rush, Slip, TAKEN_BACK, Work, reply};

/// Who has waited so long without a message waits for one for ever: an idle node has nothing to do then.
const ENDLESS_NS: u64 = 4_000_000;

/// A thread that serves a desk, or a set of them.
pub struct Reader {
    desks: Arc<Desks>,
    /// 0 for all of the desk's CPU, which get messages in one order.
    group: usize,
    /// The desk, and its place among the desk's readers; None if it serves a set.
    place: Option<(usize, usize)>,
    fickle: bool,
    patience_ns: u64,
    /// How often it may lose patience before it goes for good.
    returns: Option<u32>,
    served: u32,
}

impl Reader {
    /// `others_stay`: a desk may be left for good, since others serve it.
    pub fn new(
        desks: Arc<Desks>,
        group: usize,
        place: Option<(usize, usize)>,
        fickle: bool,
        others_stay: bool,
    ) -> Self {
        let (desk, number) = place.unwrap_or_default();
        Self {
            desks,
            group,
            place,
            fickle,
            patience_ns: 500,
            returns: others_stay.then_some((3 * desk + 5 * number + 7 * group) as u32 % 11),
            served: 0,
        }
    }

    /// Waits, unless it loses patience: sooner where much comes, so that it goes away just as a message comes.
    async fn wait<T>(&mut self, receive: impl Future<Output = T>) -> Option<T> {
        if let Some(place) = self.place {
            self.desks.register.waits(place, Some(now_ns()));
        }
        let got = self.wait_a_while(receive).await;
        if let Some(place) = self.place {
            self.desks.register.waits(place, None);
        }
        got
    }

    async fn wait_a_while<T>(&mut self, receive: impl Future<Output = T>) -> Option<T> {
        if !self.fickle || self.patience_ns > ENDLESS_NS {
            let got = receive.await;
            self.patience_ns = 500;
            return Some(got);
        }
        // The time first: a message that comes at the same moment finds a reader that goes away without a look.
        let patience = pin!(sleep_until(now_ns() + self.patience_ns));
        match select(patience, pin!(receive)).await {
            Either::Left(_) => {
                self.patience_ns *= 2;
                None
            }
            Either::Right((got, _)) => {
                self.patience_ns = 500;
                Some(got)
            }
        }
    }

    async fn serve(&mut self, work: Work, port: Option<&Port<Desk>>) {
        self.served += 1;
        match work {
            Work::Errand(pending) => self.errand(pending, port).await,
            Work::Slip(pending) => self.slip(pending, |Slip(errand)| errand, port).await,
            Work::Rush(pending) => self.slip(pending, |Rush(errand)| errand, port).await,
        }
    }

    async fn pause(&self) {
        match self.served % 8 {
            0 => sleep_until(now_ns() + 10_000).await,
            1 | 2 => yield_now().await,
            _ => {}
        }
    }

    async fn slip<M: Message<Reply = ()>>(
        &self,
        pending: Pending<M>,
        errand: impl Fn(&M) -> &Errand,
        port: Option<&Port<Desk>>,
    ) {
        let Errand { paper, manner, .. } = *errand(pending.message());
        self.desks
            .register
            .received(paper, Some(self.group), now_ns());
        self.pause().await;
        self.desks.register.replies(paper);
        pending.reply(());
        if let (Manner::TakeBack, Some(port)) = (manner, port) {
            self.take_back(port);
        }
    }

    async fn errand(&self, mut pending: Pending<Errand>, port: Option<&Port<Desk>>) {
        let register = &self.desks.register;
        let Errand { paper, manner, .. } = *pending.message();
        register.received(paper, Some(self.group), now_ns());
        register.is_seen_aborted(paper, pending.is_aborted());
        match (manner, port) {
            (Manner::HandOn { desk, .. }, _) if register.hands_on(paper, desk) => {
                self.desks.port(desk).forward(pending);
                register.was_sent(paper, true);
                return;
            }
            // One that was handed on is waited for at the second desk, with its caller's abort behind it.
            (Manner::HandOn { desk, limit_ns }, _) => {
                set_aside(&self.desks, self.desks.port(desk).cpu(), limit_ns, pending);
                return;
            }
            (Manner::UntilAborted { cpu, limit_ns }, _) => {
                if self.served.is_multiple_of(2) {
                    // Watched from here, and then from another thread.
                    let look = poll_fn(|context| Poll::Ready(pending.poll_aborted(context)));
                    let is_aborted = look.await.is_ready();
                    register.is_seen_aborted(paper, is_aborted);
                }
                set_aside(&self.desks, CpuId(cpu), limit_ns, pending);
                return;
            }
            (Manner::AtOnce, Some(port)) => {
                let Err(back) = pending.serve(port.server()) else {
                    return;
                };
                pending = back;
            }
            _ => self.pause().await,
        }
        register.is_seen_aborted(paper, pending.is_aborted());
        register.replies(paper);
        pending.reply(reply(paper, DONE));
        if let (Manner::TakeBack, Some(port)) = (manner, port) {
            self.take_back(port);
        }
    }

    /// Takes back the second paper that is queued, whatever it is, or the only one; an errand is owed a reply all the same.
    fn take_back(&self, port: &Port<Desk>) {
        let register = &self.desks.register;
        let mut last = port.queued().min(2);
        let second = |_: &Work| {
            last = last.saturating_sub(1);
            last == 0
        };
        match port.withdraw(second) {
            None => {}
            Some(Work::Errand(pending)) => {
                let paper = pending.message().paper;
                register.received(paper, None, now_ns());
                register.replies(paper);
                pending.reply(reply(paper, TAKEN_BACK));
            }
            Some(Work::Slip(pending)) => {
                let paper = pending.message().0.paper;
                register.received(paper, None, now_ns());
                register.replies(paper);
                pending.reply(());
            }
            Some(Work::Rush(pending)) => {
                let paper = pending.message().0.paper;
                register.received(paper, None, now_ns());
                register.replies(paper);
                // Posted: it may be dropped.
                drop(pending);
            }
        }
    }
}

/// Gives an errand to a thread of that CPU, which waits so long for its abort.
fn set_aside(desks: &Arc<Desks>, cpu: CpuId, limit_ns: u64, mut pending: Pending<Errand>) {
    let register = desks.register.clone();
    let wait = move || async move {
        let paper = pending.message().paper;
        let since_ns = now_ns();
        let limit = pin!(sleep_until(since_ns + limit_ns));
        let told = matches!(
            select(pin!(pending.aborted()), limit).await,
            Either::Left(_)
        );
        register.is_told(paper, told, since_ns, now_ns());
        register.is_seen_aborted(paper, pending.is_aborted());
        register.replies(paper);
        pending.reply(reply(paper, if told { ABORTED } else { DONE }));
    };
    spawn_on(cpu, "aside", wait).detach();
}

/// Serves what `receive` brings, for ever or until it goes; `which` says at which port, if it is one of this CPU.
pub async fn attend<'p, T, F: Future<Output = T>>(
    mut reader: Reader,
    receive: impl Fn() -> F,
    which: impl Fn(T) -> (Work, Option<&'p Port<Desk>>),
) {
    loop {
        match reader.wait(receive()).await {
            Some(got) => {
                let (work, port) = which(got);
                reader.serve(work, port).await;
            }
            None => match &mut reader.returns {
                Some(0) => return,
                Some(returns) => *returns -= 1,
                None => reader.pause().await,
            },
        }
    }
}
