//! How a scope waits for a token, and who lets whom pass.
//!
//! A thread that finds a token held looks again a few times in place, as DragonFly's does: most holds are shorter than a
//! turn of the loop. Then it holds none, stays runnable (there is no wait queue and no wake; trap 4) and counts the turns
//! of its CPU's loop:
//!
//! | turns | it |
//! |---|---|
//! | 1, 4, 16 ... | tries: a wait lasts at most four times as long as it must, and the holder's cache line is left alone |
//! | from [`PATIENCE`] | tries at every turn, and for an exclusive hold says that it *wants* the token |
//! | from [`ASK_AFTER`] | asks the holder's CPU by IPI message and sleeps until the answer, which comes between two polls, when nothing is held; if another one wants it first, dozes |
//!
//! Who finds a token wanted by another CPU lets it pass: it does not take the token, for at most [`DEFERENCE`] turns, and
//! a reader not as long as other readers hold it. Not bound to that is who wants the token as well, who only tries, and a
//! reader that holds another token (trap 7: it might be what the waiter waits for).
//!
//! So a thread waits for an exclusive hold for no longer than this: [`PATIENCE`] turns; then for the holds in progress to
//! end, a poll each; then for those that have waited as long. A CPU that gives the token back and takes it again at once is
//! a newcomer each time, as long as the waiter's CPU comes round to it within [`DEFERENCE`] turns of that CPU. That limit is
//! there for a wish that nobody comes for: of a scope that is kept but not polled any more, or inside another one that lets
//! somebody pass itself. A scope that is dropped takes its wish back (trap 8).

use super::{Token, scope::Claim, word::Found};
use crate::{Cpu, run_on, sleep, trace::Event};
use alloc::boxed::Box;
use core::{future::Future, pin::Pin, ptr, sync::atomic::Ordering, task::Context, time::Duration};

/// Looks in place before a scope waits, each after four times as many pauses: one or two microseconds in all.
/// Few, for each takes the cache line from the holder, whose sections become ten times as long by it.
const SPINS: u32 = 4;
/// Turns after which a wait is timed. Shorter ones are over before the clock is read.
const TIMED_FROM: u32 = 8;
/// Turns after which a waiter tries at each turn, and wants what it waits for.
const PATIENCE: u32 = 256;
/// Turns after which a waiter asks the holder's CPU and sleeps: a few microseconds of a CPU that has nothing else to do.
/// More would be quicker where holds last that long, and would fill a trace and a CPU with turns where they last longer.
const ASK_AFTER: u32 = 256;
/// How long who lets another have it first sleeps between two looks, and the turns that it counts for.
const DOZE: Duration = Duration::from_micros(20);
const DOZE_TURNS: u32 = 1024;
/// Turns for which others let a waiter pass: longer than it takes to wake its CPU.
const DEFERENCE: u32 = 16384;

/// How long a scope has spun in place, in its first poll that found a token held.
pub(super) struct Spun(u32);

impl Spun {
    pub(super) fn new() -> Self {
        Self(0)
    }

    /// Spins until the token that was missing can be had. False: enough of that, or it is no matter of time.
    #[cold]
    pub(super) fn until_free(&mut self, claim: Claim<'_>, found: Found) -> bool {
        let word = &claim.token.0.word;
        while found != Found::Wanted && self.0 < SPINS {
            for _ in 0..1 << (2 * self.0) {
                core::hint::spin_loop();
            }
            self.0 += 1;
            if !word.is_held() || claim.shared && word.is_shared() {
                return true;
            }
        }
        false
    }
}

type Asked = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a scope remembers from the first try that failed to the one that succeeds.
pub(super) struct Wait<'t> {
    /// Turns of the loop, from 1.
    turns: u32,
    /// When it was worth a look at the clock; 0 before that.
    began_ns: u64,
    /// What was missing at the last try.
    token: &'t Token,
    /// The address of the CPU as which it wants `token`; 0 if it does not.
    wants_as: usize,
    /// The answer of the holder's CPU, or the end of a doze.
    asked: Option<Asked>,
    /// The turn to go on with after that.
    resume: u32,
}

impl<'t> Wait<'t> {
    /// The first try failed for want of `claim`.
    #[cold]
    pub(super) fn begin(here: &Cpu, claim: Claim<'t>) -> Self {
        let token = claim.token;
        token.0.contended.fetch_add(1, Ordering::Relaxed);
        here.stats.tokens_contended.add(1);
        here.record(Event::TokenContended, 0, here.running_id(), token.id());
        Self {
            turns: 1,
            began_ns: 0,
            token,
            wants_as: 0,
            asked: None,
            resume: PATIENCE,
        }
    }

    /// Counts a turn. True: time to try again. False: `context` will be woken for the next turn, or by the answer.
    #[cold]
    pub(super) fn is_due(&mut self, context: &mut Context<'_>) -> bool {
        if let Some(asked) = &mut self.asked {
            if asked.as_mut().poll(context).is_pending() {
                return false;
            }
            self.asked = None;
            self.turns = self.resume;
            return true;
        }
        self.turns = self.turns.saturating_add(1);
        let power_of_four =
            self.turns.is_power_of_two() && self.turns.trailing_zeros().is_multiple_of(2);
        let due = self.turns >= PATIENCE || power_of_four;
        if !due {
            context.waker().wake_by_ref();
        }
        due
    }

    /// After a try that failed for want of `claim`: `context` will be woken for the next one.
    #[cold]
    pub(super) fn go_on(
        &mut self,
        here: &Cpu,
        claim: Claim<'t>,
        found: Found,
        context: &mut Context<'_>,
    ) {
        let token = claim.token;
        assert!(
            found != Found::Shared || claim.shared || !here.shares(token),
            "token {} cannot be held exclusively inside a scope that shares it",
            token.name()
        );
        if self.began_ns == 0 && self.turns >= TIMED_FROM {
            self.began_ns = here.node().clock_ns();
        }
        if !self.token.is(token) {
            self.forget();
            self.token = token;
        }
        if self.turns >= PATIENCE && found != Found::Wanted {
            if !claim.shared {
                token.0.word.want(here.address());
                self.wants_as = here.address();
            }
            if self.turns >= ASK_AFTER && self.ask(here, found, context) {
                return;
            }
        } else if self.turns >= ASK_AFTER && !cfg!(shuttle) && self.doze(context) {
            // (Shuttle's models have no clock.)
            return;
        }
        context.waker().wake_by_ref();
    }

    /// Asks the CPU that holds the token. True: the answer will wake. A CPU of another node is not asked, nor are those
    /// that share a token, which the word only counts.
    fn ask(&mut self, here: &Cpu, found: Found, context: &mut Context<'_>) -> bool {
        let Found::Exclusive(holder) = found else {
            return false;
        };
        let mut others = here.node().cpus().filter(|cpu| !ptr::eq(*cpu, here));
        let Some(cpu) = others.find(|cpu| cpu.is_named_by(holder)) else {
            return false;
        };
        let mut asked: Asked = Box::pin(run_on(cpu.id(), |_| ()));
        let pending = asked.as_mut().poll(context).is_pending();
        if pending {
            self.asked = Some(asked);
            self.resume = PATIENCE;
        }
        pending
    }

    /// Sleeps while another CPU has the token first that wants it: nobody tells when that one is done. True: it sleeps.
    fn doze(&mut self, context: &mut Context<'_>) -> bool {
        let mut asked: Asked = Box::pin(sleep(DOZE));
        let pending = asked.as_mut().poll(context).is_pending();
        if pending {
            self.asked = Some(asked);
            self.resume = self.turns.saturating_add(DOZE_TURNS);
        }
        pending
    }

    /// The wait is over: the tokens are held.
    #[cold]
    pub(super) fn end(self, here: &Cpu) {
        if self.began_ns != 0 {
            let waited_ns = here.node().clock_ns().saturating_sub(self.began_ns);
            let counter = &self.token.0.waited_ns;
            counter.fetch_add(waited_ns, Ordering::Relaxed);
        }
    }

    /// Takes the wish back.
    fn forget(&mut self) {
        if self.wants_as != 0 {
            self.token.0.word.forget(self.wants_as);
            self.wants_as = 0;
        }
    }
}

impl Drop for Wait<'_> {
    #[cold]
    fn drop(&mut self) {
        self.forget();
    }
}

/// True if a scope that waits like this, or not yet, lets another CPU have the token first that it found wanted.
#[cold]
pub(super) fn lets_pass(here: &Cpu, claim: Claim<'_>, wait: Option<&Wait<'_>>) -> bool {
    let word = &claim.token.0.word;
    let by = word.wanted_by();
    let (turns, wants) = wait.map_or((0, false), |wait| (wait.turns, wait.wants_as != 0));
    if by == here.address() || wants || claim.shared && here.holds_tokens() {
        return false;
    }
    if turns < DEFERENCE || claim.shared && word.is_shared() {
        return true;
    }
    // Nobody comes for it. Whoever does want it says so again.
    word.forget(by);
    false
}
