// SPDX-License-Identifier: GPL-2.0
//! The ioctls of a vCPU.

use std::mem::size_of;

use kvm_bindings::*;

use super::system::attribute;
use super::*;
use crate::call::{ioc, Call, Field, Of, Shape};
use crate::fields::{self, among, mostly, only};
use crate::lists;
use crate::step::On;

/// All of them.
pub(super) fn vcpu() -> Vec<Call> {
    let mut m = Maker(Vec::new(), On::Vcpu(0));
    m.fields(1, "GET_REGS", GET_REGS, vec![]);
    m.change(6, "SET_REGS", SET_REGS, GET_REGS, fields::regs());
    m.fields(1, "GET_SREGS", GET_SREGS, vec![]);
    m.change(10, "SET_SREGS", SET_SREGS, GET_SREGS, fields::sregs());
    m.fields(1, "GET_SREGS2", GET_SREGS2, vec![]);
    let sregs2 = ioc(1, 0xcd, size_of::<kvm_sregs2>());
    m.change(8, "SET_SREGS2", sregs2, GET_SREGS2, fields::sregs2());
    m.made(6, "GET_MSRS", GET_MSRS, lists::get_msrs);
    m.made(10, "SET_MSRS", SET_MSRS, lists::set_msrs);
    m.made(4, "SET_CPUID2", SET_CPUID2, lists::set_cpuid);
    m.made(1, "SET_CPUID", ioc(1, 0x8a, 8), lists::set_old_cpuid);
    m.made(2, "GET_CPUID2", GET_CPUID2, lists::cpuid_room);
    m.fields(1, "GET_FPU", GET_FPU, vec![]);
    m.change(
        4,
        "SET_FPU",
        ioc(1, 0x8d, size_of::<kvm_fpu>()),
        GET_FPU,
        fields::fpu(),
    );
    m.fields(1, "GET_XSAVE", GET_XSAVE, vec![]);
    m.fields(1, "GET_XSAVE2", GET_XSAVE2, vec![]);
    m.change(
        4,
        "SET_XSAVE",
        ioc(1, 0xa5, 4096),
        GET_XSAVE,
        fields::xsave(),
    );
    m.fields(1, "GET_XCRS", GET_XCRS, vec![]);
    m.change(
        4,
        "SET_XCRS",
        ioc(1, 0xa7, size_of::<kvm_xcrs>()),
        GET_XCRS,
        fields::xcrs(),
    );
    m.fields(1, "GET_DEBUGREGS", GET_DEBUGREGS, vec![]);
    m.change(
        4,
        "SET_DEBUGREGS",
        ioc(1, 0xa2, 128),
        GET_DEBUGREGS,
        fields::debugregs(),
    );
    m.fields(1, "GET_VCPU_EVENTS", GET_EVENTS, vec![])
        .own_matter();
    m.made(8, "SET_VCPU_EVENTS", ioc(1, 0xa0, 64), lists::events);
    let vector = vec![mostly(0, 4, &[0, 0x20, 0xff, 0x100])];
    m.fields(4, "INTERRUPT", ioc(1, 0x86, 4), vector);
    m.number(2, "NMI", 0x9a, &[0, 0, 1]);
    m.fields(
        4,
        "SET_GUEST_DEBUG",
        ioc(1, 0x9b, 72),
        fields::guest_debug(),
    );
    // Canonical ones; KVM does not ask for that.
    let address = vec![among(
        0,
        8,
        &[
            0,
            0x1000,
            0x4000,
            0x1f_ffff,
            0x20_0000,
            1 << 30,
            1 << 32,
            1 << 46,
            0xffff_8000_0000_0000,
        ],
    )];
    m.fields(4, "TRANSLATE", ioc(3, 0x85, 24), address);
    m.fields(1, "GET_MP_STATE", GET_MP_STATE, vec![]);
    m.fields(4, "SET_MP_STATE", ioc(1, 0x99, 4), fields::mp_state());
    m.made(1, "SET_SIGNAL_MASK", SET_SIGNAL_MASK, lists::signal_mask);
    m.number(1, "GET_TSC_KHZ", 0xa3, &[0, 1]);
    // Other frequencies than the host's are taken by KVM alone.
    m.add(1, "SET_TSC_KHZ", ioc(0, 0xa2, 0), Shape::Among(&[1 << 32]));
    let lapic_times = [(0x390, 4)];
    m.fields(1, "GET_LAPIC", GET_LAPIC, vec![])
        .tells_time(&lapic_times);
    m.change(6, "SET_LAPIC", SET_LAPIC, GET_LAPIC, fields::lapic());
    let reporting = vec![mostly(0, 4, &[0, 1]), mostly(4, 4, &[0])];
    m.fields(1, "TPR_ACCESS_REPORTING", ioc(3, 0x92, 40), reporting);
    let vapic = vec![mostly(
        0,
        8,
        &[0, 0x1000, 0x1ff0, 0xfff, 0x20_0000, 1 << 52],
    )];
    m.fields(1, "SET_VAPIC_ADDR", ioc(1, 0x93, 8), vapic);
    let mce_cap = vec![mostly(
        0,
        8,
        &[0, 1, 10, 32, 33, 0x0100_000a, 0x0f00_000a, 0x0800_0120],
    )];
    m.fields(2, "X86_SETUP_MCE", ioc(1, 0x9c, 8), mce_cap);
    let mce = vec![
        mostly(
            0,
            8,
            &[1 << 63, 7 << 61, 0xb4 << 56, 0, (1 << 63) | (1 << 61)],
        ),
        mostly(8, 8, &[0, 0x1000]),
        mostly(16, 8, &[0, 0x8c]),
        mostly(24, 8, &[0, 4, 5, 7]),
        mostly(32, 1, &[0, 1, 9, 10, 31, 32]),
    ];
    m.fields(3, "X86_SET_MCE", ioc(1, 0x9e, 64), mce);
    let enforce = vec![
        only(0, 4, &[190, 190, 1 << 20]),
        mostly(4, 4, &[0, 0, 1]),
        mostly(8, 8, &[0, 1]),
    ];
    m.fields(1, "ENABLE_CAP", ENABLE_CAP, enforce);
    let one_reg = || {
        vec![
            only(
                0,
                8,
                &[
                    0x2030_0002_0000_0174,
                    0x2030_0002_c000_0080,
                    0x2030_0002_0000_0277,
                    0x2030_0002_c000_0102,
                    0x2030_0003_0000_0000,
                    0x2030_0002_0000_0abc,
                    0,
                    1 << 63,
                ],
            ),
            Field {
                at: 8,
                width: 8,
                of: Of::Scratch,
            },
        ]
    };
    m.fields(2, "GET_ONE_REG", ioc(1, 0xab, 16), one_reg());
    m.fields(2, "SET_ONE_REG", ioc(1, 0xac, 16), one_reg());
    m.fields(
        1,
        "GET_REG_LIST",
        ioc(3, 0xb0, 8),
        vec![only(0, 8, &[0, 1, 100])],
    );
    m.number(1, "KVMCLOCK_CTRL", 0xad, &[0]);
    m.fields(1, "HAS_DEVICE_ATTR", ioc(1, 0xe3, 24), attribute());
    m.fields(1, "GET_DEVICE_ATTR", ioc(1, 0xe2, 24), attribute())
        .own_matter();
    m.fields(1, "SET_DEVICE_ATTR", ioc(1, 0xe1, 24), attribute());
    let pre_fault = vec![
        mostly(0, 8, &[0, 0x1000, 0x1f_f000, 0x20_0000, 0x800, 1 << 52]),
        mostly(8, 8, &[0x1000, 0x4000, 0, 0x800, 0x20_0000, 1 << 63]),
        mostly(16, 8, &[0, 0, 0, 1]),
        mostly(24, 8, &[0, 0, 0, 1]),
    ];
    m.fields(3, "PRE_FAULT_MEMORY", ioc(3, 0xd5, 64), pre_fault);
    m.number(1, "GET_STATS_FD", 0xce, &[0, 0, 1]);
    m.0
}
