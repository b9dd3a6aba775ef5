// SPDX-License-Identifier: GPL-2.0

//! Memory types where software sets them: the PAT (SDM vol. 3, 12.12) and the MTRRs (12.11).

const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
const FIRST_FIXED: u32 = 0x250;
const LAST_FIXED: u32 = 0x26f;

/// Whether each byte of an IA32_PAT is a memory type: 2 and 3 are not, nor anything above 7.
pub const fn is_pat(value: u64) -> bool {
    let mut rest = value;
    while rest != 0 {
        if !matches!(rest as u8, 0 | 1 | 4..=7) {
            return false;
        }
        rest >>= 8;
    }
    true
}

/// Whether a value is one that MTRR `index` can have where addresses have `physical` bits.
pub fn is_mtrr(index: u32, value: u64, physical: u8) -> bool {
    let is_address = physical >= 64 || value >> physical == 0;
    // UC- is the PAT's alone.
    let is_type = |kind: u64| matches!(kind, 0 | 1 | 4..=6);
    match index {
        IA32_MTRR_DEF_TYPE => value & !0xcff == 0 && is_type(value & 0xff),
        FIRST_FIXED..=LAST_FIXED => value
            .to_le_bytes()
            .iter()
            .all(|kind| is_type((*kind).into())),
        // Even ones are bases with a type, odd ones masks with a valid bit.
        _ if index & 1 == 0 => is_address && is_type(value & 0xff) && value & 0xf00 == 0,
        _ => is_address && value & 0x7ff == 0,
    }
}
