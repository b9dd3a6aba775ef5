// SPDX-License-Identifier: GPL-2.0

//! KVM_X86_SET_MSR_FILTER (api.rst, 4.97).

use kernel::prelude::*;

use super::copy;
use crate::{
    host::bindings,
    vm::{
        msr_filter::{
            Range,
            Rules, //
        },
        Backend,
        Vm, //
    },
};

const MAX_RANGES: usize = bindings::KVM_MSR_FILTER_MAX_RANGES as usize;
/// Words of `struct kvm_msr_filter`: the flags, then three for each range.
const WORDS: usize = 1 + 3 * MAX_RANGES;
const _: () = assert!(size_of::<bindings::kvm_msr_filter>() == WORDS * size_of::<u64>());

/// Sets the filter; the old one is gone.
///
/// # Errors
///
/// EINVAL for flags that mean nothing, for a range about no access or with too many MSRs, and for a
/// filter that refuses everything; EFAULT, ENOMEM.
pub(super) fn set<B: Backend>(vm: &Vm<B>, arg: usize) -> Result<i32> {
    let words: [u64; WORDS] = copy::read(arg)?;
    let flags = words[0] as u32;
    if flags & !bindings::KVM_MSR_FILTER_DEFAULT_DENY != 0 {
        return Err(EINVAL);
    }
    let default_allow = flags & bindings::KVM_MSR_FILTER_DEFAULT_DENY == 0;

    let mut ranges = KVec::with_capacity(MAX_RANGES, GFP_KERNEL_ACCOUNT)?;
    for range in words[1..].chunks_exact(3) {
        // Two numbers share the first word; behind the base there is padding.
        let (flags, count) = (range[0] as u32, (range[0] >> 32) as u32);
        if count != 0 {
            let range = read_range(flags, range[1] as u32, count, range[2] as usize)?;
            ranges.push(range, GFP_KERNEL_ACCOUNT)?;
        }
    }
    if ranges.is_empty() && !default_allow {
        return Err(EINVAL);
    }
    let rules = Rules {
        default_allow,
        ranges,
    };
    vm.set_msr_filter(KBox::new(rules, GFP_KERNEL_ACCOUNT)?);
    Ok(0)
}

fn read_range(flags: u32, base: u32, count: u32, place: usize) -> Result<Range> {
    const MAX_WORDS: usize = bindings::KVM_MSR_FILTER_MAX_BITMAP_SIZE as usize / size_of::<u64>();
    if flags == 0 || flags & !bindings::KVM_MSR_FILTER_RANGE_VALID_MASK != 0 {
        return Err(EINVAL);
    }
    let len = count.div_ceil(u64::BITS) as usize;
    if len > MAX_WORDS {
        return Err(EINVAL);
    }
    let mut bitmap = KVec::with_capacity(len, GFP_KERNEL_ACCOUNT)?;
    for i in 0..len {
        let address = place.wrapping_add(i * size_of::<u64>());
        bitmap.push(copy::read(address)?, GFP_KERNEL_ACCOUNT)?;
    }
    Ok(Range {
        flags,
        base,
        count,
        bitmap,
    })
}
