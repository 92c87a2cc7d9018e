//! What the executor costs on this very machine: operations by the thousand, with what each took in time, cycles and
//! interrupts.
//!
//! [`run`] measures one operation after the other on CPU 0, then what two CPUs do together, awake and asleep, then all
//! CPUs at once, in doubling numbers. `tools` runs it under QEMU beside the same rows on the host.
//!
//! Decision: a figure's counters are the sums over all CPUs between the same two moments as its time, so that "no
//! doorbell" means none by anybody. What else runs on the node is in them; on an idle one that is nothing.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::Cell;
use core::fmt;
use core::hint::black_box;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use core::time::Duration;

use executor::{
    CpuId, Guarded, JoinHandle, Message, Node, Pending, Port, PortRef, Priority, Put, Serve,
    Server, Token, sleep, spawn, spawn_on, yield_now,
};
use futures_util::FutureExt;

use crate::console::terminal::Output;
use crate::platform::Machine;

/// Operations of a row where one takes tens of nanoseconds on hardware.
const MANY: u64 = 200_000;
/// Operations of all CPUs together: long enough for the host to have given each its turn.
const LOTS: u64 = 2_000_000;
/// Operations of a row in which CPUs talk to each other.
const SOME: u64 = 20_000;
/// Bare turns between two awaits: so many that those do not count.
const SOME_TURNS: u64 = 1_000;
/// Calls of a ring, where more CPUs than cores take turns on the host.
const RING: u64 = 4_000;
/// Operations of a row in which a CPU sleeps and is woken.
const FEW: u64 = 500;
/// Between two rows.
const PAUSE: Duration = Duration::from_millis(50);
/// Threads that take turns.
const THREADS: u64 = 10;

/// What one row measured.
#[derive(Clone, Debug)]
pub struct Figure {
    /// What was done.
    pub name: String,
    /// How often.
    pub operations: u64,
    /// How long all of them took, in nanoseconds.
    pub elapsed_ns: u64,
    /// The same in cycles of the machine's counter, where it has one.
    pub cycles: Option<u64>,
    /// IPI messages of all CPUs.
    pub messages: u64,
    /// Hardware IPIs (host wakes in a process) of all CPUs.
    pub doorbells: u64,
}

impl fmt::Display for Figure {
    /// A row under [`HEADINGS`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.operations.max(1);
        let per = |total: u64| (total / count, total % count * 10 / count);
        let (ns, tenth) = per(self.elapsed_ns);
        write!(
            f,
            "{:<34} {:>9} {ns:>9}.{tenth}",
            self.name, self.operations
        )?;
        match self.cycles {
            Some(cycles) => write!(f, " {:>9}", cycles / count)?,
            None => write!(f, " {:>9}", "-")?,
        }
        write!(f, " {:>9} {:>9}", self.messages, self.doorbells)
    }
}

/// What the columns of a [`Figure`] are.
fn headings() -> String {
    alloc::format!(
        "{:<34} {:>9} {:>11} {:>9} {:>9} {:>9}",
        "operation",
        "times",
        "ns each",
        "cycles",
        "messages",
        "doorbells"
    )
}

/// Two moments, and what lies between them.
struct Moment<'a> {
    node: &'a Node,
    machine: &'a dyn Machine,
    at_ns: u64,
    cycles: Option<u64>,
    messages: u64,
    doorbells: u64,
}

impl<'a> Moment<'a> {
    fn now(node: &'a Node, machine: &'a dyn Machine) -> Self {
        let sum = |counter: fn(&executor::Stats) -> u64| {
            node.cpus().map(|cpu| counter(cpu.stats())).sum::<u64>()
        };
        Self {
            node,
            machine,
            messages: sum(|stats| stats.ipi_sent.get()),
            doorbells: sum(|stats| stats.doorbells_rung.get()),
            at_ns: node.clock_ns(),
            cycles: machine.cycles(),
        }
    }

    fn figure(&self, name: impl Into<String>, operations: u64) -> Figure {
        let now = Moment::now(self.node, self.machine);
        Figure {
            name: name.into(),
            operations,
            elapsed_ns: now.at_ns - self.at_ns,
            cycles: now
                .cycles
                .zip(self.cycles)
                .map(|(now, then)| now.wrapping_sub(then)),
            messages: now.messages - self.messages,
            doorbells: now.doorbells - self.doorbells,
        }
    }
}

/// A request that is answered at once.
struct Now(u64);
/// A request that is left to the server's thread.
struct Later(u64);

impl Message for Now {
    type Reply = u64;
}
impl Message for Later {
    type Reply = u64;
}

struct Adder;

enum Work {
    Now(Pending<Now>),
    Later(Pending<Later>),
}

impl Server for Adder {
    type Work = Work;
}

impl Serve<Now> for Adder {
    fn put(&self, Now(number): Now) -> Put<Now> {
        Put::Done(number + 1)
    }
    fn queue(pending: Pending<Now>) -> Work {
        Work::Now(pending)
    }
}

impl Serve<Later> for Adder {
    fn put(&self, message: Later) -> Put<Later> {
        Put::Later(message)
    }
    fn queue(pending: Pending<Later>) -> Work {
        Work::Later(pending)
    }
}

/// The last request. A message and not a flag: a server that sees a flag between two requests ends, and leaves the
/// second one in its port.
const THE_LAST: Later = Later(u64::MAX);

/// A server on a CPU, which ends when it has answered [`THE_LAST`].
async fn serve(cpu: CpuId) -> PortRef<Adder> {
    executor::run_on(cpu, move |_| {
        let port = Port::new(Adder);
        let handle = port.handle();
        spawn("bench server", async move {
            loop {
                match port.receive().await {
                    Work::Now(pending) => {
                        if let Err(pending) = pending.serve(port.server()) {
                            pending.reply(0);
                        }
                    }
                    Work::Later(pending) => {
                        let number = pending.message().0;
                        pending.reply(number.wrapping_add(1));
                        if number == THE_LAST.0 {
                            break;
                        }
                    }
                }
            }
        })
        .detach();
        handle
    })
    .await
}

/// Threads that keep CPUs awake: they yield until they are stopped, behind all others.
struct Awake {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Awake {
    async fn keep(cpus: impl Iterator<Item = CpuId>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let running = Arc::new(AtomicU32::new(0));
        let mut threads = Vec::new();
        for cpu in cpus {
            let (stop, running) = (stop.clone(), running.clone());
            let body = move || async move {
                running.fetch_add(1, Ordering::AcqRel);
                while !stop.load(Ordering::Relaxed) {
                    yield_now().await;
                }
            };
            let builder = executor::Builder::new("bench awake").priority(Priority::IDLE);
            threads.push(builder.spawn_on(cpu, body));
        }
        // They come after whoever yields.
        while running.load(Ordering::Acquire) < threads.len() as u32 {
            sleep(Duration::from_millis(1)).await;
        }
        Self { stop, threads }
    }

    async fn let_go(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.await;
        }
    }
}

/// Runs the rows and writes each to `output` as it is measured.
pub async fn run(node: &Node, machine: &dyn Machine, output: &Output) {
    output.line(format_args!("{}", headings())).await;
    one_cpu(node, machine, output).await;
    if node.cpu_count() > 1 {
        two_cpus(node, machine, output).await;
        all_cpus(node, machine, output).await;
    }
}

/// Writes a row, and gives it the time to be read before the next one begins: `tools` asks the host what the machine has
/// used when a row comes.
async fn show(output: &Output, figure: Figure) {
    output.line(format_args!("{figure}")).await;
    sleep(PAUSE).await;
}

async fn one_cpu(node: &Node, machine: &dyn Machine, output: &Output) {
    let since = Moment::now(node, machine);
    yields(MANY).await;
    show(output, since.figure("yield, 10 threads", MANY)).await;

    let since = Moment::now(node, machine);
    for _ in 0..SOME {
        spawn("bench", async {}).await;
    }
    show(output, since.figure("spawn and join", SOME)).await;

    let port = serve(executor::current_cpu()).await;
    let since = Moment::now(node, machine);
    for number in 0..MANY {
        black_box(port.call(Now(number)).await);
    }
    show(output, since.figure("port call, answered at once", MANY)).await;

    let since = Moment::now(node, machine);
    for number in 0..SOME {
        black_box(port.call(Later(number)).await);
    }
    show(output, since.figure("port call, queued", SOME)).await;
    port.call(THE_LAST).await;

    let token = Token::new("bench");
    let guarded = Guarded::new(&token, 0u64);
    let since = Moment::now(node, machine);
    for _ in 0..MANY {
        token
            .hold(async |held| held.with(&guarded, |sum| *sum += 1))
            .await;
    }
    show(output, since.figure("token section", MANY)).await;

    let since = Moment::now(node, machine);
    for _ in 0..SOME {
        black_box(sleep(Duration::from_secs(60)).now_or_never());
    }
    show(output, since.figure("timer set and cancelled", SOME)).await;

    let since = Moment::now(node, machine);
    for _ in 0..MANY {
        drop(black_box(Box::new([0u8; 64])));
    }
    show(output, since.figure("allocate and free 64 bytes", MANY)).await;
}

/// Threads of this CPU take turns, so many in all.
async fn yields(total: u64) {
    let turn = move || async move {
        for _ in 0..total / THREADS {
            yield_now().await;
        }
    };
    let threads: Vec<_> = (0..THREADS).map(|_| spawn("bench", turn())).collect();
    for thread in threads {
        thread.await;
    }
}

/// While it lives no run time is counted, so that a poll reads no clock.
struct Unaccounted<'a> {
    node: &'a Node,
    before: bool,
}

impl<'a> Unaccounted<'a> {
    fn begin(node: &'a Node) -> Self {
        let before = node.is_accounting();
        node.set_accounting(false);
        Self { node, before }
    }
}

impl Drop for Unaccounted<'_> {
    fn drop(&mut self) {
        self.node.set_accounting(self.before);
    }
}

/// What is left of a thread without an executor: its place in a queue, a function to call, and memory that a turn
/// loads and stores: as many lines as a thread's.
#[derive(Default)]
#[repr(align(64))]
struct Bare<'a> {
    next: Cell<Option<&'a Bare<'a>>>,
    poll: Cell<Option<fn(&Bare<'a>)>>,
    lines: [Line; 2],
}

#[derive(Default)]
#[repr(align(64))]
struct Line(Cell<u64>);

/// The limit of [`yields`]: as many turns without an executor, but for an await every now and then, or the watchdog
/// would have to say something. `clock` is called once a turn.
async fn bare_turns(total: u64, clock: impl Fn()) {
    let mut left = total;
    while left > 0 {
        let some = left.min(SOME_TURNS);
        turn_bare(some, &clock);
        left -= some;
        yield_now().await;
    }
}

/// A turn takes an object off the head of a list, puts it back at the tail, and calls it.
fn turn_bare(turns: u64, clock: impl Fn()) {
    fn poll(bare: &Bare<'_>) {
        for Line(word) in &bare.lines {
            word.set(word.get().wrapping_add(1));
        }
    }
    let ring: [Bare<'_>; THREADS as usize] = Default::default();
    for (bare, next) in ring.iter().zip(ring.iter().cycle().skip(1)) {
        bare.next.set(Some(next));
        bare.poll.set(Some(black_box(poll)));
    }
    let (mut head, mut tail) = (&ring[0], &ring[ring.len() - 1]);
    for _ in 0..turns {
        let (Some(next), Some(poll)) = (head.next.get(), head.poll.get()) else {
            return;
        };
        tail.next.set(Some(head));
        tail = head;
        head = next;
        poll(tail);
        clock();
    }
}

async fn two_cpus(node: &Node, machine: &dyn Machine, output: &Output) {
    let port = serve(CpuId(1)).await;
    let awake = Awake::keep([0, 1].map(CpuId).into_iter()).await;
    let since = Moment::now(node, machine);
    for number in 0..SOME {
        black_box(port.call(Later(number)).await);
    }
    show(
        output,
        since.figure("port call to another CPU, awake", SOME),
    )
    .await;
    awake.let_go().await;

    let since = Moment::now(node, machine);
    for number in 0..FEW {
        black_box(port.call(Later(number)).await);
    }
    show(
        output,
        since.figure("port call to another CPU, asleep", FEW),
    )
    .await;
    port.call(THE_LAST).await;
}

async fn all_cpus(node: &Node, machine: &dyn Machine, output: &Output) {
    let all = node.cpu_count() as u16;
    let doubling = (0..16).map(|n| 1u16 << n).take_while(|count| *count < all);
    for count in doubling.chain([all]) {
        let share = LOTS / u64::from(count);
        let row = |since: Moment<'_>, what: &str| {
            since.figure(
                alloc::format!("{what} on {count} CPUs"),
                share * u64::from(count),
            )
        };
        let cpus = || (0..count).map(CpuId);
        let since = Moment::now(node, machine);
        on_each(cpus(), |_| move || yields(share)).await;
        show(output, row(since, "yield")).await;
        let unaccounted = Unaccounted::begin(node);
        let since = Moment::now(node, machine);
        on_each(cpus(), |_| move || yields(share)).await;
        show(output, row(since, "yield, no clock,")).await;
        drop(unaccounted);
        let since = Moment::now(node, machine);
        on_each(cpus(), |_| move || bare_turns(share, || ())).await;
        show(output, row(since, "bare turn")).await;
        let since = Moment::now(node, machine);
        on_each(cpus(), |_| {
            move || async move {
                if let Some(cpu) = executor::try_current() {
                    let platform = cpu.node().platform();
                    bare_turns(share, || {
                        black_box(platform.ticks());
                    })
                    .await;
                }
            }
        })
        .await;
        show(output, row(since, "bare turn, clock,")).await;
    }
    let doubling = (1..16).map(|n| 1u16 << n).take_while(|count| *count < all);
    for count in doubling.chain([all]) {
        let cpus = || (0..count).map(CpuId);
        let mut ports = Vec::new();
        for cpu in cpus() {
            ports.push(serve(cpu).await);
        }
        let share = RING / u64::from(count);
        let since = Moment::now(node, machine);
        on_each(cpus(), |cpu| {
            let port = ports[(cpu.index() + 1) % ports.len()].clone();
            move || async move {
                for number in 0..share {
                    black_box(port.call(Later(number)).await);
                }
            }
        })
        .await;
        show(
            output,
            since.figure(
                alloc::format!("ring of port calls on {count} CPUs"),
                share * u64::from(count),
            ),
        )
        .await;
        for port in ports {
            port.call(THE_LAST).await;
        }
    }
}

/// Runs on each of these CPUs the future that `make` gives the builder of, and waits for all.
async fn on_each<B, F>(cpus: impl Iterator<Item = CpuId>, make: impl Fn(CpuId) -> B)
where
    B: FnOnce() -> F + Send + 'static,
    F: Future<Output = ()> + 'static,
{
    let threads: Vec<_> = cpus.map(|cpu| spawn_on(cpu, "bench", make(cpu))).collect();
    for thread in threads {
        thread.await;
    }
}
