//! What the kernel program, the daemon and the tests share, so that each rule exists once:
//!
//! * [`wire`]: the packet, as bytes and as a [`wire::Header`];
//! * [`hmac`]: its signature;
//! * [`window`]: which sequence numbers were seen already;
//! * [`maps`]: keys and values of every BPF map;
//! * [`verify`]: the checks in order of cost, what a good packet changes, and the echo.
//!
//! No allocation, no panics, no clock, no I/O: the same code runs under the kernel's verifier and in the host's tests.
#![cfg_attr(not(test), no_std)]

// The kernel program has its own: nothing else here depends on a library.
#[cfg(not(target_arch = "bpf"))]
pub mod hmac;
pub mod maps;
pub mod verify;
pub mod window;
pub mod wire;
