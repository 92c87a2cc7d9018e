//! The sum of all CPUs' counters, and its text: what `netstat -s` prints.
//!
//! `{}` prints all events and those drops that happened; `{:#}` prints every line, zero or not,
//! for programs. We follow the layout of BSD's `netstat -s` (heading, tab, number, words) but
//! not its plural tricks.

use core::fmt;

use crate::counters::{Counters, DropReason, Event, Protocol};

/// The network's counters at one moment, summed over the CPUs.
///
/// The CPUs are visited one after another, so the sums of a busy node are not one instant's.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    sum: Counters,
}

impl Snapshot {
    /// Adds one CPU's counters.
    pub fn add(&mut self, counters: &Counters) {
        self.sum.add(counters);
    }

    /// How many packets were dropped for this reason.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.sum.drops(reason)
    }

    /// How often this happened.
    pub fn events(&self, event: Event) -> u64 {
        self.sum.events(event)
    }

    /// Packets dropped for any reason.
    pub fn dropped_total(&self) -> u64 {
        self.sum.dropped_total()
    }

    /// Writes one protocol's paragraph; `all` includes the drops that never happened.
    pub fn write_protocol(
        &self,
        out: &mut dyn fmt::Write,
        protocol: Protocol,
        all: bool,
    ) -> fmt::Result {
        writeln!(out, "{}:", protocol.name())?;
        for &event in Event::ALL
            .iter()
            .filter(|event| event.protocol() == protocol)
        {
            writeln!(out, "\t{} {}", self.events(event), event.text())?;
        }
        for &reason in DropReason::ALL
            .iter()
            .filter(|reason| reason.protocol() == protocol)
        {
            let count = self.drops(reason);
            if all || count != 0 {
                writeln!(out, "\t{} {}", count, reason.text())?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = formatter.alternate();
        Protocol::ALL
            .iter()
            .try_for_each(|&protocol| self.write_protocol(formatter, protocol, all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn text_shows_events_and_the_drops_that_happened() {
        let mut counters = Counters::default();
        for _ in 0..12 {
            counters.event(Event::IpReceived);
        }
        counters.drop(DropReason::IpBadChecksum);
        let mut snapshot = Snapshot::default();
        snapshot.add(&counters);
        snapshot.add(&counters);
        let text = format!("{snapshot}");
        assert!(text.contains("\nip:\n\t24 total packets received\n\t0 packets for this host\n"));
        assert!(text.contains("\n\t2 dropped: bad header checksum\n"));
        assert!(!text.contains("not version 4"));
        assert!(format!("{snapshot:#}").contains("\n\t0 dropped: not version 4\n"));
    }

    #[test]
    fn every_counter_has_its_own_text_within_its_protocol() {
        let mut lines: alloc::vec::Vec<_> = DropReason::ALL
            .iter()
            .map(|reason| (reason.protocol().name(), reason.text()))
            .chain(
                Event::ALL
                    .iter()
                    .map(|event| (event.protocol().name(), event.text())),
            )
            .collect();
        let count = lines.len();
        lines.sort_unstable();
        lines.dedup();
        assert_eq!(lines.len(), count);
    }
}
