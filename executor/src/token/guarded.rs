//! Tokens, and the data that they guard.

use super::word::TokenWord;
use crate::{Cpu, current, stats::Counter};
use alloc::sync::{Arc, Weak};
use core::{
    cell::{Cell, UnsafeCell},
    fmt,
    marker::PhantomData,
    sync::atomic::{AtomicU64, Ordering},
};

/// What the clones of a token share.
pub(super) struct Inner {
    pub(super) word: TokenWord,
    /// Added to by the exclusive holder.
    pub(super) taken: Counter,
    id: u32,
    name: &'static str,
    /// Added to by anybody.
    pub(super) shared: AtomicU64,
    pub(super) contended: AtomicU64,
    pub(super) waited_ns: AtomicU64,
}

/// A serializing token. Clones name the same token.
#[derive(Clone)]
pub struct Token(pub(super) Arc<Inner>);

impl Token {
    /// A new token. Its number orders it among the tokens of its node.
    ///
    /// # Panics
    /// Outside of every CPU.
    pub fn new(name: &'static str) -> Self {
        let here = current::current();
        let token = Self(Arc::new(Inner {
            word: TokenWord::new(),
            taken: Counter::default(),
            id: here.node().next_token_id(),
            name,
            shared: AtomicU64::new(0),
            contended: AtomicU64::new(0),
            waited_ns: AtomicU64::new(0),
        }));
        let mut list = here.tokens.borrow_mut();
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

    /// True while a running thread holds it, in either way; a hint.
    pub fn is_held(&self) -> bool {
        self.0.word.is_held()
    }

    /// What was counted so far.
    pub fn counts(&self) -> TokenCounts {
        TokenCounts {
            taken: self.0.taken.get(),
            shared: self.0.shared.load(Ordering::Relaxed),
            contended: self.0.contended.load(Ordering::Relaxed),
            waited_ns: self.0.waited_ns.load(Ordering::Relaxed),
        }
    }

    /// True if `other` names the same token.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(super) fn key(&self) -> *const () {
        Arc::as_ptr(&self.0).cast()
    }

    /// True while what runs on `here`, the current CPU, holds it exclusively.
    #[inline]
    pub(super) fn is_exclusive_on(&self, here: &Cpu) -> bool {
        self.0.word.is_exclusive_of(here.holder())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, id, held) = (self.name(), self.id(), self.is_held());
        write!(f, "Token({name} #{id}, held: {held})")
    }
}

/// What a token has counted since it was made. A scope takes its tokens once for each of its polls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenCounts {
    /// Times it was taken exclusively.
    pub taken: u64,
    /// Times it was taken shared.
    pub shared: u64,
    /// Times a scope had to wait for it, and not just for a moment in its poll.
    pub contended: u64,
    /// Nanoseconds that scopes have waited for it, all in all, but for waits of a few turns of the loop.
    pub waited_ns: u64,
}

/// What `tokens` shows of a token.
#[derive(Clone, Copy, Debug)]
pub struct TokenInfo {
    /// Its number, by order of creation in the node.
    pub id: u32,
    /// Its name.
    pub name: &'static str,
    /// What it has counted.
    pub counts: TokenCounts,
}

/// A token in the list of the CPU that made it, for `tokens`; does not keep it alive.
pub(crate) struct WeakToken(Weak<Inner>);

impl WeakToken {
    fn is_alive(&self) -> bool {
        self.0.strong_count() != 0
    }

    pub(crate) fn info(&self) -> Option<TokenInfo> {
        let token = Token(self.0.upgrade()?);
        Some(TokenInfo {
            id: token.id(),
            name: token.name(),
            counts: token.counts(),
        })
    }
}

/// Data that is touched only under a token.
///
/// It may be shared with other CPUs if the data may be sent to them:
///
/// ```compile_fail
/// # fn f(t: &executor::Token) {
/// let g = std::sync::Arc::new(executor::Guarded::new(t, std::rc::Rc::new(1)));
/// executor::spawn_on(executor::CpuId(1), "other", move || async move { drop(g) }).detach();
/// # }
/// ```
pub struct Guarded<T> {
    token: Token,
    /// Borrows in progress under an exclusive hold. Under a shared one there are none but shared borrows.
    borrow: Cell<Borrow>,
    data: UnsafeCell<T>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Borrow {
    None,
    Shared,
    Exclusive,
}

// SAFETY: `borrow` and a `&mut T` are reached only under an exclusive hold by the current CPU, whose release and the
// next acquire order the accesses; so T moves between CPUs, hence Send. A `&T` on several CPUs at once is given out by
// `read` alone, which asks for T: Sync.
unsafe impl<T: Send> Sync for Guarded<T> {}

impl<T> Guarded<T> {
    /// `data`, guarded by `token`.
    pub fn new(token: &Token, data: T) -> Self {
        Self {
            token: token.clone(),
            borrow: Cell::new(Borrow::None),
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

    #[inline]
    #[track_caller]
    fn with<R>(&self, f: impl for<'a> FnOnce(&'a mut T) -> R) -> R {
        let here = current::current();
        if !self.token.is_exclusive_on(here) {
            self.refuse(here);
        }
        let _borrow = self.borrow(Borrow::Exclusive);
        // SAFETY: this CPU holds the token exclusively, so no other touches the data, and what holds it is this stack; the
        // borrow is the only one.
        f(unsafe { &mut *self.data.get() })
    }

    #[inline]
    #[track_caller]
    fn read<R>(&self, f: impl for<'a> FnOnce(&'a T) -> R) -> R
    where
        T: Sync,
    {
        let here = current::current();
        let _borrow = if self.token.is_exclusive_on(here) {
            Some(self.borrow(Borrow::Shared))
        } else if here.shares(&self.token) {
            None
        } else {
            self.refuse(here);
        };
        // SAFETY: this CPU holds the token. If exclusively, no other touches the data, and there is no exclusive borrow
        // here; if shared, nobody holds it exclusively, hence nobody has an exclusive borrow. T: Sync for the others.
        f(unsafe { &*self.data.get() })
    }

    /// Marks a borrow, as a RefCell would. This CPU holds the token exclusively.
    #[inline]
    #[track_caller]
    fn borrow(&self, new: Borrow) -> PutBack<'_> {
        let before = self.borrow.replace(new);
        let borrow = PutBack(&self.borrow, before);
        assert!(
            before == Borrow::None || before == Borrow::Shared && new == Borrow::Shared,
            "the data of token {} is in use",
            self.token.name()
        );
        borrow
    }

    #[cold]
    #[track_caller]
    fn refuse(&self, here: &Cpu) -> ! {
        let shared = here.shares(&self.token);
        let how = if shared {
            "is only shared"
        } else {
            "is not held"
        };
        panic!("token {} {how} here", self.token.name())
    }
}

impl<T> fmt::Debug for Guarded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guarded({:?})", self.token)
    }
}

struct PutBack<'a>(&'a Cell<Borrow>, Borrow);

impl Drop for PutBack<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.set(self.1);
    }
}

/// Having a `Held` tells you: while your code runs, the scope's tokens are held. It cannot leave its scope:
///
/// ```compile_fail
/// # async fn f(t: &executor::Token) {
/// let held = t.hold(async |h| h).await;
/// # }
/// ```
/// ```compile_fail
/// # async fn f(t: &executor::Token) {
/// let mut outer = None;
/// t.hold(async |h| outer = Some(h)).await;
/// # }
/// ```
/// ```compile_fail
/// # async fn f(t: &executor::Token) {
/// let held = t.try_with(|h| h);
/// # }
/// ```
/// ```compile_fail
/// # async fn f(t: &executor::Token) {
/// t.hold(async |h| executor::spawn("thief", async move { let _held = h; }).detach()).await;
/// # }
/// ```
/// ```compile_fail
/// # async fn f(t: &executor::Token) {
/// let other = executor::CpuId(1);
/// t.hold(async |h| executor::spawn_on(other, "thief", move || async move { let _held = h; }).detach()).await;
/// # }
/// ```
///
/// What it lets you do is decided where you do it: by whether this CPU holds the token of the data now. So it can be
/// given to functions that do not know which scope they are called in, and is of no use in a destructor that runs when
/// the scope is dropped.
#[derive(Debug)]
pub struct Held<'s> {
    scope: PhantomData<&'s ()>,
}

impl Held<'_> {
    pub(super) fn new() -> Self {
        Self { scope: PhantomData }
    }

    /// Runs `f` on what a token guards that is held exclusively. `f` cannot await, and nothing that borrows from the data
    /// gets out: it cannot be returned, stored outside, held over an await or given to a thread.
    ///
    /// ```compile_fail
    /// # async fn f(t: &executor::Token, g: &executor::Guarded<Vec<u32>>) {
    /// let data = t.hold(async |h| h.with(g, |v| v)).await;
    /// # }
    /// ```
    /// ```compile_fail
    /// # async fn f(t: &executor::Token, g: &executor::Guarded<Vec<u32>>) {
    /// let mut first = None;
    /// t.hold(async |h| h.with(g, |v| first = v.first())).await;
    /// # }
    /// ```
    /// ```compile_fail
    /// # async fn f(t: &executor::Token, g: &executor::Guarded<Vec<u32>>) {
    /// t.hold(async |h| h.with(g, |v| executor::yield_now().await)).await;
    /// # }
    /// ```
    /// ```compile_fail
    /// # async fn f(t: &executor::Token, g: &executor::Guarded<Vec<u32>>) {
    /// t.hold(async |h| h.with(g, async |v| { executor::yield_now().await; v.push(1) }).await).await;
    /// # }
    /// ```
    /// ```compile_fail
    /// # async fn f(t: &executor::Token, g: &executor::Guarded<Vec<u32>>) {
    /// t.hold(async |h| h.with(g, |v| executor::spawn("thief", async move { v.push(1) }).detach())).await;
    /// # }
    /// ```
    ///
    /// # Panics
    /// If the token of `guarded` is not held here, or only shared, or the data is in use further up the stack.
    #[inline]
    #[track_caller]
    pub fn with<T, R>(&self, guarded: &Guarded<T>, f: impl for<'a> FnOnce(&'a mut T) -> R) -> R {
        guarded.with(f)
    }

    /// Runs `f` on what a token guards that is held in either way. As [`with`](Self::with), but for reading.
    ///
    /// # Panics
    /// If the token of `guarded` is not held here, or the data is in use by a [`with`](Self::with) further up the stack.
    #[inline]
    #[track_caller]
    pub fn read<T: Sync, R>(&self, guarded: &Guarded<T>, f: impl for<'a> FnOnce(&'a T) -> R) -> R {
        guarded.read(f)
    }
}

/// As [`Held`], in a scope that shares its token: its data can be read, and no more.
///
/// ```compile_fail
/// # async fn f(t: &executor::Token, g: &executor::Guarded<Vec<u32>>) {
/// t.hold_shared(async |h| h.with(g, |v| v.push(1))).await; // not `with`
/// # }
/// ```
/// ```compile_fail
/// # async fn f(t: &executor::Token, g: &executor::Guarded<Vec<u32>>) {
/// t.hold_shared(async |h| h.read(g, |v| v.push(1))).await; // no `&mut`
/// # }
/// ```
#[derive(Debug)]
pub struct HeldShared<'s> {
    scope: PhantomData<&'s ()>,
}

impl HeldShared<'_> {
    pub(super) fn new() -> Self {
        Self { scope: PhantomData }
    }

    /// Runs `f` on what the token guards, perhaps while other CPUs read it too, hence `T: Sync`:
    ///
    /// ```
    /// # async fn f(t: &executor::Token, g: &executor::Guarded<Vec<u32>>) {
    /// let sum: u32 = t.hold_shared(async |h| h.read(g, |v| v.iter().sum())).await;
    /// # }
    /// ```
    /// ```compile_fail
    /// # async fn f(t: &executor::Token, g: &executor::Guarded<std::cell::Cell<u32>>) {
    /// t.hold_shared(async |h| h.read(g, |v| v.get())).await; // a Cell is not Sync
    /// # }
    /// ```
    /// ```compile_fail
    /// # async fn f(t: &executor::Token, g: &executor::Guarded<Vec<u32>>) {
    /// let first = t.hold_shared(async |h| h.read(g, |v| v.first())).await; // a borrow cannot leave
    /// # }
    /// ```
    ///
    /// # Panics
    /// If the token of `guarded` is not held here, or the data is in use by a [`Held::with`] further up the stack.
    #[inline]
    #[track_caller]
    pub fn read<T: Sync, R>(&self, guarded: &Guarded<T>, f: impl for<'a> FnOnce(&'a T) -> R) -> R {
        guarded.read(f)
    }
}
