// SPDX-License-Identifier: GPL-2.0

//! Where the choices of a test come from: a random number generator, or a fuzzer's bytes.

/// A source of choices.
pub(crate) trait Source {
    /// 64 bits.
    fn next(&mut self) -> u64;

    /// A number below `limit`.
    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// One of `from`, which is not empty.
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// A fuzzer's bytes, and zeros where they end.
#[derive(Clone)]
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl Input<'_> {
    /// Whether all are used.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, len: usize) -> u64 {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
            .iter()
            .rev()
            .fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

impl Source for Input<'_> {
    fn next(&mut self) -> u64 {
        self.take(8)
    }

    // Few bytes to a choice: a fuzzer changes one and sees what becomes of it.
    fn below(&mut self, limit: u64) -> u64 {
        self.take(if limit <= 0x100 { 1 } else { 8 }) % limit
    }
}
