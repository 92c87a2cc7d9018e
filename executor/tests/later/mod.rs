//! A server of one kind of message that leaves all of them to a thread.

use executor::{Message, Pending, Put, Serve, Server};
use std::marker::PhantomData;

/// Answers nothing at once.
pub struct Later<M>(PhantomData<M>);

impl<M> Default for Later<M> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<M: Message> Server for Later<M> {
    type Work = Pending<M>;
}

impl<M: Message> Serve<M> for Later<M> {
    fn put(&self, message: M) -> Put<M> {
        Put::Later(message)
    }

    fn queue(pending: Pending<M>) -> Pending<M> {
        pending
    }
}
