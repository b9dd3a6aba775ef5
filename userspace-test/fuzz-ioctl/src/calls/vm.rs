// SPDX-License-Identifier: GPL-2.0
//! The ioctls of a VM.

use std::mem::{offset_of, size_of};

use kvm_bindings::*;

use super::*;
use crate::call::{ioc, Call, Field, Of, Shape, Struct};
use crate::fields::{among, mostly, only};
use crate::lists;
use crate::step::On;

const SLOTS: &[u64] = &[0, 1, 1, 2, 3, 32763, 32764];
const GSIS: &[u64] = &[0, 1, 4, 8, 15, 16, 23, 24, 4095, 4096];

fn region() -> Vec<Field> {
    vec![
        // Not the one that the page tables are in.
        among(0, 2, &[1, 1, 2, 3, 32763, 32764, 0xffff]),
        // Not KVM_MEM_GUEST_MEMFD.
        among(4, 4, &[0, 0, 1, 2, 3, 8, 1 << 31]),
        // Not FEE00000H, where KVM has a slot of its own with an irqchip.
        among(8, 8, &[0, 0x20_0000, 0x40_0000, 0x20_1000, 1 << 52, 0x800]),
        among(
            16,
            8,
            &[0, 0x1000, 0x4000, 0x1_0000, 0x20_0000, 0x800, 1 << 43],
        ),
        Field {
            at: 24,
            width: 8,
            of: Of::Memory(4096),
        },
    ]
}

fn zone() -> Vec<Field> {
    vec![
        among(0, 8, &[0xe7, 0x400, 0x20_0000, 0xfee0_0000, 0xffff_ffff]),
        among(8, 4, &[0, 1, 4, 0x1000]),
        mostly(12, 4, &[0, 1, 2]),
    ]
}

fn capability_of_vm() -> Vec<Field> {
    vec![
        // SPLIT_IRQCHIP, X2APIC_API (two flags), EXCEPTION_PAYLOAD,
        // X86_USER_SPACE_MSR, EXIT_ON_EMULATION_FAILURE, TRIPLE_FAULT_EVENT, MSR_PLATFORM_INFO,
        // DISABLE_EXITS, MAX_VCPU_ID, HALT_POLL, EXIT_HYPERCALL, APIC_BUS_CYCLES_NS, and what
        // none has.
        only(
            0,
            4,
            &[
                121,
                129,
                164,
                188,
                204,
                218,
                159,
                143,
                128,
                182,
                201,
                237,
                116,
                1 << 20,
            ],
        ),
        mostly(4, 4, &[0, 0, 0, 0, 0, 0, 0, 1]),
        only(8, 8, &[0, 1, 1, 2, 3, 4, 8, 24, 4096, 4097, 1 << 63]),
        mostly(16, 8, &[0, 0, 0, 1]),
    ]
}

/// Channels as they can come to be: programmed with a count of two bytes. The first one has a mode
/// without a timer.
fn pit() -> Vec<Field> {
    let mut fields = Vec::new();
    for channel in 0..3 {
        let at = |offset| channel * size_of::<kvm_pit_channel_state>() + offset;
        let modes: &[u64] = if channel == 0 {
            &[5]
        } else {
            &[0, 1, 2, 3, 4, 5]
        };
        fields.extend([
            among(
                at(offset_of!(kvm_pit_channel_state, count)),
                4,
                &[2, 0x1234, 0x1_0000],
            ),
            among(at(offset_of!(kvm_pit_channel_state, gate)), 1, &[0, 1]),
            only(at(offset_of!(kvm_pit_channel_state, read_state)), 1, &[3]),
            only(at(offset_of!(kvm_pit_channel_state, write_state)), 1, &[3]),
            only(at(offset_of!(kvm_pit_channel_state, rw_mode)), 1, &[3]),
            only(at(offset_of!(kvm_pit_channel_state, mode)), 1, modes),
        ]);
    }
    fields
}

const PIT_TIMES: &[(usize, usize)] = &[(16, 8), (40, 8), (64, 8)];

/// All of them.
pub(super) fn vm() -> Vec<Call> {
    let mut m = Maker(Vec::new(), On::Vm);
    m.number(2, "CREATE_VCPU", 0x41, &[0, 1, 2, 3, 4095, 4096, 1 << 32]);
    m.number(2, "CHECK_EXTENSION", 0x03, &[0, 1, 55])
        .own_matter();
    m.fields(
        6,
        "SET_USER_MEMORY_REGION",
        SET_USER_MEMORY_REGION,
        region(),
    );
    let mut region2 = region();
    region2.push(mostly(32, 8, &[0]));
    region2.push(mostly(40, 4, &[0]));
    m.fields(4, "SET_USER_MEMORY_REGION2", ioc(1, 0x49, 160), region2);
    m.number(1, "SET_NR_MMU_PAGES", 0x44, &[0, 1, 19, 20, 1000]);
    m.number(
        1,
        "SET_TSS_ADDR",
        0x47,
        &[0, 0xfffb_d000, 0xffff_d000, 0xffff_f000],
    );
    let identity = vec![mostly(0, 8, &[0, 0xfffb_c000, 1 << 40])];
    m.fields(1, "SET_IDENTITY_MAP_ADDR", ioc(1, 0x48, 8), identity);
    let dirty = vec![
        mostly(0, 2, SLOTS),
        Field {
            at: 8,
            width: 8,
            of: Of::Scratch,
        },
    ];
    // Of a page that a guest loads from, KVM says that it was written.
    m.fields(3, "GET_DIRTY_LOG", ioc(1, 0x42, 16), dirty)
        .own_matter();
    let clear = vec![
        mostly(0, 2, SLOTS),
        mostly(4, 4, &[0, 1, 16, 64, 512]),
        mostly(8, 8, &[0, 0, 64, 1]),
        Field {
            at: 16,
            width: 8,
            of: Of::Scratch,
        },
    ];
    m.fields(3, "CLEAR_DIRTY_LOG", ioc(3, 0xc0, 24), clear);
    m.number(1, "RESET_DIRTY_RINGS", 0xc7, &[0, 0, 1]);
    m.fields(2, "REGISTER_COALESCED_MMIO", ioc(1, 0x67, 16), zone());
    m.fields(2, "UNREGISTER_COALESCED_MMIO", ioc(1, 0x68, 16), zone());
    m.number(1, "CREATE_IRQCHIP", 0x60, &[0, 0, 1]);
    let chip = vec![mostly(0, 4, &[0, 1, 2, 3])];
    m.fields(2, "GET_IRQCHIP", GET_IRQCHIP, chip);
    m.made(4, "SET_IRQCHIP", ioc(2, 0x63, 520), lists::irqchip);
    let line = vec![mostly(0, 4, GSIS), mostly(4, 4, &[0, 1, 2])];
    m.fields(4, "IRQ_LINE", ioc(1, 0x61, 8), line.clone());
    m.fields(4, "IRQ_LINE_STATUS", ioc(3, 0x67, 8), line);
    m.made(3, "SET_GSI_ROUTING", ioc(1, 0x6a, 8), lists::routing);
    let msi = vec![
        mostly(
            0,
            4,
            &[0xfee0_0000, 0xfee0_1000, 0xfeef_f000, 0xfee0_000c, 0],
        ),
        only(4, 4, &[0]),
        // No SMI.
        among(
            8,
            4,
            &[0x30, 0x10, 0, 0x430, 0x130, 0xc030, 0x500, 0x610, 0x730],
        ),
        mostly(12, 4, &[0, 0, 0, 1]),
        mostly(16, 4, &[0]),
    ];
    m.fields(4, "SIGNAL_MSI", ioc(1, 0xa5, 32), msi);
    let event = |at| Field {
        at,
        width: 4,
        of: Of::Event,
    };
    let irqfd = vec![
        event(0),
        mostly(4, 4, GSIS),
        mostly(8, 4, &[0, 0, 1, 2, 3, 4]),
        event(12),
    ];
    m.fields(3, "IRQFD", ioc(1, 0x76, 32), irqfd);
    let ioeventfd = vec![
        mostly(0, 8, &[0, 1, 0xe6]),
        // Not the port of the guest's code: it would not end.
        among(8, 8, &[0x10, 0x20_0000, 0xffff, u64::MAX]),
        mostly(16, 4, &[0, 1, 2, 4, 8, 3]),
        event(20),
        mostly(24, 4, &[0, 1, 2, 3, 4, 5, 6, 7, 8]),
    ];
    m.fields(4, "IOEVENTFD", ioc(1, 0x79, 64), ioeventfd);
    m.number(1, "CREATE_PIT", 0x64, &[0, 0, 1]);
    m.fields(
        2,
        "CREATE_PIT2",
        CREATE_PIT2,
        vec![mostly(0, 4, &[0, 0, 1, 2])],
    );
    m.fields(1, "GET_PIT", ioc(3, 0x65, 72), vec![])
        .tells_time(PIT_TIMES);
    m.change(2, "SET_PIT", ioc(2, 0x66, 72), ioc(3, 0x65, 72), pit());
    m.fields(1, "GET_PIT2", GET_PIT2, vec![])
        .tells_time(PIT_TIMES);
    let mut pit2 = pit();
    pit2.push(mostly(72, 4, &[0, 1, 2]));
    m.change(2, "SET_PIT2", ioc(1, 0xa0, 112), GET_PIT2, pit2);
    let reinject = Struct {
        len: 32,
        get: None,
        fields: vec![mostly(0, 1, &[0, 1])],
        times: Vec::new(),
    };
    m.add(
        1,
        "REINJECT_CONTROL",
        ioc(0, 0x71, 0),
        Shape::Struct(reinject),
    );
    m.number(1, "SET_BOOT_CPU_ID", 0x78, &[0, 1, 5000]);
    let clock = vec![
        mostly(0, 8, &[0, 1, 1 << 62, u64::MAX]),
        mostly(8, 4, &[0, 2, 4, 8, 14, 16]),
        mostly(16, 8, &[0, 1]),
    ];
    m.fields(1, "SET_CLOCK", ioc(1, 0x7b, 48), clock);
    m.fields(1, "GET_CLOCK", GET_CLOCK, vec![])
        .tells_time(&[(0, 48)]);
    // Other frequencies than the host's are taken by KVM alone.
    m.add(1, "SET_TSC_KHZ", ioc(0, 0xa2, 0), Shape::Among(&[1 << 32]));
    m.number(1, "GET_TSC_KHZ", 0xa3, &[0, 1]);
    m.fields(6, "ENABLE_CAP", ENABLE_CAP, capability_of_vm());
    // Those of the local APIC, of INs, of hypercalls, of feature MSRs, and what none has.
    let quirks = vec![
        only(0, 4, &[KVM_CAP_DISABLE_QUIRKS2 as u64]),
        only(8, 8, &[0, 1, 4, 8, 32, 256, 1 << 63]),
    ];
    m.fields(2, "ENABLE_CAP", ENABLE_CAP, quirks);
    m.made(
        3,
        "X86_SET_MSR_FILTER",
        ioc(1, 0xc6, 392),
        lists::msr_filter,
    );
    let device = vec![
        only(0, 4, &[0, 1, 5, 20, u64::MAX]),
        mostly(8, 4, &[0, 1, 2]),
    ];
    m.fields(1, "CREATE_DEVICE", CREATE_DEVICE, device);
    m.number(1, "GET_STATS_FD", 0xce, &[0, 0, 1]);
    m.0
}
