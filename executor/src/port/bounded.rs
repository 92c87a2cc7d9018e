//! Bounded ports: who sends faster than the server takes has to wait, or is told so.
//!
//! A port made by [`Port::bounded`] has room for so many queued messages. What is answered at once needs none. Who may not
//! wait asks: [`PortRef::try_call`] and [`PortRef::try_post`] give the message back at once, on every CPU. Who may wait does
//! so: a call waits for its reply anyway, and [`PortRef::post_in_turn`] is done when the message has room. What waits is
//! linked already, in the order of sending, so that waiting neither loses nor reorders anything; the bound limits how far
//! senders run ahead, and the memory that waits is that of those who wait.
//!
//! Room is counted where every CPU sees it (`room.rs`). The [`Line`] of those who wait for it is the owner's: each message that
//! is taken lets the first of them in.

use super::{
    Full, Message, Place, Port, PortRef, Put, Serve, Server, handle::Sent, queue::Queue, queue_call,
};
use crate::{
    Call, current,
    reply::{self, Owed},
    room::Room,
    slab::has_room,
};
use alloc::{boxed::Box, collections::VecDeque, sync::Arc};
use core::cell::RefCell;

/// Who waits for room at a bounded port: one entry for each message beyond the bound, with a slot if somebody wants to be
/// told. Places are alike, so it does not matter which message the first in the line belongs to.
pub(super) struct Line {
    room: Arc<Room>,
    waiting: RefCell<VecDeque<Option<Owed<()>>>>,
}

impl Line {
    /// A message was linked, the `len`th, with a place taken for it.
    pub(super) fn arrived(&self, len: usize, entrance: Option<Owed<()>>) {
        if len > self.room.capacity() {
            self.waiting.borrow_mut().push_back(entrance);
        } else {
            let_in(entrance);
        }
    }

    /// A message was put back.
    pub(super) fn came_back(&self, len: usize) {
        self.room.enter();
        if len > self.room.capacity() {
            self.waiting.borrow_mut().push_front(None);
        }
    }

    /// A message was taken.
    pub(super) fn left(&self) {
        self.room.leave();
        let next = self.waiting.borrow_mut().pop_front();
        let_in(next.flatten());
    }
}

fn let_in(entrance: Option<Owed<()>>) {
    if let Some(owed) = entrance {
        // A poster that has gone needs no word.
        let _ = owed.answer(current::try_current(), ());
    }
}

impl<S: Server> Port<S> {
    /// A port of this CPU with room for `capacity` queued messages. With room for none, every message waits that is not
    /// answered at once.
    ///
    /// # Panics
    /// Outside of every CPU.
    pub fn bounded(server: S, capacity: usize) -> Self {
        let room = Arc::new(Room::new(capacity));
        let line = Line {
            room: room.clone(),
            waiting: RefCell::new(VecDeque::new()),
        };
        Self::make(server, Some(room), Queue::new(Some(Box::new(line))))
    }
}

/// Takes a place for a message that may wait. True if there was one.
pub(super) fn enter<S: Server>(port: &Place<S>) -> bool {
    let free = port.shared().as_ref().is_none_or(|room| room.enter());
    if !free {
        count_full();
    }
    free
}

/// Takes a place for a message that may not wait, which is given back if there is none.
fn try_enter<S: Server, M>(port: &Place<S>, message: M) -> Result<M, Full<M>> {
    match port.shared() {
        Some(room) if !room.try_enter() => {
            count_full();
            Err(Full(message))
        }
        _ => Ok(message),
    }
}

fn count_full() {
    if let Some(here) = current::try_current() {
        here.stats.ports_full.add(1);
    }
}

impl<S: Server> PortRef<S> {
    /// As [`call`](Self::call), for a caller that will not wait for room, and can do without the reply when memory is short,
    /// as a user's request can.
    ///
    /// # Errors
    /// The message, when it is not answered at once and the port, or this CPU's memory, is full.
    pub fn try_call<M>(&self, message: M) -> Result<Call<M::Reply>, Full<M>>
    where
        M: Message + Send,
        M::Reply: Send,
        S: Serve<M>,
    {
        let enter = |message| match has_room(reply::layout::<M::Reply, Sent<S, M>>()) {
            true => try_enter(&self.home, message),
            false => Err(Full(message)),
        };
        let Some((here, own)) = self.home.here() else {
            return enter(message).map(|m| Call::waiting(self.send_call(m)));
        };
        match own.try_put(here, message) {
            Put::Done(reply) => Ok(Call::ready(reply)),
            Put::Later(message) => enter(message).map(|m| Call::waiting(queue_call(here, own, m))),
        }
    }

    /// As [`post`](Self::post), for a sender that will not wait for room.
    ///
    /// # Errors
    /// The message, when it is not answered at once and the port is full.
    pub fn try_post<M>(&self, message: M) -> Result<(), Full<M>>
    where
        M: Message<Reply = ()> + Send,
        S: Serve<M>,
    {
        if let Put::Later(message) = self.put_here(message) {
            self.queue_post(try_enter(&self.home, message)?, None);
        }
        Ok(())
    }

    /// Posts a message; the future is done when the port has room for it. Dropped earlier, it takes nothing back: the
    /// message keeps its place.
    pub fn post_in_turn<M>(&self, message: M) -> Call<()>
    where
        M: Message<Reply = ()> + Send,
        S: Serve<M>,
    {
        let Put::Later(message) = self.put_here(message) else {
            return Call::ready(());
        };
        if enter(&self.home) {
            self.queue_post(message, None);
            return Call::ready(());
        }
        let (awaited, owed) = reply::pair(self.home.caller().cast(), ());
        self.queue_post(message, Some(owed));
        Call::waiting(awaited)
    }
}
