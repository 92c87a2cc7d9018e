//! Signs of a second master, and how often to say so.
//!
//! A split brain is CARP's worst outcome and its causes are all silent: another password, another
//! list of addresses, a filter that eats the group. So each sign is reported with its cause and
//! its source. `Reporter` lets one report per cause through in ten seconds and says how many it
//! held back: a clash of vhids repeats every second, for months.

use core::fmt;
use core::net::Ipv4Addr;

/// The shortest time between two reports of one cause.
pub const REPORT_INTERVAL_NS: u64 = 10_000_000_000;

/// What was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SplitBrainCause {
    /// While MASTER: an authentic advertisement that is not better than ours.
    SecondMaster,
    /// Our vhid with a digest that does not fit: another password or another address list.
    Authentication,
    /// While MASTER: ARP with this virtual address as sender, from another Ethernet address.
    ArpFromOtherMac {
        /// The virtual address claimed.
        address: Ipv4Addr,
        /// Who claims it.
        mac: [u8; 6],
    },
    /// While MASTER: ARP for this virtual address with our virtual MAC, though not from us.
    ArpFromVirtualMac {
        /// The virtual address claimed.
        address: Ipv4Addr,
    },
    /// An authentic advertisement from our own real address: that one is in use twice.
    OwnAddress,
}

impl SplitBrainCause {
    fn index(self) -> usize {
        match self {
            Self::SecondMaster => 0,
            Self::Authentication => 1,
            Self::ArpFromOtherMac { .. } => 2,
            Self::ArpFromVirtualMac { .. } => 3,
            Self::OwnAddress => 4,
        }
    }
}

/// One report; its `Display` is the log line after `carp: 1@vtnet0: `.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitBrain {
    /// What was seen.
    pub cause: SplitBrainCause,
    /// The IPv4 source it came from.
    pub source: Ipv4Addr,
    /// How many more of this cause were not reported since the last report.
    pub held_back: u64,
}

impl fmt::Display for SplitBrain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = self.source;
        match self.cause {
            SplitBrainCause::SecondMaster => write!(f, "{source} is also MASTER")?,
            SplitBrainCause::Authentication => write!(
                f,
                "incorrect hash from {source}: its password or its virtual addresses differ"
            )?,
            SplitBrainCause::ArpFromOtherMac {
                address,
                mac: [a, b, c, d, e, g],
            } => write!(
                f,
                "{address} is also claimed by {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}"
            )?,
            SplitBrainCause::ArpFromVirtualMac { address } => {
                write!(f, "{address} is also claimed by another master")?;
            }
            SplitBrainCause::OwnAddress => write!(f, "our address {source} is in use twice")?,
        }
        if self.held_back > 0 {
            write!(f, " ({} more like this)", self.held_back)?;
        }
        Ok(())
    }
}

/// Decides which signs are reported.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reporter {
    causes: [Cause; 5],
}

#[derive(Clone, Copy, Debug, Default)]
struct Cause {
    last_report_ns: Option<u64>,
    held_back: u64,
}

impl Reporter {
    pub(crate) fn report(
        &mut self,
        now_ns: u64,
        cause: SplitBrainCause,
        source: Ipv4Addr,
    ) -> Option<SplitBrain> {
        let slot = &mut self.causes[cause.index()];
        if slot
            .last_report_ns
            .is_some_and(|last| now_ns < last.saturating_add(REPORT_INTERVAL_NS))
        {
            slot.held_back += 1;
            return None;
        }
        let held_back = core::mem::take(&mut slot.held_back);
        slot.last_report_ns = Some(now_ns);
        Some(SplitBrain {
            cause,
            source,
            held_back,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_report_per_cause_in_ten_seconds_then_the_number_held_back() {
        let source = Ipv4Addr::new(192, 0, 2, 9);
        let mut reporter = Reporter::default();
        let mut held_back = |now_s: u64, cause| {
            reporter
                .report(now_s * 1_000_000_000, cause, source)
                .map(|report| report.held_back)
        };
        assert_eq!(held_back(5, SplitBrainCause::Authentication), Some(0));
        assert_eq!(held_back(6, SplitBrainCause::Authentication), None);
        assert_eq!(held_back(6, SplitBrainCause::SecondMaster), Some(0));
        assert_eq!(held_back(14, SplitBrainCause::Authentication), None);
        assert_eq!(held_back(15, SplitBrainCause::Authentication), Some(2));
        assert_eq!(held_back(16, SplitBrainCause::Authentication), None);
    }
}
