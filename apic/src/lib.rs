//! apic
#![no_std]
