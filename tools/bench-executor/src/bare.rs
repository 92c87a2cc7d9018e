//! The limits: what the hardware and the host's kernel cost with nothing on top.

use std::cell::Cell;
use std::hint::{black_box, spin_loop};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;

use crate::host::{self, pin};
use crate::measure::{Sample, Stopwatch};
use crate::traffic::YIELDERS;

/// One turn: a cache line goes to the other core and comes back.
pub fn cache_line(turns: u64) -> Result<Sample> {
    let wait = |word: &AtomicU32, value| while word.load(Ordering::Acquire) != value {};
    ping_pong(turns, wait, |word, value| {
        word.store(value, Ordering::Release);
    })
}

/// One turn: a futex wakes a sleeper on the other core, which wakes us.
pub fn futex(turns: u64) -> Result<Sample> {
    ping_pong(turns, futex_wait, |word, value| {
        word.store(value, Ordering::Release);
        // SAFETY: the word is alive; a wake touches no memory.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
                1,
            )
        };
    })
}

fn futex_wait(word: &AtomicU32, value: u32) {
    loop {
        let now = word.load(Ordering::Acquire);
        if now == value {
            return;
        }
        // SAFETY: the word is alive; the host compares it and sleeps, or returns at once.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
                now,
                ptr::null::<libc::timespec>(),
            )
        };
    }
}

/// One turn: a write to an eventfd wakes a reader on the other core, which wakes us.
pub fn eventfd(turns: u64) -> Result<Sample> {
    /// The word holds the descriptor; what is read and written is a count, whose value nobody needs.
    fn descriptor(word: &AtomicU32) -> i32 {
        word.load(Ordering::Relaxed).cast_signed()
    }
    // SAFETY: the calls make descriptors, or fail with -1, on which reads and writes fail at once.
    let pair = [(); 2].map(|()| unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) });
    let good = pair.iter().all(|descriptor| *descriptor >= 0);
    let sample = if good {
        ping_pong_on(
            pair.map(i32::cast_unsigned),
            turns,
            |word, _| {
                let mut count = 0u64;
                // SAFETY: the call writes the count's eight bytes.
                unsafe { libc::read(descriptor(word), (&raw mut count).cast(), 8) };
            },
            |word, _| {
                let count = 1u64;
                // SAFETY: the call reads the count's eight bytes.
                unsafe { libc::write(descriptor(word), (&raw const count).cast(), 8) };
            },
        )
    } else {
        Err(std::io::Error::last_os_error().into())
    };
    for descriptor in pair {
        // SAFETY: opened above, and both threads have ended.
        unsafe { libc::close(descriptor) };
    }
    sample
}

/// A word on a cache line of its own.
#[repr(align(128))]
struct Line(AtomicU32);

fn ping_pong(turns: u64, wait: fn(&AtomicU32, u32), set: fn(&AtomicU32, u32)) -> Result<Sample> {
    ping_pong_on([0, 0], turns, wait, set)
}

/// Two threads on cores 0 and 1: each waits for its word, then sets the other's.
fn ping_pong_on(
    start: [u32; 2],
    turns: u64,
    wait: fn(&AtomicU32, u32),
    set: fn(&AtomicU32, u32),
) -> Result<Sample> {
    let lines = Arc::new(start.map(|word| Line(AtomicU32::new(word))));
    let there = lines.clone();
    let turns = turns.min(u64::from(u32::MAX - 1)) as u32;
    let answerer = thread::spawn(move || -> Result<()> {
        let pinned = pin(1);
        for turn in 1..=turns + 1 {
            wait(&there[0].0, turn);
            set(&there[1].0, turn);
        }
        pinned
    });
    let pinned = pin(0);
    let mut watch = Stopwatch::wall();
    for turn in 1..=turns + 1 {
        set(&lines[0].0, turn);
        wait(&lines[1].0, turn);
        if turn == 1 {
            watch = Stopwatch::wall();
        }
    }
    let sample = watch.stop(u64::from(turns));
    answerer.join().expect("it does not panic")?;
    pinned.map(|()| sample)
}

/// One turn: one reading of the clock that the executor's hosted platform reads.
pub fn clock(turns: u64) -> Result<Sample> {
    pin(0)?;
    let start = std::time::Instant::now();
    let watch = Stopwatch::one_thread();
    for _ in 0..turns {
        black_box(start.elapsed().as_nanos() as u64);
    }
    Ok(watch.stop(turns))
}

/// A thread, stripped of everything but its place in a queue and a function to call.
struct Node {
    next: Cell<*const Node>,
    poll: Cell<fn(&Node)>,
    polls: Cell<u64>,
}

/// One turn: a node is taken from the head of an intrusive list, called, and put back at its tail.
pub fn list(turns: u64) -> Result<Sample> {
    fn poll(node: &Node) {
        node.polls.set(node.polls.get() + 1);
    }
    pin(0)?;
    let nodes: Vec<Box<Node>> = (0..YIELDERS)
        .map(|_| {
            Box::new(Node {
                next: Cell::new(ptr::null()),
                poll: Cell::new(black_box(poll)),
                polls: Cell::new(0),
            })
        })
        .collect();
    for pair in nodes.windows(2) {
        pair[0].next.set(&raw const *pair[1]);
    }
    let mut head: &Node = &nodes[0];
    let mut tail: &Node = &nodes[nodes.len() - 1];
    let watch = Stopwatch::one_thread();
    for _ in 0..turns {
        let node = head;
        tail.next.set(node);
        tail = node;
        // SAFETY: the nodes are all alive, and all in the ring.
        head = unsafe { &*node.next.get() };
        (node.poll.get())(node);
    }
    Ok(watch.stop(turns))
}

/// One turn: the next of `count` things is visited, in the order of their addresses: of its `SIZE` cache lines the last
/// `TOUCHED` are loaded and stored. What an operation among so many things costs if it does nothing else.
pub fn walk_of<const SIZE: usize, const TOUCHED: usize>(count: u64, turns: u64) -> Result<Sample> {
    #[derive(Clone)]
    #[repr(align(64))]
    struct Line(u64);
    pin(0)?;
    // Not zero: memory that was only ever read as zero is one page, which is in every cache.
    let mut lines = vec![Line(1); count as usize * SIZE];
    let rounds = turns.div_ceil(count);
    let watch = Stopwatch::one_thread();
    for _ in 0..rounds {
        for thing in black_box(&mut lines).chunks_exact_mut(SIZE) {
            for line in &mut thing[SIZE - TOUCHED..] {
                line.0 = line.0.wrapping_add(1);
            }
        }
    }
    Ok(watch.stop(rounds * count))
}

/// What a section guards: one word, and the word that guards it.
#[derive(Default)]
#[repr(align(128))]
struct Guarded {
    taken: AtomicBool,
    word: AtomicU32,
}

impl Guarded {
    fn section(&self) {
        while self
            .taken
            .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
            .is_err()
        {
            spin_loop();
        }
        let word = self.word.load(Ordering::Relaxed);
        self.word.store(word.wrapping_add(1), Ordering::Relaxed);
        self.taken.store(false, Ordering::Release);
    }
}

/// One turn: one exchange of a word, what it guards, and its release.
pub fn exchange(turns: u64) -> Result<Sample> {
    pin(0)?;
    let guarded = black_box(Guarded::default());
    let watch = Stopwatch::one_thread();
    for _ in 0..turns {
        guarded.section();
    }
    Ok(watch.stop(turns))
}

/// One turn: a section of a [`parking_lot`] mutex.
pub fn parking_lot(turns: u64) -> Result<Sample> {
    pin(0)?;
    let mutex = black_box(parking_lot::Mutex::new(0u32));
    let watch = Stopwatch::one_thread();
    for _ in 0..turns {
        let mut word = mutex.lock();
        *word = word.wrapping_add(1);
    }
    Ok(watch.stop(turns))
}

/// [`parking_lot`], wanted by two cores.
pub fn parking_lot_contended(turns: u64) -> Result<Sample> {
    let mutex = parking_lot::Mutex::new(0u32);
    both_cores(turns, || {
        let mut word = mutex.lock();
        *word = word.wrapping_add(1);
    })
}

/// [`exchange`], wanted by two cores.
pub fn exchange_contended(turns: u64) -> Result<Sample> {
    let guarded = Guarded::default();
    both_cores(turns, || guarded.section())
}

/// Runs half of the turns on each of two cores, from one moment on until both are done.
fn both_cores(turns: u64, section: impl Fn() + Sync) -> Result<Sample> {
    let each = turns.div_ceil(2);
    let start = StartLine::default();
    let half = |core| -> Result<Span> {
        pin(core)?;
        start.wait();
        let begin = host::wall_time();
        for _ in 0..each {
            section();
        }
        Ok((begin, host::wall_time()))
    };
    thread::scope(|scope| {
        let other = scope.spawn(|| half(1));
        let here = half(0);
        let other = other.join().expect("it does not panic")?;
        here.map(|here| over_both([here, other], 2 * each))
    })
}

/// When a core began and ended its half.
pub type Span = (Duration, Duration);

/// A turn's share of the time from the first begin to the last end.
pub fn over_both([one, other]: [Span; 2], turns: u64) -> Sample {
    let whole = one.1.max(other.1) - one.0.min(other.0);
    Sample::from(whole.as_nanos() as f64 / turns as f64)
}

/// Where two threads wait for one another.
#[derive(Default)]
pub struct StartLine(AtomicU32);

impl StartLine {
    /// Returns when two have come.
    pub fn wait(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
        while self.0.load(Ordering::Acquire) < 2 {
            spin_loop();
        }
    }
}
