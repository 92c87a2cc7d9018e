//! Demotion: named reasons, each with a weight, why this node should rather not be master.
//!
//! [`Demotions`] is a map from name to weight. The BSDs keep one integer that everybody adds to
//! and subtracts from; a forgotten subtraction demotes a node for ever and nobody can tell who
//! did it. Setting a named reason twice is the same as once, and the list says who asked.
//! `SendHealth` turns failed sends into such a reason, and takes it back.
//!
//! Source: OpenBSD `carp_demote`; FreeBSD `carp_send_ad_error`.

use alloc::collections::BTreeMap;
use alloc::string::String;

/// The skew a demoted node advertises, for peers that do not know the demotion count.
pub const DEMOTED_SKEW: u8 = 240;
/// The reason set after failed sends.
pub const SEND_ERRORS: &str = "send errors";
/// The name suggested for the hold-down at boot, with OpenBSD's weight for it.
pub const BOOT: (&str, u8) = ("boot", 128);

const SEND_ERRORS_WEIGHT: u8 = 1;
/// So many failures in a row demote, so many successes in a row undo it.
const SEND_STREAK: u8 = 3;
/// A backup sends nothing and so cannot show that sending works again: forgive it after this.
const SEND_ERRORS_EXPIRE_NS: u64 = 60_000_000_000;

/// The reasons in force. Having one tells you: no weight in it is zero.
#[derive(Clone, Debug, Default)]
pub struct Demotions {
    reasons: BTreeMap<String, u8>,
}

impl Demotions {
    /// Sets a reason (a weight of 0 clears it) and returns the change of the total, if any.
    pub(crate) fn set(&mut self, name: &str, weight: u8) -> Option<i16> {
        let before = self.total();
        if weight == 0 {
            self.reasons.remove(name);
        } else {
            self.reasons.insert(String::from(name), weight);
        }
        let by = i16::from(self.total()) - i16::from(before);
        (by != 0).then_some(by)
    }

    /// The sum of the weights, at most 255: OpenBSD's byte in the advertisement.
    #[must_use]
    pub fn total(&self) -> u8 {
        self.reasons
            .values()
            .fold(0, |sum, weight| sum.saturating_add(*weight))
    }

    /// The weight of a reason; 0 if it is not in force.
    #[must_use]
    pub fn weight(&self, name: &str) -> u8 {
        self.reasons.get(name).copied().unwrap_or(0)
    }

    /// Every reason with its weight, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u8)> {
        self.reasons
            .iter()
            .map(|(name, weight)| (name.as_str(), *weight))
    }
}

/// Streaks of failed and good sends.
#[derive(Clone, Debug, Default)]
pub(crate) struct SendHealth {
    errors_in_row: u8,
    ok_in_row: u8,
    expires_at_ns: Option<u64>,
}

impl SendHealth {
    /// A send failed. `Some(weight)` is what [`SEND_ERRORS`] is to be set to.
    pub(crate) fn on_error(&mut self, now_ns: u64) -> Option<u8> {
        self.ok_in_row = 0;
        self.errors_in_row = self.errors_in_row.saturating_add(1);
        if self.errors_in_row < SEND_STREAK {
            return None;
        }
        self.expires_at_ns = Some(now_ns.saturating_add(SEND_ERRORS_EXPIRE_NS));
        Some(SEND_ERRORS_WEIGHT)
    }

    /// A send went out.
    pub(crate) fn on_ok(&mut self) -> Option<u8> {
        self.errors_in_row = 0;
        self.ok_in_row = self.ok_in_row.saturating_add(1);
        (self.ok_in_row >= SEND_STREAK && self.expires_at_ns.is_some()).then(|| self.reset())
    }

    pub(crate) fn on_timer(&mut self, now_ns: u64) -> Option<u8> {
        (self.expires_at_ns? <= now_ns).then(|| self.reset())
    }

    pub(crate) fn expires_at_ns(&self) -> Option<u64> {
        self.expires_at_ns
    }

    /// Starts afresh, as after a link came up; returns the weight to set: none.
    pub(crate) fn reset(&mut self) -> u8 {
        *self = Self::default();
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_a_reason_twice_cannot_leak() {
        let mut demotions = Demotions::default();
        assert_eq!(demotions.set("bulk", 100), Some(100));
        assert_eq!(demotions.set("bulk", 100), None);
        assert_eq!(demotions.set("bulk", 40), Some(-60));
        assert_eq!(demotions.set("boot", 128), Some(128));
        assert_eq!(
            demotions.iter().collect::<alloc::vec::Vec<_>>(),
            [("boot", 128), ("bulk", 40)]
        );
        assert_eq!(demotions.set("bulk", 0), Some(-40));
        assert_eq!(demotions.set("boot", 0), Some(-128));
        assert_eq!(demotions.set("boot", 0), None);
        assert_eq!(demotions.total(), 0);
    }

    #[test]
    fn total_stops_at_255_and_comes_back() {
        let mut demotions = Demotions::default();
        let _ = demotions.set("a", 200);
        assert_eq!(demotions.set("b", 200), Some(55));
        assert_eq!(demotions.set("a", 0), Some(-55));
        assert_eq!(demotions.total(), 200);
    }
}
