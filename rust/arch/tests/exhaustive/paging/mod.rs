// SPDX-License-Identifier: GPL-2.0

//! Page walks (SDM vol. 3, chapter 5).

mod manual;
mod marks;
mod reserved;
mod rights;
mod tables;

use arch::control_regs::{Cr0, Cr4, Efer};
use arch::paging::{Access, AccessKind, Paging};
use manual::{Kind, Situation, Who};
use tables::Shape;

const KINDS: [Kind; 3] = [Kind::Read, Kind::Write, Kind::Fetch];

impl Situation {
    fn access(&self) -> Access {
        let kind = match self.kind {
            Kind::Read => AccessKind::Read,
            Kind::Write => AccessKind::Write,
            Kind::Fetch => AccessKind::Fetch,
        };
        match self.who {
            Who::User => Access::user(kind),
            Who::Supervisor => Access::supervisor(kind),
            Who::Implicit => Access::implicit(kind),
        }
        .with_ac(self.ac)
    }

    fn paging(&self, shape: Shape, maxphyaddr: u8) -> Paging {
        let mut cr0 = Cr0::empty();
        cr0.set(Cr0::WP, self.wp);
        let mut cr4 = Cr4::empty();
        cr4.set(Cr4::SMEP, self.smep);
        cr4.set(Cr4::SMAP, self.smap);
        cr4.set(Cr4::PKE, self.pke);
        let mut efer = Efer::empty();
        efer.set(Efer::NXE, self.nxe);
        let mut paging = shape.paging(cr0, cr4, efer, maxphyaddr);
        paging.pkru = self.pkru;
        paging
    }
}

/// Every access under every setting of WP, SMEP, SMAP and NXE; 288 of them.
fn situations() -> Vec<Situation> {
    let mut all = Vec::new();
    for bits in 0..32u32 {
        let on = |bit: u32| bits >> bit & 1 != 0;
        for kind in KINDS {
            for who in [Who::User, Who::Supervisor, Who::Implicit] {
                all.push(Situation {
                    kind,
                    who,
                    ac: on(0),
                    wp: on(1),
                    smep: on(2),
                    smap: on(3),
                    nxe: on(4),
                    pke: false,
                    pkru: 0,
                });
            }
        }
    }
    all
}
