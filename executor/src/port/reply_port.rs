//! Reply ports: where the replies to messages land that nobody waits for one by one.
//!
//! [`PortRef::send`] sends a message and goes on; its reply is linked at the sender's [`ReplyPort`] under the key that the
//! sender chose, also when the server answers at once: exactly one reply either way (trap 37). A reply port is a [`Port`] whose
//! server takes no message, so it is received from, put into sets and served by many like any other, and to call it does
//! not compile:
//!
//! ```compile_fail
//! # use executor::{Message, ReplyPort};
//! # struct Ping;
//! # impl Message for Ping { type Reply = u32; }
//! let replies = ReplyPort::<&str, u32>::for_replies();
//! let _ = replies.handle().call(Ping);
//! ```
//!
//! Source: DragonFly `lwkt_sendmsg`, `lwkt_initport_replyonly`.

use super::{Message, Own, Pending, Place, Port, PortRef, Put, ReplyTo, Serve, Server, bounded};
use crate::critical;
use alloc::boxed::Box;
use core::{fmt, marker::PhantomData};

/// A port of this CPU that gets replies, each with the key it was asked for under, in the order of their coming.
pub type ReplyPort<K, R> = Port<Replies<K, R>>;

/// The server of a reply port, which takes no message. It has no name outside, so that nobody can teach it one.
pub struct Replies<K, R>(PhantomData<(K, R)>);

impl<K: 'static, R: 'static> Server for Replies<K, R> {
    type Work = (K, R);
}

impl<K, R> fmt::Debug for Replies<K, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Replies")
    }
}

impl<K: 'static, R: 'static> Port<Replies<K, R>> {
    /// A reply port of this CPU.
    ///
    /// # Panics
    /// Outside of every CPU.
    pub fn for_replies() -> Self {
        Self::new(Replies(PhantomData))
    }
}

/// Where a message's reply lands. Lets go without a reply when the message goes without one.
pub(super) trait Land<R>: Send {
    /// Links the reply.
    fn land(self: Box<Self>, reply: R);
}

/// The reply port and the key of one message.
struct Landing<K: 'static, R: 'static> {
    replies: Place<Replies<K, R>>,
    key: K,
}

impl<K: Send, R: Send> Land<R> for Landing<K, R> {
    fn land(self: Box<Self>, reply: R) {
        let Self { replies, key } = *self;
        let message = (key, reply);
        match replies.here() {
            Some((_, own)) => link(own, message),
            None => replies.visit(move |_, own| link(own, message)),
        }
    }
}

fn link<K: 'static, R: 'static>(own: &Own<Replies<K, R>>, message: (K, R)) {
    critical::section(|| {
        own.queue.link(message, false, None);
        own.queue.offer();
    });
}

impl<S: Server> PortRef<S> {
    /// Sends a request without waiting: the reply lands on `replies` with `key`. It cannot be aborted; a [`Call`](crate::Call)
    /// can.
    ///
    /// Should the server's node go before it answers, no reply comes.
    pub fn send<M, K>(&self, message: M, replies: &ReplyPort<K, M::Reply>, key: K)
    where
        M: Message + Send,
        M::Reply: Send,
        K: Send + 'static,
        S: Serve<M>,
    {
        match self.put_here(message) {
            Put::Done(reply) => link(replies.own(), (key, reply)),
            Put::Later(message) => {
                bounded::enter(&self.home);
                let landing = Landing {
                    replies: replies.home.clone(),
                    key,
                };
                let pending = Pending::new(self.cpu(), message, ReplyTo::Port(Box::new(landing)));
                self.carry(pending, |own, pending| own.enqueue(pending, None));
            }
        }
    }
}
