// SPDX-License-Identifier: GPL-2.0
//! Arguments that are lists: CPUID, MSRs, routes, filters, and the state of chips.

use std::mem::offset_of;

use kvm_bindings::kvm_vcpu_events;

use crate::calls::GET_IRQCHIP;
use crate::cpuid;
use crate::random::Random;
use crate::step::{Block, Edit, Value};

/// Little-endian words one after the other.
struct Words(Vec<u8>);

impl Words {
    fn u32(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&(value as u32).to_le_bytes());
        self
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }
}

/// `struct kvm_msr_list` that says it has some room; behind it there is as much as KVM needs.
pub fn msr_index_list(random: &mut Random) -> Block {
    let mut words = Words(Vec::new());
    words.u32(random.pick(&[0, 1, 1000, 1 << 31, 0xffff_ffff]));
    words.0.resize(8192, 0);
    Block::of(words.0)
}

/// `struct kvm_cpuid2` that says it has some room.
pub fn cpuid_room(random: &mut Random) -> Block {
    let mut words = Words(Vec::new());
    words.u32(random.pick(&[0, 1, 8, 80, 256, 257, 0xffff_ffff]));
    words.0.resize(8 + 40 * 300, 0);
    Block::of(words.0)
}

/// `struct kvm_msrs` of MSRs that tell of KVM itself.
pub fn feature_msrs(random: &mut Random) -> Block {
    let mut words = Words(Vec::new());
    words.u32(random.pick(&[0, 1, 1, 1, 257])).u32(0);
    words.u64(random.pick(&[0xce, 0x8b, 0x1234])).u64(0);
    Block::of(words.0)
}

/// What KVM keeps for a guest, and ours too (Documentation/abi.md, CPUID and MSRs). Not those of
/// time: what is read from or written to them depends on when that is.
pub const MSRS: &[u64] = &[
    0x17,
    0x1b,
    0x2a,
    0x3a,
    0x34,
    0x3b,
    0x8b,
    0xcd,
    0xce,
    0xfe,
    0x11e,
    0x174,
    0x175,
    0x176,
    0x179,
    0x17a,
    0x17b,
    0x198,
    0x1a0,
    0x1fc,
    0x200,
    0x201,
    0x20f,
    0x250,
    0x258,
    0x259,
    0x268,
    0x26f,
    0x277,
    0x2ff,
    0x400,
    0x401,
    0x402,
    0x403,
    0x404,
    0x424,
    0x427,
    0x428,
    0x47f,
    0x4d0,
    0x606,
    0x611,
    0x802,
    0x803,
    0x808,
    0x80a,
    0x80b,
    0x80d,
    0x80f,
    0x810,
    0x820,
    0x828,
    0x82f,
    0x830,
    0x832,
    0x835,
    0x837,
    0x838,
    0x839,
    0x83e,
    0x83f,
    0xc000_0080,
    0xc000_0081,
    0xc000_0082,
    0xc000_0083,
    0xc000_0084,
    0xc000_0100,
    0xc000_0101,
    0xc000_0102,
    0xc000_0103,
    0xc001_0015,
    0x4b56_4d02,
    0x4b56_4d03,
    0x4b56_4d04,
    0x4b56_4d05,
    0x4b56_4d06,
    0x4b56_4d07,
];

/// What there is none of.
const NO_MSRS: &[u64] = &[
    0x2,
    0x1234,
    0x8ff,
    0x900,
    0xc000_0085,
    0xc000_1000,
    0xffff_ffff,
    0x4b56_4d20,
];

/// Values that mean something to some MSR.
const VALUES: &[u64] = &[
    0,
    1,
    3,
    0x500,
    0xd01,
    0x7_0406_0007_0406,
    0x0606_0606_0606_0606,
    0x0707_0707_0707_0707,
    0xc06,
    0xfee0_0900,
    0xfee0_0d00,
    0xfee0_0000,
    0x1000,
    0x1001,
    0x1_ff,
    0x8000_0000_0000,
    0xffff_8000_0000_0000,
    u64::MAX,
];

fn msr(random: &mut Random) -> u64 {
    if random.one_in(10) {
        random.pick(NO_MSRS)
    } else {
        random.pick(MSRS)
    }
}

/// The head of a list of `count` MSRs, which now and then says another number.
fn header(random: &mut Random, count: u64) -> Words {
    let mut words = Words(Vec::new());
    let says = if random.one_in(30) {
        random.pick(&[0, 256, 0xffff_ffff])
    } else {
        count
    };
    words.u32(says).u32(0);
    words
}

/// `struct kvm_msrs` to be read.
pub fn get_msrs(random: &mut Random) -> Block {
    let count = random.pick(&[1, 1, 2, 4]);
    let mut words = header(random, count);
    for _ in 0..count {
        // APIC timers count down.
        let index = match msr(random) {
            0x839 => 0x838,
            other => other,
        };
        words.u64(index).u64(0);
    }
    Block::of(words.0)
}

/// `struct kvm_msrs` to be written.
pub fn set_msrs(random: &mut Random) -> Block {
    let count = random.pick(&[1, 1, 1, 3]);
    let mut words = header(random, count);
    for _ in 0..count {
        let index = msr(random);
        let value = match index {
            // No timer: its interrupt comes when it comes.
            0x838 => 0,
            // Whether CPUID can be made to fault.
            0xce => 1 << 31,
            _ if random.one_in(3) => random.number(),
            _ => random.pick(VALUES),
        };
        words.u64(index).u64(value);
    }
    Block::of(words.0)
}

/// `struct kvm_cpuid2`: mostly what [`cpuid`] has, with a bit or a leaf that differs.
pub fn set_cpuid(random: &mut Random) -> Block {
    let mut leaves = cpuid::leaves();
    match random.below(4) {
        0 => {}
        1 => {
            leaves.remove(random.below(leaves.len() as u64) as usize);
        }
        2 => cpuid::change(random, &mut leaves),
        _ => {
            cpuid::change(random, &mut leaves);
            cpuid::change(random, &mut leaves);
        }
    }
    let mut words = Words(Vec::new());
    let count = leaves.len() as u64;
    words
        .u32(if random.one_in(20) {
            random.pick(&[0, 257])
        } else {
            count
        })
        .u32(0);
    words.0.extend(leaves.iter().flat_map(cpuid::Leaf::bytes));
    if random.one_in(20) {
        words.0.resize(8 + 40 * 300, 0);
    }
    Block::of(words.0)
}

/// `struct kvm_cpuid`, whose entries have no index.
pub fn set_old_cpuid(random: &mut Random) -> Block {
    let leaves = cpuid::leaves();
    let mut words = Words(Vec::new());
    let count = leaves.len() as u64;
    words
        .u32(if random.one_in(8) {
            random.pick(&[0, 257])
        } else {
            count
        })
        .u32(0);
    for leaf in leaves {
        words.u32(leaf.function.into());
        for register in leaf.registers {
            words.u32(register.into());
        }
        words.u32(0);
    }
    Block::of(words.0)
}

/// `struct kvm_vcpu_events` with one event at most: of several KVM loses some.
///
/// No #BP and #OF: with what length of instruction they are injected is KVM's own matter, as it is
/// with software interrupts. Not KVM_VCPUEVENT_VALID_SMM, which depends on the kernel's options, nor
/// KVM_VCPUEVENT_VALID_TRIPLE_FAULT: where it is refused, KVM has set half of the state.
pub fn events(random: &mut Random) -> Block {
    let mut block = Block::of(vec![0; size_of::<kvm_vcpu_events>()]);
    let mut set = |at, width, value| {
        let value = Value::Set(value);
        block.edits.push(Edit { at, width, value });
    };
    let vector = random.pick(&[0, 1, 2, 6, 8, 13, 14, 17, 18, 31, 32, 255]);
    let (exception, interrupt, nmi) = (
        offset_of!(kvm_vcpu_events, exception),
        offset_of!(kvm_vcpu_events, interrupt),
        offset_of!(kvm_vcpu_events, nmi),
    );
    match random.below(5) {
        0 => set(exception, 1, 1),
        1 => set(exception + 3, 1, 1),
        2 => set(interrupt, 1, 1),
        3 => set(nmi, 1, 1),
        _ => {}
    }
    set(exception + 1, 1, vector);
    if matches!(vector, 8 | 13 | 14 | 17) {
        set(exception + 2, 1, 1);
        set(exception + 4, 4, random.pick(&[0, 2, 0x10, 0xffff_ffff]));
    }
    set(interrupt + 1, 1, random.pick(&[0, 0x10, 0x20, 0x80, 0xff]));
    set(interrupt + 3, 1, random.below(4));
    set(nmi + 1, 1, random.below(4));
    set(nmi + 2, 1, random.below(2));
    let sipi = random.pick(&[0, 0x10, 0xff]);
    set(offset_of!(kvm_vcpu_events, sipi_vector), 4, sipi);
    if vector == 1 || vector == 14 {
        set(offset_of!(kvm_vcpu_events, exception_has_payload), 1, 1);
        let payload = random.pick(&[0, 1, 0x4000, 0x1000, 0xffff_8000_0000_0000]);
        set(offset_of!(kvm_vcpu_events, exception_payload), 8, payload);
    }
    let flags = random.pick(&[0, 1, 2, 3, 4, 5, 6, 7, 7, 7, 0x10, 0x17, 0x40, 1 << 31]);
    set(offset_of!(kvm_vcpu_events, flags), 4, flags);
    block
}

/// `struct kvm_irq_routing`.
pub fn routing(random: &mut Random) -> Block {
    let count = random.below(4);
    let mut words = Words(Vec::new());
    words.u32(if random.one_in(20) {
        random.pick(&[4097, 0xffff_ffff])
    } else {
        count
    });
    words.u32(random.pick(&[0, 0, 0, 0, 0, 1]));
    for _ in 0..count {
        let kind = random.pick(&[1, 1, 2, 2, 0, 5]);
        words
            .u32(random.pick(&[0, 1, 4, 23, 24, 4095, 4096]))
            .u32(kind);
        words.u32(random.pick(&[0, 0, 0, 0, 1, 2])).u32(0);
        if kind == 1 {
            words
                .u32(random.pick(&[0, 1, 2, 3]))
                .u32(random.pick(&[0, 1, 7, 8, 15, 23, 24]));
            words.u64(0);
        } else {
            words
                .u32(random.pick(&[0xfee0_0000, 0xfee0_1000, 0]))
                .u32(0);
            words.u32(random.pick(&[0x30, 0x8031, 0x10, 0x430])).u32(0);
        }
        words.u64(0).u64(0);
    }
    Block::of(words.0)
}

/// `struct kvm_msr_filter`, its bitmaps in scratch memory.
pub fn msr_filter(random: &mut Random) -> Block {
    let mut block = Block::of(vec![0; 8 + 24 * 16]);
    block.scratch = random.bytes(64);
    let mut set = |at, width, value| block.edits.push(Edit { at, width, value });
    set(0, 4, Value::Set(random.pick(&[0, 0, 1, 1, 2])));
    for range in 0..random.pick(&[0, 1, 2, 16]) {
        let at = 8 + 24 * range;
        set(at, 4, Value::Set(random.pick(&[1, 2, 3, 3, 3, 4, 0])));
        set(
            at + 4,
            4,
            Value::Set(random.pick(&[0, 1, 8, 64, 512, 0x3000, 0x3001, 0xffff_ffff])),
        );
        set(
            at + 8,
            4,
            Value::Set(random.pick(&[0, 0x174, 0xc000_0080, 0x800, 0xffff_ffff])),
        );
        set(at + 16, 8, Value::Scratch(0));
    }
    block
}

/// `struct kvm_signal_mask` of the kernel's 8 bytes, or of another length. SIGALRM is not masked:
/// it ends a KVM_RUN that does not end by itself.
pub fn signal_mask(random: &mut Random) -> Block {
    let mut words = Words(Vec::new());
    words
        .u32(random.pick(&[8, 8, 8, 4, 0, 128]))
        .u32(1 << 9)
        .u32(0);
    Block::of(words.0)
}

/// The state of a chip as it is, with a few bytes changed.
pub fn irqchip(random: &mut Random) -> Block {
    let chip = random.pick(&[0, 1, 2, 2, 3]);
    let mut words = Words(Vec::new());
    words.u32(chip).u32(0);
    words.0.resize(520, 0);
    let mut block = Block::of(words.0);
    block.get = Some(GET_IRQCHIP);
    for _ in 0..random.pick(&[1, 2, 4]) {
        // `struct kvm_pic_state` has 16 bytes, `struct kvm_ioapic_state` 24 and 24 redirections.
        let (at, width, value) = match (chip, random.below(4)) {
            // Not the padding, which KVM keeps.
            (2, 0) => (8 + 4 * random.below(5), 4, random.number()),
            (2, _) => {
                let entry = random.pick(&[
                    0x30, 0x1_0030, 0x8030, 0x1_8030, 0xc030, 0x430, 0x730, 0x131,
                ]);
                (8 + 24 + 8 * random.below(24), 8, entry)
            }
            // Registers and counts first, then what is true or not; not the mask of ELCR.
            (_, 0) => (8 + random.below(6), 1, random.number()),
            (_, 1) => (8 + 14, 1, random.number() & 0xf8),
            (_, 2) => (8 + 9, 1, random.below(4)),
            _ => (
                8 + random.pick(&[6, 7, 8, 10, 11, 12, 13]),
                1,
                random.below(2),
            ),
        };
        block.edits.push(Edit {
            at: at as usize,
            width,
            value: Value::Set(value),
        });
    }
    block
}
