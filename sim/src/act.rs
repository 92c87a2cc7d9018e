//! What happens to the world from outside: the script of a run is a list of acts, each with its time.
//!
//! A script is data, so that a run can be repeated with some of its acts left out: that is how a failing run is made
//! smaller.

use std::fmt;

use crate::lan::Cable;

/// Something that happens to a node, by its number, or to the LAN.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// The node is switched on, if it is off.
    Boot(usize),
    /// Its power fails.
    Crash(usize),
    /// It is asked to shut down in good order.
    PowerButton(usize),
    /// All of it stops, as by SIGSTOP; its clock goes on.
    Freeze(usize),
    /// It goes on.
    Thaw(usize),
    /// Its clock runs fast by so many parts of a million from now on.
    Drift(usize, i64),
    /// Its clock leaps forward by so many nanoseconds.
    Leap(usize, u64),
    /// The cable at its port changes.
    Cable(usize, Cable),
    /// A line is typed at its console.
    Type(usize, String),
    /// Everything is put right: cables, frozen nodes, nodes that are off.
    Heal,
}

impl Act {
    /// Whether it breaks something, as opposed to putting it right.
    #[must_use]
    pub fn is_fault(&self) -> bool {
        !matches!(
            self,
            Self::Boot(_) | Self::Thaw(_) | Self::Heal | Self::Type(..)
        )
    }
}

/// An act and when it happens, in nanoseconds since the beginning.
pub type Timed = (u64, Act);

/// How a time of the world is shown.
pub struct Seconds(pub u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{:09}",
            self.0 / 1_000_000_000,
            self.0 % 1_000_000_000
        )
    }
}

/// A node's name in texts: a, b, c.
#[must_use]
pub fn node_name(number: usize) -> String {
    char::from(b'a' + (number % 26) as u8).to_string()
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |number: &usize| node_name(*number);
        match self {
            Self::Boot(node) => write!(f, "{} is switched on", name(node)),
            Self::Crash(node) => write!(f, "{} loses its power", name(node)),
            Self::PowerButton(node) => write!(f, "{} is asked to shut down", name(node)),
            Self::Freeze(node) => write!(f, "{} stands still", name(node)),
            Self::Thaw(node) => write!(f, "{} goes on", name(node)),
            Self::Drift(node, ppm) => write!(f, "{}'s clock is off by {ppm} ppm", name(node)),
            Self::Leap(node, ns) => write!(f, "{}'s clock leaps {} s", name(node), Seconds(*ns)),
            Self::Type(node, line) => write!(f, "{}# {line}", name(node)),
            Self::Heal => f.write_str("everything is put right"),
            Self::Cable(node, cable) => {
                write!(f, "{}'s cable:", name(node))?;
                let flags = [
                    ("nothing passes from it", cable.cut_out),
                    ("nothing passes to it", cable.cut_in),
                    ("reorders", cable.reorder),
                ];
                let mut nothing = true;
                for (text, _) in flags.iter().filter(|(_, set)| *set) {
                    write!(f, " {text}")?;
                    nothing = false;
                }
                let rates = [
                    ("loss", cable.loss_ppm),
                    ("duplication", cable.duplicate_ppm),
                    ("corruption", cable.corrupt_ppm),
                ];
                for (text, ppm) in rates.iter().filter(|(_, ppm)| *ppm > 0) {
                    write!(f, " {text} {}.{:04} %", ppm / 10_000, ppm % 10_000)?;
                    nothing = false;
                }
                if cable.delay_ns > 0 {
                    write!(f, " up to {} us late", cable.delay_ns / 1000)?;
                    nothing = false;
                }
                match (cable.part, nothing) {
                    (0, true) => f.write_str(" sound"),
                    (0, false) => Ok(()),
                    (part, _) => write!(f, " in part {part}"),
                }
            }
        }
    }
}
