// SPDX-License-Identifier: GPL-2.0

//! Control registers, MSRs, descriptor tables, RIP, RFLAGS and PDPTEs (SDM vol. 3, 27.3.1.1, 27.3.1.3,
//! 27.3.1.4 and 27.3.1.6).

use super::{compare, modes, protected};
use arch::addr::Gva;
use arch::guest_state::{GuestState, Injection, Rule};
use arch::segment::AccessRights;

const CR0_PE: u64 = 1 << 0;
const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_PCIDE: u64 = 1 << 17;
const CR4_CET: u64 = 1 << 23;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const RFLAGS_IF: u64 = 1 << 9;
const RFLAGS_VM: u64 = 1 << 17;

fn when(on: bool, bits: u64) -> u64 {
    if on {
        bits
    } else {
        0
    }
}

/// Every combination of the bits that depend on each other, and of the entry control.
#[test]
fn control_bits() {
    let mut cases = 0u64;
    for bits in 0..1u32 << 9 {
        let on = |bit: u32| bits >> bit & 1 != 0;
        let (pe, pg, wp, pae, pcide, cet) = (on(0), on(1), on(2), on(3), on(4), on(5));
        let (lme, lma, ia32e_mode) = (on(6), on(7), on(8));
        let state = GuestState {
            cr0: when(pe, CR0_PE) | when(pg, CR0_PG) | when(wp, CR0_WP),
            cr4: when(pae, CR4_PAE) | when(pcide, CR4_PCIDE) | when(cet, CR4_CET),
            efer: when(lme, EFER_LME) | when(lma, EFER_LMA),
            ia32e_mode,
            ..protected()
        };
        let broken = [
            (Rule::Cr0PagingNeedsProtection, pg && !pe),
            (Rule::Cr4CetNeedsWriteProtect, cet && !wp),
            (Rule::Ia32eNeedsPagingAndPae, ia32e_mode && !(pg && pae)),
            (Rule::Cr4PcideNeedsIa32e, pcide && !ia32e_mode),
            (Rule::EferLongMode, lma != ia32e_mode || pg && lma != lme),
        ];
        compare(&state, &broken);
        cases += 1;
    }
    assert_eq!(cases, 512);
}

/// Each bit of each register that holds something else than flags.
#[test]
fn bits_of_registers() {
    let mut cases = 0u64;
    for original in modes() {
        for bit in 0..64 {
            let one = 1u64 << bit;
            let mut check = |change: fn(&mut GuestState, u64), value: u64, rule, broken| {
                let mut state = original;
                change(&mut state, value);
                compare(&state, &[(rule, broken)]);
                cases += 1;
            };
            check(|s, v| s.cr3 |= v, one, Rule::Cr3NotPhysical, bit >= 39);
            check(|s, v| s.dr7 |= v, one, Rule::Dr7UpperHalf, bit >= 32);
            if bit >= 32 {
                check(|s, v| s.cr0 |= v, one, Rule::Cr0UpperHalf, true);
            }
            let defined = [0, 8, 10, 11].contains(&bit);
            if !defined {
                check(|s, v| s.efer |= v, one, Rule::EferReserved, true);
            }
            for value in [one, u64::MAX << bit] {
                let canonical = value >> 47 == 0 || value >> 47 == 0x1_ffff;
                let rule = Rule::SysenterNotCanonical;
                check(|s, v| s.sysenter_esp = v, value, rule, !canonical);
                check(|s, v| s.sysenter_eip = v, value, rule, !canonical);
                check(
                    |s, v| s.gdtr.base = Gva(v),
                    value,
                    Rule::TableBase,
                    !canonical,
                );
                check(
                    |s, v| s.idtr.base = Gva(v),
                    value,
                    Rule::TableBase,
                    !canonical,
                );
            }
            if bit < 32 {
                let rule = Rule::TableLimit;
                check(|s, v| s.gdtr.limit = v as u32, one, rule, bit >= 16);
                check(|s, v| s.idtr.limit = v as u32, one, rule, bit >= 16);
            }
            let rule = Rule::LinkPointer;
            check(|s, v| s.link_pointer = v, u64::MAX << bit, rule, bit > 0);
            check(|s, v| s.link_pointer ^= v, one, rule, true);
        }
    }
    assert_eq!(cases, 3 * (64 * 2 + 32 + 60 + 64 * 8 + 32 * 2 + 64 * 2));
}

/// Each value of each byte of IA32_PAT: 0, 1 and 4 to 7 are memory types.
#[test]
fn page_attribute_table() {
    let mut cases = 0u64;
    for (byte, value) in (0..8).flat_map(|byte| (0..=255u8).map(move |value| (byte, value))) {
        let mut pat = 0x0007_0406_0007_0406u64.to_le_bytes();
        pat[byte] = value;
        let state = GuestState {
            pat: Some(u64::from_le_bytes(pat)),
            ..protected()
        };
        let reserved = value == 2 || value == 3 || value > 7;
        compare(&state, &[(Rule::PatType, reserved)]);
        cases += 1;
    }
    assert_eq!(cases, 8 * 256);
}

/// Each bit of RIP, with 48 and with 57 bits of linear addresses. In 64-bit code "bits 63:N must be
/// identical", which is less than canonical; in other code bits 63:32 are zero.
#[test]
fn instruction_pointers() {
    let mut cases = 0u64;
    for original in modes() {
        for long in [false, true] {
            for (bit, linear_bits) in (0..64).flat_map(|bit| [(bit, 48), (bit, 57)]) {
                for rip in [1u64 << bit, u64::MAX << bit, !(1u64 << bit)] {
                    let mut state = original;
                    state.linear_bits = linear_bits;
                    state.rip = rip;
                    state.segments.cs.rights = AccessRights(0x9b | u32::from(long) << 13);
                    let upper = rip >> linear_bits;
                    let fits = if original.ia32e_mode && long {
                        upper == 0 || upper == u64::MAX >> linear_bits
                    } else {
                        rip >> 32 == 0
                    };
                    compare(&state, &[(Rule::Rip, !fits)]);
                    cases += 1;
                }
            }
        }
    }
    assert_eq!(cases, 3 * 2 * 64 * 2 * 3);
}

/// Every value of RFLAGS' lower 22 bits but for VM, and each bit above.
#[test]
fn flags() {
    let mut cases = 0u64;
    for original in modes() {
        for value in (0..1u64 << 17).chain((18..64).map(|bit| 2 | 1 << bit)) {
            let mut state = original;
            state.rflags = value;
            let reserved = value & (1 << 3 | 1 << 5 | 1 << 15) != 0 || value >> 22 != 0;
            compare(
                &state,
                &[(Rule::RflagsReserved, reserved || value & 2 == 0)],
            );
            cases += 1;
        }
    }
    assert_eq!(cases, 3 * (131_072 + 46));
}

/// VM is clear in IA-32e mode and without CR0.PE; IF is set where an external interrupt comes. The
/// segments are those of virtual-8086 mode.
#[test]
fn flags_and_modes() {
    let mut cases = 0u64;
    for original in modes() {
        for (vm, interrupts) in [(false, false), (false, true), (true, false), (true, true)] {
            for injection in [
                Injection::None,
                Injection::ExternalInterrupt,
                Injection::Nmi,
                Injection::Other,
            ] {
                let mut state = original;
                state.rflags = 2 | when(vm, RFLAGS_VM) | when(interrupts, RFLAGS_IF);
                state.injection = injection;
                if vm {
                    let segments = &mut state.segments;
                    for segment in [
                        &mut segments.cs,
                        &mut segments.ss,
                        &mut segments.ds,
                        &mut segments.es,
                        &mut segments.fs,
                        &mut segments.gs,
                    ] {
                        segment.base = Gva(u64::from(segment.selector.0) * 16);
                        segment.rights = AccessRights(0xf3);
                    }
                }
                let no_8086 = state.ia32e_mode || state.cr0 & CR0_PE == 0;
                let external = injection == Injection::ExternalInterrupt;
                let broken = [
                    (Rule::RflagsVirtual8086, vm && no_8086),
                    (Rule::RflagsInterruptFlag, external && !interrupts),
                ];
                compare(&state, &broken);
                cases += 1;
            }
        }
    }
    assert_eq!(cases, 3 * 4 * 4);
}

/// Each bit of each PDPTE, present and not, under every kind of paging.
#[test]
fn page_directory_pointers() {
    let mut cases = 0u64;
    let [_, unpaged, ia32e] = modes();
    let bits32 = GuestState {
        cr0: CR0_PE | CR0_PG,
        ..unpaged
    };
    let pae = GuestState {
        cr4: CR4_PAE,
        ..bits32
    };
    for original in [unpaged, bits32, pae, ia32e] {
        for (index, bit) in (0..4).flat_map(|index| (0..64u32).map(move |bit| (index, bit))) {
            for present in [0, 1] {
                let mut state = original;
                state.pdptes[index] = present | 1 << bit;
                let is_present = present != 0 || bit == 0;
                let reserved = [1, 2, 5, 6, 7, 8].contains(&bit) || bit >= 39;
                let used = state.cr0 & CR0_PG != 0 && state.cr4 & CR4_PAE != 0 && !state.ia32e_mode;
                compare(&state, &[(Rule::Pdpte, used && is_present && reserved)]);
                cases += 1;
            }
        }
    }
    assert_eq!(cases, 4 * 4 * 64 * 2);
}
