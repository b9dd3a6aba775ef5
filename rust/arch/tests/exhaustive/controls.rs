// SPDX-License-Identifier: GPL-2.0

//! VMX control words (SDM vol. 3, A.2): what comes of a bit that must be 1, may be 1, is required or
//! merely welcome.

use arch::controls::Allowed;

/// Every word of four bits in every place: each bit with each of its neighbours.
#[test]
fn negotiation() {
    let mut cases = 0u64;
    for shift in (0..32).step_by(4) {
        for nibbles in 0..1u32 << 16 {
            let word = |n: u32| (nibbles >> (4 * n) & 15) << shift;
            let (must_be_one, may_be_one) = (word(0), word(1));
            let (required, optional) = (word(2), word(3));
            let msr = u64::from(may_be_one) << 32 | u64::from(must_be_one);
            let allowed = Allowed::from_msr(msr);
            let settled = allowed.settle(required | optional);
            let missing = allowed.missing(required);
            for bit in shift..shift + 4 {
                let has = |word: u32| word >> bit & 1 != 0;
                // Appendix A.2: an allowed-0 setting of 1 comes with an allowed-1 setting of 1.
                if has(must_be_one) && !has(may_be_one) {
                    continue;
                }
                let expected = match (has(must_be_one), has(may_be_one)) {
                    (true, _) => true,
                    (false, true) => has(required) || has(optional),
                    (false, false) => false,
                };
                assert_eq!(has(settled), expected, "bit {bit} of {allowed:x?}");
                let lacking = has(required) && !has(settled);
                assert_eq!(has(missing), lacking, "bit {bit} of {allowed:x?}");
            }
            let elsewhere = !(15 << shift);
            assert_eq!((settled | missing) & elsewhere, 0);
            cases += 1;
        }
    }
    assert_eq!(cases, 8 * 65_536);
}
