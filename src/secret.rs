//! Names that nobody can guess: who knows one owns what it names.

/// 128 random bits, from the kernel. Enough never to be drawn twice.
pub(crate) fn draw() -> [u8; 16] {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).expect("the kernel has random bits once the host is up");
    bits
}
