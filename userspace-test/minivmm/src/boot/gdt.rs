// SPDX-License-Identifier: GPL-2.0

//! Segments a guest starts with (SDM vol. 3, 3.4.5), as KVM's registers and as descriptors.

use kvm_bindings::kvm_segment;

/// Selector of the code segment: `__BOOT_CS` of the Linux boot protocol.
pub const CODE_SELECTOR: u16 = 0x10;
/// Selector of the data segment: `__BOOT_DS` of the Linux boot protocol.
pub const DATA_SELECTOR: u16 = 0x18;
/// Selector of the task state segment, which VM entry wants loaded.
pub const TASK_SELECTOR: u16 = 0x20;

/// Type field: execute, read, accessed.
const CODE: u8 = 0xb;
/// Type field: read, write, accessed.
const DATA: u8 = 0x3;
/// Type field: busy 32-bit or 64-bit TSS.
const BUSY_TASK: u8 = 0xb;

/// Size of the code a code segment holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CodeSize {
    /// 32-bit (D = 1).
    Bits32,
    /// 64-bit (L = 1).
    Bits64,
}

/// A flat code segment.
pub fn code(size: CodeSize) -> kvm_segment {
    let long = size == CodeSize::Bits64;
    kvm_segment {
        selector: CODE_SELECTOR,
        type_: CODE,
        db: u8::from(!long),
        l: u8::from(long),
        ..flat()
    }
}

/// A flat data segment.
pub fn data() -> kvm_segment {
    kvm_segment {
        selector: DATA_SELECTOR,
        type_: DATA,
        db: 1,
        ..flat()
    }
}

/// A task state segment with nothing in it: there is no task to switch to.
pub fn task() -> kvm_segment {
    kvm_segment {
        selector: TASK_SELECTOR,
        type_: BUSY_TASK,
        limit: 0x67,
        s: 0,
        g: 0,
        ..flat()
    }
}

fn flat() -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        present: 1,
        s: 1,
        g: 1,
        ..Default::default()
    }
}

/// A real-mode segment: its base is 16 times the selector and it spans 64 KiB.
pub fn real(selector: u16, executable: bool) -> kvm_segment {
    kvm_segment {
        base: u64::from(selector) << 4,
        limit: 0xffff,
        selector,
        type_: if executable { CODE } else { DATA },
        present: 1,
        s: 1,
        ..Default::default()
    }
}

/// The table to put at [`super::layout::GDT`]: entry N is what selector 8 * N names.
pub fn table(size: CodeSize) -> [u64; 5] {
    let mut table = [0; 5];
    for segment in [code(size), data(), task()] {
        table[usize::from(segment.selector >> 3)] = descriptor(&segment);
    }
    table
}

/// The eight bytes that load a segment register with `segment`.
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = if segment.g == 1 {
        segment.limit >> 12
    } else {
        segment.limit
    };
    let (limit, base) = (u64::from(limit), segment.base);
    let access = u64::from(segment.type_)
        | (u64::from(segment.s) << 4)
        | (u64::from(segment.dpl) << 5)
        | (u64::from(segment.present) << 7);
    let flags = u64::from(segment.avl)
        | (u64::from(segment.l) << 1)
        | (u64::from(segment.db) << 2)
        | (u64::from(segment.g) << 3);
    (limit & 0xffff)
        | ((base & 0xff_ffff) << 16)
        | (access << 40)
        | (((limit >> 16) & 0xf) << 48)
        | (flags << 52)
        | (((base >> 24) & 0xff) << 56)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_those_everybody_knows() {
        assert_eq!(
            table(CodeSize::Bits64),
            [
                0,
                0,
                0x00af_9b00_0000_ffff,
                0x00cf_9300_0000_ffff,
                0x0000_8b00_0000_0067
            ]
        );
        assert_eq!(table(CodeSize::Bits32)[2], 0x00cf_9b00_0000_ffff);
    }

    #[test]
    fn a_base_is_split_over_the_descriptor() {
        let segment = kvm_segment {
            base: 0x1234_5678,
            ..data()
        };
        assert_eq!(descriptor(&segment), 0x12cf_9334_5678_ffff);
    }

    #[test]
    fn real_mode_segments_start_at_16_times_the_selector() {
        let segment = real(0x7c0, true);
        assert_eq!(
            (segment.base, segment.limit, segment.g),
            (0x7c00, 0xffff, 0)
        );
    }
}
