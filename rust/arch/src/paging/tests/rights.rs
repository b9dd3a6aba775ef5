// SPDX-License-Identifier: GPL-2.0

//! Who may do what at a page.

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

/// SDM vol. 3, 5.6.1, case by case as the manual lists them.
fn manual_allows(page: &Translation, access: Access, paging: &Paging) -> bool {
    let (wp, smep, smap) = (
        paging.cr0.contains(Cr0::WP),
        paging.cr4.contains(Cr4::SMEP),
        paging.cr4.contains(Cr4::SMAP),
    );
    match (access.user, access.kind) {
        (false, Read) if !page.user => true,
        (false, Read) if !smap => true,
        (false, Read) => !access.implicit && access.ac,
        (false, Write) if !page.user => !wp || page.writable,
        (false, Write) if !wp && !smap => true,
        (false, Write) if !wp => !access.implicit && access.ac,
        (false, Write) if !smap => page.writable,
        (false, Write) => page.writable && !access.implicit && access.ac,
        (false, Fetch) if !page.user => page.executable,
        (false, Fetch) if smep => false,
        (false, Fetch) => page.executable,
        (true, Read) => page.user,
        (true, Write) => page.user && page.writable,
        (true, Fetch) => page.user && page.executable,
    }
}

#[test]
fn every_combination_of_rights() {
    let accesses = [Read, Write, Fetch].into_iter().flat_map(|kind| {
        [
            Access::supervisor(kind),
            Access::user(kind),
            Access::implicit(kind),
        ]
        .into_iter()
        .flat_map(|access| [access, access.with_ac(true)])
    });
    let accesses: std::vec::Vec<_> = accesses.collect();
    let mut cases = 0;
    for bits in 0..128u64 {
        let on = |bit: u64| (bits >> bit) & 1 != 0;
        let leaf = P | ((bits & 3) << 1) | if on(2) && on(6) { XD } else { 0 };
        let cr0 = if on(3) { Cr0::PG | Cr0::WP } else { Cr0::PG };
        let mut cr4 = Cr4::PAE;
        cr4.set(Cr4::SMEP, on(4));
        cr4.set(Cr4::SMAP, on(5));
        let efer = if on(6) { LONG | Efer::NXE } else { LONG };
        let paging = Paging::new(cr0, 0x1000, cr4, efer, 39);
        let page = Translation {
            gpa: Gpa(0xabcd_e000),
            page_size: 4096,
            writable: on(0),
            user: on(1),
            executable: leaf & XD == 0,
        };
        for access in &accesses {
            let mut memory = four_levels(0, [ALL, ALL, ALL, leaf]);
            let mut code = Code::PRESENT;
            code.set(Code::WRITE, access.kind == Write);
            code.set(Code::USER, access.user);
            code.set(Code::FETCH, access.kind == Fetch && (on(6) || on(4)));
            let expected = if manual_allows(&page, *access, &paging) {
                Ok(page)
            } else {
                Err(WalkError::Fault(code))
            };
            let got = paging.translate(&mut memory, Gva(0), *access);
            assert_eq!(
                got, expected,
                "{access:?} of {page:?} with {cr0:?} {cr4:?} {efer:?}"
            );
            cases += 1;
        }
    }
    assert_eq!(cases, 128 * 18);
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
