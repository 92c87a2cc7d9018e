//! A configuration space made of bytes, and register windows made of bytes, for tests.
//!
//! [`FakeBus`] knows just enough to be sized: each function has a mask of the bits that can be
//! written. Register windows it maps are plain memory unless a test brings a model of its own.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use std::sync::Mutex;

use pci_types::{ConfigRegionAccess, PciAddress};

use crate::drivers::mmio::{MapRegisters, Registers};

/// One function: bytes, and which bits of them can be written.
#[derive(Clone)]
pub(crate) struct FakeFunction {
    pub(crate) bytes: Vec<u8>,
    pub(crate) writable: Vec<u8>,
}

impl FakeFunction {
    pub(crate) fn new(vendor: u16, device: u16) -> Self {
        let mut function = Self {
            bytes: vec![0; 256],
            writable: vec![0; 256],
        };
        function.set32(0, u32::from(device) << 16 | u32::from(vendor));
        function.writable[4] = 0xff;
        function
    }

    pub(crate) fn set32(&mut self, offset: usize, value: u32) {
        self.bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn get32(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.bytes[offset..offset + 4].try_into().unwrap())
    }

    pub(crate) fn multifunction(mut self) -> Self {
        self.bytes[0x0e] |= 0x80;
        self
    }

    pub(crate) fn bridge_to(mut self, bus: u8) -> Self {
        self.bytes[0x0e] |= 1;
        self.bytes[0x19] = bus;
        self
    }

    /// A memory BAR of `len` bytes; `wide` for 64 bits.
    pub(crate) fn bar(mut self, slot: usize, address: u64, len: u64, wide: bool) -> Self {
        let register = 0x10 + 4 * slot;
        let mask = !(len - 1);
        self.set32(register, address as u32 | if wide { 4 } else { 0 });
        self.writable[register..register + 4].copy_from_slice(&(mask as u32 & !0xf).to_le_bytes());
        if wide {
            self.set32(register + 4, (address >> 32) as u32);
            let high = ((mask >> 32) as u32).to_le_bytes();
            self.writable[register + 4..register + 8].copy_from_slice(&high);
        }
        self
    }

    /// Appends a capability of `bytes` behind its two-byte head.
    pub(crate) fn capability(mut self, offset: u8, next: u8, id: u8, bytes: &[u8]) -> Self {
        self.bytes[6] |= 0x10;
        if self.bytes[0x34] == 0 {
            self.bytes[0x34] = offset;
        }
        let start = usize::from(offset);
        self.bytes[start] = id;
        self.bytes[start + 1] = next;
        self.bytes[start + 2..start + 2 + bytes.len()].copy_from_slice(bytes);
        self
    }
}

/// A segment of functions; clones are the same.
#[derive(Clone, Default)]
pub(crate) struct FakeBus(Arc<Mutex<BTreeMap<PciAddress, FakeFunction>>>);

impl FakeBus {
    pub(crate) fn with(self, bus: u8, device: u8, function: u8, what: FakeFunction) -> Self {
        let address = PciAddress::new(0, bus, device, function);
        self.0.lock().unwrap().insert(address, what);
        self
    }

    pub(crate) fn function(&self, address: PciAddress) -> FakeFunction {
        self.0.lock().unwrap()[&address].clone()
    }
}

impl ConfigRegionAccess for FakeBus {
    unsafe fn read(&self, address: PciAddress, offset: u16) -> u32 {
        assert!(
            offset < 256 && offset.is_multiple_of(4),
            "bad offset {offset:#x}"
        );
        self.0
            .lock()
            .unwrap()
            .get(&address)
            .map_or(!0, |f| f.get32(usize::from(offset)))
    }

    unsafe fn write(&self, address: PciAddress, offset: u16, value: u32) {
        let mut functions = self.0.lock().unwrap();
        let Some(function) = functions.get_mut(&address) else {
            return;
        };
        for (byte, value) in value.to_le_bytes().into_iter().enumerate() {
            let at = usize::from(offset) + byte;
            let mask = function.writable[at];
            function.bytes[at] = function.bytes[at] & !mask | value & mask;
        }
    }
}

/// Register windows of plain bytes, by physical address.
#[derive(Clone, Default)]
pub(crate) struct FakeRegisters(pub(crate) Arc<Mutex<BTreeMap<u64, u8>>>);

impl FakeRegisters {
    pub(crate) fn get32(&self, address: u64) -> u32 {
        let bytes = self.0.lock().unwrap();
        (0..4).rev().fold(0, |word, byte| {
            word << 8 | u32::from(bytes.get(&(address + byte)).copied().unwrap_or(0))
        })
    }
}

struct Window {
    memory: FakeRegisters,
    base: u64,
    len_bytes: usize,
}

impl Window {
    fn load(&self, offset: usize, size: usize) -> u32 {
        assert!(offset + size <= self.len_bytes && offset.is_multiple_of(size));
        let word = self.memory.get32(self.base + offset as u64);
        if size == 4 {
            word
        } else {
            word & ((1 << (8 * size)) - 1)
        }
    }

    fn store(&self, offset: usize, size: usize, value: u32) {
        assert!(offset + size <= self.len_bytes && offset.is_multiple_of(size));
        let mut bytes = self.memory.0.lock().unwrap();
        for (at, byte) in value.to_le_bytes().into_iter().take(size).enumerate() {
            bytes.insert(self.base + (offset + at) as u64, byte);
        }
    }
}

impl Registers for Window {
    fn len_bytes(&self) -> usize {
        self.len_bytes
    }
    fn read8(&self, offset: usize) -> u8 {
        self.load(offset, 1) as u8
    }
    fn read16(&self, offset: usize) -> u16 {
        self.load(offset, 2) as u16
    }
    fn read32(&self, offset: usize) -> u32 {
        self.load(offset, 4)
    }
    fn write8(&self, offset: usize, value: u8) {
        self.store(offset, 1, value.into());
    }
    fn write16(&self, offset: usize, value: u16) {
        self.store(offset, 2, value.into());
    }
    fn write32(&self, offset: usize, value: u32) {
        self.store(offset, 4, value);
    }
}

impl MapRegisters for FakeRegisters {
    fn map(&self, physical_address: u64, len_bytes: usize) -> Option<Box<dyn Registers>> {
        Some(Box::new(Window {
            memory: self.clone(),
            base: physical_address,
            len_bytes,
        }))
    }
}
