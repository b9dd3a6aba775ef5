// SPDX-License-Identifier: GPL-2.0
//! The ioctls of `/dev/kvm`.

use super::{Maker, GET_MSRS};
use crate::call::{ioc, Call, Field, Of};
use crate::fields::mostly;
use crate::lists;
use crate::step::On;

/// All of them.
pub(super) fn system() -> Vec<Call> {
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
pub(super) fn attribute() -> Vec<Field> {
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
