// SPDX-License-Identifier: GPL-2.0

use super::*;
use proptest::prelude::*;

const LONG: Efer = Efer::LME.union(Efer::LMA);

fn limits() -> Limits {
    Limits::from_cpuid(&CpuidWords {
        leaf1_ecx: (1 << 17) | (1 << 26),
        leaf7_ebx: (1 << 0) | (1 << 7) | (1 << 20),
        leaf7_ecx: (1 << 2) | (1 << 7),
        extended_edx: (1 << 20) | (1 << 29),
        maxphyaddr: 39,
        xcr0: 7,
        ..CpuidWords::default()
    })
}

/// 64-bit mode.
fn long_mode() -> State {
    State {
        cr0: Cr0::PE | Cr0::PG | Cr0::WP | Cr0::ET,
        cr3: 0x1000,
        cr4: Cr4::PAE,
        efer: LONG,
        cs_long: true,
    }
}

fn protected_mode() -> State {
    State {
        cr0: Cr0::PE | Cr0::ET,
        ..State::default()
    }
}

#[test]
fn every_cpuid_bit_allows_its_own_bits_and_no_others() {
    type Set = fn(&mut CpuidWords);
    let cases: [(Set, Cr4, Efer); 14] = [
        (|w| w.leaf1_ecx = 1 << 5, Cr4::VMXE, Efer::empty()),
        (|w| w.leaf1_ecx = 1 << 17, Cr4::PCIDE, Efer::empty()),
        (|w| w.leaf1_ecx = 1 << 26, Cr4::OSXSAVE, Efer::empty()),
        (|w| w.leaf7_ebx = 1 << 0, Cr4::FSGSBASE, Efer::empty()),
        (|w| w.leaf7_ebx = 1 << 7, Cr4::SMEP, Efer::empty()),
        (|w| w.leaf7_ebx = 1 << 20, Cr4::SMAP, Efer::empty()),
        (|w| w.leaf7_ecx = 1 << 2, Cr4::UMIP, Efer::empty()),
        (|w| w.leaf7_ecx = 1 << 3, Cr4::PKE, Efer::empty()),
        (|w| w.leaf7_ecx = 1 << 16, Cr4::LA57, Efer::empty()),
        (|w| w.leaf7_ecx = 1 << 7, Cr4::CET, Efer::empty()),
        (|w| w.leaf7_edx = 1 << 20, Cr4::CET, Efer::empty()),
        (|w| w.leaf7_1_eax = 1 << 26, Cr4::LAM_SUP, Efer::empty()),
        (|w| w.extended_edx = 1 << 20, Cr4::empty(), Efer::NXE),
        (|w| w.extended_edx = 1 << 29, Cr4::empty(), LONG),
    ];
    let none = Limits::from_cpuid(&CpuidWords::default());
    assert_eq!((none.cr4.bits(), none.efer), (0x7ff, Efer::SCE));
    for (set, cr4, efer) in cases {
        let mut words = CpuidWords::default();
        set(&mut words);
        let limits = Limits::from_cpuid(&words);
        assert_eq!(
            (limits.cr4 ^ none.cr4, limits.efer ^ none.efer),
            (cr4, efer)
        );
    }
}

#[test]
fn cr0_by_itself() {
    let state = protected_mode();
    let write = |value: u64| state.check_cr0_write(value);
    assert_eq!(write(0), Ok(Cr0::ET), "ET is always set");
    assert_eq!(
        write(Cr0::PE.bits() | (1 << 10) | (1 << 28)),
        Ok(Cr0::PE | Cr0::ET)
    );
    assert_eq!(write(1 << 32), Err(Violation::ReservedBits));
    assert_eq!(
        write(Cr0::NW.bits()),
        Err(Violation::NotWriteThroughWithoutCacheDisable)
    );
    assert!(write((Cr0::NW | Cr0::CD).bits()).is_ok());
    assert_eq!(
        write(Cr0::PG.bits()),
        Err(Violation::PagingWithoutProtection)
    );
}

#[test]
fn cr0_and_long_mode() {
    let paging = (Cr0::PE | Cr0::PG).bits();
    let mut state = State {
        efer: Efer::LME,
        ..protected_mode()
    };
    assert_eq!(
        state.check_cr0_write(paging),
        Err(Violation::LongModeWithoutPae)
    );
    state.cr4 = Cr4::PAE;
    state.cs_long = true;
    assert_eq!(
        state.check_cr0_write(paging),
        Err(Violation::LongCodeSegment)
    );
    state.cs_long = false;
    let cr0 = state.check_cr0_write(paging).unwrap();
    assert_eq!(state.efer.with_paging_of(cr0), LONG);
    assert_eq!(LONG.with_paging_of(Cr0::PE), Efer::LME);
    assert_eq!(Efer::SCE.with_paging_of(cr0), Efer::SCE);

    let mut state = long_mode();
    assert_eq!(state.check_cr0_write(1), Err(Violation::PagingNeeded));
    state.cs_long = false;
    assert!(
        state.check_cr0_write(1).is_ok(),
        "compatibility mode may leave"
    );
    state.cr4 |= Cr4::PCIDE;
    assert_eq!(
        state.check_cr0_write(1),
        Err(Violation::ProcessContextIdentifiers)
    );
}

#[test]
fn control_flow_enforcement_needs_write_protection() {
    let mut state = long_mode();
    let cet = (Cr4::PAE | Cr4::CET).bits();
    assert!(state.check_cr4_write(cet, &limits()).is_ok());
    state.cr4 |= Cr4::CET;
    let without = (state.cr0 - Cr0::WP).bits();
    let violation = Err(Violation::ControlFlowWithoutWriteProtect);
    assert_eq!(state.check_cr0_write(without), violation);
    state.cr0 -= Cr0::WP;
    assert_eq!(
        state.check_cr4_write(cet, &limits()).map(drop),
        violation.map(drop)
    );
}

#[test]
fn cr4_obeys_cpuid() {
    let limits = limits();
    for bit in 0..64 {
        let value = 1u64 << bit;
        let allowed = Cr4::from_bits(value).is_some_and(|cr4| limits.cr4.contains(cr4));
        let state = State {
            cr0: Cr0::PE | Cr0::PG | Cr0::WP,
            cr3: 0,
            ..long_mode()
        };
        let result = state.check_cr4_write(value | Cr4::PAE.bits(), &limits);
        assert_eq!(result.is_ok(), allowed, "bit {bit}");
        if !allowed {
            assert_eq!(result, Err(Violation::ReservedBits));
        }
    }
}

#[test]
fn cr4_in_long_mode() {
    let mut limits = limits();
    limits.cr4 |= Cr4::LA57;
    let state = long_mode();
    let write = |cr4: Cr4| state.check_cr4_write(cr4.bits(), &limits);
    assert_eq!(write(Cr4::PGE), Err(Violation::LongModeWithoutPae));
    assert_eq!(
        write(Cr4::PAE | Cr4::LA57),
        Err(Violation::LevelsChangedInLongMode)
    );
    assert!(protected_mode()
        .check_cr4_write(Cr4::LA57.bits(), &limits)
        .is_ok());
}

#[test]
fn process_context_identifiers_start_from_zero_in_long_mode() {
    let pcide = (Cr4::PAE | Cr4::PCIDE).bits();
    let refused = Err(Violation::ProcessContextIdentifiers);
    assert_eq!(protected_mode().check_cr4_write(pcide, &limits()), refused);
    let mut state = long_mode();
    state.cr3 = 0x1001;
    assert_eq!(state.check_cr4_write(pcide, &limits()), refused);
    state.cr4 |= Cr4::PCIDE;
    assert!(
        state.check_cr4_write(pcide, &limits()).is_ok(),
        "it is on already"
    );
}

#[test]
fn cr3_is_a_physical_address_and_a_little_more() {
    let state = long_mode();
    let write = |value| state.check_cr3_write(value, &limits());
    assert_eq!(
        write(0x7f_ffff_ffff),
        Ok(Cr3Write {
            cr3: 0x7f_ffff_ffff,
            flush: true
        })
    );
    for value in [1 << 39, 1 << 51, 1 << 61, 1 << 62, 1 << 63] {
        assert_eq!(write(value), Err(Violation::ReservedBits));
    }
    let state = State {
        cr4: Cr4::PAE | Cr4::PCIDE,
        ..state
    };
    let result = state.check_cr3_write(0x5003 | (1 << 63), &limits());
    assert_eq!(
        result,
        Ok(Cr3Write {
            cr3: 0x5003,
            flush: false
        })
    );
    let lam = Limits {
        lam: true,
        ..limits()
    };
    assert!(state.check_cr3_write(3 << 61, &lam).is_ok());
    assert!(Limits {
        maxphyaddr: 64,
        ..lam
    }
    .is_physical(u64::MAX));
}

#[test]
fn efer_keeps_lma_and_cannot_turn_long_mode_while_paging() {
    let state = long_mode();
    let write = |value: u64| state.check_efer_write(value, &limits());
    assert_eq!(write((Efer::LME | Efer::NXE).bits()), Ok(LONG | Efer::NXE));
    assert_eq!(write(0), Err(Violation::LongModeChangedWhilePaging));
    assert_eq!(write(1 << 12), Err(Violation::ReservedBits));
    let real = State::default();
    assert_eq!(real.check_efer_write(LONG.bits(), &limits()), Ok(Efer::LME));
    let none = Limits {
        efer: Efer::SCE,
        ..limits()
    };
    assert_eq!(
        real.check_efer_write(Efer::LME.bits(), &none),
        Err(Violation::ReservedBits)
    );
}

#[test]
fn pdptes_are_loaded_when_pae_paging_begins_or_its_meaning_changes() {
    let paging = Cr0::PE | Cr0::PG | Cr0::ET;
    let pae = State {
        cr4: Cr4::PAE,
        ..protected_mode()
    };
    assert!(pae.cr0_write_loads_pdptes(paging));
    assert!(!State {
        efer: Efer::LME,
        ..pae
    }
    .cr0_write_loads_pdptes(paging));
    assert!(!protected_mode().cr0_write_loads_pdptes(paging));
    let on = State { cr0: paging, ..pae };
    assert!(on.is_pae_paging() && !long_mode().is_pae_paging());
    assert!(on.cr0_write_loads_pdptes(paging | Cr0::CD));
    assert!(!on.cr0_write_loads_pdptes(paging | Cr0::WP));
    for (cr4, loads) in [
        (Cr4::PAE | Cr4::PGE, true),
        (Cr4::PAE | Cr4::PSE, true),
        (Cr4::PAE | Cr4::SMEP, true),
        (Cr4::PAE | Cr4::SMAP, false),
        (Cr4::PAE, false),
        (Cr4::empty(), false),
    ] {
        assert_eq!(on.cr4_write_loads_pdptes(cr4), loads, "{cr4:?}");
    }
    assert!(!long_mode().cr4_write_loads_pdptes(Cr4::PAE | Cr4::PGE));
    assert!(State {
        cr0: paging,
        ..protected_mode()
    }
    .cr4_write_loads_pdptes(Cr4::PAE));
}

#[test]
fn sregs_must_agree_with_themselves() {
    let good = Sregs {
        cr0: (Cr0::PE | Cr0::PG).bits(),
        cr3: 0x1000,
        cr4: Cr4::PAE.bits(),
        efer: LONG.bits(),
        cs_long: true,
    };
    let real = Sregs {
        cr0: 0x6000_0010,
        ..Sregs::default()
    };
    for (sregs, expected) in [
        (good, Ok(())),
        (
            Sregs {
                cs_long: false,
                ..good
            },
            Ok(()),
        ),
        (real, Ok(())),
        (Sregs { cr4: 0, ..good }, Err(Violation::LongModeWithoutPae)),
        (
            Sregs {
                efer: Efer::LME.bits(),
                ..good
            },
            Err(Violation::LongModeActive),
        ),
        (
            Sregs {
                efer: Efer::LMA.bits(),
                ..good
            },
            Err(Violation::LongModeActive),
        ),
        (Sregs { cr0: 1, ..good }, Err(Violation::LongModeActive)),
        (
            Sregs {
                cr3: 1 << 39,
                ..good
            },
            Err(Violation::ReservedBits),
        ),
        (
            Sregs {
                cr3: 1 << 39,
                ..real
            },
            Ok(()),
        ),
        (
            Sregs {
                cs_long: true,
                ..real
            },
            Err(Violation::LongCodeSegment),
        ),
        (
            Sregs {
                cr4: 1 << 13,
                ..real
            },
            Err(Violation::ReservedBits),
        ),
        (
            Sregs {
                cr4: 1 << 63,
                ..real
            },
            Err(Violation::ReservedBits),
        ),
        (
            Sregs {
                cr0: 1 << 32,
                ..real
            },
            Err(Violation::ReservedBits),
        ),
        (
            Sregs {
                cr0: 1 << 31,
                ..real
            },
            Err(Violation::PagingWithoutProtection),
        ),
        (
            Sregs {
                cr0: 1 << 29,
                ..real
            },
            Err(Violation::NotWriteThroughWithoutCacheDisable),
        ),
        (
            Sregs {
                efer: 1 << 1,
                ..real
            },
            Err(Violation::ReservedBits),
        ),
    ] {
        assert_eq!(sregs.check(&limits()), expected, "{sregs:x?}");
    }
}

#[test]
fn extended_state_comes_in_groups() {
    let all = Xcr0::all();
    for (value, supported, ok) in [
        (1, Xcr0::empty(), true),
        (0, all, false),
        (2, all, false),
        (3, all, true),
        (5, all, false),
        (7, all, true),
        (7, Xcr0::FP | Xcr0::SSE, false),
        (0x9, all, false),
        (0x11, all, false),
        (0x19, all, true),
        (0xe7, all, true),
        (0xe3, all, false),
        (0x67, all, false),
        (0x207, all, true),
        (0x2_0007, all, false),
        (0x6_0007, all, true),
        ((1 << 8) | 1, all, false),
        ((1 << 63) | 1, all, false),
    ] {
        let result = Xcr0::check(value, supported);
        assert_eq!(
            result.is_ok(),
            ok,
            "{value:#x} of {supported:?}: {result:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    /// Whatever a guest in an allowed state writes, it is then in a state a VMM could load.
    #[test]
    fn accepted_writes_lead_to_acceptable_states(
        writes in prop::collection::vec((0..4u8, any::<u64>(), any::<u64>()), 1..40),
        cs_long in any::<bool>(),
    ) {
        let limits = limits();
        let mut state = State { cr0: Cr0::ET, ..State::default() };
        for (register, a, b) in writes {
            // Few bits at a time, or nearly everything would be refused.
            let change = a & b & a.rotate_left(17) & 0x8000_0000_0016_ffff;
            match register {
                0 => if let Ok(cr0) = state.check_cr0_write(state.cr0.bits() ^ change) {
                    state.cr0 = cr0;
                    state.efer = state.efer.with_paging_of(cr0);
                    state.cs_long = cs_long && state.efer.contains(Efer::LMA);
                },
                1 => if let Ok(cr4) = state.check_cr4_write(state.cr4.bits() ^ change, &limits) {
                    state.cr4 = cr4;
                },
                2 => if let Ok(write) = state.check_cr3_write(a & b, &limits) {
                    state.cr3 = write.cr3;
                },
                _ => if let Ok(efer) = state.check_efer_write(state.efer.bits() ^ change, &limits) {
                    state.efer = efer;
                },
            }
            let sregs = Sregs {
                cr0: state.cr0.bits(),
                cr3: state.cr3,
                cr4: state.cr4.bits(),
                efer: state.efer.bits(),
                cs_long: state.cs_long,
            };
            prop_assert_eq!(sregs.check(&limits), Ok(()), "{:x?}", state);
        }
    }
}
