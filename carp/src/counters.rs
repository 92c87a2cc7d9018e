//! What was counted: every drop by its reason, every transition, every warning.
//!
//! [`DropReason`] is listed in the order in which an advertisement is checked, so a packet that is
//! wrong twice is counted once, at the first check, as the BSDs do. A vhid keeps its own
//! [`Counters`]; what is dropped before a vhid is known belongs to the caller's.
//!
//! Source: FreeBSD `sys/netinet/ip_carp.h`, struct carpstats.

use core::fmt;

/// Why a received advertisement was dropped, in the order of the checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// It came in where CARP is not running (no vhid, interface down, stopped).
    Interface,
    /// TTL was not 255: it may have been routed.
    Ttl,
    /// Shorter than 36 bytes (also what VRRP on this segment usually ends as).
    Length,
    /// The sum over the 36 bytes is wrong.
    Checksum,
    /// Nobody here has that vhid.
    Vhid,
    /// Not CARP version 2.
    Version,
    /// The digest fits neither form: another password, or another list of addresses.
    Authentication,
    /// It carries our own cookie: the network echoes what we send.
    Loop,
    /// Authentic, with another cookie, but from our own address: that address is in use twice.
    OwnAddress,
}

impl DropReason {
    /// Every reason, in the order of the checks.
    pub const ALL: [Self; 9] = [
        Self::Interface,
        Self::Ttl,
        Self::Length,
        Self::Checksum,
        Self::Vhid,
        Self::Version,
        Self::Authentication,
        Self::Loop,
        Self::OwnAddress,
    ];

    /// The wording of `netstat -s`: "`<count>` discarded `<this>`".
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Interface => "for bad interface",
            Self::Ttl => "for wrong TTL",
            Self::Length => "because packet too short",
            Self::Checksum => "for bad checksum",
            Self::Vhid => "for unknown vhid",
            Self::Version => "for bad version",
            Self::Authentication => "for bad authentication",
            Self::Loop => "because it is our own (network loop)",
            Self::OwnAddress => "because its source is our own address",
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The counters of one vhid (or of an interface). They only grow.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Counters {
    /// Advertisements handed in, dropped ones included.
    pub received: u64,
    /// Advertisements given out for sending, bow-outs included.
    pub sent: u64,
    /// Advertisements the caller could not send.
    pub send_errors: u64,
    /// Bow-outs given out for sending.
    pub bow_outs_sent: u64,
    /// Advertisements a BACKUP left to its master to settle: a second master worse than both, or
    /// a bow-out of a node that is not our master any more.
    pub adverts_left_to_master: u64,
    /// Gratuitous ARP packets given out for sending.
    pub announcements: u64,
    /// Transitions to MASTER.
    pub became_master: u64,
    /// Signs of a second master, also those too soon after the last report to be reported.
    pub split_brain: u64,
    /// Times we found that we had not run for so long that the others must have given us up.
    pub time_jumps: u64,
    drops: [u64; DropReason::ALL.len()],
}

impl Counters {
    /// Counts one drop.
    pub fn count_drop(&mut self, reason: DropReason) {
        self.drops[reason as usize] += 1;
    }

    /// Adds what another counted.
    pub fn add(&mut self, other: &Self) {
        // Taken apart by name, so that a new counter cannot be forgotten here.
        let Self {
            received,
            sent,
            send_errors,
            bow_outs_sent,
            adverts_left_to_master,
            announcements,
            became_master,
            split_brain,
            time_jumps,
            drops,
        } = other;
        self.received += received;
        self.sent += sent;
        self.send_errors += send_errors;
        self.bow_outs_sent += bow_outs_sent;
        self.adverts_left_to_master += adverts_left_to_master;
        self.announcements += announcements;
        self.became_master += became_master;
        self.split_brain += split_brain;
        self.time_jumps += time_jumps;
        for (sum, count) in self.drops.iter_mut().zip(drops) {
            *sum += count;
        }
    }

    /// How many were dropped for this reason.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }

    /// How many were dropped, for any reason.
    #[must_use]
    pub fn dropped_total(&self) -> u64 {
        self.drops.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter_in_check_order() {
        let mut counters = Counters::default();
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            counters.count_drop(reason);
            assert_eq!(counters.dropped(reason), 1);
        }
        assert_eq!(counters.dropped_total(), 9);
        counters.add(&counters.clone());
        assert_eq!(counters.dropped(DropReason::Loop), 2);
    }
}
