// SPDX-License-Identifier: GPL-2.0
//! Random numbers that are the same each time.

/// Marsaglia's xorshift64*.
pub struct Random(u64);

/// What to pick a number from where its meaning is not known: the ends of ranges.
const EDGES: &[u64] = &[
    0,
    1,
    0xff,
    0xfff,
    0x1000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 32,
    1 << 39,
    0x7fff_ffff_ffff,
    0x8000_0000_0000,
    0xffff_8000_0000_0000,
    1 << 63,
    u64::MAX,
];

impl Random {
    /// The numbers that belong to the case `number` of `seed`, and to nothing else.
    pub fn of(seed: u64, number: u64) -> Self {
        // The finalizer of MurmurHash3, so that neighbours have nothing in common.
        let mut state = seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        state = (state ^ (state >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        state = (state ^ (state >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        Self((state ^ (state >> 33)).max(1))
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        // The upper bits are the better ones.
        (self.next() >> 11) % limit
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of `of`, which is not empty.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    /// `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| (self.next() >> 24) as u8).collect()
    }

    /// A number with few bits set, a small one, the end of a range, or any.
    pub fn number(&mut self) -> u64 {
        match self.below(5) {
            0 => 1 << self.below(64),
            1 => self.below(256),
            2 => self.next() & self.next() & self.next(),
            3 => self.pick(EDGES),
            _ => self.next(),
        }
    }
}
