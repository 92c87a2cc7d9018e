//! Serializing tokens: who may touch shared state, while it runs and no longer.
//!
//! [`Token::hold`] runs a future that takes the token at the start of each of its own polls and gives it back at the
//! end of each. So a thread holds its tokens only while it runs (trap 1), a thread that waits for a second token
//! holds nothing (trap 2: no order of taking can deadlock), what a token guards is stable between two awaits and
//! arbitrary after one, and a future that is dropped holds nothing (trap 8). The state is reached through
//! [`Held::with`], whose closure cannot await and out of which nothing borrowed can get: that is a compile error, not a
//! habit (trap 10).
//!
//! Taking a token again inside its own scope is allowed. A thread that finds a token taken stays runnable and tries
//! again; only after many tries does it sleep until a release (trap 4, see `word.rs`).
//!
//! Source: DragonFly `lwkt_token`; the scope form is argued in docs/decisions/scope-tokens.md.

mod word;

pub use word::{TokenWord, Waiting};

#[cfg(not(loom))]
pub(crate) use scope::WeakToken;
#[cfg(not(loom))]
pub use scope::{Guarded, Held, Scope, Token, TokenInfo, hold_all};

#[cfg(not(loom))]
mod scope;
