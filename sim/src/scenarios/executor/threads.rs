//! How a program runs: its ports and their servers, its waiters, and its threads, one operation after the other.

use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use executor::{
    Builder, Cpu, CpuId, Event, Guarded, Held, Message, Mobile, Node, Pending, Port, PortRef,
    Priority, Put, Serve, Server, Token, chain, critical, current_cpu, hold_all, now_ns, run_on,
    sleep_until, spawn_on, timeout, yield_now,
};
use futures_util::future::{Either, select};

use super::desks::plan::DeskOperation;
use super::desks::{self, Desks};
use super::ledger::Ledger;
use super::messages;
use super::program::{Operation, Program};

/// How long a waiter waits before it looks whether the program is over.
const WAIT: Duration = Duration::from_millis(5);

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

/// A message that nobody waits for, and that overtakes the others. Its lane is behind those of all ports.
struct Urgent(Note);

impl Message for Urgent {
    type Reply = ();
    const PRIORITY: bool = true;
}

/// The server of a port.
struct Echo {
    port: usize,
    /// How many ports there are.
    ports: usize,
    ledger: Arc<Ledger>,
}

enum Queued {
    Urgent(Pending<Urgent>),
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

impl Serve<Urgent> for Echo {
    fn put(&self, Urgent(note): Urgent) -> Put<Urgent> {
        self.ledger
            .handles(note.cpu, self.ports + self.port, note.number);
        Put::Done(())
    }

    fn queue(pending: Pending<Urgent>) -> Queued {
        Queued::Urgent(pending)
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
                    ..
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
            Queued::Urgent(pending) => {
                let Echo {
                    port: number,
                    ports,
                    ledger,
                } = port.server();
                let Urgent(note) = pending.message();
                ledger.handles(note.cpu, ports + number, note.number);
                pending.reply(());
            }
            Queued::Note(pending) => {
                let Echo {
                    port: number,
                    ledger,
                    ..
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
    desks: Arc<Desks>,
}

/// Starts a program; called on CPU 0.
pub fn start(node: &Arc<Node>, program: &Arc<Program>, ledger: &Arc<Ledger>) {
    let (program, ledger) = (program.clone(), ledger.clone());
    let cpus = node.cpu_count() as u16;
    executor::spawn("main", async move {
        let (count, mut ports) = (program.ports.len(), Vec::new());
        for (number, cpu) in program.ports.iter().enumerate() {
            let ledger = ledger.clone();
            let open = move || async move {
                let port = Port::new(Echo {
                    port: number,
                    ports: count,
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
        let desks = desks::open(&program.offices, &ledger.register).await;
        let shared = Arc::new(Shared {
            ledger,
            desks,
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
            Operation::Desk(DeskOperation::Letters {
                desk,
                manner,
                count,
                set,
                leaves,
            }) => desks::letters(&shared.desks, *desk, *manner, *count, *set, *leaves).await,
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
        let body = async |held: Held<'_>| {
            for _ in 0..=awaits {
                held.with(&one.1, |value| add(first, value));
                yield_now().await;
            }
        };
        one.0.hold(body).await;
    } else {
        let body = async |held: Held<'_>| {
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
        Operation::Post {
            port,
            count,
            urgent,
        } => {
            for _ in 0..count {
                if urgent {
                    let lane = shared.ports.len() + port;
                    shared.ports[port].post(Urgent(Note::new(ledger, lane)));
                } else {
                    shared.ports[port].post(Note::new(ledger, port));
                }
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
        Operation::Tell {
            cpu,
            count,
            passive,
        } => messages::tell(ledger, cpu, count, passive),
        Operation::Settle { cpu, everybody } => {
            messages::settle(ledger, cpu, everybody, cpus).await;
        }
        Operation::Everywhere => messages::everywhere(ledger, cpus).await,
        Operation::HoldStill { others, quick } => {
            messages::hold_still(ledger, others, quick).await;
        }
        Operation::Desk(DeskOperation::Ask {
            desk,
            manner,
            then,
            polled,
            refusable,
        }) => desks::ask(&shared.desks, desk, manner, then, polled, refusable).await,
        Operation::Desk(DeskOperation::Hand {
            desk,
            manner,
            count,
            urgent,
            way,
        }) => desks::hand(&shared.desks, desk, manner, count, urgent, way).await,
        Operation::Hold { .. }
        | Operation::Section
        | Operation::Move(_)
        | Operation::Desk(DeskOperation::Letters { .. }) => {}
    }
}

/// Visits every CPU, in order.
async fn chain_over(ledger: &Arc<Ledger>, cpus: u16) {
    let visited = Arc::new(AtomicU32::new(0));
    let (seen, notes) = (visited.clone(), ledger.clone());
    chain(move |cpu: &Cpu| {
        let before = seen.fetch_add(1, Ordering::Relaxed);
        if before != u32::from(cpu.id().0) {
            notes.break_promise("a chain visits every CPU in order", || {
                format!("{} after {before} others", cpu.id())
            });
        }
    })
    .await;
    let count = visited.load(Ordering::Relaxed);
    if count != u32::from(cpus) {
        ledger.break_promise("a chain visits every CPU in order", || {
            format!("{count} of {cpus}")
        });
    }
}
