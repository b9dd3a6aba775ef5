// SPDX-License-Identifier: GPL-2.0
//! The fields of KVM's structures, with the values that mean something.

use std::mem::offset_of;

use kvm_bindings::*;

use crate::call::{Field, Of};

/// A field that mostly has one of `values`.
pub const fn mostly(at: usize, width: usize, values: &'static [u64]) -> Field {
    let of = Of::Mostly(values);
    Field { at, width, of }
}

/// A field that always has one of `values`.
pub const fn only(at: usize, width: usize, values: &'static [u64]) -> Field {
    let of = Of::Only(values);
    Field { at, width, of }
}

/// A field that has one of `values` where it is chosen.
pub const fn among(at: usize, width: usize, values: &'static [u64]) -> Field {
    let of = Of::Among(values);
    Field { at, width, of }
}

const ANY: &[u64] = &[];
const FLAG: &[u64] = &[0, 1];

/// Addresses in guests: in memory, behind it, at the ends of what there is.
const ADDRESSES: &[u64] = &[
    0,
    0x1000,
    0x2000,
    0x4000,
    0x1_0000,
    0x8_0000,
    0x1f_fff0,
    0x20_0000,
    0xfee0_0000,
    0xffff_fff0,
    1 << 32,
    0x7fff_ffff_f000,
    0x8000_0000_0000,
    0xffff_8000_0000_0000,
    u64::MAX,
];

/// Addresses in the guest's memory. Accesses of the processor's own to anything else, for stacks and
/// tables, end in ways that depend on what KVM has mapped before.
const IN_MEMORY: &[u64] = &[0, 0x1000, 0x2000, 0x4000, 0x1_0000, 0x8_0000];

/// The fields of a segment that starts at `base`.
fn segment(base: usize) -> Vec<Field> {
    let at = |offset: usize| base + offset;
    vec![
        among(at(offset_of!(kvm_segment, base)), 8, IN_MEMORY),
        mostly(
            at(offset_of!(kvm_segment, limit)),
            4,
            &[0, 0x67, 0xffff, 0xf_ffff, 0xffff_ffff, 0xfff],
        ),
        mostly(
            at(offset_of!(kvm_segment, selector)),
            2,
            &[0, 3, 4, 8, 0x10, 0x18, 0x1b, 0x33, 0xf000, 0xffff],
        ),
        among(
            at(offset_of!(kvm_segment, type_)),
            1,
            &[0, 1, 2, 3, 5, 7, 9, 11, 13, 15],
        ),
        among(at(offset_of!(kvm_segment, present)), 1, FLAG),
        among(at(offset_of!(kvm_segment, dpl)), 1, &[0, 1, 2, 3]),
        among(at(offset_of!(kvm_segment, db)), 1, FLAG),
        among(at(offset_of!(kvm_segment, s)), 1, FLAG),
        among(at(offset_of!(kvm_segment, l)), 1, FLAG),
        among(at(offset_of!(kvm_segment, g)), 1, FLAG),
        among(at(offset_of!(kvm_segment, avl)), 1, FLAG),
        among(at(offset_of!(kvm_segment, unusable)), 1, FLAG),
    ]
}

/// `struct kvm_sregs`, and `struct kvm_sregs2` up to where they part.
fn special() -> Vec<Field> {
    // Control registers are chosen as often as all segments together.
    let control = [
        mostly(
            offset_of!(kvm_sregs, cr0),
            8,
            &[
                0x10,
                0x11,
                0x6000_0010,
                0x8000_0011,
                0x8001_0033,
                0x8005_003b,
                0xe000_0011,
                0x8000_0010,
                0x2000_0011,
                0x31,
                0x8001_0033,
            ],
        ),
        mostly(offset_of!(kvm_sregs, cr2), 8, ADDRESSES),
        // Page tables are in memory: KVM tries for ever what it cannot read.
        among(
            offset_of!(kvm_sregs, cr3),
            8,
            &[0, 0x4000, 0x5000, 0x4018, 0x4fff, 1 << 52, 1 << 63],
        ),
        mostly(
            offset_of!(kvm_sregs, cr4),
            8,
            &[
                0, 0x20, 0x10, 0x30, 0x620, 0x2_0020, 0x4_0620, 0x1_0020, 0x10_0020, 0x20_0020,
                0x2020,
            ],
        ),
        mostly(offset_of!(kvm_sregs, cr8), 8, &[0, 1, 8, 15, 16]),
        mostly(
            offset_of!(kvm_sregs, efer),
            8,
            &[
                0, 1, 0x100, 0x400, 0x500, 0x501, 0xd00, 0xd01, 0x800, 0x4000, 0x1000,
            ],
        ),
        mostly(
            offset_of!(kvm_sregs, apic_base),
            8,
            &[
                0xfee0_0000,
                0xfee0_0800,
                0xfee0_0900,
                0xfee0_0c00,
                0xfee0_0d00,
                0xfee0_0400,
                0xfed0_0900,
                0,
            ],
        ),
        among(
            offset_of!(kvm_sregs, gdt) + offset_of!(kvm_dtable, base),
            8,
            IN_MEMORY,
        ),
        mostly(
            offset_of!(kvm_sregs, gdt) + offset_of!(kvm_dtable, limit),
            2,
            ANY,
        ),
        among(
            offset_of!(kvm_sregs, idt) + offset_of!(kvm_dtable, base),
            8,
            IN_MEMORY,
        ),
        mostly(
            offset_of!(kvm_sregs, idt) + offset_of!(kvm_dtable, limit),
            2,
            ANY,
        ),
    ];
    let mut fields = Vec::new();
    for _ in 0..6 {
        fields.extend_from_slice(&control);
    }
    for at in [
        offset_of!(kvm_sregs, cs),
        offset_of!(kvm_sregs, ds),
        offset_of!(kvm_sregs, es),
        offset_of!(kvm_sregs, fs),
        offset_of!(kvm_sregs, gs),
        offset_of!(kvm_sregs, ss),
        offset_of!(kvm_sregs, tr),
        offset_of!(kvm_sregs, ldt),
    ] {
        fields.extend(segment(at));
    }
    fields
}

/// `struct kvm_sregs`.
pub fn sregs() -> Vec<Field> {
    let mut fields = special();
    for word in 0..4 {
        let at = offset_of!(kvm_sregs, interrupt_bitmap) + 8 * word;
        fields.push(mostly(at, 8, &[0, 1, 1 << 32]));
    }
    fields
}

/// `struct kvm_sregs2`.
pub fn sregs2() -> Vec<Field> {
    let mut fields = special();
    for _ in 0..4 {
        fields.push(mostly(offset_of!(kvm_sregs2, flags), 8, &[0, 1, 2]));
    }
    for entry in 0..4 {
        let at = offset_of!(kvm_sregs2, pdptrs) + 8 * entry;
        fields.push(among(at, 8, &[0, 0x5001, 0x5000, 0x5003, 1]));
    }
    fields
}

/// `struct kvm_regs`.
pub fn regs() -> Vec<Field> {
    let general = offset_of!(kvm_regs, rip) / 8;
    let mut fields: Vec<_> = (0..general).map(|i| mostly(8 * i, 8, ADDRESSES)).collect();
    fields[offset_of!(kvm_regs, rsp) / 8].of = Of::Among(IN_MEMORY);
    for _ in 0..4 {
        fields.push(mostly(offset_of!(kvm_regs, rip), 8, ADDRESSES));
        fields.push(mostly(
            offset_of!(kvm_regs, rflags),
            8,
            &[
                0, 2, 0x202, 0x302, 0x2_0202, 0x1_0002, 0x4002, 0x3202, 0x10_0002, 0x20_0202,
                0x20_0002,
            ],
        ));
    }
    fields
}

/// `struct kvm_debugregs`.
pub fn debugregs() -> Vec<Field> {
    let mut fields: Vec<_> = (0..4).map(|i| mostly(8 * i, 8, ADDRESSES)).collect();
    for _ in 0..3 {
        fields.push(mostly(
            offset_of!(kvm_debugregs, dr6),
            8,
            &[0, 0xffff_0ff0, 0xffff_4ff1, 0xfffe_0ff0, 0x1_ffff_0ff0],
        ));
        fields.push(mostly(
            offset_of!(kvm_debugregs, dr7),
            8,
            &[
                0,
                0x400,
                0x401,
                0x2400,
                0x1_0402,
                0x1_0000_0400,
                0xffff_07ff,
            ],
        ));
    }
    fields.push(mostly(offset_of!(kvm_debugregs, flags), 8, FLAG));
    fields
}

/// `struct kvm_guest_debug`.
pub fn guest_debug() -> Vec<Field> {
    let registers = offset_of!(kvm_guest_debug, arch);
    let mut fields: Vec<_> = (0..4)
        .map(|i| mostly(registers + 8 * i, 8, ADDRESSES))
        .collect();
    fields.push(mostly(
        registers + 8 * 7,
        8,
        &[0, 0x400, 0x401, 0x7ff, 0x1_0402],
    ));
    fields.push(mostly(registers + 8 * 6, 8, ANY));
    // Not KVM_GUESTDBG_INJECT_BP: with what length of instruction is KVM's own matter. Nor
    // KVM_GUESTDBG_SINGLESTEP, which KVM forgets where RIP is set and it was another.
    fields.push(among(
        0,
        4,
        &[
            0, 1, 0x2_0001, 0x1_0001, 0x2_0000, 0x3_0001, 0x4_0001, 0x4_0000, 0x10_0001, 0x40_0001,
        ],
    ));
    fields
}

/// `struct kvm_lapic_state`: registers are 4 bytes at multiples of 16. The timer is off.
pub fn lapic() -> Vec<Field> {
    const DESTINATION: usize = 0xd0;
    const INITIAL_COUNT: usize = 0x380;
    let vectors: &[u64] = &[0, 0x20, 0x1_0030, 0x400, 0x40, 0x1_0000, 0x8030];
    let mut fields: Vec<_> = (0x100..0x280)
        .step_by(16)
        .map(|at| mostly(at, 4, &[0, 1, 0x8000]))
        .collect();
    for _ in 0..3 {
        fields.extend([
            mostly(0x20, 4, &[0, 1 << 24, 0xff00_0000, 1]),
            mostly(0x80, 4, &[0, 0x10, 0x80, 0xff]),
            mostly(DESTINATION, 4, &[0, 1 << 24, 0xff00_0000]),
            mostly(0xe0, 4, &[0xffff_ffff, 0x0fff_ffff]),
            mostly(0xf0, 4, &[0xff, 0x1ff, 0x1f0, 0x11ff, 0x3ff]),
            mostly(0x280, 4, &[0, 0x40]),
            mostly(0x300, 4, &[0, 0x4_0030, 0x8_0030, 0x430, 0x1030]),
            mostly(0x310, 4, &[0, 1 << 24]),
            mostly(0x3e0, 4, &[0, 11, 3, 0xff]),
        ]);
        fields.extend([0x320, 0x330, 0x340, 0x350, 0x360, 0x370].map(|at| mostly(at, 4, vectors)));
    }
    fields.push(mostly(0x30, 4, ANY));
    fields.push(only(INITIAL_COUNT, 4, &[0]));
    fields
}

/// `struct kvm_mp_state`.
pub fn mp_state() -> Vec<Field> {
    // Not KVM_MP_STATE_AP_RESET_HOLD (9).
    vec![only(
        0,
        4,
        &[0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 0x100, 1 << 31],
    )]
}

/// `struct kvm_xcrs`.
pub fn xcrs() -> Vec<Field> {
    vec![
        mostly(offset_of!(kvm_xcrs, nr_xcrs), 4, &[0, 1, 1, 2, 16, 17]),
        mostly(offset_of!(kvm_xcrs, flags), 4, &[0, 0, 0, 1]),
        mostly(offset_of!(kvm_xcrs, xcrs), 4, &[0, 0, 0, 1]),
        mostly(
            offset_of!(kvm_xcrs, xcrs) + 8,
            8,
            &[1, 3, 7, 0, 2, 5, 6, 0x1f, 0xff, 0x207],
        ),
    ]
}

/// `struct kvm_fpu`.
pub fn fpu() -> Vec<Field> {
    let mut fields: Vec<_> = (0..0x1a0).step_by(8).map(|at| mostly(at, 8, ANY)).collect();
    for _ in 0..20 {
        fields.push(mostly(
            offset_of!(kvm_fpu, mxcsr),
            4,
            &[0x1f80, 0, 0xffff, 0x1_0000],
        ));
        fields.push(mostly(offset_of!(kvm_fpu, fcw), 2, &[0x37f, 0, 0xffff]));
    }
    fields
}

/// `struct kvm_xsave`: the legacy part, the header, and AVX's registers.
pub fn xsave() -> Vec<Field> {
    let mut fields: Vec<_> = (0..0x340).step_by(8).map(|at| mostly(at, 8, ANY)).collect();
    for _ in 0..20 {
        fields.push(mostly(24, 4, &[0x1f80, 0, 0xffff, 0x1_0000]));
        fields.push(mostly(512, 8, &[0, 1, 2, 3, 4, 7, 0x200, 1 << 62]));
        fields.push(mostly(520, 8, &[0, 0, 1, 1 << 63]));
        fields.push(mostly(528, 8, &[0, 0, 1]));
    }
    fields
}
