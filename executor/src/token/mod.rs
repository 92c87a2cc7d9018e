//! Serializing tokens: who may touch shared state, while it runs and no longer.
//!
//! [`Token::hold`] runs a future that takes the token at the start of each of its own polls and gives it back at the
//! end of each. So a thread holds its tokens only while it runs (trap 1), a thread that waits for a second token
//! holds nothing (trap 2: no order of taking can deadlock), what a token guards is stable between two awaits and
//! arbitrary after one, and a future that is dropped holds nothing (trap 8). The state is in a [`Guarded`] and reached
//! through [`Held::with`], whose closure cannot await and out of which nothing borrowed can get: that is a compile
//! error, not a habit (trap 10).
//!
//! | form | holds | until |
//! |---|---|---|
//! | [`Token::hold`] | one token exclusively | its future ends; not while it waits |
//! | [`Token::hold_shared`] | one token with other readers | the same |
//! | [`hold_all`] | several, each in either way, all or none | the same |
//! | [`Token::try_hold`] | one token, if it is free now | the same |
//! | [`Token::try_with`] | one token, if it is free now | its function returns |
//!
//! Inside a scope of a token the thread may take it again in any way (trap 5), but for one: exclusively inside a scope
//! that shares it, which could never succeed and panics. `word.rs` says how a token is taken, `wait.rs` how it is waited
//! for and why nobody starves.
//!
//! Source: DragonFly `lwkt_token`; the scope form is argued in docs/decisions/scope-tokens.md.

mod word;

pub use word::{Found, TokenWord};

#[cfg(not(loom))]
mod guarded;
#[cfg(not(loom))]
mod pool;
#[cfg(not(loom))]
mod scope;
#[cfg(not(loom))]
mod wait;

#[cfg(not(loom))]
pub(crate) use guarded::WeakToken;
#[cfg(not(loom))]
pub use guarded::{Guarded, Held, HeldShared, Token, TokenCounts, TokenInfo};
#[cfg(not(loom))]
pub use pool::TokenPool;
#[cfg(not(loom))]
pub use scope::{Claim, hold_all};

#[cfg(not(loom))]
impl crate::Cpu {
    /// What names this CPU among those that wait for a token. Not 0.
    #[inline]
    pub(crate) fn address(&self) -> usize {
        core::ptr::from_ref(self).addr()
    }

    /// What names, in a token's word, the holder that runs here now: the CPU's address, and two more for each hard section.
    /// An interrupt handler or IPI function is not the thread below it (trap 3), nor what it interrupts itself. Even, and
    /// not 0. Owner.
    #[inline]
    fn holder(&self) -> usize {
        self.address() + 2 * self.hard.get() as usize
    }

    /// True if `holder` is what [`holder`](Self::holder) said on this CPU: no other CPU is at these addresses, and hard
    /// sections nest less deeply than a CPU has bytes.
    fn is_named_by(&self, holder: usize) -> bool {
        holder.wrapping_sub(self.address()) < size_of::<Self>()
    }

    /// True while the poll in progress holds any token. Owner.
    #[inline]
    pub(crate) fn holds_tokens(&self) -> bool {
        self.inline_load.get() >= crate::cpu::TOKEN_LOAD
    }

    /// True while the poll in progress shares `token`. Owner.
    #[inline]
    fn shares(&self, token: &Token) -> bool {
        self.shared_tokens.borrow().contains(&token.key())
    }
}
