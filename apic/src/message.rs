//! Message-signalled interrupts: the address and data that a PCI device writes to raise a vector on a CPU.
//!
//! Source: Intel SDM volume 3A, section 11.11.

/// What goes into an MSI capability or an MSI-X table entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where the device writes.
    pub address: u64,
    /// What it writes.
    pub data: u32,
}

/// The message that raises `vector` on the CPU `apic_id`, edge-triggered. None for an id above 255, which
/// no message reaches without interrupt remapping.
pub fn message(apic_id: u32, vector: u8) -> Option<Message> {
    let apic_id = u8::try_from(apic_id).ok()?;
    Some(Message {
        address: 0xfee0_0000 | u64::from(apic_id) << 12,
        data: vector.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_in_the_address_and_the_vector_in_the_data() {
        assert_eq!(
            message(3, 0x51),
            Some(Message {
                address: 0xfee0_3000,
                data: 0x51
            })
        );
        assert_eq!(message(256, 0x51), None);
    }
}
