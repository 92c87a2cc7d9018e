//! The rows: what is measured, who takes part, and what is good enough.
//!
//! [`CASES`] is the table; `judge.rs` says how it is measured and judged.

use anyhow::Result;

use crate::measure::{Sample, Turns};
use crate::peers::{async_executor, embassy, glommio, monoio, tokio};
use crate::timers;
use crate::traffic::{calls_between_asleep, calls_between_awake, local_calls, spawns, yields};
use crate::{bare, memory, ours};

type TokioPlain = tokio::CurrentThread<false>;
type TokioTimed = tokio::CurrentThread<true>;

/// Runs so many turns and says how long one took.
pub type Measure = fn(u64) -> Result<Sample>;

/// What is good enough.
#[derive(Clone, Copy)]
pub enum Goal {
    /// At most so many times the best peer.
    OfBest(f64),
    /// At most so many times this subject.
    Of(f64, &'static str),
    /// At most so many nanoseconds above this subject.
    Above(f64, &'static str),
    /// Not to be told from this subject: its median would be no outlier among that one's samples.
    Within(&'static str),
}

/// Which side a subject is on.
#[derive(Clone, Copy)]
pub enum Role {
    /// Ours: how good it must be, whether it may allocate, and what is known of why if it is not that good.
    Ours {
        /// How good.
        goal: Goal,
        /// Each turn must do without the allocator.
        free: bool,
        /// The known reason.
        because: &'static str,
    },
    /// Another executor, lock or allocator.
    Peer,
    /// The hardware's or the host kernel's own cost.
    Limit,
}

/// Who takes part in a case.
pub struct Subject {
    /// Its name in the row.
    pub name: &'static str,
    /// Its side.
    pub role: Role,
    /// Takes a sample.
    pub measure: Measure,
}

/// One traffic, and all who run it in turns.
pub struct Case {
    /// What is measured.
    pub name: &'static str,
    /// The unit of its figures.
    pub unit: &'static str,
    /// Cores it needs for a meaningful answer.
    pub cores: usize,
    /// How many turns a sample has.
    pub turns: Turns,
    /// What a reader must know of it besides.
    pub note: &'static str,
    /// Ours first.
    pub subjects: &'static [Subject],
}

const fn ours(name: &'static str, measure: Measure, goal: Goal) -> Subject {
    Subject {
        name,
        role: Role::Ours {
            goal,
            free: false,
            because: "",
        },
        measure,
    }
}

const fn peer(name: &'static str, measure: Measure) -> Subject {
    Subject {
        name,
        role: Role::Peer,
        measure,
    }
}

const fn limit(name: &'static str, measure: Measure) -> Subject {
    Subject {
        name,
        role: Role::Limit,
        measure,
    }
}

impl Subject {
    const fn without_allocation(mut self) -> Self {
        if let Role::Ours { goal, because, .. } = self.role {
            self.role = Role::Ours {
                goal,
                free: true,
                because,
            };
        }
        self
    }

    /// Says why it may not be good enough.
    const fn because(mut self, because: &'static str) -> Self {
        if let Role::Ours { goal, free, .. } = self.role {
            self.role = Role::Ours {
                goal,
                free,
                because,
            };
        }
        self
    }
}

/// A case in nanoseconds a turn.
const fn case(name: &'static str, cores: usize, subjects: &'static [Subject]) -> Case {
    Case {
        name,
        unit: "ns",
        cores,
        turns: Turns::Fill,
        note: "",
        subjects,
    }
}

impl Case {
    /// A million, whatever they are.
    const fn a_million(mut self, rounds: u32) -> Self {
        self.turns = Turns::Exactly(1_000_000, rounds);
        self
    }

    const fn in_bytes(mut self) -> Self {
        self.unit = "B";
        self
    }

    const fn note(mut self, note: &'static str) -> Self {
        self.note = note;
        self
    }
}

/// How the peers of the executors' rows are configured.
pub const FAVOURS: [(&str, &str); 5] = [
    ("tokio", tokio::FAVOUR),
    ("glommio", glommio::FAVOUR),
    ("monoio", monoio::FAVOUR),
    ("async-executor", async_executor::FAVOUR),
    ("embassy", embassy::FAVOUR),
];

/// All rows.
pub const CASES: &[Case] = &[
    case(
        "yield with wake, 10 threads",
        1,
        &[
            ours("ours", yields::<ours::Ours>, Goal::OfBest(0.25)).because(
                "142 instructions, those of the thread's own future among \
                    them; what is left is the loop's looks at messages, interrupts and the watchdog, and the \
                    counting of polls",
            ),
            ours(
                "ours, accounting",
                ours::yields_accounted,
                Goal::OfBest(0.6),
            )
            .because(
                "a reading of the processor's counter for each poll is nearly all that it \
                    adds",
            ),
            peer("tokio", yields::<TokioPlain>),
            peer("tokio LocalSet", yields::<tokio::Local>),
            peer("glommio", yields::<glommio::Glommio>),
            peer("monoio", yields::<monoio::Monoio>),
            peer("async-executor", yields::<async_executor::AsyncExecutor>),
            peer("embassy", yields::<embassy::Embassy>),
            limit("bare list", bare::list),
            limit("one clock reading", bare::clock),
        ],
    )
    .note(
        "a bare list is a pop, an indirect call and a push, without a future or \
                    a waker",
    ),
    case(
        "spawn and join an empty thread",
        1,
        &[
            ours("ours", spawns::<ours::Ours>, Goal::OfBest(0.5)).because(
                "some 620 instructions, none of them locked. Two polls with the loop's looks around them are \
                    half of it, which is what two yields take; the rest is the allocation and its counters, and a \
                    header of 144 bytes that is written, listed, queued and taken off again",
            ),
            peer("tokio", spawns::<TokioPlain>),
            peer("tokio LocalSet", spawns::<tokio::Local>),
            peer("glommio", spawns::<glommio::Glommio>),
            peer("monoio", spawns::<monoio::Monoio>),
            peer("async-executor", spawns::<async_executor::AsyncExecutor>),
            peer("embassy", embassy::spawns),
        ],
    )
    .note(
        "ours allocates a thread from its CPU's heap, as in a kernel, all but embassy \
                    from the host's allocator; embassy allocates nothing, and keeps its thread's memory",
    ),
    case(
        "request and reply on one CPU",
        1,
        &[
            ours(
                "ours, inline",
                ours::inline_calls,
                Goal::Of(0.01, "tokio LocalSet"),
            )
            .without_allocation(),
            ours(
                "ours, queued",
                ours::queued_calls,
                Goal::Of(0.3, "tokio LocalSet"),
            )
            .because(
                "two threads are woken and polled, a message is queued and taken, and one allocation \
                    made and freed; two locked operations, in which the ends of the call meet, since \
                    either may be on another CPU",
            ),
            peer(
                "tokio LocalSet",
                local_calls::<tokio::Local, tokio::Channels>,
            ),
            peer(
                "glommio",
                local_calls::<glommio::Glommio, glommio::LocalChannels>,
            ),
            peer(
                "monoio",
                local_calls::<monoio::Monoio, monoio::LocalChannels>,
            ),
            peer(
                "async-executor",
                local_calls::<async_executor::AsyncExecutor, async_executor::Channels>,
            ),
            peer(
                "embassy",
                local_calls::<embassy::Embassy, embassy::LocalChannels>,
            ),
        ],
    )
    .note(
        "inline: the server is idle, and answers within the call; queued: it \
                    says Later, and its thread answers",
    ),
    case(
        "request and reply across CPUs, both awake",
        2,
        &[
            ours(
                "ours",
                ours::calls_between_awake,
                Goal::Of(4.0, "cache line there and back"),
            ),
            peer("tokio", calls_between_awake::<TokioPlain, tokio::Channels>),
            peer(
                "glommio",
                calls_between_awake::<glommio::Glommio, glommio::SharedChannels>,
            ),
            peer(
                "async-executor",
                calls_between_awake::<async_executor::AsyncExecutor, async_executor::Channels>,
            ),
            peer(
                "embassy",
                calls_between_awake::<embassy::Embassy, embassy::SharedChannels>,
            ),
            limit("cache line there and back", bare::cache_line),
        ],
    ),
    case(
        "request and reply across CPUs, both asleep",
        2,
        &[
            ours(
                "ours",
                ours::calls_between_asleep,
                Goal::Of(1.2, "futex there and back"),
            ),
            peer("tokio", calls_between_asleep::<TokioPlain, tokio::Channels>),
            peer(
                "glommio",
                calls_between_asleep::<glommio::Glommio, glommio::SharedChannels>,
            ),
            peer(
                "monoio",
                calls_between_asleep::<monoio::Monoio, tokio::Channels>,
            ),
            peer(
                "async-executor",
                calls_between_asleep::<async_executor::AsyncExecutor, async_executor::Channels>,
            ),
            peer(
                "embassy",
                calls_between_asleep::<embassy::Embassy, embassy::SharedChannels>,
            ),
            limit("futex there and back", bare::futex),
            limit("eventfd there and back", bare::eventfd),
        ],
    )
    .note("each turn wakes a sleeping CPU twice"),
    case(
        "section of a token, uncontended",
        1,
        &[
            ours("ours", ours::tokens, Goal::Of(0.6, "parking_lot")).because(
                "one exchange, which no token does without, is half of what parking_lot takes. The rest is 63 \
                    instructions, of which the loop's and the future's state in memory, the looks at who runs here \
                    and the borrow's mark are most; without the mark and the count it takes a tenth of a \
                    nanosecond less",
            ),
            peer("parking_lot", bare::parking_lot),
            limit("one exchange", bare::exchange),
        ],
    ),
    case(
        "section of a token, contended by two CPUs",
        2,
        &[
            ours("ours", ours::tokens_contended, Goal::Of(1.0, "parking_lot")),
            peer("parking_lot", bare::parking_lot_contended),
            limit("one exchange", bare::exchange_contended),
        ],
    ),
    timer_case(
        "insert one of a million timers",
        &[
            ours("ours", timers::insert::<ours::Ours>, Goal::Of(0.5, "tokio")),
            peer("tokio", timers::insert::<TokioTimed>),
        ],
    ),
    timer_case(
        "cancel one of a million timers",
        &[
            ours("ours", timers::cancel::<ours::Ours>, Goal::Of(0.5, "tokio")),
            peer("tokio", timers::cancel::<TokioTimed>),
        ],
    ),
    timer_case(
        "replace one of a million timers",
        &[
            // Beside the row above: no worse, with what cancelling puts off.
            ours("ours", timers::replace::<ours::Ours>, Goal::Of(1.0, "tokio")).because(
                "when two of three records have no timer any more, each is looked up among the rooms of a million",
            ),
            peer("tokio", timers::replace::<TokioTimed>),
        ],
    ),
    timer_case(
        "fire one of a million timers",
        &[
            ours("ours", timers::fire::<ours::Ours>, Goal::Of(0.5, "tokio")),
            peer("tokio", timers::fire::<TokioTimed>),
        ],
    ),
    case(
        "allocate and free 64 bytes",
        1,
        &[
            ours("ours", memory::ours_local, Goal::Of(1.1, "mimalloc")),
            peer("mimalloc", memory::mimalloc_local),
            peer("jemalloc", memory::jemalloc_local),
            peer("glibc", memory::glibc_local),
        ],
    )
    .note(
        "called as each one's global allocator is called: ours finds its CPU \
                    and opens a critical section",
    ),
    case(
        "allocate 64 bytes, freed by another CPU",
        2,
        &[
            ours("ours", memory::ours_remote, Goal::OfBest(1.0)),
            peer("mimalloc", memory::mimalloc_remote),
            peer("jemalloc", memory::jemalloc_remote),
            peer("glibc", memory::glibc_remote),
        ],
    )
    .note("processor time of both sides; 1024 objects are handed over at a time"),
    case(
        "bytes of an idle thread, of a million",
        1,
        &[
            ours("ours", memory::ours_idle, Goal::Of(1.2, "tokio LocalSet")),
            peer("tokio", memory::idle::<TokioPlain>),
            peer("tokio LocalSet", memory::idle::<tokio::Local>),
            peer("glommio", memory::idle::<glommio::Glommio>),
            peer("monoio", memory::idle::<monoio::Monoio>),
            peer(
                "async-executor",
                memory::idle::<async_executor::AsyncExecutor>,
            ),
            peer("embassy", embassy::idle_bytes),
        ],
    )
    .a_million(3)
    .in_bytes()
    .note(
        "everything allocated until the thread waits. Ours, from the kernel's \
                    slabs with their zones' share: name, spawn site, priority, number, \
                    owner, run time and polls, all-threads list, run queue, wake mark, \
                    join state, reference count, future. A peer's, from the host's \
                    allocator with its header: header and future, and its place in the \
                    list of tasks; no name, no accounting.",
    ),
    case(
        "one trace event",
        1,
        &[
            ours(
                "ours, on",
                ours::events,
                Goal::Above(2.0, "one clock reading"),
            )
            .because(
                "70 instructions: a call through the platform's table, six stores between two of a \
                    critical section, in a function of its own",
            ),
            limit("one clock reading", bare::clock),
        ],
    ),
    case(
        "a trace event that is off, in each poll",
        1,
        &[
            ours(
                "ours, one more",
                ours::yields_with_event_off::<true>,
                Goal::Within("yield without it"),
            ),
            limit("yield without it", ours::yields_with_event_off::<false>),
        ],
    )
    .note(
        "events cannot be compiled out, so one more is compiled in; \
         the goal is to be no outlier among the samples without it",
    ),
];

const fn timer_case(name: &'static str, subjects: &'static [Subject]) -> Case {
    case(name, 1, subjects).a_million(10)
}
