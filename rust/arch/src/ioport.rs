// SPDX-License-Identifier: GPL-2.0

//! String I/O: which memory an INS or OUTS reaches and how its registers move (SDM vol. 2, INS and
//! OUTS; vol. 1, 7.3.9.3).
//!
//! An emulator serves it in chunks: [`StringIo::chunk`] says how many elements lie in one page,
//! the port and the page exchange them, [`StringIo::advance`] moves the registers. An interrupt
//! between two chunks finds the registers as the processor would have left them.

use crate::addr::{Gva, PAGE_SIZE};
use crate::operand::{Segment, Size};

/// The VM-exit instruction-information field of an exit by INS or OUTS (SDM vol. 3, table 28-9).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct StringInfo(pub u32);

impl StringInfo {
    /// Size of the index and count registers; `None` for a value the manual does not define.
    pub const fn address_size(self) -> Option<Size> {
        match (self.0 >> 7) & 7 {
            0 => Some(Size::Word),
            1 => Some(Size::Dword),
            2 => Some(Size::Qword),
            _ => None,
        }
    }

    /// The segment OUTS reads from; INS always writes to ES. `None` for a value the manual does
    /// not define.
    pub const fn segment(self) -> Option<Segment> {
        match (self.0 >> 15) & 7 {
            0 => Some(Segment::Es),
            1 => Some(Segment::Cs),
            2 => Some(Segment::Ss),
            3 => Some(Segment::Ds),
            4 => Some(Segment::Fs),
            5 => Some(Segment::Gs),
            _ => None,
        }
    }
}

/// The registers a string instruction moves, in full.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Registers {
    /// RSI (OUTS) or RDI (INS).
    pub index: u64,
    /// RCX.
    pub count: u64,
}

/// An INS or OUTS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StringIo {
    /// Size of an element: a byte, word or doubleword.
    pub size: Size,
    /// How much of the index and count registers is used.
    pub address_size: Size,
    /// Base of the segment; zero in 64-bit mode except for FS and GS.
    pub segment_base: u64,
    /// Linear addresses have 64 bits, as in 64-bit mode, and not 32.
    pub long: bool,
    /// RFLAGS.DF: addresses go down.
    pub down: bool,
    /// REP: the count register counts.
    pub rep: bool,
}

/// Elements that lie one after the other in one page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chunk {
    /// Address of the first element to transfer. With DF the others lie below it.
    pub first: Gva,
    /// How many.
    pub count: u64,
}

impl StringIo {
    /// Elements still to transfer.
    pub const fn remaining(&self, registers: &Registers) -> u64 {
        if self.rep {
            registers.count & self.address_size.mask()
        } else {
            1
        }
    }

    /// Linear address of the next element.
    pub const fn address(&self, registers: &Registers) -> Gva {
        let offset = registers.index & self.address_size.mask();
        let linear = self.segment_base.wrapping_add(offset);
        Gva(if self.long {
            linear
        } else {
            linear & Size::Dword.mask()
        })
    }

    /// The next elements, at most `max`, that can be transferred together: they stay in one page
    /// and neither the index nor the address wraps round among them. `None` when none is left or
    /// `max` is 0. An element that itself crosses a page or a wrap-around comes alone.
    pub fn chunk(&self, registers: &Registers, max: u64) -> Option<Chunk> {
        let first = self.address(registers);
        let left = self.remaining(registers).min(max);
        if left == 0 {
            return None;
        }
        let size = self.size.bytes() as u64;
        let index = registers.index & self.address_size.mask();
        // Whole elements from the one at `position`, in its direction, within `0..=last`.
        let fit = |position: u64, last: u64| {
            let room = last - position;
            if !self.down {
                (room / size).saturating_add(u64::from(room % size == size - 1))
            } else if room < size - 1 {
                0
            } else {
                (position / size).saturating_add(1)
            }
        };
        let in_page = fit(first.page_offset(), PAGE_SIZE - 1);
        let in_index = fit(index, self.address_size.mask());
        Some(Chunk {
            first,
            count: left.min(in_page).min(in_index).max(1),
        })
    }

    /// The registers after `count` elements.
    pub const fn advance(&self, registers: &Registers, count: u64) -> Registers {
        if count == 0 {
            return *registers;
        }
        let distance = count.wrapping_mul(self.size as u64);
        let index = if self.down {
            registers.index.wrapping_sub(distance)
        } else {
            registers.index.wrapping_add(distance)
        };
        let left = if self.rep {
            self.write(registers.count, registers.count.wrapping_sub(count))
        } else {
            registers.count
        };
        Registers {
            index: self.write(registers.index, index),
            count: left,
        }
    }

    /// A register that held `old` after a write of `new` in the address size.
    const fn write(&self, old: u64, new: u64) -> u64 {
        match self.address_size {
            Size::Byte | Size::Word => (old & !0xffff) | (new & 0xffff),
            Size::Dword => new & Size::Dword.mask(),
            Size::Qword => new,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UP: StringIo = StringIo {
        size: Size::Word,
        address_size: Size::Qword,
        segment_base: 0,
        long: true,
        down: false,
        rep: true,
    };
    const DOWN: StringIo = StringIo { down: true, ..UP };

    fn at(index: u64, count: u64) -> Registers {
        Registers { index, count }
    }

    #[test]
    fn instruction_information_is_decoded() {
        let info = |bits: u32| (StringInfo(bits).address_size(), StringInfo(bits).segment());
        assert_eq!(info(0), (Some(Size::Word), Some(Segment::Es)));
        assert_eq!(
            info((1 << 7) | (3 << 15)),
            (Some(Size::Dword), Some(Segment::Ds))
        );
        assert_eq!(
            info((2 << 7) | (5 << 15)),
            (Some(Size::Qword), Some(Segment::Gs))
        );
        assert_eq!(info((3 << 7) | (6 << 15)), (None, None));
        assert_eq!(StringInfo(1 << 15).segment(), Some(Segment::Cs));
        assert_eq!(StringInfo(2 << 15).segment(), Some(Segment::Ss));
        assert_eq!(StringInfo(4 << 15).segment(), Some(Segment::Fs));
    }

    #[test]
    fn without_rep_there_is_one_element_and_the_count_stays() {
        let once = StringIo { rep: false, ..UP };
        let chunk = once.chunk(&at(0x1000, 0), 100);
        assert_eq!(
            chunk,
            Some(Chunk {
                first: Gva(0x1000),
                count: 1
            })
        );
        assert_eq!(once.advance(&at(0x1000, 0), 1), at(0x1002, 0));
    }

    #[test]
    fn a_count_of_zero_transfers_nothing() {
        let word = StringIo {
            address_size: Size::Word,
            ..UP
        };
        let registers = at(5, 0xffff_0000);
        assert_eq!(word.chunk(&registers, 100), None);
        assert_eq!(UP.chunk(&at(0, 1), 0), None);
        assert_eq!(word.advance(&registers, 0), registers);
    }

    #[test]
    fn chunks_end_at_the_page() {
        let count = |io: &StringIo, index, count| io.chunk(&at(index, count), 1000).unwrap().count;
        assert_eq!(count(&UP, 0x1ffc, 10), 2);
        assert_eq!(count(&UP, 0x1ffd, 10), 1);
        assert_eq!(count(&UP, 0x1fff, 10), 1, "split between two pages");
        assert_eq!(count(&UP, 0x1000, 5000), 1000);
        assert_eq!(count(&UP, 0x1000, 7), 7);
        assert_eq!(count(&DOWN, 0x2004, 10), 3);
        assert_eq!(count(&DOWN, 0x2005, 10), 3);
        assert_eq!(count(&DOWN, 0x1fff, 10), 1, "split between two pages");
        assert_eq!(count(&DOWN, 0x2ffe, 5000), 1000);
        let byte = StringIo {
            size: Size::Byte,
            ..DOWN
        };
        assert_eq!(count(&byte, 0x2fff, 10), 10);
    }

    #[test]
    fn registers_wrap_at_the_address_size() {
        let word = StringIo {
            address_size: Size::Word,
            long: false,
            segment_base: 0x2_0000,
            ..UP
        };
        let registers = at(0xaaaa_bbbb_cccc_fffc, 0x1111_0005);
        assert_eq!(
            word.chunk(&registers, 9).unwrap(),
            Chunk {
                first: Gva(0x2_fffc),
                count: 2
            }
        );
        assert_eq!(
            word.advance(&registers, 2),
            at(0xaaaa_bbbb_cccc_0000, 0x1111_0003)
        );
        let dword = StringIo {
            address_size: Size::Dword,
            ..DOWN
        };
        let registers = at(0xaaaa_bbbb_0000_0002, 0xcccc_dddd_0000_0003);
        assert_eq!(dword.advance(&registers, 2), at(0xffff_fffe, 1));
        assert_eq!(UP.advance(&at(u64::MAX - 1, 2), 1), at(0, 1));
        let byte = StringIo {
            size: Size::Byte,
            ..UP
        };
        assert_eq!(
            byte.chunk(&at(0, u64::MAX), u64::MAX).unwrap().count,
            PAGE_SIZE
        );
        let byte = StringIo { down: true, ..byte };
        assert_eq!(
            byte.chunk(&at(u64::MAX, u64::MAX), u64::MAX).unwrap().count,
            PAGE_SIZE
        );
    }

    #[test]
    fn linear_addresses_wrap_outside_64_bit_mode() {
        let io = StringIo {
            segment_base: 0xffff_f000,
            address_size: Size::Dword,
            ..UP
        };
        assert_eq!(io.address(&at(0x2000, 1)), Gva(0x1_0000_1000));
        assert_eq!(
            StringIo { long: false, ..io }.address(&at(0x2000, 1)),
            Gva(0x1000)
        );
    }

    fn any_io() -> impl Strategy<Value = StringIo> {
        (
            prop::sample::select(&[Size::Byte, Size::Word, Size::Dword][..]),
            prop::sample::select(&[Size::Word, Size::Dword, Size::Qword][..]),
            any::<u64>(),
            any::<(bool, bool, bool)>(),
        )
            .prop_map(
                |(size, address_size, segment_base, (long, down, rep))| StringIo {
                    size,
                    address_size,
                    segment_base,
                    long,
                    down,
                    rep,
                },
            )
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 2_000,
            failure_persistence: None,
            ..Default::default()
        })]

        /// A chunk is what single elements would do, one after the other, in one page.
        #[test]
        fn a_chunk_is_its_elements(
            io in any_io(),
            index in prop_oneof![any::<u64>(), 0..9u64, 0xffe0..0x1_0020u64, u64::MAX - 9..],
            count in any::<u64>(),
            max in 0..3000u64,
        ) {
            let registers = at(index, count);
            let Some(chunk) = io.chunk(&registers, max) else {
                prop_assert!(max == 0 || io.remaining(&registers) == 0);
                return Ok(());
            };
            prop_assert!((1..=max).contains(&chunk.count));
            let mut one_by_one = registers;
            let size = io.size.bytes() as u64;
            for n in 0..chunk.count {
                let address = io.address(&one_by_one);
                let distance = n * size;
                let expected = if io.down { chunk.first.0 - distance } else { chunk.first.0 + distance };
                prop_assert_eq!(address.0, expected);
                prop_assert_eq!(address.page_base(), chunk.first.page_base());
                let inside = address.page_offset() + size <= PAGE_SIZE;
                prop_assert!(inside || chunk.count == 1);
                one_by_one = io.advance(&one_by_one, 1);
            }
            prop_assert_eq!(io.advance(&registers, chunk.count), one_by_one);
        }

        #[test]
        fn all_chunks_together_are_the_whole(
            mut io in any_io(),
            index in any::<u64>(),
            count in 0..10_000u64,
        ) {
            io.rep = true;
            let mut registers = at(index, count);
            let mut total = 0;
            while let Some(chunk) = io.chunk(&registers, 4096 / io.size.bytes() as u64) {
                registers = io.advance(&registers, chunk.count);
                total += chunk.count;
            }
            prop_assert_eq!((total, registers.count), (count, 0));
            prop_assert_eq!(registers, io.advance(&at(index, count), count));
        }
    }
}
