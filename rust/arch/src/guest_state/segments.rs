// SPDX-License-Identifier: GPL-2.0

//! Rules for segment registers (SDM vol. 3, 27.3.1.2).

use super::{ensure, GuestState, Rule};
use crate::control_regs::Cr0;
use crate::segment::{
    AccessRights, Segment, TYPE_ACCESSED, TYPE_BUSY_TSS, TYPE_BUSY_TSS16, TYPE_CODE,
    TYPE_CONFORMING, TYPE_LDT, TYPE_READABLE, TYPE_WRITABLE,
};

/// Access rights of every segment in virtual-8086 mode.
const VIRTUAL_8086_RIGHTS: AccessRights = AccessRights(0xf3);
/// The code-segment type an unrestricted guest may have besides: read/write data.
const TYPE_REAL_MODE_CODE: u8 = TYPE_ACCESSED | TYPE_WRITABLE;

impl GuestState {
    pub(super) fn check_segments(&self) -> Result<(), Rule> {
        let segments = &self.segments;
        let data = [&segments.ds, &segments.es, &segments.fs, &segments.gs];

        ensure(!segments.tr.selector.is_local(), Rule::SelectorLocal)?;
        let ldtr_usable = !segments.ldtr.rights.is_unusable();
        ensure(
            !ldtr_usable || !segments.ldtr.selector.is_local(),
            Rule::SelectorLocal,
        )?;
        self.check_bases()?;

        if self.is_virtual_8086() {
            for segment in [&segments.cs, &segments.ss].into_iter().chain(data) {
                let as_in_real_mode = segment.base.0 == u64::from(segment.selector.0) << 4
                    && segment.limit == 0xffff
                    && segment.rights == VIRTUAL_8086_RIGHTS;
                ensure(as_in_real_mode, Rule::Virtual8086Segment)?;
            }
        } else {
            self.check_code()?;
            self.check_stack()?;
            for segment in data {
                check_data(segment)?;
            }
        }
        self.check_tr()?;
        self.check_ldtr()
    }

    fn check_bases(&self) -> Result<(), Rule> {
        let segments = &self.segments;
        let canonical = |segment: &Segment| self.is_canonical(segment.base.0);
        let ldtr = segments.ldtr.rights.is_unusable() || canonical(&segments.ldtr);
        let thread = canonical(&segments.fs) && canonical(&segments.gs);
        ensure(ldtr && thread && canonical(&segments.tr), Rule::SegmentBase)?;
        ensure(segments.cs.base.0 >> 32 == 0, Rule::SegmentBase)?;
        for segment in [&segments.ss, &segments.ds, &segments.es] {
            let fits = segment.rights.is_unusable() || segment.base.0 >> 32 == 0;
            ensure(fits, Rule::SegmentBase)?;
        }
        Ok(())
    }

    fn check_code(&self) -> Result<(), Rule> {
        let cs = &self.segments.cs;
        let stack_dpl = self.segments.ss.rights.dpl();
        let kind = cs.rights.segment_type();
        ensure(!cs.rights.is_unusable(), Rule::SegmentUnusable)?;
        ensure(cs.rights.is_code_or_data(), Rule::SegmentSystem)?;
        let dpl_fits = if kind == TYPE_REAL_MODE_CODE {
            cs.rights.dpl() == 0
        } else {
            let code = TYPE_CODE | TYPE_ACCESSED;
            ensure(kind & code == code, Rule::SegmentType)?;
            if kind & TYPE_CONFORMING == 0 {
                cs.rights.dpl() == stack_dpl
            } else {
                cs.rights.dpl() <= stack_dpl
            }
        };
        ensure(dpl_fits, Rule::SegmentDpl)?;
        check_common(cs)?;
        let both = self.ia32e_mode && cs.rights.is_long() && cs.rights.is_default_big();
        ensure(!both, Rule::CodeLongAndBig)
    }

    fn check_stack(&self) -> Result<(), Rule> {
        let ss = &self.segments.ss;
        let writable = TYPE_ACCESSED | TYPE_WRITABLE;
        if !ss.rights.is_unusable() {
            let kind = ss.rights.segment_type();
            ensure(ss.rights.is_code_or_data(), Rule::SegmentSystem)?;
            ensure(kind & (writable | TYPE_CODE) == writable, Rule::SegmentType)?;
            check_common(ss)?;
        }
        // The DPL of SS is the privilege level, so it binds an unusable SS too.
        let real_mode_code = self.segments.cs.rights.segment_type() == TYPE_REAL_MODE_CODE;
        if real_mode_code || !self.has_cr0(Cr0::PE) {
            ensure(ss.rights.dpl() == 0, Rule::SegmentDpl)?;
        }
        Ok(())
    }

    fn check_tr(&self) -> Result<(), Rule> {
        let tr = &self.segments.tr;
        ensure(!tr.rights.is_unusable(), Rule::SegmentUnusable)?;
        let kind = tr.rights.segment_type();
        let busy16 = kind == TYPE_BUSY_TSS16 && !self.ia32e_mode;
        ensure(kind == TYPE_BUSY_TSS || busy16, Rule::SegmentType)?;
        ensure(!tr.rights.is_code_or_data(), Rule::SegmentSystem)?;
        check_common(tr)
    }

    fn check_ldtr(&self) -> Result<(), Rule> {
        let ldtr = &self.segments.ldtr;
        if ldtr.rights.is_unusable() {
            return Ok(());
        }
        ensure(ldtr.rights.segment_type() == TYPE_LDT, Rule::SegmentType)?;
        ensure(!ldtr.rights.is_code_or_data(), Rule::SegmentSystem)?;
        check_common(ldtr)
    }
}

fn check_data(segment: &Segment) -> Result<(), Rule> {
    let rights = segment.rights;
    if rights.is_unusable() {
        return Ok(());
    }
    let kind = rights.segment_type();
    ensure(rights.is_code_or_data(), Rule::SegmentSystem)?;
    let readable = kind & TYPE_CODE == 0 || kind & TYPE_READABLE != 0;
    ensure(kind & TYPE_ACCESSED != 0 && readable, Rule::SegmentType)?;
    check_common(segment)
}

/// Present, reserved bits, and G against the limit.
fn check_common(segment: &Segment) -> Result<(), Rule> {
    let rights = segment.rights;
    ensure(rights.is_present(), Rule::SegmentNotPresent)?;
    ensure(
        rights.0 & AccessRights::RESERVED == 0,
        Rule::SegmentReserved,
    )?;
    let bytes_fit = segment.limit & 0xfff == 0xfff || !rights.is_granular();
    let pages_fit = segment.limit >> 20 == 0 || rights.is_granular();
    ensure(bytes_fit && pages_fit, Rule::SegmentGranularity)
}
