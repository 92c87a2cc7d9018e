//! A trace record: 16 bytes that say what happened on one CPU at one moment.
//!
//! [`Record`] is what the rings hold, what the stream carries (see [`super::stream`]) and what the
//! host's converter reads; [`Event`] is what happened, [`Class`] and [`ClassMask`] are how events
//! are switched on and off together. This file is the one place that says what the fields of each
//! event mean: the kernel and the host tools compile the very same enum.
//!
//! Decision: two plain words and no string or pointer. A record is stored with two moves on the
//! hot path, can be read out of the memory of a kernel that has crashed, and names are sent beside
//! the records once each. The alternative, a typed enum with payloads, would be larger and would
//! give the rings a layout that only the compiler knows.
//! Source: the shape follows DragonFly's KTR (`sys/kern/kern_ktr.c`) and embassy's trace hooks.
#![forbid(unsafe_code)]

use core::fmt;

/// Set in the small argument of [`Event::ThreadSpawn`] when a stream that begins late names the
/// threads which are alive already.
pub const ANNOUNCED: u8 = 0x80;

/// How many bytes a record takes in a ring and in memory.
pub const RECORD_LEN: usize = 16;

/// One event of one CPU: the time and a packed word.
///
/// The word holds, from the low bit: 8 bits event, 8 bits small argument, 16 bits thread,
/// 32 bits argument. Having a `Record` tells you nothing about its event byte: it may come from a
/// damaged dump, which is why [`Record::event`] returns an `Option`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Record {
    /// Nanoseconds since boot.
    pub time_ns: u64,
    /// Event, small argument, thread and argument, packed as said above.
    pub word: u64,
}

impl Record {
    /// Packs a record. `thread` is the low 16 bits of a thread's id, 0 when no thread is meant.
    #[inline]
    pub const fn new(time_ns: u64, event: Event, small: u8, thread: u16, arg: u32) -> Self {
        Self::from_parts(time_ns, event as u8, small, thread, arg)
    }

    /// Packs a record whose event code may be unknown to this build.
    #[inline]
    pub const fn from_parts(time_ns: u64, code: u8, small: u8, thread: u16, arg: u32) -> Self {
        let word = code as u64 | (small as u64) << 8 | (thread as u64) << 16 | (arg as u64) << 32;
        Self { time_ns, word }
    }

    /// The event, or `None` when the code is one this build does not know.
    #[inline]
    pub const fn event(self) -> Option<Event> {
        Event::from_code(self.event_code())
    }

    /// The event's code as recorded.
    #[inline]
    pub const fn event_code(self) -> u8 {
        self.word as u8
    }

    /// The small argument: a CPU, a priority, a reason; see [`Event`].
    #[inline]
    pub const fn small(self) -> u8 {
        (self.word >> 8) as u8
    }

    /// The low 16 bits of the thread's id; 0 when none is meant.
    #[inline]
    pub const fn thread(self) -> u16 {
        (self.word >> 16) as u16
    }

    /// The argument; see [`Event`].
    #[inline]
    pub const fn arg(self) -> u32 {
        (self.word >> 32) as u32
    }

    /// The record as it stands in a raw dump: two little-endian words.
    pub const fn to_bytes(self) -> [u8; RECORD_LEN] {
        (self.time_ns as u128 | (self.word as u128) << 64).to_le_bytes()
    }

    /// Reads a record from a raw dump.
    pub const fn from_bytes(bytes: [u8; RECORD_LEN]) -> Self {
        let both = u128::from_le_bytes(bytes);
        Self {
            time_ns: both as u64,
            word: (both >> 64) as u64,
        }
    }
}

/// Declares [`Event`] with its code, class and display name in one table, so that none of them
/// can be forgotten when an event is added.
macro_rules! events {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $class:ident, $name:literal;)*) => {
        /// What happened.
        ///
        /// "small", "thread" and "arg" below are the record's fields. A thread id is scoped by the
        /// CPU that wrote the record: two CPUs may use one id for two threads.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum Event { $($(#[$doc])* $variant = $code,)* }

        impl Event {
            /// Every event, in the order of the codes.
            pub const ALL: &'static [Event] = &[$(Event::$variant,)*];

            /// The event with this code.
            #[inline]
            pub const fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Event::$variant),)* _ => None }
            }

            /// The class that switches this event on and off.
            #[inline]
            pub const fn class(self) -> Class {
                match self { $(Event::$variant => Class::$class,)* }
            }

            /// The name shown to people, at most 14 characters.
            pub const fn name(self) -> &'static str {
                match self { $(Event::$variant => $name,)* }
            }
        }
    };
}

events! {
    /// A thread was made on this CPU. small = priority, thread = the new one, arg = name id.
    /// With [`ANNOUNCED`] in small the thread was there already, and only its name is told.
    ThreadSpawn = 1, Sched, "spawn";
    /// A poll of `thread` begins. small = length of the run queue, clipped at 255.
    RunBegin = 2, Sched, "run";
    /// The poll ends. small = [`EndReason`].
    RunEnd = 3, Sched, "run end";
    /// `thread` is gone; its id may be given to another.
    ThreadExit = 4, Sched, "exit";
    /// `thread` became runnable; written by the CPU that owns it. small = CPU of the waker,
    /// arg = thread id of the waker there (0 = an interrupt or a timer).
    Wake = 5, Wake, "wake";
    /// This CPU is about to halt.
    IdleBegin = 6, Sched, "idle";
    /// This CPU runs again.
    IdleEnd = 7, Sched, "idle end";
    /// An IPI message was put into a ring and the doorbell rung. small = target, arg = low 32 bits
    /// of the sequence number of this (sender, target) ring.
    IpiSend = 8, Ipi, "ipi send";
    /// An IPI message was put into a ring and no doorbell was needed. Fields as in `IpiSend`;
    /// every message gives exactly one of the two.
    IpiDoorbellSaved = 9, Ipi, "ipi send quiet";
    /// An IPI message was taken out of a ring. small = sender, arg = its sequence number.
    IpiReceive = 10, Ipi, "ipi receive";
    /// A call was answered inside `call`: no queue, no wake. arg = message id.
    PortInline = 11, Port, "port inline";
    /// A call was queued. small = the server's CPU, thread = caller, arg = message id.
    PortQueue = 12, Port, "port queue";
    /// A queued call was answered. thread = server, arg = message id.
    PortReply = 13, Port, "port reply";
    /// `thread` found the token held by another CPU. arg = token id.
    TokenContended = 14, Token, "token wait";
    /// `thread` holds the token now. small = 1: shares it. arg = token id.
    TokenTaken = 15, Token, "token taken";
    /// `thread` gave the token back. small = 1: shared it. arg = token id.
    TokenReleased = 16, Token, "token released";
    /// The handler of an interrupt begins. small = line.
    InterruptBegin = 17, Irq, "irq";
    /// The handler ends.
    InterruptEnd = 18, Irq, "irq end";
    /// The one-shot timer was set. arg = microseconds until it fires.
    TimerArm = 19, Timer, "timer arm";
    /// The timer fired. arg = microseconds after the deadline.
    TimerFire = 20, Timer, "timer fire";
    /// A slab took pages. small = size class.
    SlabRefill = 21, Memory, "slab refill";
    /// The owner took back what other CPUs had freed. arg = number of objects.
    SlabRemoteDrain = 22, Memory, "slab drain";
    /// A value that the traced code chose to show. arg = the value.
    Mark = 23, User, "mark";
    /// A poll ran too long and the watchdog saw it. arg = milliseconds so far.
    WatchdogOverrun = 24, Sched, "watchdog";
    /// `thread` leaves for another CPU. small = target.
    Migrate = 25, Sched, "migrate";
    /// A server took a queued call. thread = server, arg = message id.
    PortDequeue = 26, Port, "port dequeue";
}

/// Why a poll ended: the small argument of [`Event::RunEnd`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum EndReason {
    /// The thread waits for a wake.
    Waits = 0,
    /// The thread is runnable again already: it yielded, or was woken during its poll.
    Runnable = 1,
    /// The thread has finished.
    Exited = 2,
    /// The thread moves to another CPU.
    Migrates = 3,
}

impl EndReason {
    /// The reason with this code.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Waits),
            1 => Some(Self::Runnable),
            2 => Some(Self::Exited),
            3 => Some(Self::Migrates),
            _ => None,
        }
    }

    /// The word shown to people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waits => "waits",
            Self::Runnable => "runnable",
            Self::Exited => "exited",
            Self::Migrates => "migrates",
        }
    }
}

/// A group of events that is switched on and off together.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u32)]
pub enum Class {
    /// Threads, polls, idle time, migration, the watchdog.
    Sched = 1,
    /// Wakes.
    Wake = 2,
    /// IPI messages and doorbells.
    Ipi = 4,
    /// Message ports.
    Port = 8,
    /// Serializing tokens.
    Token = 16,
    /// Hardware interrupts.
    Irq = 32,
    /// The one-shot timer.
    Timer = 64,
    /// The allocator.
    Memory = 128,
    /// Marks of the traced code.
    User = 256,
}

impl Class {
    /// Every class, in the order of the bits.
    pub const ALL: [Class; 9] = [
        Class::Sched,
        Class::Wake,
        Class::Ipi,
        Class::Port,
        Class::Token,
        Class::Irq,
        Class::Timer,
        Class::Memory,
        Class::User,
    ];

    /// The word that names the class on a command line.
    pub const fn name(self) -> &'static str {
        match self {
            Class::Sched => "sched",
            Class::Wake => "wake",
            Class::Ipi => "ipi",
            Class::Port => "port",
            Class::Token => "token",
            Class::Irq => "irq",
            Class::Timer => "timer",
            Class::Memory => "memory",
            Class::User => "user",
        }
    }
}

/// A set of classes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClassMask(pub u32);

impl ClassMask {
    /// No class: the trace is off.
    pub const NONE: Self = Self(0);
    /// Every class.
    pub const ALL: Self = Self(0x1ff);

    /// Whether `class` is in the set.
    #[inline]
    pub const fn contains(self, class: Class) -> bool {
        self.0 & class as u32 != 0
    }

    /// This set and `class`.
    #[must_use = "a mask is a value: use the one that is returned"]
    pub const fn with(self, class: Class) -> Self {
        Self(self.0 | class as u32)
    }

    /// Reads `all`, `on`, `none`, `off` or class names joined by commas; `None` when a word is
    /// not a class.
    ///
    /// A name with `-` before it takes that class out again: `all,-memory`.
    pub fn parse(words: &str) -> Option<Self> {
        let mut mask = Self::NONE;
        for word in words.split(',') {
            mask = match word.trim() {
                "all" | "on" => Self::ALL,
                "none" | "off" => Self::NONE,
                word => {
                    let (take_out, name) = match word.strip_prefix('-') {
                        Some(name) => (true, name),
                        None => (false, word),
                    };
                    let class = Class::ALL.into_iter().find(|class| class.name() == name)?;
                    let bit = class as u32;
                    Self(if take_out {
                        mask.0 & !bit
                    } else {
                        mask.0 | bit
                    })
                }
            };
        }
        Some(mask)
    }
}

impl fmt::Display for ClassMask {
    /// Writes what [`ClassMask::parse`] reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::ALL {
            return f.write_str("all");
        }
        let mut separator = "";
        for class in Class::ALL.into_iter().filter(|class| self.contains(*class)) {
            write!(f, "{separator}{}", class.name())?;
            separator = ",";
        }
        if separator.is_empty() {
            f.write_str("none")
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_survive_packing() {
        let record = Record::new(u64::MAX - 1, Event::Wake, 0xab, 0xcdef, 0xdead_beef);
        assert_eq!(record.event(), Some(Event::Wake));
        assert_eq!(
            (record.small(), record.thread(), record.arg()),
            (0xab, 0xcdef, 0xdead_beef)
        );
        assert_eq!(Record::from_bytes(record.to_bytes()), record);
        assert_eq!(record.to_bytes()[8..12], [5, 0xab, 0xef, 0xcd]);
    }

    #[test]
    fn codes_are_the_documented_ones_and_unknown_codes_are_no_event() {
        for (index, event) in Event::ALL.iter().enumerate() {
            assert_eq!(*event as usize, index + 1);
            assert_eq!(Event::from_code(*event as u8), Some(*event));
            assert!(event.name().len() <= 14, "{}", event.name());
        }
        assert_eq!(Event::ALL.len(), 26);
        assert_eq!(Event::from_code(0), None);
        assert_eq!(Event::from_code(27), None);
    }

    #[test]
    fn masks_are_read_as_they_are_written() {
        for (words, bits) in [
            ("all", 0x1ff),
            ("on", 0x1ff),
            ("off", 0),
            ("sched,wake", 3),
            ("all,-memory", 0x17f),
            ("user", 256),
        ] {
            assert_eq!(ClassMask::parse(words), Some(ClassMask(bits)), "{words}");
        }
        assert_eq!(ClassMask::parse("sched,bogus"), None);
        assert_eq!(ClassMask::parse(""), None);
        struct Buffer([u8; 64], usize);
        impl fmt::Write for Buffer {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.0[self.1..self.1 + text.len()].copy_from_slice(text.as_bytes());
                self.1 += text.len();
                Ok(())
            }
        }
        for bits in 0..=0x1ff {
            let mut buffer = Buffer([0; 64], 0);
            fmt::Write::write_fmt(&mut buffer, format_args!("{}", ClassMask(bits))).unwrap();
            let text = core::str::from_utf8(&buffer.0[..buffer.1]).unwrap();
            assert_eq!(ClassMask::parse(text), Some(ClassMask(bits)), "{text}");
        }
    }
}
