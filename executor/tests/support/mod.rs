//! What the tests of ports have in common: waiting with a limit, and polling by hand.

use executor::{hosted, now_ns, timeout, yield_now};
use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
    time::Duration,
};

/// Runs a test on a node of `cpus` CPUs. What is lost fails it, instead of holding it up.
pub fn run<F>(cpus: usize, test: impl FnOnce() -> F + Send + 'static)
where
    F: Future<Output = ()> + 'static,
{
    hosted::run(cpus, move || async move {
        let end = timeout(Duration::from_secs(30), test()).await;
        end.expect("something was lost, and somebody waits for it");
    });
}

/// Waits for the thing itself, with a limit.
pub async fn until(what: &str, is_so: impl Fn() -> bool) {
    let limit_ns = now_ns() + 20_000_000_000;
    while !is_so() {
        assert!(now_ns() < limit_ns, "never came: {what}");
        yield_now().await;
    }
}

/// Polls once.
pub async fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    poll_fn(|context| Poll::Ready(Pin::new(&mut *future).poll(context))).await
}
