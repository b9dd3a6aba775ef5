// SPDX-License-Identifier: GPL-2.0

//! Exceptions during the delivery of others (SDM vol. 3, tables 6-4 and 6-5).

use arch::exception::{Exception, Outcome};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
}

/// Table 6-4, with #CP and #VE as later editions add them.
fn class(vector: u8) -> Class {
    match vector {
        0 | 10 | 11 | 12 | 13 | 21 => Class::Contributory,
        14 | 20 => Class::PageFault,
        _ => Class::Benign,
    }
}

#[test]
fn every_pair() {
    let mut cases = 0u64;
    let all = || (0..=255).filter_map(Exception::from_vector);
    for (first, second) in all().flat_map(|first| all().map(move |second| (first, second))) {
        let (one, two) = (class(first.vector()), class(second.vector()));
        let expected = if first.vector() == 8 {
            if two == Class::Benign {
                Outcome::Serial
            } else {
                Outcome::TripleFault
            }
        } else {
            // Rows are the first, columns the second: benign, contributory, page fault.
            let row = match one {
                Class::Benign => [Outcome::Serial; 3],
                Class::Contributory => [Outcome::Serial, Outcome::DoubleFault, Outcome::Serial],
                Class::PageFault => [Outcome::Serial, Outcome::DoubleFault, Outcome::DoubleFault],
            };
            row[two as usize]
        };
        assert_eq!(first.followed_by(second), expected, "{first:?} {second:?}");
        cases += 1;
    }
    assert_eq!(cases, 21 * 21);
}
