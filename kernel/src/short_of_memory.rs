//! What the network does when memory is short: every request on a path that may be refused fails once, and then all of
//! them do.
//!
//! Nothing may panic, nothing may leak, and what is lost is counted. The card's and the console's paths are tested where
//! their benches are.

use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::time::Duration;

use executor::hosted::{Hosted, Options};
use executor::slab::may_fail;
use executor::{current, timeout};
use net::{ConfigError, DropReason, Network, Ping, Snapshot, UdpSocket};

use crate::platform::arena::{Arena, test_arena};

/// How long something may take that is done at once.
const PATIENCE: Duration = Duration::from_secs(10);
/// More requests than any of these paths makes.
const MANY: u64 = 100;

/// Runs `test` on a node of one CPU in an arena of 4 MiB, with the network up.
fn on_a_small_node<F: Future<Output = ()>>(test: impl FnOnce(Network) -> F + Send + 'static) {
    let (_turn, arena) = test_arena(false);
    let host = Hosted::start(Options::default());
    assert!(host.node().set_zones(arena.zones()));
    host.block_on(move || async move {
        let network = Network::start(current().node(), 1).await;
        network.set_up("lo0", true).await.unwrap();
        test(network).await;
    });
    drop(host);
    release(arena);
}

fn release(arena: Arena) {
    // SAFETY: the node is gone, and what it had allocated with it.
    unsafe { arena.release() };
}

fn loopback(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)
}

/// What was dropped for want of memory.
fn lost(snapshot: &Snapshot) -> u64 {
    [
        DropReason::NoMemory,
        DropReason::SendNoMemory,
        DropReason::SocketNoMemory,
        DropReason::ArpNoMemory,
    ]
    .into_iter()
    .map(|reason| snapshot.drops(reason))
    .sum()
}

/// Objects in use on this CPU.
fn objects() -> isize {
    current().heap().stats().objects
}

/// Takes all memory that may be taken.
fn hog() -> Vec<Vec<u8>> {
    let mut all = Vec::with_capacity(64 * 1024);
    let heap = current().heap();
    let mut sizes: Vec<usize> = heap.class_stats().map(|class| class.size.max(16)).collect();
    sizes.reverse();
    for size in core::iter::once(256 * 1024).chain(sizes) {
        loop {
            let mut one = Vec::<u8>::new();
            assert!(all.len() < all.capacity(), "more memory than expected");
            if may_fail(|| one.try_reserve_exact(size)).is_err() {
                break;
            }
            all.push(one);
        }
    }
    all
}

#[test]
fn a_datagram_that_finds_no_memory_anywhere_on_its_way_is_counted_and_the_next_arrives() {
    on_a_small_node(|network| async move {
        let mut before = None;
        for nth in 1..=MANY {
            // A new one, whose queue has no room yet.
            let socket = UdpSocket::bind(&network, loopback(1000)).await.unwrap();
            let lost_before = lost(&network.statistics().await);
            current().heap().fail_after(nth);
            let sent = socket.send_to(b"one", loopback(1000));
            let fired = current().heap().fails_after() == 0;
            current().heap().fail_after(0);
            let lost_now = lost(&network.statistics().await) - lost_before;
            assert_eq!(lost_now, u64::from(fired), "request {nth}: {sent:?}");
            if fired {
                socket.send_to(b"two", loopback(1000)).unwrap();
            }
            let arrived = timeout(PATIENCE, socket.recv_from()).await.unwrap();
            let expected: &[u8] = if fired { b"two" } else { b"one" };
            assert_eq!(arrived.payload(), expected);
            drop(arrived);
            socket.close().await;
            if !fired {
                assert!(nth > 2, "there is more than one request to fail");
                return;
            }
            // What grows once (queues) has grown in the first rounds.
            let now = objects();
            assert!(now <= *before.get_or_insert(now) + 4, "request {nth} leaks");
        }
        panic!("the way never ends");
    });
}

#[test]
fn a_ping_that_finds_no_memory_fails_or_stays_unanswered_and_the_next_is_answered() {
    on_a_small_node(|network| async move {
        let ping = Ping::open(&network).await.unwrap();
        for nth in 1..=MANY {
            current().heap().fail_after(nth);
            let _ = ping.send(Ipv4Addr::LOCALHOST, nth as u16, 56);
            let fired = current().heap().fails_after() == 0;
            current().heap().fail_after(0);
            let next = ping.echo(Ipv4Addr::LOCALHOST, 1000, 56, PATIENCE).await;
            assert!(next.is_ok(), "request {nth}: {next:?}");
            if !fired {
                return;
            }
        }
        panic!("the way never ends");
    });
}

#[test]
fn a_socket_that_finds_no_memory_is_refused_and_leaves_nothing() {
    on_a_small_node(|network| async move {
        let mut before = None;
        for nth in 1..=MANY {
            current().heap().fail_after(nth);
            let socket = UdpSocket::bind(&network, loopback(2000)).await;
            let fired = current().heap().fails_after() == 0;
            current().heap().fail_after(0);
            match socket {
                Ok(socket) => {
                    assert!(!fired, "request {nth}");
                    return socket.close().await;
                }
                Err(error) => assert_eq!(error, ConfigError::NoMemory),
            }
            assert_eq!(current().heap().stats().failures, nth);
            // The port is not taken.
            let socket = UdpSocket::bind(&network, loopback(2000)).await.unwrap();
            socket.close().await;
            let now = objects();
            assert!(now <= *before.get_or_insert(now) + 4, "request {nth} leaks");
        }
        panic!("the way never ends");
    });
}

#[test]
fn with_all_memory_taken_everything_is_refused_and_goes_on_when_there_is_some() {
    on_a_small_node(|network| async move {
        let socket = UdpSocket::bind(&network, loopback(3000)).await.unwrap();
        for _ in 0..3 {
            let all = hog();
            for _ in 0..1000 {
                let sent = socket.send_to(&[0; 1000], loopback(3000));
                assert_eq!(sent, Err(DropReason::SendNoMemory));
                let another = UdpSocket::bind(&network, loopback(3001)).await;
                assert_eq!(another.err(), Some(ConfigError::NoMemory));
            }
            drop(all);
            socket.send_to(&[0; 1000], loopback(3000)).unwrap();
            assert_eq!(socket.recv_from().await.payload().len(), 1000);
        }
        assert_eq!(lost(&network.statistics().await), 3000);
    });
}
