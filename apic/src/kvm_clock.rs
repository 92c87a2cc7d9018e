//! The TSC's rate as KVM tells it.
//!
//! KVM's paravirtual clock publishes, per CPU, how to turn TSC ticks into nanoseconds. We ask for that
//! page once, take the scale out of it, and turn it off again: the clock itself is ours
//! (docs/decisions/clock.md).
//!
//! Source: Linux Documentation/virt/kvm/x86/msr.rst, MSR_KVM_SYSTEM_TIME_NEW.

/// What KVM writes (`pvclock_vcpu_time_info`), as far as we read it.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default)]
pub struct TimeInfo {
    /// Odd while KVM is writing.
    pub version: u32,
    /// Unused.
    pub padding: u32,
    /// TSC at the last update.
    pub tsc_timestamp: u64,
    /// Nanoseconds then.
    pub system_time_ns: u64,
    /// Nanoseconds per (shifted) tick, in units of 2^-32.
    pub scale: u32,
    /// Ticks are shifted left by this first; right if negative.
    pub shift: i8,
    /// Bit 0: the TSCs of all CPUs agree.
    pub flags: u8,
}

impl TimeInfo {
    /// The TSC's rate in Hz; None before the first update, or for nonsense.
    pub fn tsc_hz(&self) -> Option<u64> {
        if self.version == 0 || self.version % 2 == 1 || self.scale == 0 {
            return None;
        }
        // ns = (ticks << shift) * scale / 2^32; so many ticks are a second:
        let unshifted = (1_000_000_000u128 << 64) / u128::from(self.scale);
        let shift = i32::from(self.shift);
        let scaled = match u32::try_from(shift) {
            Ok(left) => unshifted.checked_shr(32 + left)?,
            Err(_) => unshifted
                .checked_shr(32)?
                .checked_shl(shift.unsigned_abs())?,
        };
        u64::try_from(scaled).ok().filter(|hz| *hz > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(scale: u32, shift: i8) -> TimeInfo {
        TimeInfo {
            version: 2,
            scale,
            shift,
            ..TimeInfo::default()
        }
    }

    #[test]
    fn reads_the_scale_of_a_fast_and_of_a_slow_tsc() {
        // 2.6 GHz: KVM halves the ticks, so that the scale is above one half and keeps its precision.
        let hz = info(3_303_820_997, -1).tsc_hz().unwrap();
        assert!(hz.abs_diff(2_600_000_000) < 10, "{hz}");
        let hz = info(1 << 31, 1).tsc_hz().unwrap();
        assert_eq!(hz, 1_000_000_000);
        assert_eq!(info(1 << 31, 0).tsc_hz(), Some(2_000_000_000));
    }

    #[test]
    fn nothing_is_believed_before_or_during_an_update_or_if_it_makes_no_sense() {
        assert_eq!(
            TimeInfo {
                version: 3,
                ..info(1 << 31, 0)
            }
            .tsc_hz(),
            None
        );
        assert_eq!(
            TimeInfo {
                version: 0,
                ..info(1 << 31, 0)
            }
            .tsc_hz(),
            None
        );
        assert_eq!(info(0, 0).tsc_hz(), None);
        assert_eq!(info(u32::MAX, 127).tsc_hz(), None);
        assert_eq!(info(1, -128).tsc_hz(), None);
    }
}
