//! The one source of chance: everything that a run draws comes from its seed, in a fixed order.

/// SplitMix64: small, fast and good enough to pick schedules.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed ^ 0x5DEE_CE66_D1CE_4E5B)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 up to `end`, which is left out; 0 if that is all there is.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        if end <= 1 { 0 } else { self.next() % end }
    }

    /// From `least` to `most`, both included.
    pub(crate) fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most.saturating_sub(least) + 1)
    }

    /// True `times` out of `of`.
    pub(crate) fn chance(&mut self, times: u64, of: u64) -> bool {
        self.below(of) < times
    }

    /// Up to `most`, small values as likely as large ones: uniform in the exponent of two.
    pub(crate) fn log_up_to(&mut self, most: u64) -> u64 {
        const OCTAVES: u64 = 10;
        let scaled = most >> self.below(OCTAVES);
        self.below(scaled + 1)
    }
}
