//! Random numbers from the kernel.

/// One that is not zero. The kernel's generator fails only before it is seeded, early at boot, and waits then; should there be
/// none at all, the clock has to do, which no two starts see alike.
#[must_use]
pub fn nonzero() -> u32 {
    let mut bytes = [0; 4];
    match getrandom::fill(&mut bytes) {
        Ok(()) => u32::from_ne_bytes(bytes).max(1),
        Err(_) => (crate::clock::now_ns() as u32).max(1),
    }
}
