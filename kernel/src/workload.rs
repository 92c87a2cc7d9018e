//! The workload: a few seconds in which the executor does everything it can do, for the trace to show.
//!
//! [`run`] puts on every CPU threads that yield, sleep, call ports of their own and of the next CPU,
//! contend for a token with another CPU, and take part in trees of spawned threads; at the end it says
//! how often each was done and checks what can be checked.
//!
//! Decision: the pace is gentle, about 3,000 trace records a second and CPU with all classes on, so that
//! a stream over an emulated UART keeps up. The workload is there to be looked at, not to measure.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::future::Future;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::pin::{Pin, pin};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;

use executor::trace::Event;
use executor::{
    CpuId, Guarded, JoinHandle, Message, Node, Pending, Port, PortRef, Put, Serve, Server, Token,
    current, now_ns, sleep, sleep_until, spawn, spawn_on, timeout, yield_now,
};
use futures_util::future::{Either, select};
use net::{Network, UdpSocket};

/// Yields in a burst, and the pause behind it.
const YIELD_BURST: u32 = 5;
const PAUSE: Duration = Duration::from_millis(40);
/// How long the token is held at a time.
const HOLD_NS: u64 = 300_000;
/// Where the echo service listens (RFC 862).
const ECHO_PORT: u16 = 7;
/// Depth of a spawn tree: 2^(depth + 1) - 1 threads.
const TREE_DEPTH: u32 = 3;
/// How often a server that has nothing to do looks whether its clients are gone.
const SERVER_PATIENCE: Duration = Duration::from_millis(100);

/// How often each thing was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Yields.
    pub yields: u64,
    /// Timers waited for.
    pub timers: u64,
    /// Port calls on the same CPU, answered inline or queued.
    pub local_calls: u64,
    /// Port calls to another CPU.
    pub remote_calls: u64,
    /// Additions under the token.
    pub token_additions: u64,
    /// Times a holder had to wait for the token.
    pub token_contended: u64,
    /// Threads of spawn trees.
    pub tree_threads: u64,
    /// UDP datagrams that came back from the echo service.
    pub echoes: u64,
    /// Answers that were not the right ones. Anything but 0 is a bug of the executor.
    pub wrong: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} yields, {} timers, {} local and {} remote port calls, {} additions under a token \
             ({} times contended), {} threads in spawn trees, {} UDP echoes, {} wrong answers",
            self.yields,
            self.timers,
            self.local_calls,
            self.remote_calls,
            self.token_additions,
            self.token_contended,
            self.tree_threads,
            self.echoes,
            self.wrong
        )
    }
}

/// What the threads of all CPUs add to.
#[derive(Default)]
struct Counts {
    yields: AtomicU64,
    timers: AtomicU64,
    local_calls: AtomicU64,
    remote_calls: AtomicU64,
    token_additions: AtomicU64,
    tree_threads: AtomicU64,
    echoes: AtomicU64,
    wrong: AtomicU64,
    /// Clients of the port servers that still run; the servers end after the last.
    clients: AtomicUsize,
}

/// Adds one.
fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Exercises every CPU of `node` for `duration`. Dropping it leaves its threads to end by themselves at
/// the same time.
pub async fn run(node: &Node, network: &Network, duration: Duration) -> Report {
    let cpus = node.cpu_count() as u16;
    let until_ns = now_ns().saturating_add(duration.as_nanos() as u64);
    let counts = Arc::new(Counts::default());
    counts.clients.store(usize::from(cpus), Ordering::Relaxed);
    let token = Token::new("workload");
    let sum = Arc::new(Guarded::new(&token, 0u64));

    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    let servers = start_servers(cpus, &counts, &mut threads).await;
    for cpu in (0..cpus).map(CpuId) {
        for _ in 0..2 {
            let counts = counts.clone();
            threads.push(spawn_on(cpu, "yielder", move || yielder(until_ns, counts)));
        }
        let timer_counts = counts.clone();
        threads.push(spawn_on(cpu, "sleeper", move || {
            sleeper(until_ns, timer_counts)
        }));
        let (here, next) = (cpu.index(), (cpu.index() + 1) % servers.len());
        let (near, far) = (servers[here].clone(), servers[next].clone());
        let client_counts = counts.clone();
        threads.push(spawn_on(cpu, "caller", move || {
            caller(until_ns, near, far, client_counts)
        }));
    }
    // On one CPU the two take turns; on two they contend.
    for cpu in [0, cpus - 1].map(CpuId) {
        let (sum, counts) = (sum.clone(), counts.clone());
        threads.push(spawn_on(cpu, "token holder", move || {
            token_holder(until_ns, sum, counts)
        }));
    }
    // The service ends with this future; a port in use means that it runs already.
    let service = pin!(net::serve_udp_echo(network, ECHO_PORT));
    let (client_network, echo_counts) = (network.clone(), counts.clone());
    let client_cpu = CpuId(cpus - 1);
    threads.push(spawn_on(client_cpu, "echo client", move || {
        echo_client(until_ns, client_network, echo_counts)
    }));
    let trees = pin!(grow_trees(until_ns, cpus, &counts));
    if let Either::Left((_, trees)) = select(service, trees).await {
        trees.await;
    }
    for thread in threads {
        thread.await;
    }

    let additions = counts.token_additions.load(Ordering::Relaxed);
    let added = token.hold(async |held| held.with(&sum, |sum| *sum)).await;
    Report {
        yields: counts.yields.load(Ordering::Relaxed),
        timers: counts.timers.load(Ordering::Relaxed),
        local_calls: counts.local_calls.load(Ordering::Relaxed),
        remote_calls: counts.remote_calls.load(Ordering::Relaxed),
        token_additions: additions,
        token_contended: token.counts().contended,
        tree_threads: counts.tree_threads.load(Ordering::Relaxed),
        echoes: counts.echoes.load(Ordering::Relaxed),
        wrong: counts.wrong.load(Ordering::Relaxed) + u64::from(added != additions),
    }
}

async fn yielder(until_ns: u64, counts: Arc<Counts>) {
    while now_ns() < until_ns {
        for _ in 0..YIELD_BURST {
            yield_now().await;
            count(&counts.yields);
        }
        sleep(PAUSE).await;
    }
}

async fn sleeper(until_ns: u64, counts: Arc<Counts>) {
    let mut ms = 1;
    while now_ns() < until_ns {
        sleep(Duration::from_millis(ms)).await;
        count(&counts.timers);
        ms = ms % 16 * 2 + 1;
    }
}

async fn token_holder(until_ns: u64, sum: Arc<Guarded<u64>>, counts: Arc<Counts>) {
    let token = sum.token().clone();
    while now_ns() < until_ns {
        token
            .hold(async |held| {
                // Between two awaits the state is stable; after one it is whatever the other made it.
                held.with(&sum, |sum| work_until_met(sum, &token));
                count(&counts.token_additions);
                yield_now().await;
                held.with(&sum, |sum| work_until_met(sum, &token));
                count(&counts.token_additions);
            })
            .await;
        current().record(Event::Mark, 0, 0, 1);
        // Both holders wake at the same moment, so that they meet at the token.
        let beat_ns = (PAUSE * 5).as_nanos() as u64;
        sleep_until((now_ns() / beat_ns + 1) * beat_ns).await;
    }
}

/// Adds one, once another CPU has come by and found the token taken, or after [`HOLD_NS`] if none does.
fn work_until_met(sum: &mut u64, token: &Token) {
    let before = token.counts().contended;
    let until_ns = now_ns() + HOLD_NS;
    while token.counts().contended == before && now_ns() < until_ns {
        core::hint::spin_loop();
    }
    *sum += 1;
}

/// "Add one": odd numbers are answered at once, even ones by the server's thread.
struct AddOne(u32);

impl Message for AddOne {
    type Reply = u32;
}

struct Adder;

impl Server for Adder {
    type Work = Pending<AddOne>;
}

impl Serve<AddOne> for Adder {
    fn put(&self, message: AddOne) -> Put<AddOne> {
        if message.0 % 2 == 1 {
            Put::Done(message.0 + 1)
        } else {
            Put::Later(message)
        }
    }

    fn queue(pending: Pending<AddOne>) -> Self::Work {
        pending
    }
}

/// A server on each CPU, and its thread.
async fn start_servers(
    cpus: u16,
    counts: &Arc<Counts>,
    threads: &mut Vec<JoinHandle<()>>,
) -> Vec<PortRef<Adder>> {
    let mut servers = Vec::new();
    for cpu in (0..cpus).map(CpuId) {
        let counts = counts.clone();
        let (handle, thread) = spawn_on(cpu, "adder start", move || async move {
            let port = Port::new(Adder);
            let handle = port.handle();
            (handle, spawn("adder", serve(port, counts)))
        })
        .await;
        servers.push(handle);
        threads.push(thread);
    }
    servers
}

async fn serve(port: Port<Adder>, counts: Arc<Counts>) {
    loop {
        match timeout(SERVER_PATIENCE, port.receive()).await {
            Ok(pending) => {
                let answer = pending.message().0 + 1;
                pending.reply(answer);
            }
            Err(_) if counts.clients.load(Ordering::Acquire) == 0 => return,
            Err(_) => {}
        }
    }
}

/// Counts a client out however it ends.
struct Client(Arc<Counts>);

impl Drop for Client {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Ordering::Release);
    }
}

async fn caller(until_ns: u64, near: PortRef<Adder>, far: PortRef<Adder>, counts: Arc<Counts>) {
    let client = Client(counts);
    let counts = &client.0;
    let mut number = 0;
    while now_ns() < until_ns {
        number += 1;
        if near.call(AddOne(number)).await != number + 1 {
            count(&counts.wrong);
        }
        count(&counts.local_calls);
        if far.call(AddOne(number)).await != number + 1 {
            count(&counts.wrong);
        }
        count(&counts.remote_calls);
        sleep(PAUSE / 2).await;
    }
}

/// Sends datagrams to the echo service over `lo0` and looks at what comes back.
async fn echo_client(until_ns: u64, network: Network, counts: Arc<Counts>) {
    let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
    let Ok(socket) = UdpSocket::bind(&network, any).await else {
        return;
    };
    let service = SocketAddrV4::new(Ipv4Addr::LOCALHOST, ECHO_PORT);
    let mut number = 0u32;
    while now_ns() < until_ns {
        number += 1;
        if socket.send_to(&number.to_le_bytes(), service).is_ok()
            && let Ok(answer) = timeout(PAUSE, socket.recv_from()).await
        {
            count(if answer.payload() == number.to_le_bytes() {
                &counts.echoes
            } else {
                &counts.wrong
            });
        }
        sleep(PAUSE).await;
    }
    socket.close().await;
}

/// One tree after another until the time is up.
async fn grow_trees(until_ns: u64, cpus: u16, counts: &Arc<Counts>) {
    while now_ns() < until_ns {
        let threads = branch(TREE_DEPTH, 0, cpus).await;
        counts.tree_threads.fetch_add(threads, Ordering::Relaxed);
        if threads != (2 << TREE_DEPTH) - 1 {
            count(&counts.wrong);
        }
        sleep(PAUSE * 3).await;
    }
}

/// A thread of the tree: spawns two more on other CPUs and answers how many there are below it and with it.
fn branch(depth: u32, place: u16, cpus: u16) -> Pin<Box<dyn Future<Output = u64>>> {
    Box::pin(async move {
        if depth == 0 {
            return 1;
        }
        let children = [1, 2].map(|side| {
            let place = place.wrapping_mul(2).wrapping_add(side);
            spawn_on(CpuId(place % cpus), "tree", move || {
                branch(depth - 1, place, cpus)
            })
        });
        let mut threads = 1;
        for child in children {
            threads += child.await;
        }
        threads
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use executor::hosted::{Hosted, Options};

    #[test]
    fn everything_is_done_on_any_number_of_cpus_and_nothing_wrongly() {
        for cpus in [1, 2, 4] {
            let hosted = Hosted::start(Options {
                cpus,
                ..Options::default()
            });
            let report = hosted.block_on(|| async {
                let node = current().node();
                let network = Network::start(node, 1).await;
                run(node, &network, Duration::from_millis(150)).await
            });
            assert_eq!(report.wrong, 0, "{report}");
            let done = [
                report.yields,
                report.timers,
                report.local_calls,
                report.remote_calls,
                report.token_additions,
                report.tree_threads,
                report.echoes,
            ];
            assert!(done.iter().all(|times| *times > 0), "{cpus} CPUs: {report}");
        }
    }
}
