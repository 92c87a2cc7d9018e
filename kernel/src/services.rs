//! What start-up has made and commands use: the handles of the running services.
//!
//! Decision: services are stopped in the reverse order of their start, so that CARP can still send its
//! bow-out when the network is there.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::time::Duration;

use carp::service::Carp;
use executor::timeout;
use futures_util::future::LocalBoxFuture;
use net::Network;

use crate::trace_stream::TraceStream;

/// How long all services together may take to say goodbye: one that hangs must not keep a machine from going down.
const PATIENCE: Duration = Duration::from_millis(500);

/// Says goodbye for one service.
type Stop = Box<dyn Fn() -> LocalBoxFuture<'static, ()>>;

/// The running services.
pub struct Services {
    /// The stream of trace records.
    pub trace_stream: Rc<TraceStream>,
    /// The protocols.
    pub network: Network,
    /// The virtual addresses.
    pub carp: Carp,
    stops: RefCell<Vec<Stop>>,
}

impl Services {
    /// The services that every node has.
    #[must_use]
    pub fn new(trace_stream: Rc<TraceStream>, network: Network, carp: Carp) -> Self {
        Self {
            trace_stream,
            network,
            carp,
            stops: RefCell::default(),
        }
    }

    /// Has `stop` called before the machine goes down.
    pub fn on_stop(&self, stop: impl Fn() -> LocalBoxFuture<'static, ()> + 'static) {
        self.stops.borrow_mut().push(Box::new(stop));
    }

    /// Stops the services, the last started first. False: one of them did not in time, and the rest was not tried.
    pub async fn stop(&self) -> bool {
        let all = async {
            loop {
                let Some(stop) = self.stops.borrow_mut().pop() else {
                    return;
                };
                stop().await;
            }
        };
        timeout(PATIENCE, all).await.is_ok()
    }
}
