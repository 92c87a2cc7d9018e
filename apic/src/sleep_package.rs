//! Finds the sleep types of state S5 ("soft off") in a DSDT without interpreting it.
//!
//! `_S5_` is by rule a constant package (ACPI 6.4, 7.4.2), so that its bytes can be looked for. We scan
//! rather than run an AML interpreter: powering off is the one thing that we need from AML, and an
//! interpreter is larger than the rest of this crate ten times over. A DSDT that computes its package
//! (none of those we met) is reported as having none, and the machine then halts instead of powering off.

/// The sleep types to write into PM1a_CNT (or the sleep control register) and PM1b_CNT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SleepTypes {
    /// For PM1a_CNT.SLP_TYP, or the sleep control register of a hardware-reduced machine.
    pub a: u8,
    /// For PM1b_CNT.SLP_TYP.
    pub b: u8,
}

const NAME_OP: u8 = 0x08;
const PACKAGE_OP: u8 = 0x12;

/// Looks for `Name (_S5_, Package () { a, b, .. })` in the body of a DSDT or SSDT.
pub fn find(aml: &[u8]) -> Option<SleepTypes> {
    let mut rest = aml;
    while let Some(at) = rest.windows(4).position(|window| window == b"_S5_") {
        let named = rest[..at].ends_with(&[NAME_OP]) || rest[..at].ends_with(&[NAME_OP, b'\\']);
        if named && let Some(types) = package(&rest[at + 4..]) {
            return Some(types);
        }
        rest = &rest[at + 4..];
    }
    None
}

fn package(aml: &[u8]) -> Option<SleepTypes> {
    let aml = aml.strip_prefix(&[PACKAGE_OP])?;
    // The first length byte says in its top bits how many more follow.
    let length_bytes = 1 + usize::from(aml.first()? >> 6);
    let (&elements, aml) = aml.get(length_bytes..)?.split_first()?;
    let (a, aml) = if elements >= 1 {
        integer(aml)?
    } else {
        (0, aml)
    };
    let b = if elements >= 2 { integer(aml)?.0 } else { 0 };
    // SLP_TYP is three bits wide.
    (a < 8 && b < 8).then_some(SleepTypes { a, b })
}

fn integer(aml: &[u8]) -> Option<(u8, &[u8])> {
    const ZERO: u8 = 0x00;
    const ONE: u8 = 0x01;
    const BYTE: u8 = 0x0a;
    const WORD: u8 = 0x0b;
    match *aml {
        [value @ (ZERO | ONE), ref rest @ ..] => Some((value, rest)),
        [BYTE, value, ref rest @ ..] | [WORD, value, 0, ref rest @ ..] => Some((value, rest)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn dsdt(package: &[u8]) -> Vec<u8> {
        let mut aml = Vec::from(b"\x10\x20\\_SB_\x5b\x82\x08_S5_\x14junk\x08_S5_".as_slice());
        aml.extend(package);
        aml.extend(b"\x08_S6_");
        aml
    }

    #[test]
    fn reads_the_package_of_q35_and_of_microvm() {
        let q35 = dsdt(&[0x12, 0x06, 0x04, 0x00, 0x00, 0x00, 0x00]);
        assert_eq!(find(&q35), Some(SleepTypes { a: 0, b: 0 }));
        let microvm = dsdt(&[0x12, 0x08, 0x04, 0x0a, 0x05, 0x00, 0x00, 0x00]);
        assert_eq!(find(&microvm), Some(SleepTypes { a: 5, b: 0 }));
    }

    #[test]
    fn reads_long_package_lengths_words_and_rooted_names() {
        let mut aml = Vec::from(b"\x08\\_S5_".as_slice());
        aml.extend([0x12, 0x4a, 0x00, 0x02, 0x0b, 0x07, 0x00, 0x01]);
        assert_eq!(find(&aml), Some(SleepTypes { a: 7, b: 1 }));
    }

    #[test]
    fn skips_what_only_looks_like_it() {
        assert_eq!(
            find(b"\x14_S5_\x12\x06\x04\x00\x00"),
            None,
            "a method, not a name"
        );
        assert_eq!(
            find(&dsdt(&[0x12, 0x06, 0x04, 0x0a, 0x09, 0x00])),
            None,
            "type 9 does not exist"
        );
        assert_eq!(find(b""), None);
    }

    #[test]
    fn survives_every_truncation_and_every_flipped_byte() {
        let whole = dsdt(&[0x12, 0x08, 0x04, 0x0a, 0x05, 0x00, 0x00, 0x00]);
        for len in 0..whole.len() {
            let _ = find(&whole[..len]);
            let mut bent = whole.clone();
            bent[len] ^= 0xff;
            let _ = find(&bent);
        }
    }
}
