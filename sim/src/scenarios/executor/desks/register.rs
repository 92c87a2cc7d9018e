//! What happened to each paper, and what must be true of it.
//!
//! Written by senders and readers in the same step as the thing itself, so that the register is exact: one step is atomic
//! for everybody else. Where a reader of another CPU takes part, the owner gives a message away before anybody here sees it;
//! what cannot be known for that reason is not asked of such a desk (`exact`, `ordered`).
//!
//! As in the ledger, everything has its place before the node is switched on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::ledger::{BOUND_NS, Verdict};
use super::ABORTED;
use super::notes::{Caller, Desk, Paper, Wait};
use super::plan::{OfficePlan, Stage};

const ONE_FATE: &str = "a message is linked once, received once and replied to once";
const ORDER: &str = "messages are received in order per sender and class of priority";
const PRIORITY: &str = "what has priority is received first";
const NO_PASSING: &str = "what is answered at once overtakes nothing";
const BOUND: &str = "a bounded port refuses what it has no room for, and nothing else";
const IN_TURN: &str = "who waits for room goes on when there is some, and not before";
const TURNS: &str = "readers of a port are served in turn";
const TOLD: &str = "a server is told of an abort that was asked for, and of no other";
const OWN_REPLY: &str = "a caller gets its own reply, once";
const NOTHING_LOST: &str = "every message has one reply, and its caller hears it";

struct Book {
    desks: Vec<Desk>,
    papers: Vec<Paper>,
}

/// The papers and desks of one node.
pub struct Register {
    book: Mutex<Book>,
    verdict: Arc<Verdict>,
}

impl Register {
    /// Room for `papers` papers.
    pub fn new(offices: &[OfficePlan], papers: usize, cpus: usize, verdict: &Arc<Verdict>) -> Self {
        let desks = offices.iter().flat_map(|office| {
            let desk = move |plan| Desk::new(office, plan, cpus);
            office.desks.iter().map(desk)
        });
        Self {
            book: Mutex::new(Book {
                desks: desks.collect(),
                papers: Vec::with_capacity(papers),
            }),
            verdict: verdict.clone(),
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves a paper on.
    fn moves(&self, book: &mut Book, paper: u32, from: &[Stage], to: Stage) {
        let stage = &mut book.papers[paper as usize].stage;
        let before = std::mem::replace(stage, to);
        if !from.contains(&before) {
            self.verdict.broken_is(ONE_FATE, || {
                format!("message {paper} becomes {to:?} and was {before:?}")
            });
        }
    }

    /// Looks after the order in which a sender's messages come to the desk, linked or answered at once.
    fn arrives(&self, book: &mut Book, paper: u32) {
        let Paper {
            cpu,
            number,
            desk,
            urgent,
            ..
        } = book.papers[paper as usize];
        let arrived = &mut book.desks[desk].lanes[2 * usize::from(cpu) + usize::from(urgent)].1;
        *arrived += 1;
        if *arrived != number {
            let arrived = *arrived;
            self.verdict.broken_is(ORDER, || {
                format!("message {number} of cpu{cpu} comes to desk {desk} as the {arrived}th")
            });
        }
    }

    /// Whether a desk is one of this CPU.
    pub fn is_at(&self, desk: usize, cpu: u16) -> bool {
        self.book().desks[desk].cpu == cpu
    }

    /// How far a paper has come.
    pub fn stage(&self, paper: u32) -> Stage {
        self.book().papers[paper as usize].stage
    }

    // ---- senders ----

    /// A CPU is about to send a paper, whose number this is.
    pub fn writes(&self, cpu: u16, desk: usize, urgent: bool, caller: Caller) -> u32 {
        let mut book = self.book();
        let sent = &mut book.desks[desk].lanes[2 * usize::from(cpu) + usize::from(urgent)].0;
        *sent += 1;
        let number = *sent;
        assert!(
            book.papers.len() < book.papers.capacity(),
            "room was made for every paper"
        );
        book.papers.push(Paper {
            stage: Stage::Sent,
            caller,
            cpu,
            number,
            desk,
            urgent,
            was_handed_on: false,
            arrival: 0,
            asked_ns: None,
        });
        book.papers.len() as u32 - 1
    }

    /// It was sent, or handed on; `may_wait` is false if it would have been refused by a desk that is full.
    pub fn was_sent(&self, paper: u32, may_wait: bool) {
        let mut book = self.book();
        let (stage, desk) = (
            book.papers[paper as usize].stage,
            book.papers[paper as usize].desk,
        );
        if !matches!(stage, Stage::Sent | Stage::Linked | Stage::HandedOn) {
            return;
        }
        let desk = &mut book.desks[desk];
        if !may_wait && desk.exact && desk.is_full() {
            let (inside, capacity) = (desk.inside, desk.capacity);
            self.verdict.broken_is(BOUND, || {
                format!("message {paper} gets in beside {inside} of {capacity:?}")
            });
        }
        desk.inside += 1;
    }

    /// It was refused, and `back` came back.
    pub fn was_refused(&self, paper: u32, back: u32) {
        let mut book = self.book();
        self.moves(&mut book, paper, &[Stage::Sent], Stage::Refused);
        let Paper {
            cpu, desk, urgent, ..
        } = book.papers[paper as usize];
        // Its number is the next one's.
        book.desks[desk].lanes[2 * usize::from(cpu) + usize::from(urgent)].0 -= 1;
        let desk = &book.desks[desk];
        if back != paper || !desk.is_full() {
            let (inside, capacity) = (desk.inside, desk.capacity);
            self.verdict.broken_is(BOUND, || {
                format!("message {paper} is refused, {back} comes back: {inside} of {capacity:?}")
            });
        }
    }

    /// Its sender had to wait for room, and goes on.
    pub fn is_let_in(&self, paper: u32) {
        let book = self.book();
        let paper_notes = &book.papers[paper as usize];
        let desk = &book.desks[paper_notes.desk];
        let (stage, ahead) = (paper_notes.stage, paper_notes.arrival - desk.received);
        let room = desk.capacity.unwrap_or(usize::MAX) as i64;
        if stage < Stage::Linked || (desk.plain && ahead > room) {
            self.verdict.broken_is(IN_TURN, || {
                format!(
                    "message {paper} is {stage:?}, the {ahead}th in the line, and has {room} places"
                )
            });
        }
    }

    /// Its caller asks to abort.
    pub fn asks(&self, paper: u32, now_ns: u64) {
        self.book().papers[paper as usize].asked_ns = Some(now_ns);
    }

    /// Its caller hears no reply.
    pub fn leaves(&self, paper: u32) {
        let caller = &mut self.book().papers[paper as usize].caller;
        if *caller == Caller::Waits {
            *caller = Caller::HasLeft;
        }
    }

    /// Its caller has got a reply.
    pub fn hears(&self, paper: u32, reply: u64) {
        let mut book = self.book();
        let notes = &mut book.papers[paper as usize];
        let waits = std::mem::replace(&mut notes.caller, Caller::HasHeard) == Caller::Waits;
        let is_own = reply >> 2 == u64::from(paper) && notes.stage == Stage::Replied;
        let is_true = reply & 3 != ABORTED || notes.asked_ns.is_some();
        if !(waits && is_own && is_true) {
            let notes = notes.clone();
            self.verdict.broken_is(OWN_REPLY, || {
                format!("message {paper} hears {reply:#x}: {notes:?}")
            });
        }
    }

    // ---- the desk and its readers ----

    /// It is in the queue, and its receipt is given.
    pub fn linked(&self, paper: u32, cpu: u16) {
        let mut book = self.book();
        self.moves(&mut book, paper, &[Stage::Sent], Stage::Linked);
        self.arrives(&mut book, paper);
        let Book { desks, papers } = &mut *book;
        let notes = &mut papers[paper as usize];
        let desk = &mut desks[notes.desk];
        desk.linked += 1;
        desk.urgent += usize::from(notes.urgent);
        desk.arrived += 1;
        notes.arrival = desk.arrived;
        if desk.cpu != cpu {
            self.verdict.broken_is(ONE_FATE, || {
                format!("message {paper} is linked on cpu{cpu}")
            });
        }
    }

    /// It is answered by the server itself: as it was sent, as it was handed on, or asked again by a reader.
    pub fn answered_at_once(&self, paper: u32) {
        let mut book = self.book();
        if book.papers[paper as usize].stage == Stage::Sent {
            self.arrives(&mut book, paper);
            self.read(&mut book, paper, 0);
        }
        let stages = [Stage::Sent, Stage::Received, Stage::HandedOn];
        let is_read = book.papers[paper as usize].stage == Stage::Received;
        let Book { desks, papers } = &mut *book;
        let notes = &papers[paper as usize];
        let desk = &desks[notes.desk];
        let before = if notes.urgent {
            desk.urgent
        } else {
            desk.linked
        };
        if !is_read && desk.exact && before > 0 {
            self.verdict.broken_is(NO_PASSING, || {
                format!("message {paper} is answered before {before} others")
            });
        }
        self.moves(&mut book, paper, &stages, Stage::Replied);
    }

    /// A reader has it, which is the order it counts in.
    fn read(&self, book: &mut Book, paper: u32, reader: usize) {
        let Book { desks, papers } = book;
        let notes = &papers[paper as usize];
        let desk = &mut desks[notes.desk];
        if notes.was_handed_on || !desk.ordered {
            return;
        }
        let last = std::mem::replace(desk.last(reader, notes), notes.number);
        if last >= notes.number {
            self.verdict.broken_is(ORDER, || {
                format!(
                    "desk {}: message {} of cpu{} is received after {last}",
                    notes.desk, notes.number, notes.cpu
                )
            });
        }
    }

    /// Reader `place` of a desk waits there from now on, or not any more.
    pub fn waits(&self, (desk, place): (usize, usize), since_ns: Option<u64>) {
        self.book().desks[desk].waiting[place] = since_ns.map(|since_ns| Wait {
            since_ns,
            base: None,
        });
    }

    /// A reader has received it; None: has taken it back, out of its turn.
    pub fn received(&self, paper: u32, reader: Option<usize>, now_ns: u64) {
        let mut book = self.book();
        let stages = [Stage::Linked, Stage::HandedOn];
        self.moves(&mut book, paper, &stages, Stage::Received);
        if let Some(reader) = reader {
            self.read(&mut book, paper, reader);
        }
        let Book { desks, papers } = &mut *book;
        let notes = &papers[paper as usize];
        let desk = &mut desks[notes.desk];
        desk.inside = desk.inside.saturating_sub(1);
        desk.received += 1;
        if desk.passes_one_over(now_ns) {
            self.verdict.broken_is(TURNS, || {
                format!(
                    "desk {}: {} are received, its readers wait since {:?}",
                    notes.desk, desk.received, desk.waiting
                )
            });
        }
        if notes.was_handed_on {
            return;
        }
        desk.linked -= 1;
        desk.urgent -= usize::from(notes.urgent);
        if desk.exact && reader.is_some() && !notes.urgent && desk.urgent > 0 {
            let urgent = desk.urgent;
            self.verdict.broken_is(PRIORITY, || {
                format!("message {paper} is received before {urgent} urgent ones")
            });
        }
    }

    /// Its reader hands it on to another desk. False: it has been handed on before.
    pub fn hands_on(&self, paper: u32, desk: usize) -> bool {
        let mut book = self.book();
        if book.papers[paper as usize].was_handed_on {
            return false;
        }
        self.moves(&mut book, paper, &[Stage::Received], Stage::HandedOn);
        let notes = &mut book.papers[paper as usize];
        notes.was_handed_on = true;
        notes.desk = desk;
        true
    }

    /// Its reader is about to reply.
    pub fn replies(&self, paper: u32) {
        let mut book = self.book();
        self.moves(&mut book, paper, &[Stage::Received], Stage::Replied);
    }

    /// Its reader looks whether it is aborted.
    pub fn is_seen_aborted(&self, paper: u32, seen: bool) {
        let asked = self.book().papers[paper as usize].asked_ns.is_some();
        if asked != seen {
            self.verdict.broken_is(TOLD, || {
                format!("message {paper}: {asked} was asked, {seen} is seen")
            });
        }
    }

    /// Its reader has waited to be told of an abort, from `since_ns` on, and was or was not.
    pub fn is_told(&self, paper: u32, told: bool, since_ns: u64, now_ns: u64) {
        let asked_ns = self.book().papers[paper as usize].asked_ns;
        // One that is asked for before is found by the first look.
        let is_late = asked_ns
            .is_some_and(|asked_ns| now_ns.saturating_sub(asked_ns.max(since_ns)) > BOUND_NS);
        if is_late || (told && asked_ns.is_none()) {
            self.verdict.broken_is(TOLD, || {
                format!("message {paper}: asked at {asked_ns:?}, told: {told}, from {since_ns} to {now_ns}")
            });
        }
    }

    /// What is not settled at the end.
    pub fn unsettled(&self) -> Option<(&'static str, String)> {
        let book = self.book();
        let mut papers = book.papers.iter().enumerate();
        papers.find_map(|(number, paper)| {
            let is_settled = match paper.stage {
                Stage::Replied => paper.caller != Caller::Waits,
                Stage::Refused => true,
                _ => false,
            };
            let seen = || (NOTHING_LOST, format!("message {number}: {paper:?}"));
            (!is_settled).then(seen)
        })
    }
}
