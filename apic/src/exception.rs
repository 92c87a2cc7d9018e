//! What an exception says, for people.
//!
//! Source: Intel SDM volume 3A, table 6-1 and section 4.7 (error codes of page faults).

use core::fmt;

/// The vector of page faults.
pub const PAGE_FAULT: u64 = 14;
/// The vector of double faults.
pub const DOUBLE_FAULT: u64 = 8;
/// Exceptions have the vectors below.
pub const EXCEPTIONS: u64 = 32;

/// An exception, and whose fault it was.
#[derive(Clone, Copy, Debug)]
pub struct Exception {
    /// Its vector.
    pub vector: u64,
    /// The error code; 0 where there is none.
    pub error: u64,
    /// The address of the instruction.
    pub instruction: u64,
    /// CR2: for page and double faults, the address that was accessed.
    pub address: u64,
    /// That address is in the page below a stack.
    pub is_overflow: bool,
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (vector, error) = (self.vector, self.error);
        let name = usize::try_from(vector)
            .ok()
            .and_then(|vector| NAMES.get(vector));
        let name = name.unwrap_or(&"reserved exception");
        let at = self.instruction;
        write!(
            f,
            "{name} (vector {vector}, error code {error:#x}) at {at:#x}"
        )?;
        if !matches!(vector, PAGE_FAULT | DOUBLE_FAULT) {
            return Ok(());
        }
        write!(f, "\naddress {:#018x}", self.address)?;
        if self.is_overflow {
            f.write_str(": a guard page, the stack has overflowed")?;
        }
        if vector == PAGE_FAULT {
            let what = match error {
                _ if error & 16 != 0 => "execute",
                _ if error & 2 != 0 => "write",
                _ => "read",
            };
            let why = match error & 1 {
                0 => "nothing is mapped there",
                _ => "is not allowed there",
            };
            write!(f, "\n{what}: {why}")?;
        }
        Ok(())
    }
}

const NAMES: [&str; 22] = [
    "divide error",
    "debug exception",
    "non-maskable interrupt",
    "breakpoint",
    "overflow",
    "bound range exceeded",
    "invalid opcode",
    "device not available",
    "double fault",
    "coprocessor overrun",
    "invalid TSS",
    "segment not present",
    "stack fault",
    "general protection fault",
    "page fault",
    "reserved exception",
    "x87 floating-point error",
    "alignment check",
    "machine check",
    "SIMD floating-point error",
    "virtualization exception",
    "control protection exception",
];

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    fn text(vector: u64, error: u64, is_overflow: bool) -> alloc::string::String {
        let exception = Exception {
            vector,
            error,
            instruction: 0x1234,
            address: 0xdead,
            is_overflow,
        };
        exception.to_string()
    }

    #[test]
    fn a_page_fault_says_what_was_tried_and_why_not() {
        let head = |code| {
            alloc::format!(
                "page fault (vector 14, error code {code}) at 0x1234\naddress 0x000000000000dead"
            )
        };
        assert_eq!(
            text(14, 0, false),
            head("0x0") + "\nread: nothing is mapped there"
        );
        assert_eq!(
            text(14, 3, false),
            head("0x3") + "\nwrite: is not allowed there"
        );
        let overflow = ": a guard page, the stack has overflowed\nexecute: is not allowed there";
        assert_eq!(text(14, 0x11, true), head("0x11") + overflow);
    }

    #[test]
    fn others_have_their_names_and_no_address() {
        assert_eq!(
            text(0, 0, false),
            "divide error (vector 0, error code 0x0) at 0x1234"
        );
        assert!(
            text(8, 0, true)
                .ends_with("\naddress 0x000000000000dead: a guard page, the stack has overflowed")
        );
        assert!(text(21, 0, false).starts_with("control protection exception (vector 21"));
        assert!(text(22, 0, false).starts_with("reserved exception"));
        assert!(text(u64::MAX, 0, false).starts_with("reserved exception"));
    }
}
