//! The futures that hold tokens, and the data that tokens guard.

use super::word::{TokenWord, WAITER_BITS, Waiting};
use crate::{Cpu, cpu::TOKEN_LOAD, critical, current, stats::Counter, trace::Event};
use alloc::sync::{Arc, Weak};
use core::{
    cell::{Cell, UnsafeCell},
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    ptr,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll},
};

/// Tries by a runnable thread before it sleeps until the token is released. Each try is a turn of the loop.
const TRIES: u32 = 64;

struct Inner {
    word: TokenWord,
    /// The address of its node, whose CPUs are told of a release.
    node: usize,
    id: u32,
    name: &'static str,
    taken: Counter,
    /// Added to by those who do not hold the token, so it is a real atomic.
    contended: AtomicU64,
}

/// A serializing token. Clones name the same token.
#[derive(Clone)]
pub struct Token(Arc<Inner>);

impl Token {
    /// A new token. Its number orders it among the tokens of its node.
    ///
    /// # Panics
    /// Outside of every CPU.
    pub fn new(name: &'static str) -> Self {
        let node = current::current().node();
        let id = node.next_token_id();
        let token = Self(Arc::new(Inner {
            word: TokenWord::new(),
            node: ptr::from_ref(node).addr(),
            id,
            name,
            taken: Counter::default(),
            contended: AtomicU64::new(0),
        }));
        let mut list = current::current().tokens.borrow_mut();
        if list.len() == list.capacity() {
            list.retain(WeakToken::is_alive);
        }
        list.push(WeakToken(Arc::downgrade(&token.0)));
        drop(list);
        token
    }

    /// The token's name.
    pub fn name(&self) -> &'static str {
        self.0.name
    }

    /// The token's number, by order of creation.
    pub fn id(&self) -> u32 {
        self.0.id
    }

    /// True while a running thread holds it; a hint.
    pub fn is_held(&self) -> bool {
        self.0.word.is_held()
    }

    /// How often it was taken, and how often it was found taken. Counted under the token, so exact enough to compare.
    pub fn counts(&self) -> (u64, u64) {
        (self.0.taken.get(), self.0.contended.load(Ordering::Relaxed))
    }

    /// Runs `body` with this token held whenever it runs. See the module's description.
    pub async fn hold<R>(&self, body: impl for<'s> AsyncFnOnce(Held<'s>) -> R) -> R {
        hold_all([self], body).await
    }

    fn key(&self) -> *const () {
        Arc::as_ptr(&self.0).cast()
    }
}

/// What `tokens` shows of a token.
#[derive(Clone, Copy, Debug)]
pub struct TokenInfo {
    /// Its number, by order of creation in the node.
    pub id: u32,
    /// Its name.
    pub name: &'static str,
    /// How often it was taken.
    pub taken: u64,
    /// How often it was found taken.
    pub contended: u64,
}

/// A token in the list of the CPU that made it, for `tokens`; does not keep it alive.
pub(crate) struct WeakToken(Weak<Inner>);

impl WeakToken {
    fn is_alive(&self) -> bool {
        self.0.strong_count() != 0
    }

    pub(crate) fn info(&self) -> Option<TokenInfo> {
        let token = Token(self.0.upgrade()?);
        let (taken, contended) = token.counts();
        Some(TokenInfo {
            id: token.id(),
            name: token.name(),
            taken,
            contended,
        })
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Token({} #{}, held: {})",
            self.0.name,
            self.0.id,
            self.is_held()
        )
    }
}

/// Runs `body` with all of `tokens` held whenever it runs: all or none, taken in the order of their creation.
pub async fn hold_all<const N: usize, R>(
    tokens: [&Token; N],
    body: impl for<'s> AsyncFnOnce(Held<'s>) -> R,
) -> R {
    let mut tokens = tokens;
    tokens.sort_by_key(|token| token.id());
    let live = Cell::new(false);
    let held = Held {
        tokens: &tokens,
        live: &live,
        _here: PhantomData,
    };
    Scope {
        tokens: &tokens,
        live: &live,
        tries: 0,
        body: body(held),
    }
    .await
}

/// Data that is touched only under a token.
pub struct Guarded<T> {
    token: Token,
    busy: Cell<bool>,
    data: UnsafeCell<T>,
}

// SAFETY: data and busy are reached only through `Held::with`, which proves that this CPU's running poll holds the
// token; a token has one holder at a time, and its release and acquire order the accesses.
unsafe impl<T: Send> Sync for Guarded<T> {}

impl<T> Guarded<T> {
    /// `data`, guarded by `token`.
    pub fn new(token: &Token, data: T) -> Self {
        Self {
            token: token.clone(),
            busy: Cell::new(false),
            data: UnsafeCell::new(data),
        }
    }

    /// The token that guards it.
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// The data of somebody who owns all of it.
    pub fn get_mut(&mut self) -> &mut T {
        self.data.get_mut()
    }
}

impl<T> fmt::Debug for Guarded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guarded({:?})", self.token)
    }
}

/// Having a `Held` tells you: while your code runs, these tokens are held. It cannot leave its scope.
pub struct Held<'s> {
    tokens: &'s [&'s Token],
    live: &'s Cell<bool>,
    /// Held by a poll of this CPU: not Send.
    _here: PhantomData<*mut ()>,
}

impl Held<'_> {
    /// Runs `f` on what the token guards. `f` cannot await, and nothing that borrows from the data gets out:
    ///
    /// ```compile_fail
    /// # async fn f(t: &executor::Token, g: &executor::Guarded<Vec<u32>>) {
    /// let data = t.hold(async |h| h.with(g, |v| v)).await; // a borrow cannot leave
    /// # }
    /// ```
    /// ```compile_fail
    /// # async fn f(t: &executor::Token, g: &executor::Guarded<Vec<u32>>) {
    /// t.hold(async |h| h.with(g, |v| executor::yield_now().await)).await; // no await inside
    /// # }
    /// ```
    /// ```compile_fail
    /// # async fn f(t: &executor::Token, g: &executor::Guarded<Vec<u32>>) {
    /// let held = t.hold(async |h| h).await; // Held cannot leave its scope
    /// # }
    /// ```
    ///
    /// # Panics
    /// If `guarded` belongs to a token that this scope does not hold, or is in use already further up the stack.
    #[inline]
    #[track_caller]
    pub fn with<T, R>(&self, guarded: &Guarded<T>, f: impl for<'a> FnOnce(&'a mut T) -> R) -> R {
        let holds = self
            .tokens
            .iter()
            .any(|token| ptr::eq(token.key(), guarded.token.key()));
        assert!(
            holds,
            "this scope does not hold token {}",
            guarded.token.name()
        );
        // Not live in a destructor that runs after the scope's poll, or while another poll holds the token.
        assert!(
            self.live.get(),
            "token {} is not held now",
            guarded.token.name()
        );
        assert!(
            !guarded.busy.replace(true),
            "the data of token {} is in use",
            guarded.token.name()
        );
        let _busy = ClearOnDrop(&guarded.busy);
        // SAFETY: held and live: this poll alone may touch the data; busy: no other borrow exists.
        f(unsafe { &mut *guarded.data.get() })
    }
}

impl fmt::Debug for Held<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.tokens).finish()
    }
}

struct ClearOnDrop<'a>(&'a Cell<bool>);

impl Drop for ClearOnDrop<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// The future of [`Token::hold`]: takes its tokens for each poll.
pub struct Scope<'s, F> {
    tokens: &'s [&'s Token],
    live: &'s Cell<bool>,
    tries: u32,
    body: F,
}

impl<F: Future> Future for Scope<'_, F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: `body` is never moved; the other fields are not pinned.
        let this = unsafe { self.get_unchecked_mut() };
        let here = current::current();
        critical::assert_may_wait();
        let Some(taken) = take_all(here, this.tokens) else {
            this.tries += 1;
            return this.wait(here, context);
        };
        this.tries = 0;
        this.live.set(true);
        let _live = ClearOnDrop(this.live);
        // SAFETY: pinned with the scope, as above.
        let output = unsafe { Pin::new_unchecked(&mut this.body) }.poll(context);
        // Order of drops: not live, then released, also if the body panics.
        drop(_live);
        drop(taken);
        output
    }
}

impl<F> Scope<'_, F> {
    #[cold]
    fn wait(&mut self, here: &Cpu, context: &mut Context<'_>) -> Poll<F::Output>
    where
        F: Future,
    {
        let busy = self
            .tokens
            .iter()
            .find(|token| !here.holds(token.key()) && token.is_held());
        if let Some(token) = busy {
            here.stats.tokens_contended.add(1);
            if self.tries == 1 {
                here.record(Event::TokenContended, 0, here.running_id(), token.id());
            }
            // A CPU of another node would not be told: it goes on trying.
            if self.tries >= TRIES
                && token.0.node == ptr::from_ref(here.node()).addr()
                && token.0.word.wait(here.id().index()) == Waiting::Registered
            {
                self.tries = 0;
                let waker = context.waker().clone();
                here.token_waiters.borrow_mut().push(waker);
                return Poll::Pending;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Tokens taken by one poll of one scope; gives them back when dropped.
struct Taken<'s> {
    here: &'s Cpu,
    tokens: &'s [&'s Token],
    /// Bit i: this scope took tokens[i], an outer one did not.
    ours: u64,
}

fn take_all<'s>(here: &'s Cpu, tokens: &'s [&'s Token]) -> Option<Taken<'s>> {
    assert!(tokens.len() <= 64, "a scope holds at most 64 tokens");
    let mut taken = Taken {
        here,
        tokens,
        ours: 0,
    };
    for (index, token) in tokens.iter().enumerate() {
        if here.holds(token.key()) {
            continue;
        }
        if !token.0.word.try_take() {
            token.0.contended.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        taken.ours |= 1 << index;
        here.held_tokens.borrow_mut().push(token.key());
        here.inline_load.set(here.inline_load.get() + TOKEN_LOAD);
        token.0.taken.add(1);
        here.record(Event::TokenTaken, 0, here.running_id(), token.id());
    }
    Some(taken)
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        for (index, token) in self.tokens.iter().enumerate().rev() {
            if self.ours & 1 << index != 0 {
                let last = self.here.held_tokens.borrow_mut().pop();
                self.here
                    .inline_load
                    .set(self.here.inline_load.get() - TOKEN_LOAD);
                debug_assert_eq!(
                    last,
                    Some(token.key()),
                    "scopes end in the order of a stack"
                );
                self.here
                    .record(Event::TokenReleased, 0, self.here.running_id(), token.id());
                tell_waiters(self.here, token.0.word.release());
            }
        }
    }
}

fn tell_waiters(here: &Cpu, bits: u64) {
    if bits == 0 {
        return;
    }
    for cpu in here.node().cpus() {
        if bits & 1 << (cpu.id().index() % WAITER_BITS) != 0 {
            if ptr::eq(cpu, here) {
                here.wake_token_waiters();
            } else {
                crate::ipi::tell(here, cpu);
            }
        }
    }
}

impl Cpu {
    fn holds(&self, token: *const ()) -> bool {
        self.held_tokens.borrow().contains(&token)
    }
}
