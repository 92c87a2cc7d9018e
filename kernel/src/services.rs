//! What start-up has made and commands use: the handles of the running services.
//!
//! Decision: services are stopped in the reverse order of their start, so that CARP can still send its
//! bow-out when the network is there.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use futures_util::future::LocalBoxFuture;

use crate::trace_stream::TraceStream;

/// Says goodbye for one service.
type Stop = Box<dyn Fn() -> LocalBoxFuture<'static, ()>>;

/// The running services.
pub struct Services {
    /// The stream of trace records.
    pub trace_stream: Rc<TraceStream>,
    stops: RefCell<Vec<Stop>>,
}

impl Services {
    /// No more services than a node always has.
    #[must_use]
    pub fn new(trace_stream: Rc<TraceStream>) -> Self {
        Self {
            trace_stream,
            stops: RefCell::default(),
        }
    }

    /// Has `stop` called before the machine goes down.
    pub fn on_stop(&self, stop: impl Fn() -> LocalBoxFuture<'static, ()> + 'static) {
        self.stops.borrow_mut().push(Box::new(stop));
    }

    /// Stops the services, the last started first.
    pub async fn stop(&self) {
        loop {
            let Some(stop) = self.stops.borrow_mut().pop() else {
                return;
            };
            stop().await;
        }
    }
}
