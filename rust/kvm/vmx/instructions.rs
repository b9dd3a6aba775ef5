// SPDX-License-Identifier: GPL-2.0

//! The VMX instructions (SDM vol. 3, chapter 31).
//!
//! Each may fault once the kernel has turned VMX off under us on the way down (a crash or a
//! reboot, which may come by NMI). Such a fault is swallowed; any other is a defect and traps.

use core::arch::asm;

use arch::{
    addr::Hpa,
    vmcs::{
        Field16,
        Field32,
        Field64,
        FieldNatural, //
    }, //
};
use kernel::prelude::*;

/// An entry of the kernel's exception table for the instruction at label 2, which ends at label 3.
macro_rules! unless_rebooting {
    () => {
        concat!(
            "3:\n",
            ".pushsection .text.unlikely, \"ax\"\n",
            "4: cmpb $0, virt_rebooting(%rip)\n",
            "jne 3b\n",
            "ud2\n",
            ".popsection\n",
            ".pushsection __ex_table, \"a\"\n",
            ".balign 4\n",
            ".long 2b - .\n",
            ".long 4b - .\n",
            ".long 1\n",
            ".popsection\n",
        )
    };
}

/// An entry of the kernel's exception table that goes on here when the instruction at label 2
/// faults.
macro_rules! swallow {
    () => {
        concat!(
            "3:\n",
            ".pushsection __ex_table, \"a\"\n",
            ".balign 4\n",
            ".long 2b - .\n",
            ".long 3b - .\n",
            ".long 1\n",
            ".popsection\n",
        )
    };
}

/// Reads a field of the current VMCS by its encoding.
///
/// # Safety
///
/// A VMCS is current on this CPU, and stays so whenever this thread runs.
#[inline(always)]
pub(super) unsafe fn vmread(encoding: u32) -> u64 {
    let mut value: u64 = 0;
    // SAFETY: By the contract of this function; VMREAD to a register touches no memory.
    unsafe {
        asm!(
            "2: vmread {field}, {value}",
            unless_rebooting!(),
            field = in(reg) u64::from(encoding),
            value = inout(reg) value,
            options(att_syntax, nostack),
        );
    }
    value
}

/// Writes a field of the current VMCS by its encoding.
///
/// # Safety
///
/// As for [`vmread`]; and what the value makes the processor do must be sound.
#[inline(always)]
pub(super) unsafe fn vmwrite(encoding: u32, value: u64) {
    // SAFETY: By the contract of this function.
    unsafe {
        asm!(
            "2: vmwrite {value}, {field}",
            unless_rebooting!(),
            field = in(reg) u64::from(encoding),
            value = in(reg) value,
            options(att_syntax, nostack),
        );
    }
}

macro_rules! region_instruction {
    ($(#[$doc:meta])* $name:ident, $instruction:literal) => {
        $(#[$doc])*
        pub(super) unsafe fn $name(region: Hpa) -> Result {
            let failed: u8;
            // SAFETY: By the contract of this function.
            unsafe {
                asm!(
                    "xorl %eax, %eax",
                    concat!("2: ", $instruction, " ({region})"),
                    unless_rebooting!(),
                    "setna %al",
                    region = in(reg) &region.0,
                    out("al") failed,
                    options(att_syntax),
                );
            }
            if failed != 0 {
                return Err(EIO);
            }
            Ok(())
        }
    };
}

region_instruction! {
    /// Makes the VMCS at `region` inactive and writes it back to memory.
    ///
    /// # Safety
    ///
    /// The region is a VMCS that is not active on another CPU; this CPU is in VMX operation.
    vmclear, "vmclear"
}

region_instruction! {
    /// Makes the VMCS at `region` current.
    ///
    /// # Safety
    ///
    /// The region is a VMCS that is not active on another CPU; this CPU is in VMX operation.
    vmptrld, "vmptrld"
}

/// Enters VMX operation with the VMXON region at `region`.
///
/// # Errors
///
/// EIO where the processor refuses: CR0 or CR4 hold values VMX does not allow, the region has
/// another revision, or IA32_FEATURE_CONTROL forbids it.
///
/// # Safety
///
/// CR4.VMXE is set and the region is this CPU's own for as long as it stays in VMX operation.
pub(super) unsafe fn vmxon(region: Hpa) -> Result {
    let mut failed: u8 = 1;
    // SAFETY: By the contract of this function. A fault leaves `failed` as it was.
    unsafe {
        asm!(
            "2: vmxon ({region})",
            "setna {failed}",
            swallow!(),
            region = in(reg) &region.0,
            failed = inout(reg_byte) failed,
            options(att_syntax),
        );
    }
    if failed != 0 {
        return Err(EIO);
    }
    Ok(())
}

/// Leaves VMX operation.
///
/// # Safety
///
/// No VMCS on this CPU is needed any more without VMPTRLD.
pub(super) unsafe fn vmxoff() {
    // SAFETY: By the contract of this function; outside VMX operation the fault is swallowed by
    // continuing after the instruction.
    unsafe {
        asm!("2: vmxoff", swallow!(), options(att_syntax, nostack),);
    }
}

/// Invalidates translations derived from EPTs: of the one that `eptp` points to, or of all.
///
/// # Safety
///
/// This CPU is in VMX operation and supports the type.
pub(super) unsafe fn invept(eptp: Option<u64>) {
    let descriptor: [u64; 2] = [eptp.unwrap_or(0), 0];
    let kind: u64 = if eptp.is_some() { 1 } else { 2 };
    // SAFETY: By the contract of this function.
    unsafe {
        asm!(
            "2: invept ({descriptor}), {kind}",
            unless_rebooting!(),
            descriptor = in(reg) &descriptor,
            kind = in(reg) kind,
            options(att_syntax, nostack),
        );
    }
}

/// Invalidates translations tagged with `vpid`, or with any.
///
/// # Safety
///
/// This CPU is in VMX operation and supports the type.
pub(super) unsafe fn invvpid(vpid: Option<u16>) {
    let descriptor: [u64; 2] = [vpid.unwrap_or(0).into(), 0];
    let kind: u64 = if vpid.is_some() { 1 } else { 2 };
    // SAFETY: By the contract of this function.
    unsafe {
        asm!(
            "2: invvpid ({descriptor}), {kind}",
            unless_rebooting!(),
            descriptor = in(reg) &descriptor,
            kind = in(reg) kind,
            options(att_syntax, nostack),
        );
    }
}

/// A field that can be read and written, at its own width.
pub(super) trait Field: Copy {
    /// The field's width.
    type Value;
    /// Reads it.
    ///
    /// # Safety
    ///
    /// As for [`vmread`].
    unsafe fn read(self) -> Self::Value;
    /// Writes it.
    ///
    /// # Safety
    ///
    /// As for [`vmwrite`].
    unsafe fn write(self, value: Self::Value);
}

macro_rules! field {
    ($ty:ident, $value:ty) => {
        impl Field for $ty {
            type Value = $value;

            #[inline(always)]
            unsafe fn read(self) -> $value {
                // SAFETY: By the contract of this function.
                unsafe { vmread(self.0) as $value }
            }

            #[inline(always)]
            unsafe fn write(self, value: $value) {
                // SAFETY: By the contract of this function.
                unsafe { vmwrite(self.0, value.into()) }
            }
        }
    };
}

field!(Field16, u16);
field!(Field32, u32);
field!(Field64, u64);
field!(FieldNatural, u64);
