// SPDX-License-Identifier: GPL-2.0

//! Activity, interruptibility and pending debug exceptions (SDM vol. 3, 27.3.1.5).

use super::{compare, modes, protected};
use arch::guest_state::{GuestState, Injection, Rule};
use arch::segment::AccessRights;

const TF: u64 = 1 << 8;
const IF: u64 = 1 << 9;

const INJECTIONS: [Injection; 4] = [
    Injection::None,
    Injection::ExternalInterrupt,
    Injection::Nmi,
    Injection::Other,
];

/// The rules, in the manual's order. IA32_DEBUGCTL.BTF is clear.
fn broken(state: &GuestState) -> [(Rule, bool); 9] {
    let bit = |bit: u32| state.interruptibility >> bit & 1 != 0;
    let (sti, mov_ss, smi, nmi, enclave) = (bit(0), bit(1), bit(2), bit(3), bit(4));
    let interrupts = state.rflags & IF != 0;
    let single_step = state.rflags & TF != 0;
    let external = state.injection == Injection::ExternalInterrupt;
    let halted = state.activity == 1;
    let pending = |bit: u32| state.pending_debug >> bit & 1 != 0;
    let stack_dpl = state.segments.ss.rights.0 >> 5 & 3;
    // "If bit 16 (RTM) is 1: bits 11:0, bits 15:13, and bits 63:17 must be 0; bit 12 must be 1; ...
    // blocking by MOV SS must not be indicated."
    let others = state.pending_debug & !(1 << 12 | 1 << 16);
    let rtm = pending(16) && (others != 0 || !pending(12) || mov_ss);
    let reserved = state.pending_debug & !0x1_580f != 0;
    let steps = sti || mov_ss || halted;
    [
        (Rule::ActivityState, state.activity > 3),
        (
            Rule::ActivityBlocked,
            halted && stack_dpl != 0 || state.activity != 0 && (sti || mov_ss),
        ),
        (
            Rule::Interruptibility,
            state.interruptibility >> 5 != 0 || sti && mov_ss || smi || enclave && mov_ss,
        ),
        (Rule::ShadowOfSti, sti && !interrupts),
        (Rule::RflagsInterruptFlag, external && !interrupts),
        (
            Rule::ShadowBlocksInjection,
            external && (sti || mov_ss) || state.injection == Injection::Nmi && mov_ss,
        ),
        (Rule::NmiBlocksNmi, state.injection == Injection::Nmi && nmi),
        (Rule::PendingDebugReserved, reserved || rtm),
        (
            Rule::PendingDebugSingleStep,
            steps && pending(14) != single_step,
        ),
    ]
}

#[test]
fn every_combination() {
    let mut cases = 0u64;
    for original in modes() {
        for activity in 0..5 {
            for interruptibility in 0..64 {
                for injection in INJECTIONS {
                    for bits in 0..1u64 << 8 {
                        let on = |bit: u32, value: u64| value * (bits >> bit & 1);
                        let mut state = original;
                        state.activity = activity;
                        state.interruptibility = interruptibility;
                        state.injection = injection;
                        state.rflags = 2 | on(0, TF) | on(1, IF);
                        state.pending_debug =
                            on(2, 1) | on(3, 1 << 12) | on(4, 1 << 14) | on(5, 1 << 16);
                        let dpl = (bits >> 6) as u32;
                        // Conforming code, beside which the stack may have any DPL.
                        state.segments.cs.rights = AccessRights(0x9f);
                        state.segments.ss.rights = AccessRights(0x93 | dpl << 5);
                        if state.cr0 & 1 == 0 && dpl != 0 {
                            continue;
                        }
                        compare(&state, &broken(&state));
                        cases += 1;
                    }
                }
            }
        }
    }
    assert_eq!(cases, 5 * 64 * 4 * (256 + 256 + 64));
}

/// Each bit that could be pending, with RTM and without.
#[test]
fn pending_debug_exceptions() {
    let mut cases = 0u64;
    for bit in 0..64 {
        for rest in [0, 1 << 12, 1 << 12 | 1 << 16] {
            let state = GuestState {
                pending_debug: 1 << bit | rest,
                ..protected()
            };
            compare(&state, &broken(&state));
            cases += 1;
        }
    }
    assert_eq!(cases, 64 * 3);
}

/// Each value of the activity state that is too much, by its highest bit, and each reserved bit of
/// the interruptibility state.
#[test]
fn values_that_are_undefined() {
    let mut cases = 0u64;
    for bit in 0..32 {
        let mut state = protected();
        state.activity = 1 << bit;
        compare(&state, &broken(&state));
        let mut state = protected();
        state.rflags |= IF;
        state.interruptibility = 1 << bit;
        compare(&state, &broken(&state));
        cases += 2;
    }
    assert_eq!(cases, 64);
}
