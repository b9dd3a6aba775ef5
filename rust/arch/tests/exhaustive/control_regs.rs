// SPDX-License-Identifier: GPL-2.0

//! Writes to control registers that raise #GP (SDM vol. 2, MOV to control registers; vol. 3, 2.5,
//! 4.10.1 and 11.8.5; vol. 1, 13.3).

use arch::control_regs::{CpuidWords, Cr0, Cr4, Efer, Limits, State, Xcr0};

const LIMITS: Limits = Limits {
    cr4: Cr4::all(),
    efer: Efer::all(),
    xcr0: Xcr0::all(),
    maxphyaddr: 52,
    lam: false,
};

fn when(on: bool, bit: u32) -> u64 {
    u64::from(on) << bit
}

/// Every state of the registers that matter, and every value of the bits that matter.
#[test]
fn cr0() {
    let mut cases = 0u64;
    for bits in 0..1u32 << 13 {
        let on = |bit: u32| bits >> bit & 1 != 0;
        let (old_pg, lme, cs_long, pae, pcide, cet) = (on(0), on(1), on(2), on(3), on(4), on(5));
        let (pe, pg, wp, cd, nw) = (on(6), on(7), on(8), on(9), on(10));
        let (old_cd, old_nw) = (on(11), on(12));
        let lma = lme && old_pg;
        let state = State {
            cr0: Cr0::from_bits_retain(
                1 | when(old_pg, 31) | when(old_cd, 30) | when(old_nw, 29) | 1 << 16,
            ),
            cr3: 0,
            cr4: Cr4::from_bits_retain(when(pae, 5) | when(pcide, 17) | when(cet, 23)),
            efer: Efer::from_bits_retain(when(lme, 8) | when(lma, 10)),
            cs_long,
        };
        let value = when(pe, 0) | when(wp, 16) | when(nw, 29) | when(cd, 30) | when(pg, 31);
        let faults = [
            pg && !pe,
            nw && !cd,
            // Activating IA-32e mode.
            lme && pg && !old_pg && (!pae || cs_long),
            // Leaving it from 64-bit code, or with process-context identifiers on.
            !pg && lma && cs_long,
            !pg && pcide,
            cet && !wp,
        ];
        let got = state.check_cr0_write(value);
        assert_eq!(
            got.is_err(),
            faults.contains(&true),
            "{value:#x} {state:x?}"
        );
        if let Ok(new) = got {
            assert_eq!(new.bits(), value | 1 << 4, "ET is 1");
            // 5.4.1: with PAE paging, a change of CD, NW or PG loads the PDPTEs.
            let changed = pg != old_pg || cd != old_cd || nw != old_nw;
            assert_eq!(
                state.cr0_write_loads_pdptes(new),
                pg && pae && !lme && changed
            );
        }
        cases += 1;
    }
    assert_eq!(cases, 8192);
}

/// Each bit alone: the upper half is reserved, and what is reserved of the lower is ignored.
#[test]
fn cr0_bit_by_bit() {
    let state = State::default();
    for bit in 0..64 {
        let got = state.check_cr0_write(1 << bit | 1 | 1 << 30);
        assert_eq!(got.is_err(), bit >= 32, "bit {bit}");
        if let Ok(new) = got {
            let defined = [0, 1, 2, 3, 4, 5, 16, 18, 29, 30, 31].contains(&bit);
            assert_eq!(new.bits() >> bit & 1 != 0, defined, "bit {bit}");
        }
    }
}

#[test]
fn cr4() {
    let mut cases = 0u64;
    for bits in 0..1u32 << 15 {
        let on = |bit: u32| bits >> bit & 1 != 0;
        let (lma, old_pcide, old_la57, wp, old_pae) = (on(0), on(1), on(2), on(3), on(4));
        let (pae, pcide, la57, cet, pse) = (on(5), on(6), on(7), on(8), on(9));
        let (pge, smep, pcid, pg, pke) = (on(10), on(11), on(12), on(13), on(14));
        if lma && !(old_pae && pg) {
            continue;
        }
        let state = State {
            cr0: Cr0::from_bits_retain(1 | when(wp, 16) | when(pg, 31)),
            cr3: when(pcid, 3),
            cr4: Cr4::from_bits_retain(when(old_pae, 5) | when(old_pcide, 17) | when(old_la57, 12)),
            efer: Efer::from_bits_retain(when(lma, 8) | when(lma, 10)),
            cs_long: false,
        };
        let value = when(pse, 4)
            | when(pae, 5)
            | when(pge, 7)
            | when(la57, 12)
            | when(pcide, 17)
            | when(smep, 20)
            | when(pke, 22)
            | when(cet, 23);
        let faults = [
            lma && !pae,
            lma && la57 != old_la57,
            pcide && !old_pcide && (!lma || pcid),
            cet && !wp,
        ];
        let got = state.check_cr4_write(value, &LIMITS);
        assert_eq!(
            got.is_err(),
            faults.contains(&true),
            "{value:#x} {state:x?}"
        );
        if let Ok(new) = got {
            assert_eq!(new.bits(), value);
            // 5.4.1: a change of PAE, PGE, PSE or SMEP that leaves PAE paging on.
            let changed = pae != old_pae || pge || pse || smep;
            let loads = pg && pae && !lma && changed;
            assert_eq!(state.cr4_write_loads_pdptes(new), loads);
        }
        cases += 1;
    }
    // Three quarters of those in long mode were no states.
    assert_eq!(cases, 16_384 + 16_384 / 4);
}

/// Each bit that CPUID does not offer, and each that it does, alone.
#[test]
fn cr4_bit_by_bit() {
    let limits = Limits::from_cpuid(&CpuidWords::default());
    // What every guest has: VME, PVI, TSD, DE, PSE, PAE, MCE, PGE, PCE, OSFXSR, OSXMMEXCPT.
    let bare = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
    let state = State {
        cr0: Cr0::PE | Cr0::WP,
        ..State::default()
    };
    for bit in 0..64 {
        let offered = bare.contains(&bit);
        assert_eq!(state.check_cr4_write(1 << bit, &limits).is_ok(), offered);
        let defined = [11, 12, 13, 14, 16, 18, 19, 20, 21, 22, 23, 24, 25, 28].contains(&bit);
        let got = state.check_cr4_write(1 << bit, &LIMITS).is_ok();
        assert_eq!(got, offered || defined, "bit {bit}");
    }
}

/// Each bit of CR3 for each width of physical addresses, with and without process-context
/// identifiers and linear-address masking.
#[test]
fn cr3() {
    let mut cases = 0u64;
    for maxphyaddr in 32..=52u8 {
        for (pcide, lam) in [(false, false), (false, true), (true, false), (true, true)] {
            let state = State {
                cr4: Cr4::from_bits_retain(when(pcide, 17)),
                ..State::default()
            };
            let limits = Limits {
                maxphyaddr,
                lam,
                ..LIMITS
            };
            for bit in 0..64 {
                let no_flush = pcide && bit == 63;
                let masking = lam && (bit == 61 || bit == 62);
                let valid = bit < maxphyaddr || no_flush || masking;
                let got = state.check_cr3_write(1 << bit, &limits);
                assert_eq!(got.is_ok(), valid, "bit {bit} of {maxphyaddr}");
                if let Ok(write) = got {
                    assert_eq!(write.flush, !no_flush);
                    assert_eq!(write.cr3, if no_flush { 0 } else { 1 << bit });
                }
                cases += 1;
            }
        }
    }
    assert_eq!(cases, 21 * 4 * 64);
}

/// Every EFER before and after, with paging on and off.
#[test]
fn efer() {
    let mut cases = 0u64;
    for bits in 0..1u32 << 9 {
        let on = |bit: u32| bits >> bit & 1 != 0;
        let efer = |first: u32| {
            when(on(first), 0)
                | when(on(first + 1), 8)
                | when(on(first + 2), 10)
                | when(on(first + 3), 11)
        };
        let (old, new, pg) = (efer(0), efer(4), on(8));
        let state = State {
            cr0: Cr0::from_bits_retain(1 | when(pg, 31)),
            efer: Efer::from_bits_retain(old),
            ..State::default()
        };
        let got = state.check_efer_write(new, &LIMITS).map(|efer| efer.bits());
        let changes_lme = (old ^ new) >> 8 & 1 != 0;
        if pg && changes_lme {
            assert!(got.is_err());
        } else {
            let lma = 1 << 10;
            assert_eq!(got, Ok(new & !lma | old & lma), "LMA is read-only");
        }
        cases += 1;
    }
    assert_eq!(cases, 512);
    for bit in 0..64 {
        let defined = [0, 8, 10, 11].contains(&bit);
        let got = State::default().check_efer_write(1 << bit, &LIMITS);
        assert_eq!(got.is_ok(), defined, "bit {bit}");
    }
}

/// Every XCR0 of defined bits, for a guest that has all and for one that lacks one of them.
#[test]
fn xcr0() {
    let places = [0, 1, 2, 3, 4, 5, 6, 7, 9, 17, 18];
    let mut cases = 0u64;
    for bits in 0..1u32 << places.len() {
        let value = (0..places.len())
            .map(|n| when(bits >> n & 1 != 0, places[n]))
            .sum::<u64>();
        let has = |bit: u32| value >> bit & 1 != 0;
        let avx512 = [5, 6, 7].map(has);
        let valid = has(0)
            && (!has(2) || has(1))
            && has(3) == has(4)
            && (avx512 == [false; 3] || avx512 == [true; 3] && has(2))
            && has(17) == has(18);
        assert_eq!(Xcr0::check(value, Xcr0::all()).is_ok(), valid, "{value:#x}");
        for lacking in places {
            let supported = Xcr0::from_bits_retain(Xcr0::all().bits() & !(1 << lacking));
            // x87 there always is.
            let known = lacking == 0 || !has(lacking);
            let got = Xcr0::check(value, supported);
            assert_eq!(got.is_ok(), valid && known, "{value:#x} without {lacking}");
            cases += 1;
        }
        cases += 1;
    }
    assert_eq!(cases, 2048 * 12);
}
