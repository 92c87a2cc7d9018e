//! The futures that hold tokens while they are polled, and the try that needs no future.

use super::{
    Held, HeldShared, Token,
    wait::{Spun, Wait, lets_pass},
    word::Found,
};
use crate::{Cpu, cpu::TOKEN_LOAD, critical, current, trace::Event};
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
        let here = current::current();
        let (claims, load) = ([self.exclusive()], here.inline_load.get());
        let ours = take(here, claims, None).ok()?;
        Some(under(here, claims, ours, load, || f(Held::new())))
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
        const { assert!(N < 64, "a scope holds at most 63 tokens") };
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
        // What lies in the future is read before the first branch: where it was just written, it is still in registers.
        let (claims, waits) = ((this.claims)(), this.wait.is_some());
        let here = current::current();
        critical::assert_may_wait_on(here);
        let load = here.inline_load.get();
        // A token that is free is taken here, on the way; whatever else there may be is done elsewhere.
        let taken = if waits {
            Err(None)
        } else {
            take(here, claims, Some(&None)).map_err(Some)
        };
        let ours = match taken {
            Ok(ours) => ours,
            Err(missing) => match wait_for(here, claims, missing, &mut this.wait, context) {
                Some(ours) => ours,
                None => return Poll::Pending,
            },
        };
        // SAFETY: pinned with the scope, as above.
        let body = unsafe { Pin::new_unchecked(&mut this.body) };
        under(here, claims, ours, load, || body.poll(context))
    }
}

/// Of the claims of a scope, those that were taken here and not further up the stack: a bit each, from the lowest. And
/// [`TRACED`].
type Ours = u64;

/// In [`Ours`]: that they were taken is in the trace, and so will be that they are given back.
const TRACED: Ours = 1 << 63;

/// Takes `claims`, or says which of them could not be taken, and holds none. `wait` is None for a mere try.
#[inline(always)]
fn take<'t, const N: usize>(
    here: &Cpu,
    claims: [Claim<'t>; N],
    wait: Option<&Option<Wait<'t>>>,
) -> Result<Ours, (Claim<'t>, Found)> {
    let before = here.inline_load.get();
    let mut load = before;
    let mut ours = 0;
    for (index, claim) in claims.into_iter().enumerate() {
        let took = if claim.shared {
            take_shared(here, claim, wait)
        } else {
            take_exclusive(here, claim, wait)
        };
        match took {
            Ok(()) => {
                ours |= 1 << index;
                load += TOKEN_LOAD;
                here.inline_load.set(load);
            }
            Err(found) => {
                if !is_held_here(here, claim, found) {
                    give_back(here, claims, ours, before);
                    return Err((claim, found));
                }
            }
        }
    }
    Ok(ours)
}

/// Takes `claims` for a scope that waits for them, or that just now found one `missing`. None: `context` will be woken.
#[cold]
#[inline(never)]
fn wait_for<'t, const N: usize>(
    here: &Cpu,
    claims: [Claim<'t>; N],
    mut missing: Option<(Claim<'t>, Found)>,
    wait: &mut Option<Wait<'t>>,
    context: &mut Context<'_>,
) -> Option<Ours> {
    if let Some(wait) = wait
        && !wait.is_due(context)
    {
        return None;
    }
    let mut spun = Spun::new();
    loop {
        if let Some((claim, found)) = missing
            && !(wait.is_none() && spun.until_free(claim, found))
        {
            let wait = wait.get_or_insert_with(|| Wait::begin(here, claim));
            wait.go_on(here, claim, found, context);
            return None;
        }
        match take(here, claims, Some(wait)) {
            Ok(ours) => {
                if let Some(wait) = wait.take() {
                    wait.end(here);
                }
                return Some(ours);
            }
            Err(now) => missing = Some(now),
        }
    }
}

/// Runs `run` with the tokens held that were just taken, and gives them back. `load` is what the CPU's load was before.
#[inline(always)]
fn under<const N: usize, R>(
    here: &Cpu,
    claims: [Claim<'_>; N],
    mut ours: Ours,
    load: u32,
    run: impl FnOnce() -> R,
) -> R {
    if here.traces(Event::TokenTaken) {
        trace(here, Event::TokenTaken, claims, ours);
        ours |= TRACED;
    }
    // Nothing between the take and here panics.
    let _taken = Taken {
        here,
        claims,
        ours,
        load,
    };
    run()
}

/// Tokens taken for one poll; given back when dropped, also if the poll panics.
struct Taken<'a, const N: usize> {
    here: &'a Cpu,
    claims: [Claim<'a>; N],
    ours: Ours,
    load: u32,
}

impl<const N: usize> Drop for Taken<'_, N> {
    #[inline(always)]
    fn drop(&mut self) {
        let (here, claims, load) = (self.here, self.claims, self.load);
        // One comparison for what is usual: all of them, and untraced.
        if self.ours == (1 << N) - 1 {
            give_back(here, claims, (1 << N) - 1, load);
        } else {
            give_back_some(here, claims, self.ours, load);
        }
    }
}

/// Those of `claims` that are in `ours`.
#[inline(always)]
fn of<const N: usize>(
    claims: [Claim<'_>; N],
    ours: Ours,
) -> impl DoubleEndedIterator<Item = Claim<'_>> {
    let claims = claims.into_iter().enumerate();
    claims.filter_map(move |(index, claim)| (ours & 1 << index != 0).then_some(claim))
}

/// Gives back, in reverse, what was taken here and not further up the stack. `load` is what the CPU's load was before: set,
/// not counted down, so that nothing waits for the store of the last.
#[inline(always)]
fn give_back<const N: usize>(here: &Cpu, claims: [Claim<'_>; N], ours: Ours, load: u32) {
    for claim in of(claims, ours).rev() {
        if claim.shared {
            here.shared_tokens.borrow_mut().pop();
            claim.token.0.word.release_shared();
        } else {
            claim.token.0.word.release();
        }
    }
    here.inline_load.set(load);
}

#[cold]
#[inline(never)]
fn give_back_some<const N: usize>(here: &Cpu, claims: [Claim<'_>; N], ours: Ours, load: u32) {
    if ours & TRACED != 0 {
        trace(here, Event::TokenReleased, claims, ours);
    }
    give_back(here, claims, ours, load);
}

#[cold]
#[inline(never)]
fn trace<const N: usize>(here: &Cpu, event: Event, claims: [Claim<'_>; N], ours: Ours) {
    for claim in of(claims, ours) {
        let (small, thread) = (u8::from(claim.shared), here.running_id());
        here.record(event, small, thread, claim.token.id());
    }
}

#[inline(always)]
fn take_exclusive(
    here: &Cpu,
    claim: Claim<'_>,
    wait: Option<&Option<Wait<'_>>>,
) -> Result<(), Found> {
    let token = claim.token;
    token.0.word.try_take(here.holder())?;
    if token.0.word.wanted_by() != 0 && !keep(here, claim, wait) {
        return Err(Found::Wanted);
    }
    token.0.taken.add(1);
    Ok(())
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

/// What was found in the way of `claim` is a scope of this thread, further up the stack.
#[cold]
fn is_held_here(here: &Cpu, claim: Claim<'_>, found: Found) -> bool {
    found == Found::Exclusive(here.holder()) || claim.shared && here.shares(claim.token)
}

#[inline(always)]
fn take_shared(here: &Cpu, claim: Claim<'_>, wait: Option<&Option<Wait<'_>>>) -> Result<(), Found> {
    let token = claim.token;
    if here.shares(token) {
        return Err(Found::Shared);
    }
    if token.0.word.wanted_by() != 0
        && wait.is_some_and(|wait| lets_pass(here, claim, wait.as_ref()))
    {
        return Err(Found::Wanted);
    }
    token.0.word.try_share()?;
    here.shared_tokens.borrow_mut().push(token.key());
    token.0.shared.fetch_add(1, Ordering::Relaxed);
    Ok(())
}
