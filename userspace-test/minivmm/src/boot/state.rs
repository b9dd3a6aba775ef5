// SPDX-License-Identifier: GPL-2.0

//! The registers a guest starts with.

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Address, GuestAddress, GuestMemoryMmap};

use super::gdt::{self, CodeSize};
use super::{layout, paging, write, Error};

/// CR0.PE.
const CR0_PROTECTED_MODE: u64 = 1 << 0;
/// CR0.ET, which always reads as 1.
const CR0_EXTENSION_TYPE: u64 = 1 << 4;
/// CR0.PG.
const CR0_PAGING: u64 = 1 << 31;
/// CR4.PAE.
const CR4_PAE: u64 = 1 << 5;
/// EFER.LME.
const EFER_LONG_MODE_ENABLE: u64 = 1 << 8;
/// EFER.LMA.
const EFER_LONG_MODE_ACTIVE: u64 = 1 << 10;
/// RFLAGS bit 1, which is always 1.
const RFLAGS_FIXED: u64 = 1 << 1;

/// Where a guest starts and in which state.
#[derive(Clone, Copy, Debug)]
pub struct CpuState {
    /// General registers, RIP and RFLAGS.
    pub regs: kvm_regs,
    /// Segments, control registers and EFER.
    pub sregs: kvm_sregs,
}

/// 64-bit mode at `entry`, the first 4 GiB mapped one to one; tables are written to guest memory.
///
/// # Errors
///
/// [`Error::Write`] where guest memory is too small for the tables.
pub fn long_mode(
    memory: &GuestMemoryMmap,
    reset: kvm_sregs,
    entry: GuestAddress,
) -> Result<CpuState, Error> {
    let root = paging::write_identity_map(memory)?;
    let mut state = protected(memory, reset, entry, CodeSize::Bits64)?;
    state.sregs.cr0 |= CR0_PAGING;
    state.sregs.cr3 = root.raw_value();
    state.sregs.cr4 = CR4_PAE;
    state.sregs.efer = EFER_LONG_MODE_ENABLE | EFER_LONG_MODE_ACTIVE;
    Ok(state)
}

/// 32-bit protected mode at `entry`, without paging.
///
/// # Errors
///
/// [`Error::Write`] where guest memory is too small for the descriptor table.
pub fn protected_mode(
    memory: &GuestMemoryMmap,
    reset: kvm_sregs,
    entry: GuestAddress,
) -> Result<CpuState, Error> {
    protected(memory, reset, entry, CodeSize::Bits32)
}

/// Real mode at `entry`, in the segment that starts at most 15 bytes before it when the address
/// does not fit an offset alone.
///
/// # Errors
///
/// [`Error::NotInRealMode`] for an address real mode cannot name.
pub fn real_mode(reset: kvm_sregs, entry: GuestAddress) -> Result<CpuState, Error> {
    let linear = entry.raw_value();
    let (selector, offset) = match u16::try_from(linear) {
        Ok(offset) => (0, offset),
        Err(_) => {
            let selector =
                u16::try_from(linear >> 4).map_err(|_| Error::NotInRealMode { entry })?;
            (selector, (linear & 0xf) as u16)
        }
    };
    let data = gdt::real(0, false);
    let sregs = kvm_sregs {
        cs: gdt::real(selector, true),
        ..with_data_segments(reset, data)
    };
    Ok(CpuState {
        regs: regs(u64::from(offset), GuestAddress(0x7000)),
        sregs,
    })
}

fn protected(
    memory: &GuestMemoryMmap,
    reset: kvm_sregs,
    entry: GuestAddress,
    size: CodeSize,
) -> Result<CpuState, Error> {
    let table = gdt::table(size);
    let bytes: Vec<u8> = table.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    write(memory, "segment descriptors", layout::GDT, &bytes)?;
    let sregs = kvm_sregs {
        cs: gdt::code(size),
        tr: gdt::task(),
        gdt: kvm_dtable {
            base: layout::GDT.raw_value(),
            limit: (bytes.len() - 1) as u16,
            ..Default::default()
        },
        idt: kvm_dtable::default(),
        cr0: CR0_PROTECTED_MODE | CR0_EXTENSION_TYPE,
        ..with_data_segments(reset, gdt::data())
    };
    Ok(CpuState {
        regs: regs(entry.raw_value(), layout::STACK),
        sregs,
    })
}

fn with_data_segments(sregs: kvm_sregs, data: kvm_segment) -> kvm_sregs {
    kvm_sregs {
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        ..sregs
    }
}

fn regs(rip: u64, stack: GuestAddress) -> kvm_regs {
    kvm_regs {
        rip,
        rsp: stack.raw_value(),
        rflags: RFLAGS_FIXED,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    fn memory() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&layout::ram(1 << 20)).expect("memory")
    }

    #[test]
    fn long_mode_is_consistent() {
        let memory = memory();
        let entry = GuestAddress(0x10_0200);
        let state = long_mode(&memory, kvm_sregs::default(), entry).expect("fits");
        assert_eq!(state.regs.rip, entry.0);
        assert_eq!(state.sregs.efer, 0x500);
        assert_eq!(state.sregs.cr0, 0x8000_0011);
        assert_eq!((state.sregs.cs.l, state.sregs.cs.db), (1, 0));
        let table = state.sregs.gdt;
        assert_eq!(table.limit, 39);
        let code: u64 = memory
            .read_obj(GuestAddress(
                table.base + u64::from(state.sregs.cs.selector),
            ))
            .expect("in memory");
        assert_eq!(code, gdt::table(CodeSize::Bits64)[2]);
    }

    #[test]
    fn protected_mode_has_no_paging() {
        let state =
            protected_mode(&memory(), kvm_sregs::default(), GuestAddress(0x1_0000)).expect("fits");
        assert_eq!(state.sregs.cr0, 0x11);
        assert_eq!((state.sregs.cs.l, state.sregs.cs.db), (0, 1));
    }

    #[test]
    fn real_mode_reaches_its_entry() {
        for entry in [0, 0x7c00, 0xffff, 0x1_0000, 0x9_fc05, 0xf_ffff] {
            let state = real_mode(kvm_sregs::default(), GuestAddress(entry)).expect("reachable");
            assert_eq!(state.sregs.cs.base + state.regs.rip, entry);
        }
        assert!(matches!(
            real_mode(kvm_sregs::default(), GuestAddress(0x10_0000)),
            Err(Error::NotInRealMode {
                entry: GuestAddress(0x10_0000)
            })
        ));
    }
}
