// SPDX-License-Identifier: GPL-2.0

//! Accessed and dirty flags (SDM vol. 3, 5.8).

use super::manual::{fault, Kind};
use super::situations;
use super::tables::{Tables, A, D, P, RW, SHAPES, US};
use arch::addr::Gva;

/// Each combination of the flags at each level, before each access to a user's page, read-only and
/// not: an access that is allowed sets A everywhere and, if it writes, D at the page; others leave
/// everything as it was. PAE's PDPTEs have neither.
#[test]
fn accessed_and_dirty() {
    let mut cases = 0u64;
    for shape in SHAPES {
        let levels = shape.levels();
        for now in situations() {
            if now.ac || now.smap || now.smep {
                continue;
            }
            let paging = now.paging(shape, 52);
            for writable in [0, RW] {
                for bits in 0..1u64 << (2 * levels) {
                    let mut before = shape.entries(P | US | RW);
                    before[levels - 1] = P | US | writable | shape.leaf_bits();
                    for (level, entry) in before.iter_mut().take(levels).enumerate() {
                        let flags = bits >> (2 * level) & 3;
                        // Each table has a place of its own.
                        *entry |= if level + 1 < levels {
                            1 << (12 + level)
                        } else {
                            0
                        };
                        if !shape.is_pdpte(level) {
                            *entry |= if flags & 1 != 0 { A } else { 0 };
                            *entry |= if flags & 2 != 0 { D } else { 0 };
                        }
                    }
                    let mut tables = Tables::new(before);
                    let result = paging.translate_and_mark(&mut tables, Gva(0), now.access());
                    let refused = fault(shape, &before[..levels], &now).is_some();
                    assert_eq!(result.is_err(), refused, "{shape:?} {now:?}");

                    let mut expected = before;
                    if !refused {
                        for (level, entry) in expected.iter_mut().take(levels).enumerate() {
                            if !shape.is_pdpte(level) {
                                *entry |= A;
                            }
                        }
                        if now.kind == Kind::Write {
                            expected[levels - 1] |= D;
                        }
                    }
                    assert_eq!(tables.entries, expected, "{shape:?} {now:?} {before:x?}");
                    cases += 1;
                }
            }
        }
    }
    let paths = 16 + 4 + 64 + 16 + 256 + 64 + 16 + 1024 + 256 + 64;
    assert_eq!(cases, 36 * 2 * paths);
}
