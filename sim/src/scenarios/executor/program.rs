//! A random program: what it is made of, and how it runs.

use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use executor::{
    Builder, Cpu, CpuId, Event, Guarded, Message, Mobile, Node, Pending, Port, PortRef, Priority,
    Put, Serve, Server, Token, chain, critical, current_cpu, hold_all, now_ns, run_on, sleep_until,
    spawn_on, timeout, yield_now,
};
use futures_util::future::{Either, select};

use super::ledger::Ledger;
use super::stays;
use crate::random::Random;

const MS: u64 = 1_000_000;
/// How long a waiter waits before it looks whether the program is over.
const WAIT: Duration = Duration::from_millis(5);

/// One thing that a thread does.
#[derive(Clone, Debug)]
pub enum Operation {
    /// Sleeps so many nanoseconds.
    Sleep(u64),
    /// Lets others run, so many times.
    Yield(u64),
    /// Calls a port and waits for the reply, which is due at once or later.
    Call { port: usize, later: bool },
    /// Sends to a port so many times and does not wait; more than a ring holds, now and then.
    Post { port: usize, count: u32 },
    /// Has an IPI function on that CPU send to a port.
    Relay { cpu: u16, port: usize },
    /// Calls a port, waits a little, and walks away.
    WalkAway { port: usize },
    /// Holds one or two tokens over a few awaits.
    Hold {
        first: usize,
        second: usize,
        awaits: u64,
    },
    /// Awaits inside a critical section.
    Section,
    /// Signals an event.
    Signal(usize),
    /// Runs a function on a CPU.
    RunOn(u16),
    /// Runs a function on every CPU in a row.
    Chain,
    /// Allocates so many pieces of memory here, keeps them over an await, frees every other one here and the rest there.
    Pass {
        cpu: u16,
        bytes: usize,
        count: usize,
    },
    /// Spawns a thread there and waits for its end.
    Spawn { cpu: u16, sleeps: bool },
    /// Moves.
    Move(u16),
}

/// A thread of a program.
#[derive(Clone, Debug)]
pub struct ThreadPlan {
    pub cpu: u16,
    pub priority: u8,
    pub movable: bool,
    pub operations: Vec<Operation>,
}

/// A whole program.
#[derive(Clone, Debug)]
pub struct Program {
    pub threads: Vec<ThreadPlan>,
    /// The CPU of each port.
    pub ports: Vec<u16>,
    /// The CPU on which each event's waiter lives.
    pub events: Vec<u16>,
    pub tokens: usize,
}

impl Program {
    /// Invents one for `cpus` CPUs; each thread has about so many operations.
    pub fn invent(random: &mut Random, cpus: usize, operations: u64) -> Self {
        let cpu = |random: &mut Random| random.below(cpus as u64) as u16;
        let (ports, events) = (random.within(1..=4), random.within(1..=4));
        let ports: Vec<u16> = (0..ports).map(|_| cpu(random)).collect();
        let events: Vec<u16> = (0..events).map(|_| cpu(random)).collect();
        let tokens = random.within(1..=3) as usize;
        let threads = (0..random.within(3..=20)).map(|_| {
            let movable = random.below(4) == 0;
            let operation = |random: &mut Random| loop {
                let invented = invent(random, cpus, ports.len(), events.len(), tokens);
                let fits = if movable {
                    !stays(&invented)
                } else {
                    !matches!(invented, Operation::Move(_))
                };
                if fits {
                    return invented;
                }
            };
            ThreadPlan {
                cpu: cpu(random),
                priority: *random.pick(&[1, 6, 12, 12, 12, 14, 20, 28]),
                movable,
                operations: (0..random.within(1..=2 * operations))
                    .map(|_| operation(random))
                    .collect(),
            }
        });
        let threads = threads.collect();
        Self {
            threads,
            ports,
            events,
            tokens,
        }
    }

    /// The same with these threads only; the others are there, and do nothing.
    pub fn with_threads(mut self, kept: impl Fn(usize) -> bool) -> Self {
        for (number, thread) in self.threads.iter_mut().enumerate() {
            if !kept(number) {
                thread.operations.clear();
            }
        }
        self
    }

    /// What its longest thread sleeps, and some more.
    pub fn longest_ns(&self) -> u64 {
        let takes = |operation: &Operation| match operation {
            Operation::Sleep(ns) => *ns,
            _ => MS,
        };
        let thread = |thread: &ThreadPlan| thread.operations.iter().map(takes).sum();
        self.threads.iter().map(thread).max().unwrap_or(0)
    }
}

fn invent(
    random: &mut Random,
    cpus: usize,
    ports: usize,
    events: usize,
    tokens: usize,
) -> Operation {
    let cpu = random.below(cpus as u64) as u16;
    let port = random.below(ports as u64) as usize;
    match random.below(17) {
        0 => {
            let limit_ns = *random.pick(&[1_000, 100_000, 5 * MS]);
            Operation::Sleep(random.below(limit_ns))
        }
        1 => Operation::Sleep(random.below(50_000)),
        2 => Operation::Yield(random.within(1..=5)),
        3..=5 => Operation::Call {
            port,
            later: random.below(2) == 0,
        },
        6 => Operation::Post {
            port,
            count: *random.pick(&[1, 1, 2, 5, 300]),
        },
        7 => Operation::WalkAway { port },
        8 | 9 => Operation::Hold {
            first: random.below(tokens as u64) as usize,
            second: random.below(tokens as u64) as usize,
            awaits: random.below(4),
        },
        10 => Operation::Section,
        11 => Operation::Signal(random.below(events as u64) as usize),
        12 => Operation::RunOn(cpu),
        13 if random.below(3) == 0 => Operation::Chain,
        13 => Operation::Pass {
            cpu,
            bytes: *random.pick(&[1, 16, 100, 300, 2_000, 12_000, 20_000, 100_000]),
            count: *random.pick(&[1, 1, 2, 40]),
        },
        14 => Operation::Relay { cpu, port },
        15 => Operation::Spawn {
            cpu,
            sleeps: random.below(2) == 0,
        },
        _ => Operation::Move(cpu),
    }
}

/// A request: the CPU that it was sent on, and its number among those of this CPU on this port.
struct Work {
    cpu: u16,
    number: u32,
    later: bool,
}

impl Work {
    fn new(ledger: &Ledger, port: usize, later: bool) -> Self {
        let cpu = current_cpu().0;
        let number = ledger.sends(cpu, port);
        Self { cpu, number, later }
    }

    /// What the reply must be.
    fn answer(&self) -> u64 {
        u64::from(self.cpu) << 32 | u64::from(self.number)
    }
}

impl Message for Work {
    type Reply = u64;
}

/// A message that nobody waits for.
struct Note {
    cpu: u16,
    number: u32,
}

impl Note {
    fn new(ledger: &Ledger, port: usize) -> Self {
        let cpu = current_cpu().0;
        let number = ledger.sends(cpu, port);
        Self { cpu, number }
    }
}

impl Message for Note {
    type Reply = ();
}

/// The server of a port.
struct Echo {
    port: usize,
    ledger: Arc<Ledger>,
}

enum Queued {
    Work(Pending<Work>),
    Note(Pending<Note>),
}

impl Server for Echo {
    type Work = Queued;
}

impl Serve<Work> for Echo {
    fn put(&self, message: Work) -> Put<Work> {
        if message.later {
            return Put::Later(message);
        }
        self.ledger.handles(message.cpu, self.port, message.number);
        Put::Done(message.answer())
    }

    fn queue(pending: Pending<Work>) -> Queued {
        Queued::Work(pending)
    }
}

impl Serve<Note> for Echo {
    fn put(&self, message: Note) -> Put<Note> {
        self.ledger.handles(message.cpu, self.port, message.number);
        Put::Done(())
    }

    fn queue(pending: Pending<Note>) -> Queued {
        Queued::Note(pending)
    }
}

/// The thread of a port: answers what could not be answered at once, some of it after a while.
async fn serve(port: Port<Echo>) {
    let mut served = 0_u64;
    loop {
        match port.receive().await {
            Queued::Work(pending) => {
                let Echo {
                    port: number,
                    ledger,
                } = port.server();
                ledger.handles(pending.message().cpu, *number, pending.message().number);
                served += 1;
                match served % 4 {
                    0 => yield_now().await,
                    1 => sleep_until(now_ns() + 20_000).await,
                    _ => {}
                }
                let answer = pending.message().answer();
                pending.reply(answer);
            }
            Queued::Note(pending) => {
                let Echo {
                    port: number,
                    ledger,
                } = port.server();
                ledger.handles(pending.message().cpu, *number, pending.message().number);
                pending.reply(());
            }
        }
    }
}

/// What all threads of a node share.
struct Shared {
    ledger: Arc<Ledger>,
    ports: Vec<PortRef<Echo>>,
    events: Vec<Event>,
    tokens: Vec<(Token, Guarded<u64>)>,
}

/// Starts a program; called on CPU 0.
pub fn start(node: &Arc<Node>, program: &Arc<Program>, ledger: &Arc<Ledger>) {
    let (program, ledger) = (program.clone(), ledger.clone());
    let cpus = node.cpu_count() as u16;
    executor::spawn("main", async move {
        let mut ports = Vec::new();
        for (number, cpu) in program.ports.iter().enumerate() {
            let ledger = ledger.clone();
            let open = move || async move {
                let port = Port::new(Echo {
                    port: number,
                    ledger,
                });
                let handle = port.handle();
                executor::spawn("server", serve(port)).detach();
                handle
            };
            ports.push(spawn_on(CpuId(*cpu), "open", open).await);
        }
        let token = |_| {
            let token = Token::new("shared");
            let guarded = Guarded::new(&token, 0);
            (token, guarded)
        };
        let shared = Arc::new(Shared {
            ledger,
            ports,
            events: program.events.iter().map(|_| Event::new()).collect(),
            tokens: (0..program.tokens).map(token).collect(),
        });
        for (event, cpu) in program.events.iter().enumerate() {
            let shared = shared.clone();
            spawn_on(CpuId(*cpu), "waiter", move || wait(shared, event)).detach();
        }
        for (number, plan) in program.threads.iter().enumerate() {
            let (shared, program) = (shared.clone(), program.clone());
            let builder =
                Builder::new("worker").priority(Priority::new(plan.priority).unwrap_or_default());
            shared.ledger.belongs(number, plan.cpu);
            shared.ledger.begins(number, 0, now_ns());
            let movable = plan.movable;
            let make = move || async move {
                if movable {
                    let body = move |mobile: Mobile| Watched {
                        number,
                        ledger: shared.ledger.clone(),
                        body: move_about(shared, program, number, mobile, cpus),
                    };
                    builder.spawn_movable(body).detach();
                } else {
                    let ledger = shared.ledger.clone();
                    let body = stay(shared, program, number, cpus);
                    builder
                        .spawn(Watched {
                            number,
                            ledger,
                            body,
                        })
                        .detach();
                }
            };
            spawn_on(CpuId(plan.cpu), "begin", make).await;
        }
    })
    .detach();
}

/// Waits for an event again and again, until the program is over.
async fn wait(shared: Arc<Shared>, event: usize) {
    while !shared.ledger.all_done() {
        let signalled = timeout(WAIT, shared.events[event].wait()).await.is_ok();
        shared.ledger.waited(event, now_ns(), signalled);
    }
}

/// A thread's future, whose every poll is noted.
struct Watched<F> {
    number: usize,
    ledger: Arc<Ledger>,
    body: F,
}

impl<F: Future> Future for Watched<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: `body` is never moved; the other fields are not pinned.
        let this = unsafe { self.get_unchecked_mut() };
        this.ledger.poll_begins(this.number, current_cpu().0);
        // SAFETY: pinned with the whole.
        let output = unsafe { Pin::new_unchecked(&mut this.body) }.poll(context);
        this.ledger.poll_ends(this.number, output.is_ready());
        output
    }
}

async fn stay(shared: Arc<Shared>, program: Arc<Program>, number: usize, cpus: u16) {
    // Not Send on purpose: whoever moves this thread by mistake breaks the language's promise, too.
    let home = Rc::new(current_cpu());
    for (at, operation) in program.threads[number].operations.iter().enumerate() {
        shared.ledger.begins(number, at, now_ns());
        match operation {
            Operation::Hold {
                first,
                second,
                awaits,
            } => hold(&shared, *first, *second, *awaits).await,
            Operation::Section => {
                let _section = critical::enter();
                yield_now().await;
                if !critical::is_open() {
                    shared
                        .ledger
                        .break_promise("a critical section is in force after an await", || {
                            format!("thread {number} is in none")
                        });
                }
            }
            other => common(&shared, number, other, cpus).await,
        }
        if *home != current_cpu() {
            shared
                .ledger
                .break_promise("a thread does not move by itself", || {
                    format!("thread {number} has moved")
                });
        }
    }
}

async fn move_about(
    shared: Arc<Shared>,
    program: Arc<Program>,
    number: usize,
    mobile: Mobile,
    cpus: u16,
) {
    for (at, operation) in program.threads[number].operations.iter().enumerate() {
        shared.ledger.begins(number, at, now_ns());
        match operation {
            Operation::Move(cpu) => {
                shared.ledger.belongs(number, *cpu);
                mobile.migrate_to(CpuId(*cpu)).await;
            }
            other => common(&shared, number, other, cpus).await,
        }
    }
}

async fn hold(shared: &Shared, first: usize, second: usize, awaits: u64) {
    let (one, other) = (&shared.tokens[first], &shared.tokens[second]);
    let add = |token: usize, value: &mut u64| {
        *value += 1;
        shared.ledger.adds(token, *value);
    };
    if first == second {
        let body = async |held: executor::Held<'_>| {
            for _ in 0..=awaits {
                held.with(&one.1, |value| add(first, value));
                yield_now().await;
            }
        };
        one.0.hold(body).await;
    } else {
        let body = async |held: executor::Held<'_>| {
            for round in 0..=awaits {
                held.with(&one.1, |value| add(first, value));
                if round % 2 == 0 {
                    yield_now().await;
                } else {
                    sleep_until(now_ns() + 10_000).await;
                }
                held.with(&other.1, |value| add(second, value));
            }
        };
        hold_all([&one.0, &other.0], body).await;
    }
}

/// What threads that move do as well as those that stay.
async fn common(shared: &Shared, number: usize, operation: &Operation, cpus: u16) {
    let ledger = &shared.ledger;
    match *operation {
        Operation::Sleep(ns) => {
            let deadline_ns = now_ns() + ns;
            ledger.sleeps(number, deadline_ns);
            sleep_until(deadline_ns).await;
            ledger.slept(number, deadline_ns, now_ns());
        }
        Operation::Yield(times) => {
            for _ in 0..times {
                yield_now().await;
            }
        }
        Operation::Call { port, later } => {
            let message = Work::new(ledger, port, later);
            let expected = message.answer();
            let reply = shared.ports[port].call(message).await;
            if reply != expected {
                ledger.break_promise("a caller gets its own reply", || {
                    format!("thread {number} gets {reply:#x} for {expected:#x}")
                });
            }
        }
        Operation::Post { port, count } => {
            for _ in 0..count {
                shared.ports[port].post(Note::new(ledger, port));
            }
        }
        Operation::Relay { cpu, port } => {
            let (handle, notes) = (shared.ports[port].clone(), ledger.clone());
            run_on(CpuId(cpu), move |_: &Cpu| {
                handle.post(Note::new(&notes, port))
            })
            .await;
        }
        Operation::WalkAway { port } => {
            let message = Work::new(ledger, port, true);
            let expected = message.answer();
            let call = pin!(shared.ports[port].call(message));
            let pause = pin!(sleep_until(now_ns() + 5_000));
            if let Either::Left((reply, _)) = select(call, pause).await
                && reply != expected
            {
                ledger.break_promise("a caller gets its own reply", || {
                    format!("thread {number} gets {reply:#x} for {expected:#x}")
                });
            }
        }
        Operation::Signal(event) => {
            ledger.signals(event, now_ns());
            shared.events[event].signal();
        }
        Operation::RunOn(cpu) => {
            let there = run_on(CpuId(cpu), |cpu: &Cpu| cpu.id()).await;
            if there != CpuId(cpu) {
                ledger.break_promise("a function runs where it was sent", || {
                    format!("{there}, not cpu{cpu}")
                });
            }
        }
        Operation::Chain => chain_over(ledger, cpus).await,
        Operation::Pass { cpu, bytes, count } => {
            let mark = number as u8;
            let mut pieces: Vec<Vec<u8>> = (0..count).map(|_| vec![mark; bytes]).collect();
            yield_now().await;
            let mut at = 0;
            pieces.retain(|_| {
                at += 1;
                at % 2 == 0
            });
            let whole = move |_: &Cpu| pieces.iter().flatten().all(|byte| *byte == mark);
            if !run_on(CpuId(cpu), whole).await {
                ledger.break_promise("memory has one owner", || {
                    format!("what thread {number} sent has changed")
                });
            }
        }
        Operation::Spawn { cpu, sleeps } => {
            let child = move || async move {
                if sleeps {
                    sleep_until(now_ns() + 30_000).await;
                } else {
                    yield_now().await;
                }
                current_cpu()
            };
            let there = spawn_on(CpuId(cpu), "child", child).await;
            if there != CpuId(cpu) {
                ledger.break_promise("a thread runs where it was spawned", || {
                    format!("{there}, not cpu{cpu}")
                });
            }
        }
        Operation::Hold { .. } | Operation::Section | Operation::Move(_) => {}
    }
}

/// Visits every CPU, in order.
async fn chain_over(ledger: &Arc<Ledger>, cpus: u16) {
    let visited = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let (seen, notes) = (visited.clone(), ledger.clone());
    chain(move |cpu: &Cpu| {
        let before = seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if before != u32::from(cpu.id().0) {
            notes.break_promise("a chain visits every CPU in order", || {
                format!("{} after {before} others", cpu.id())
            });
        }
    })
    .await;
    let count = visited.load(std::sync::atomic::Ordering::Relaxed);
    if count != u32::from(cpus) {
        ledger.break_promise("a chain visits every CPU in order", || {
            format!("{count} of {cpus}")
        });
    }
}
