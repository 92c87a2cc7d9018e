//! The word of a token: free, held by one CPU, or shared by a number of CPUs.
//!
//! ```text
//!   exclusive holder                        another CPU
//!   word: 0 -> cpu | 1  (compare_exchange)
//!   changes the data                        word: 0 -> ...  fails: tries again, or asks that CPU
//!   word := 0           (store, release)
//!                                           word: 0 -> ...  (acquire): sees the data as it was left
//! ```
//!
//! `cpu` is the holder's address plus its depth of hard sections, an even number: so re-entry is a comparison, and a waiter
//! knows whom to ask. While a CPU holds the word, nobody else writes it, which is why giving it back is a plain store, as
//! cheap as it gets: half of a swap. So there is no room for waiters here, and none is needed. A token is held during one
//! poll and no longer; IPI messages are handled between polls; a message that the holder's CPU has answered *is* the proof
//! that the hold is over. That handshake is the inbox's, which has its own model.
//!
//! `wanted` is a courtesy and orders nothing: who sees it steps back for a while (see `wait.rs`), who misses it is a turn
//! late. DragonFly keeps all of this in one word (bit 0 exclusive, bit 1 wanted, the rest counts), and pays with a
//! locked instruction at each release.

use crate::sync::{AtomicUsize, Fault, Ordering, fault};

const EXCLUSIVE: usize = 1;
const ONE_SHARED: usize = 2;

/// In what state a token was found by somebody who could not take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Held by the CPU of this name, as given to [`TokenWord::try_take`].
    Exclusive(usize),
    /// Shared by others.
    Shared,
    /// Free, but another CPU has waited for it for longer.
    Wanted,
}

/// The word, and who wants it.
#[derive(Debug)]
pub struct TokenWord {
    /// 0: free. Odd: held by the CPU whose name is the rest. Even: twice the number of CPUs that share it.
    word: AtomicUsize,
    /// The address of a CPU that has waited for long to take it exclusively, or 0. Written by anybody.
    wanted: AtomicUsize,
}

impl TokenWord {
    /// A free token.
    #[expect(
        clippy::new_without_default,
        reason = "loom's atomics have no const constructor"
    )]
    pub fn new() -> Self {
        Self {
            word: AtomicUsize::new(0),
            wanted: AtomicUsize::new(0),
        }
    }

    /// Takes the token for `cpu` alone, if it is free. The name is even and not 0.
    ///
    /// # Errors
    /// What it was instead: `Exclusive` (perhaps by `cpu` itself) or `Shared`.
    #[inline]
    pub fn try_take(&self, cpu: usize) -> Result<(), Found> {
        let mine = cpu | EXCLUSIVE;
        if fault(Fault::TakeWithoutExchange) {
            let word = self.word.load(Ordering::Acquire);
            if word == 0 {
                self.word.store(mine, Ordering::Relaxed);
            }
            return found(word);
        }
        match self
            .word
            .compare_exchange(0, mine, Ordering::Acquire, Ordering::Relaxed)
        {
            Ok(_) => Ok(()),
            Err(word) => found(word),
        }
    }

    /// Gives back what [`try_take`](Self::try_take) took.
    #[inline]
    pub fn release(&self) {
        let order = if fault(Fault::RelaxedRelease) {
            Ordering::Relaxed
        } else {
            Ordering::Release
        };
        self.word.store(0, order);
    }

    /// Takes the token shared, unless somebody holds it exclusively. Once for each CPU.
    ///
    /// # Errors
    /// `Exclusive`, with the holder (perhaps this CPU itself).
    #[inline]
    pub fn try_share(&self) -> Result<(), Found> {
        if fault(Fault::ShareWithoutLooking) {
            self.word.fetch_add(ONE_SHARED, Ordering::Acquire);
            return Ok(());
        }
        let mut word = self.word.load(Ordering::Relaxed);
        while word & EXCLUSIVE == 0 {
            match self.word.compare_exchange_weak(
                word,
                word + ONE_SHARED,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok(()),
                Err(now) => word = now,
            }
        }
        found(word)
    }

    /// Gives back what [`try_share`](Self::try_share) took.
    #[inline]
    pub fn release_shared(&self) {
        if fault(Fault::UnshareWithoutExchange) {
            let word = self.word.load(Ordering::Relaxed);
            self.word.store(word - ONE_SHARED, Ordering::Release);
            return;
        }
        self.word.fetch_sub(ONE_SHARED, Ordering::Release);
    }

    /// True while `cpu` holds it exclusively. Exact when asked by `cpu` itself.
    #[inline]
    pub fn is_exclusive_of(&self, cpu: usize) -> bool {
        self.word.load(Ordering::Relaxed) == cpu | EXCLUSIVE
    }

    /// True while some CPU holds it, in either way; a hint.
    pub fn is_held(&self) -> bool {
        self.word.load(Ordering::Relaxed) != 0
    }

    /// True while some CPUs share it; a hint.
    pub fn is_shared(&self) -> bool {
        matches!(found(self.word.load(Ordering::Relaxed)), Err(Found::Shared))
    }

    /// The address of the CPU that others should let pass, or 0.
    #[inline]
    pub fn wanted_by(&self) -> usize {
        self.wanted.load(Ordering::Relaxed)
    }

    /// Asks others to let `cpu` pass. Who asked before it stays: it has waited for longer.
    pub fn want(&self, cpu: usize) {
        let _ = self
            .wanted
            .compare_exchange(0, cpu, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Takes the wish of `cpu` back, if it is the one that others see.
    pub fn forget(&self, cpu: usize) {
        let _ = self
            .wanted
            .compare_exchange(cpu, 0, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// What a word that could not be changed means.
#[inline]
fn found(word: usize) -> Result<(), Found> {
    match word {
        0 => Ok(()),
        word if word & EXCLUSIVE != 0 => Err(Found::Exclusive(word & !EXCLUSIVE)),
        _ => Err(Found::Shared),
    }
}
