//! Put-only ports: no queue and no thread; every message is answered by the server's [`Answer::put`], there and then.
//!
//! On the port's CPU a call is a function call. From another CPU the IPI message that carries the request runs `put` and the
//! reply goes back: for what is answered from memory, and must be, also while all threads of that CPU are busy. There is
//! no Later to say, so a server that might need to wait cannot be written for such a port, and there is nothing to receive:
//!
//! ```compile_fail
//! # use executor::{Answer, Message, PutPort};
//! # struct Ping;
//! # impl Message for Ping { type Reply = u32; }
//! # struct Pong;
//! # impl Answer<Ping> for Pong { fn put(&self, _: Ping) -> u32 { 1 } }
//! # async fn serve() {
//! let port = PutPort::new(Pong);
//! let _ = port.receive().await;
//! # }
//! ```
//!
//! Source: DragonFly `lwkt_initport_putonly`.

use super::{Message, home::Home};
use crate::{
    Call, Cpu, CpuId, critical,
    reply::{self, Awaited},
    trace::Event,
};
use core::{fmt, marker::PhantomData};

/// A server that answers every `M` at once.
pub trait Answer<M: Message>: 'static {
    /// Answers. Runs in a critical section of the port's CPU, for calls from elsewhere a hard one: it must be short. Entered
    /// again if it calls its own port.
    fn put(&self, message: M) -> M::Reply;
}

/// A put-only port, as its CPU holds it. Not Send; others use a [`PutRef`].
pub struct PutPort<S: 'static> {
    home: Home<(), S>,
    _here: PhantomData<*const ()>,
}

impl<S: 'static> PutPort<S> {
    /// A put-only port of this CPU.
    ///
    /// # Panics
    /// Outside of every CPU.
    pub fn new(server: S) -> Self {
        Self {
            home: Home::new((), server),
            _here: PhantomData,
        }
    }

    /// The server behind the port.
    pub fn server(&self) -> &S {
        // SAFETY: a PutPort is not Send: this is the CPU that it was made on.
        unsafe { self.home.own() }
    }

    /// A handle that any CPU may keep and use.
    pub fn handle(&self) -> PutRef<S> {
        PutRef {
            home: self.home.clone(),
        }
    }
}

impl<S: 'static> fmt::Debug for PutPort<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PutPort").finish_non_exhaustive()
    }
}

/// A handle to a put-only port, from any CPU.
pub struct PutRef<S: 'static> {
    home: Home<(), S>,
}

impl<S: 'static> Clone for PutRef<S> {
    fn clone(&self) -> Self {
        Self {
            home: self.home.clone(),
        }
    }
}

impl<S: 'static> fmt::Debug for PutRef<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PutRef({})", self.cpu())
    }
}

impl<S: 'static> PutRef<S> {
    /// The CPU that the port lives on.
    pub fn cpu(&self) -> CpuId {
        self.home.cpu()
    }

    /// Sends a request: answered when this returns on the port's CPU, on its way from any other. The future gives the reply.
    #[inline]
    pub fn call<M>(&self, message: M) -> Call<M::Reply>
    where
        M: Message + Send,
        M::Reply: Send,
        S: Answer<M>,
    {
        match self.home.here() {
            Some((here, server)) => Call::ready(put(here, server, message)),
            None => Call::waiting(self.send_call(message)),
        }
    }

    #[inline(never)]
    fn send_call<M>(&self, message: M) -> Awaited<M::Reply>
    where
        M: Message + Send,
        M::Reply: Send,
        S: Answer<M>,
    {
        let (awaited, owed) = reply::pair(self.home.caller().cast(), ());
        self.home.visit(move |here, server| {
            let reply = put(here, server, message);
            // A caller that has gone needs no reply.
            let _ = owed.answer(Some(here), reply);
        });
        awaited
    }

    /// Sends a message that has no reply, from anywhere.
    pub fn post<M>(&self, message: M)
    where
        M: Message<Reply = ()> + Send,
        S: Answer<M>,
    {
        match self.home.here() {
            Some((here, server)) => put(here, server, message),
            None => self.home.visit(|here, server| put(here, server, message)),
        }
    }
}

/// On the port's CPU. The section keeps interrupt handlers from coming between.
fn put<S: Answer<M>, M: Message>(here: &Cpu, server: &S, message: M) -> M::Reply {
    here.stats.ports_inline.add(1);
    here.record_running(Event::PortInline);
    critical::section_on(here, || server.put(message))
}
