// SPDX-License-Identifier: GPL-2.0

//! Who may do what at a page. `tests/exhaustive` has every case.

use super::*;

#[test]
fn rights_are_those_of_every_level() {
    for level in 0..4 {
        for (taken, added) in [(RW, 0), (US, 0), (0, XD)] {
            let mut flags = [ALL; 4];
            flags[level] = (ALL & !taken) | added;
            let page = read(&long_mode(), &mut four_levels(0, flags), 0).unwrap();
            assert_eq!(page.writable, taken != RW);
            assert_eq!(page.user, taken != US);
            assert_eq!(page.executable, added == 0);
        }
    }
}

#[test]
fn protection_keys_guard_data_of_user_pages() {
    let key = 5u64;
    for (rights, user_page, access, allowed) in [
        (1, true, Access::user(Read), false),
        (1, true, Access::supervisor(Read), false),
        (1, true, Access::user(Fetch), true),
        (1, false, Access::supervisor(Read), true),
        (2, true, Access::user(Read), true),
        (2, true, Access::user(Write), false),
        (2, true, Access::supervisor(Write), false),
        (0, true, Access::user(Write), true),
    ] {
        let flags = P | RW | if user_page { US } else { 0 } | (key << 59);
        let mut paging = paging(Cr4::PAE | Cr4::PKE, LONG | Efer::NXE);
        paging.pkru = rights << (2 * key);
        let mut memory = four_levels(0, [ALL, ALL, ALL, flags]);
        let result = paging.translate(&mut memory, Gva(0), access);
        assert_eq!(result.is_ok(), allowed, "{rights} {access:?}");
        if let Err(error) = result {
            let WalkError::Fault(code) = error else {
                panic!("{error:?}")
            };
            assert!(code.contains(Code::PROTECTION_KEY | Code::PRESENT));
        }
        if rights == 2 {
            paging.cr0 = Cr0::PG;
            let write = paging.translate(&mut memory, Gva(0), Access::supervisor(Write));
            assert!(write.is_ok(), "WD binds a supervisor only with CR0.WP");
        }
        paging.cr4 = Cr4::PAE;
        assert!(paging.translate(&mut memory, Gva(0), access).is_ok());
    }
}
