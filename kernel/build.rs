//! Hands the linker script of the pc64 image to the linker.
//!
//! A build script rather than `.cargo/config.toml`: nested configuration files merge their rustflags, and
//! a script passed twice is a link error; and this way the path does not depend on the working folder.

use std::env;

fn main() {
    let root = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let script = format!("{root}/src/platform/pc64/image.ld");
    println!("cargo:rerun-if-changed={script}");
    println!("cargo:rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        println!("cargo:rustc-link-arg-bin=anax=-T{script}");
        println!("cargo:rustc-link-arg-bin=anax=-zmax-page-size=0x1000");
        println!("cargo:rustc-link-arg-bin=anax=--gc-sections");
    }
}
