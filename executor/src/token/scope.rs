//! The futures that hold tokens while they are polled, and the try that needs no future.

use super::{
    Held, HeldShared, Token,
    wait::{Spun, Wait, lets_pass},
    word::Found,
};
use crate::{Cpu, cpu::TOKEN_LOAD, current, trace::Event};
use core::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::atomic::Ordering,
    task::{Context, Poll},
};

/// One token of a [`hold_all`], and how it is to be held.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'t> {
    pub(super) token: &'t Token,
    pub(super) shared: bool,
}

/// Exclusively.
impl<'t> From<&'t Token> for Claim<'t> {
    fn from(token: &'t Token) -> Self {
        token.exclusive()
    }
}

impl Token {
    /// A claim to this token alone, for [`hold_all`].
    #[inline]
    pub fn exclusive(&self) -> Claim<'_> {
        Claim {
            token: self,
            shared: false,
        }
    }

    /// A claim to this token together with others that share it, for [`hold_all`].
    #[inline]
    pub fn shared(&self) -> Claim<'_> {
        Claim {
            token: self,
            shared: true,
        }
    }

    /// Runs `body` with this token held whenever it runs. See the module's description.
    ///
    /// Inside another scope of this token it takes nothing and goes on at once.
    ///
    /// # Panics
    /// The future, outside of every CPU, or inside a scope of the same thread that shares this token: the share
    /// would never end.
    pub fn hold<R>(
        &self,
        body: impl for<'s> AsyncFnOnce(Held<'s>) -> R,
    ) -> impl Future<Output = R> {
        Scope::new(|| [self.exclusive()], body(Held::new()))
    }

    /// Runs `body` with this token shared whenever it runs: scopes on other CPUs may share it at the same time, and none
    /// may hold it exclusively. Allowed inside any other scope of this token.
    ///
    /// A scope that holds nothing yet lets a CPU pass that has waited for long to hold the token exclusively.
    ///
    /// # Panics
    /// The future, outside of every CPU.
    pub fn hold_shared<R>(
        &self,
        body: impl for<'s> AsyncFnOnce(HeldShared<'s>) -> R,
    ) -> impl Future<Output = R> {
        Scope::new(|| [self.shared()], body(HeldShared::new()))
    }

    /// As [`hold`](Self::hold), if the token can be taken now, at the first poll; otherwise `None`, and nothing of `body`
    /// has run. It is the start alone that is tried: after an await the scope waits for the token like any other.
    ///
    /// # Panics
    /// As [`hold`](Self::hold), but for a token that this thread shares: there it is `None`.
    pub async fn try_hold<R>(&self, body: impl for<'s> AsyncFnOnce(Held<'s>) -> R) -> Option<R> {
        let mut scope = pin!(self.hold(body));
        let mut started = false;
        poll_fn(|context| {
            if started {
                return scope.as_mut().poll(context).map(Some);
            }
            started = true;
            // The scope's own first take is a re-entry.
            match self.try_with(|_| scope.as_mut().poll(context)) {
                Some(poll) => poll.map(Some),
                None => Poll::Ready(None),
            }
        })
        .await
    }

    /// Runs `f` with this token held, if it can be taken now; otherwise `None`. It tries once, lets nobody pass and wants
    /// nothing.
    ///
    /// It does not wait, so it may be used in interrupt handlers and IPI functions. There it does not get a token that the
    /// thread below holds: that is in the middle of something (trap 3).
    ///
    /// # Panics
    /// Outside of every CPU.
    #[inline]
    pub fn try_with<R>(&self, f: impl for<'s> FnOnce(Held<'s>) -> R) -> Option<R> {
        let run = || f(Held::new());
        under(current::current(), [self.exclusive()], None, run).ok()
    }
}

/// Runs `body` with all of `claims` held whenever it runs: all or none, taken in the order of the tokens' creation.
///
/// A claim is a `&Token` (exclusively), [`Token::exclusive`] or [`Token::shared`]. The same token may be claimed more than
/// once; it is then held in the strongest of the ways.
///
/// # Panics
/// As [`Token::hold`].
pub fn hold_all<'t, const N: usize, R>(
    claims: [impl Into<Claim<'t>>; N],
    body: impl for<'s> AsyncFnOnce(Held<'s>) -> R,
) -> impl Future<Output = R> {
    let mut claims = claims.map(Into::into);
    claims.sort_unstable_by_key(|claim| (claim.token.id(), claim.shared));
    Scope::new(move || claims, body(Held::new()))
}

/// A future that takes its tokens for each of its polls.
struct Scope<'t, C, F> {
    /// Makes the claims anew for each poll, so that a scope of one token knows while it is compiled how it is held.
    claims: C,
    /// None, and so nothing to set up or to look at, unless it waits.
    wait: Option<Wait<'t>>,
    body: F,
}

impl<'t, const N: usize, C: Fn() -> [Claim<'t>; N], F> Scope<'t, C, F> {
    fn new(claims: C, body: F) -> Self {
        const { assert!(N <= 64, "a scope holds at most 64 tokens") };
        Self {
            claims,
            wait: None,
            body,
        }
    }
}

impl<'t, const N: usize, C, F> Future for Scope<'t, C, F>
where
    C: Fn() -> [Claim<'t>; N],
    F: Future,
{
    type Output = F::Output;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: `body` is never moved; the other fields are not pinned.
        let this = unsafe { self.get_unchecked_mut() };
        if let Some(wait) = &mut this.wait
            && !wait.is_due(context)
        {
            return Poll::Pending;
        }
        let here = current::current();
        let mut spun = Spun::new();
        loop {
            // SAFETY: pinned with the scope, as above.
            let body = unsafe { Pin::new_unchecked(&mut this.body) };
            let wait = Some(&mut this.wait);
            match under(here, (this.claims)(), wait, || body.poll(context)) {
                Ok(poll) => return poll,
                Err((claim, found)) => {
                    if this.wait.is_none() && spun.until_free(claim, found) {
                        continue;
                    }
                    let wait = this.wait.get_or_insert_with(|| Wait::begin(here, claim));
                    wait.go_on(here, claim, found, context);
                    return Poll::Pending;
                }
            }
        }
    }
}

/// Runs `run` with `claims` held, or says which of them could not be taken, and holds none. `wait` is None for a mere
/// try.
#[inline(always)]
fn under<'t, const N: usize, R>(
    here: &Cpu,
    claims: [Claim<'t>; N],
    wait: Option<&mut Option<Wait<'t>>>,
    run: impl FnOnce() -> R,
) -> Result<R, (Claim<'t>, Found)> {
    let load = here.inline_load.get();
    let mut ours = [None; N];
    for (index, claim) in claims.into_iter().enumerate() {
        let took = if claim.shared {
            take_shared(here, claim, wait.as_deref())
        } else {
            take_exclusive(here, claim, wait.as_deref())
        };
        match took {
            Ok(true) => ours[index] = Some(claim),
            Ok(false) => {}
            Err(found) => {
                give_back(here, ours, load);
                return Err((claim, found));
            }
        }
    }
    if let Some(wait @ Some(_)) = wait {
        end_of(wait, here);
    }
    if here.traces(Event::TokenTaken) {
        trace(here, Event::TokenTaken, ours);
    }
    // Nothing above panics. What must be given back also then begins here, so that it stays in registers until now.
    let _taken = Taken { here, ours, load };
    Ok(run())
}

/// Tokens taken for one poll; given back when dropped, also if the poll panics.
struct Taken<'a, const N: usize> {
    here: &'a Cpu,
    ours: [Option<Claim<'a>>; N],
    load: u32,
}

impl<const N: usize> Drop for Taken<'_, N> {
    #[inline(always)]
    fn drop(&mut self) {
        if self.here.traces(Event::TokenReleased) {
            trace(self.here, Event::TokenReleased, self.ours);
        }
        give_back(self.here, self.ours, self.load);
    }
}

/// Gives back, in reverse, what was taken here and not further up the stack. `load` is what the CPU's load was before: set,
/// not counted down, so that nothing waits for the store of the last.
#[inline(always)]
fn give_back<const N: usize>(here: &Cpu, ours: [Option<Claim<'_>>; N], load: u32) {
    for claim in ours.into_iter().rev().flatten() {
        if claim.shared {
            here.shared_tokens.borrow_mut().pop();
            claim.token.0.word.release_shared();
        } else {
            claim.token.0.word.release();
        }
    }
    here.inline_load.set(load);
}

/// The wait is over: the tokens are held.
#[cold]
fn end_of(wait: &mut Option<Wait<'_>>, here: &Cpu) {
    if let Some(wait) = wait.take() {
        wait.end(here);
    }
}

#[cold]
fn trace<const N: usize>(here: &Cpu, event: Event, claims: [Option<Claim<'_>>; N]) {
    for claim in claims.into_iter().flatten() {
        let (small, thread) = (u8::from(claim.shared), here.running_id());
        here.record(event, small, thread, claim.token.id());
    }
}

/// True: taken. False: this thread holds it already.
#[inline(always)]
fn take_exclusive(
    here: &Cpu,
    claim: Claim<'_>,
    wait: Option<&Option<Wait<'_>>>,
) -> Result<bool, Found> {
    let token = claim.token;
    if let Err(found) = token.0.word.try_take(here.holder()) {
        return enter_again(here, found);
    }
    if token.0.word.wanted_by() != 0 && !keep(here, claim, wait) {
        return Err(Found::Wanted);
    }
    token.0.taken.add(1);
    here.inline_load.set(here.inline_load.get() + TOKEN_LOAD);
    Ok(true)
}

/// Just taken, and wanted: true to keep it.
#[cold]
fn keep(here: &Cpu, claim: Claim<'_>, wait: Option<&Option<Wait<'_>>>) -> bool {
    let keeps = !wait.is_some_and(|wait| lets_pass(here, claim, wait.as_ref()));
    if !keeps {
        claim.token.0.word.release();
    }
    keeps
}

/// Found held exclusively: by this thread further up the stack, or by somebody to wait for.
#[cold]
fn enter_again(here: &Cpu, found: Found) -> Result<bool, Found> {
    if found == Found::Exclusive(here.holder()) {
        Ok(false)
    } else {
        Err(found)
    }
}

/// True: taken. False: this thread holds it already, in either way.
#[inline(always)]
fn take_shared(
    here: &Cpu,
    claim: Claim<'_>,
    wait: Option<&Option<Wait<'_>>>,
) -> Result<bool, Found> {
    let token = claim.token;
    if here.shares(token) {
        return Ok(false);
    }
    if token.0.word.wanted_by() != 0
        && wait.is_some_and(|wait| lets_pass(here, claim, wait.as_ref()))
    {
        return Err(Found::Wanted);
    }
    match token.0.word.try_share() {
        Ok(()) => {
            here.shared_tokens.borrow_mut().push(token.key());
            here.inline_load.set(here.inline_load.get() + TOKEN_LOAD);
            token.0.shared.fetch_add(1, Ordering::Relaxed);
            Ok(true)
        }
        Err(found) => enter_again(here, found),
    }
}
