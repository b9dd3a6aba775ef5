// SPDX-License-Identifier: GPL-2.0
//! KVM_TRANSLATE (api.rst 4.15) in every paging mode.

use kvm_bindings::kvm_translation;
use libc::EFAULT;

use super::tests;
use crate::expect;
use crate::guest::{bits, layout, Guest, Mode};
use crate::memory::{Mapping, PAGE};
use crate::request::*;

tests! {
    "translate":
    without_paging, two_levels, pae, long_mode, small_pages, not_mapped, follows_cr3, errors,
}

/// The guest-physical address of a linear one, where there is one.
#[track_caller]
fn translate(guest: &Guest, linear: u64) -> Option<u64> {
    let mut translation = kvm_translation {
        linear_address: linear,
        ..kvm_translation::default()
    };
    let done = guest.vcpu.update(TRANSLATE, &mut translation);
    expect::ok("KVM_TRANSLATE", done);
    expect::eq("linear address", translation.linear_address, linear);
    expect::eq(
        "writeable, usermode",
        (translation.writeable, translation.usermode),
        (1, 0),
    );
    if translation.valid == 0 {
        expect::eq(
            "address of what is not valid",
            translation.physical_address,
            u64::MAX,
        );
        return None;
    }
    Some(translation.physical_address)
}

fn without_paging() {
    for mode in [Mode::Real, Mode::Protected] {
        let guest = Guest::new(mode, &[]);
        for address in [0, 0x1234, 0xffff_f123] {
            expect::eq("address", translate(&guest, address), Some(address));
        }
    }
}

fn two_levels() {
    let guest = Guest::new(Mode::Paging32, &[]);
    expect::eq("4 MiB page", translate(&guest, 0x1_2345), Some(0x1_2345));
    let entry = layout::PML4 as usize + 4 * 3;
    guest
        .memory
        .write(entry, (0x0080_0000 | bits::PTE | bits::PTE_PS) as u32);
    expect::eq("another", translate(&guest, 0x00c1_2345), Some(0x0081_2345));
    guest.memory.write(entry, (layout::PT | bits::PTE) as u32);
    guest.memory.write(
        layout::PT as usize + 4 * 0x12,
        (0x7_7000 | bits::PTE) as u32,
    );
    expect::eq("4 KiB page", translate(&guest, 0x00c1_2345), Some(0x7_7345));
    expect::eq("beside it", translate(&guest, 0x00c1_3345), None);
}

fn pae() {
    let guest = Guest::new(Mode::Pae, &[]);
    expect::eq(
        "2 MiB page",
        translate(&guest, 0x4012_3456),
        Some(0x4012_3456),
    );
    guest.poke(layout::PD + 8 * 5, 0x1_0000_0000 | bits::PTE | bits::PTE_PS);
    expect::eq(
        "above 4 GiB",
        translate(&guest, 0x00a1_2345),
        Some(0x1_0001_2345),
    );
    guest.poke(layout::PD + 8 * 5, layout::PT | bits::PTE);
    guest.poke(layout::PT + 8 * 0x12, 0x7_7000 | bits::PTE);
    expect::eq("4 KiB page", translate(&guest, 0x00a1_2345), Some(0x7_7345));
    expect::eq("beside it", translate(&guest, 0x00a1_3345), None);
}

fn long_mode() {
    let guest = Guest::long(&[]);
    expect::eq(
        "2 MiB page",
        translate(&guest, 0x8012_3456),
        Some(0x8012_3456),
    );
    guest.poke(
        layout::PDPT + 8 * 7,
        0x2_4000_0000 | bits::PTE | bits::PTE_PS,
    );
    expect::eq(
        "1 GiB page",
        translate(&guest, 0x1_c123_4567),
        Some(0x2_4123_4567),
    );
    guest.poke(layout::PML4 + 8 * 511, layout::PDPT | bits::PTE);
    expect::eq(
        "upper half",
        translate(&guest, 0xffff_ff80_0012_3456),
        Some(0x12_3456),
    );
}

fn small_pages() {
    let guest = Guest::long(&[]);
    guest.poke(layout::PD + 8 * 5, layout::PT | bits::PTE);
    guest.poke(layout::PT, 0x7_7000 | 1);
    guest.poke(layout::PT + 8, 0x7_8000 | (1 << 63) | bits::PTE);
    expect::eq(
        "read-only page",
        translate(&guest, 0x00a0_0fff),
        Some(0x7_7fff),
    );
    let mut sregs = guest.vcpu.sregs();
    sregs.efer |= bits::EFER_NX;
    guest.vcpu.set_sregs(&sregs);
    expect::eq(
        "page without execution",
        translate(&guest, 0x00a0_1000),
        Some(0x7_8000),
    );
    guest.poke(layout::PT + 8, 0x7_8000 | (1 << 62) | bits::PTE);
    expect::eq(
        "ignored bits",
        translate(&guest, 0x00a0_1000),
        Some(0x7_8000),
    );
}

fn not_mapped() {
    let guest = Guest::long(&[]);
    expect::eq("level 3 is empty", translate(&guest, 0x1_0000_0000), None);
    expect::eq("level 4 is empty", translate(&guest, 0x80_0000_0000), None);
    guest.poke(layout::PD + 8 * 6, 0);
    expect::eq("level 2 is empty", translate(&guest, 0x00c0_0000), None);
    guest.poke(layout::PD + 8 * 6, 0x8000_0000 | bits::PTE);
    expect::eq(
        "a table where no memory is",
        translate(&guest, 0x00c0_0000),
        None,
    );
}

fn follows_cr3() {
    let guest = Guest::long(&[]);
    let mut sregs = guest.vcpu.sregs();
    sregs.cr3 = 0x10_0000;
    guest.vcpu.set_sregs(&sregs);
    expect::eq("empty tables", translate(&guest, 0x1000), None);
    guest.poke(0x10_0000, layout::PDPT | bits::PTE);
    expect::eq("filled tables", translate(&guest, 0x1000), Some(0x1000));
}

fn errors() {
    let guest = Guest::long(&[]);
    expect::errno("no memory", guest.vcpu.fault(TRANSLATE.number), EFAULT);
    let page = Mapping::guarded(PAGE);
    let got = guest.vcpu.at(TRANSLATE.number, &page, PAGE - 8);
    expect::errno("half of it in memory", got, EFAULT);
}
