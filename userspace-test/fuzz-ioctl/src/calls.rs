// SPDX-License-Identifier: GPL-2.0
//! The ioctls that are known (Documentation/abi.md has the list), and numbers that are not.

use std::mem::{offset_of, size_of};

use kvm_bindings::*;

use crate::call::{ioc, Call, Field, Of, Shape, Struct};
use crate::fields::{self, among, mostly, only};
use crate::lists;
use crate::random::Random;
use crate::step::{Argument, Block, Ioctl, On};

pub const CREATE_VM: u64 = ioc(0, 0x01, 0);
pub const GET_VCPU_MMAP_SIZE: u64 = ioc(0, 0x04, 0);
pub const CREATE_VCPU: u64 = ioc(0, 0x41, 0);
pub const SET_USER_MEMORY_REGION: u64 = ioc(1, 0x46, 32);
pub const CREATE_IRQCHIP: u64 = ioc(0, 0x60, 0);
pub const GET_IRQCHIP: u64 = ioc(3, 0x62, size_of::<kvm_irqchip>());
pub const CREATE_PIT2: u64 = ioc(1, 0x77, size_of::<kvm_pit_config>());
pub const GET_PIT2: u64 = ioc(2, 0x9f, size_of::<kvm_pit_state2>());
pub const ENABLE_CAP: u64 = ioc(1, 0xa3, size_of::<kvm_enable_cap>());
pub const GET_CLOCK: u64 = ioc(2, 0x7c, size_of::<kvm_clock_data>());
pub const GET_STATS_FD: u64 = ioc(0, 0xce, 0);
pub const CREATE_DEVICE: u64 = ioc(3, 0xe0, 12);
pub const RUN: u64 = ioc(0, 0x80, 0);
pub const GET_REGS: u64 = ioc(2, 0x81, size_of::<kvm_regs>());
pub const SET_REGS: u64 = ioc(1, 0x82, size_of::<kvm_regs>());
pub const GET_SREGS: u64 = ioc(2, 0x83, size_of::<kvm_sregs>());
pub const SET_SREGS: u64 = ioc(1, 0x84, size_of::<kvm_sregs>());
pub const GET_MSRS: u64 = ioc(3, 0x88, 8);
pub const SET_MSRS: u64 = ioc(1, 0x89, 8);
pub const GET_FPU: u64 = ioc(2, 0x8c, size_of::<kvm_fpu>());
pub const GET_LAPIC: u64 = ioc(2, 0x8e, 1024);
pub const SET_LAPIC: u64 = ioc(1, 0x8f, 1024);
pub const SET_CPUID2: u64 = ioc(1, 0x90, 8);
pub const GET_CPUID2: u64 = ioc(3, 0x91, 8);
pub const GET_MP_STATE: u64 = ioc(2, 0x98, 4);
pub const GET_EVENTS: u64 = ioc(2, 0x9f, 64);
pub const GET_DEBUGREGS: u64 = ioc(2, 0xa1, 128);
pub const GET_XSAVE: u64 = ioc(2, 0xa4, 4096);
pub const GET_XCRS: u64 = ioc(2, 0xa6, size_of::<kvm_xcrs>());
pub const GET_SREGS2: u64 = ioc(2, 0xcc, size_of::<kvm_sregs2>());
pub const GET_XSAVE2: u64 = ioc(2, 0xcf, 4096);

/// Puts a call together.
struct Maker(Vec<Call>, On);

impl Maker {
    fn add(&mut self, weight: u64, name: &'static str, number: u64, shape: Shape) -> &mut Call {
        let on = self.1;
        self.0.push(Call {
            name,
            on,
            number,
            shape,
            weight,
            comparable: true,
        });
        let last = self.0.len() - 1;
        &mut self.0[last]
    }

    fn number(
        &mut self,
        weight: u64,
        name: &'static str,
        nr: u64,
        values: &'static [u64],
    ) -> &mut Call {
        self.add(weight, name, ioc(0, nr, 0), Shape::Number(values))
    }

    /// An ioctl that takes or returns a structure; its size is in the number.
    fn fields(
        &mut self,
        weight: u64,
        name: &'static str,
        number: u64,
        fields: Vec<Field>,
    ) -> &mut Call {
        let shape = Struct {
            len: (number >> 16) as usize & 0x3fff,
            get: None,
            fields,
            times: Vec::new(),
        };
        self.add(weight, name, number, Shape::Struct(shape))
    }

    /// An ioctl that changes what `get` returns.
    fn change(
        &mut self,
        weight: u64,
        name: &'static str,
        number: u64,
        get: u64,
        fields: Vec<Field>,
    ) -> &mut Call {
        let call = self.fields(weight, name, number, fields);
        if let Shape::Struct(shape) = &mut call.shape {
            shape.get = Some(get);
        }
        call
    }

    fn made(
        &mut self,
        weight: u64,
        name: &'static str,
        number: u64,
        make: fn(&mut Random) -> Block,
    ) -> &mut Call {
        self.add(weight, name, number, Shape::Made(make))
    }
}

impl Call {
    /// What it returns is this KVM's own matter.
    fn own_matter(&mut self) {
        self.comparable = false;
    }

    /// These bytes (offset, length) of what it returns tell of time.
    fn tells_time(&mut self, times: &[(usize, usize)]) {
        if let Shape::Struct(shape) = &mut self.shape {
            shape.times = times.to_vec();
        }
    }
}

const SLOTS: &[u64] = &[0, 1, 1, 2, 3, 32763, 32764];
const GSIS: &[u64] = &[0, 1, 4, 8, 15, 16, 23, 24, 4095, 4096];

fn system() -> Vec<Call> {
    let mut m = Maker(Vec::new(), On::System);
    m.number(1, "GET_API_VERSION", 0x00, &[0, 0, 1]);
    m.number(4, "CHECK_EXTENSION", 0x03, &[0, 1, 55, 78, 1 << 32])
        .own_matter();
    m.number(1, "GET_VCPU_MMAP_SIZE", 0x04, &[0, 0, 1]);
    m.made(
        1,
        "GET_MSR_INDEX_LIST",
        ioc(3, 0x02, 4),
        lists::msr_index_list,
    )
    .own_matter();
    m.made(
        1,
        "GET_MSR_FEATURE_INDEX_LIST",
        ioc(3, 0x0a, 4),
        lists::msr_index_list,
    )
    .own_matter();
    m.made(2, "GET_SUPPORTED_CPUID", ioc(3, 0x05, 8), lists::cpuid_room)
        .own_matter();
    m.made(1, "GET_EMULATED_CPUID", ioc(3, 0x09, 8), lists::cpuid_room)
        .own_matter();
    m.made(1, "GET_MSRS", GET_MSRS, lists::feature_msrs);
    m.fields(1, "X86_GET_MCE_CAP_SUPPORTED", ioc(2, 0x9d, 8), vec![])
        .own_matter();
    m.fields(1, "GET_DEVICE_ATTR", ioc(1, 0xe2, 24), attribute());
    m.fields(1, "HAS_DEVICE_ATTR", ioc(1, 0xe3, 24), attribute());
    m.0
}

/// `struct kvm_device_attr`.
fn attribute() -> Vec<Field> {
    vec![
        mostly(0, 4, &[0, 0, 0, 1]),
        mostly(4, 4, &[0, 0, 1]),
        mostly(8, 8, &[0, 0, 1]),
        Field {
            at: 16,
            width: 8,
            of: Of::Scratch,
        },
    ]
}

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

fn vm() -> Vec<Call> {
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

fn vcpu() -> Vec<Call> {
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
    m.made(1, "SET_SIGNAL_MASK", ioc(1, 0x8b, 4), lists::signal_mask);
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

/// The ioctls of each kind of descriptor.
pub struct Calls {
    groups: [Vec<Call>; 3],
}

impl Calls {
    /// All of them.
    pub fn all() -> Self {
        Self {
            groups: [system(), vm(), vcpu()],
        }
    }

    /// One of a vCPU's.
    pub fn of_vcpu(&self, random: &mut Random, vcpu: usize) -> Ioctl {
        self.of_group(2, random, vcpu)
    }

    fn of_group(&self, group: usize, random: &mut Random, vcpu: usize) -> Ioctl {
        let group = &self.groups[group];
        let mut at = random.below(group.iter().map(|c| c.weight).sum());
        for call in group {
            if at < call.weight {
                return call.step(random, vcpu);
            }
            at -= call.weight;
        }
        unreachable!("the weights were added up")
    }

    /// One of them with a random argument; `vcpu` is whose it is where it is a vCPU's. Once in a
    /// while it goes to the wrong kind of descriptor, or has a number that nobody knows.
    pub fn any(&self, random: &mut Random, vcpu: usize) -> Ioctl {
        let group = random.pick(&[0, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2]);
        let mut step = self.of_group(group, random, vcpu);
        match random.below(100) {
            0 => {
                step.on = random.pick(&[On::System, On::Vm, On::Vcpu(vcpu), On::Stats]);
            }
            1 | 2 => step = unknown(random, vcpu),
            _ => {}
        }
        step
    }
}

/// A number that no KVM has on a descriptor, or that has the wrong size.
fn unknown(random: &mut Random, vcpu: usize) -> Ioctl {
    let len = random.pick(&[0, 4, 8, 64, 520, 4096]);
    let mut bytes = random.bytes(4096);
    bytes[..16].fill(0);
    Ioctl {
        name: "unknown",
        on: random.pick(&[On::System, On::Vm, On::Vcpu(vcpu), On::Stats]),
        number: ioc(random.below(4), 0xf0 + random.below(16), len),
        argument: Argument::Block(Block::of(bytes)),
        comparable: true,
    }
}
