//! A pool of tokens, for objects that are too many to have one each.

use super::Token;
use alloc::boxed::Box;

/// A fixed number of tokens that any number of objects share, each by its number.
///
/// Two objects may have the same token (trap 9). Taking both is fine, in scopes within each other and in one
/// [`hold_all`](crate::hold_all); what is not is to hold one exclusively inside a scope that *shares* the other, which
/// panics if they have the same token. So do not share a pool's tokens, except in one `hold_all`.
///
/// DragonFly hashes the object's address. Nothing here may depend on addresses: objects are numbered as they are made,
/// so that objects made one after the other never meet.
#[derive(Debug)]
pub struct TokenPool(Box<[Token]>);

impl TokenPool {
    /// A pool of `count` tokens of one name.
    ///
    /// # Panics
    /// If `count` is 0; outside of every CPU.
    pub fn new(name: &'static str, count: usize) -> Self {
        assert!(count != 0, "a pool has at least one token");
        Self((0..count).map(|_| Token::new(name)).collect())
    }

    /// The token of the object with this number, by order of creation.
    pub fn token(&self, object: u64) -> &Token {
        &self.0[(object % self.0.len() as u64) as usize]
    }
}
