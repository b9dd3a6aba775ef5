// SPDX-License-Identifier: GPL-2.0

//! Pages that a vCPU shares with its VMM: `struct kvm_run` and the data of port I/O.
//!
//! The VMM may write them at any time, from any thread. So every access is volatile, nothing read
//! is read twice, and no reference into them exists.

use core::ptr::{
    addr_of,
    addr_of_mut, //
};

use kernel::{
    page::Page,
    prelude::*, //
};

use super::bindings::{
    self,
    kvm_regs,
    kvm_run,
    kvm_sregs,
    kvm_sync_regs,
    kvm_vcpu_events, //
};

/// Bytes in a page.
pub(crate) const SIZE: usize = 4096;

/// A page mapped by user space.
pub(crate) struct SharedPage {
    page: Page,
    address: *mut u8,
}

// SAFETY: Accesses are volatile, as the other side demands anyway.
unsafe impl Send for SharedPage {}
// SAFETY: As above.
unsafe impl Sync for SharedPage {}

impl SharedPage {
    /// A page of zeroes.
    pub(crate) fn new() -> Result<Self> {
        let page = Page::alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO)?;
        // SAFETY: The page is ours and has an address: it is not high memory.
        let address = unsafe {
            bindings::shim_virt_from_phys(bindings::shim_page_phys(page.as_ptr())).cast()
        };
        Ok(Self { page, address })
    }

    /// The page, for a mapping.
    pub(crate) fn page(&self) -> &Page {
        &self.page
    }

    /// Where the page is, for a structure that lives in it.
    pub(super) fn address(&self) -> *mut u8 {
        self.address
    }

    /// Copies out of the page; what does not fit is left as it is.
    pub(crate) fn read(&self, offset: usize, to: &mut [u8]) {
        for (i, byte) in to.iter_mut().enumerate().take(SIZE.saturating_sub(offset)) {
            // SAFETY: Within the page.
            *byte = unsafe { self.address.add(offset + i).read_volatile() };
        }
    }

    /// Copies into the page; what does not fit is dropped.
    pub(crate) fn write(&self, offset: usize, from: &[u8]) {
        for (i, byte) in from.iter().enumerate().take(SIZE.saturating_sub(offset)) {
            // SAFETY: Within the page.
            unsafe { self.address.add(offset + i).write_volatile(*byte) };
        }
    }
}

/// Why a vCPU comes back to its VMM: what goes into `kvm_run` beside the exit reason.
#[derive(Clone, Copy)]
pub(crate) enum UserExit {
    /// KVM_EXIT_UNKNOWN.
    Unknown,
    /// KVM_EXIT_IO; the data lie at `data_offset` from the start of the mapping.
    Io {
        is_in: bool,
        size: u8,
        port: u16,
        count: u32,
        data_offset: u64,
    },
    /// KVM_EXIT_MMIO.
    Mmio {
        gpa: u64,
        data: [u8; 8],
        len: u32,
        is_write: bool,
    },
    /// KVM_EXIT_HLT.
    Hlt,
    /// KVM_EXIT_SHUTDOWN.
    Shutdown,
    /// KVM_EXIT_INTR.
    Intr,
    /// KVM_EXIT_IRQ_WINDOW_OPEN.
    IrqWindowOpen,
    /// KVM_EXIT_SET_TPR.
    SetTpr,
    /// KVM_EXIT_TPR_ACCESS.
    TprAccess { rip: u64, is_write: bool },
    /// KVM_EXIT_IOAPIC_EOI.
    IoapicEoi { vector: u8 },
    /// KVM_EXIT_DIRTY_RING_FULL.
    DirtyRingFull,
    /// KVM_EXIT_FAIL_ENTRY.
    FailEntry { reason: u64, cpu: u32 },
    /// KVM_EXIT_INTERNAL_ERROR.
    InternalError {
        suberror: u32,
        data: [u64; 16],
        ndata: u32,
    },
    /// KVM_EXIT_MEMORY_FAULT: KVM_RUN itself fails.
    MemoryFault { gpa: u64, size: u64 },
    /// KVM_EXIT_HYPERCALL.
    Hypercall {
        number: u64,
        args: [u64; 3],
        is_long: bool,
    },
    /// KVM_EXIT_X86_RDMSR or KVM_EXIT_X86_WRMSR.
    Msr {
        is_write: bool,
        reason: u32,
        index: u32,
        data: u64,
    },
    /// KVM_EXIT_DEBUG.
    Debug {
        exception: u32,
        pc: u64,
        dr6: u64,
        dr7: u64,
    },
}

/// The `kvm_run` page of a vCPU.
pub(crate) struct RunPage(SharedPage);

macro_rules! get {
    ($self:ident.$($field:tt)+) => {
        // SAFETY: The page holds a `kvm_run`; any bits are valid for its integers.
        unsafe { addr_of!((*$self.ptr()).$($field)+).read_volatile() }
    };
}

macro_rules! put {
    ($self:ident.$($field:ident).+ = $value:expr) => {
        // SAFETY: The page holds a `kvm_run`.
        unsafe { addr_of_mut!((*$self.ptr()).$($field).+).write_volatile($value) }
    };
}

impl RunPage {
    /// A `kvm_run` of zeroes.
    pub(crate) fn new() -> Result<Self> {
        const _: () = assert!(size_of::<kvm_run>() <= SIZE);
        Ok(Self(SharedPage::new()?))
    }

    /// The page, for a mapping.
    pub(crate) fn page(&self) -> &Page {
        self.0.page()
    }

    fn ptr(&self) -> *mut kvm_run {
        self.0.address.cast()
    }

    /// Whether KVM_RUN is to come back at once.
    #[inline]
    pub(crate) fn immediate_exit(&self) -> bool {
        get!(self.immediate_exit__unsafe) != 0
    }

    /// Whether the VMM waits for the guest to be able to take an interrupt.
    #[inline]
    pub(crate) fn request_interrupt_window(&self) -> bool {
        get!(self.request_interrupt_window) != 0
    }

    /// CR8 as the VMM wants it.
    #[inline]
    pub(crate) fn cr8(&self) -> u64 {
        get!(self.cr8)
    }

    /// KVM_SYNC_X86_* that the VMM wants to find in the page after a run.
    #[inline]
    pub(crate) fn valid_regs(&self) -> u64 {
        get!(self.kvm_valid_regs)
    }

    /// KVM_SYNC_X86_* that it has changed in the page.
    #[inline]
    pub(crate) fn dirty_regs(&self) -> u64 {
        get!(self.kvm_dirty_regs)
    }

    /// Says which of them are still to be taken.
    pub(crate) fn set_dirty_regs(&self, value: u64) {
        put!(self.kvm_dirty_regs = value);
    }

    /// The registers in the page. The VMM may be writing them: it then gets what it deserves.
    pub(crate) fn sync_regs(&self) -> kvm_sync_regs {
        get!(self.s.regs)
    }

    /// Puts general-purpose registers into the page.
    pub(crate) fn put_regs(&self, regs: &kvm_regs) {
        put!(self.s.regs.regs = *regs);
    }

    /// Puts segment and control registers into the page.
    pub(crate) fn put_sregs(&self, sregs: &kvm_sregs) {
        put!(self.s.regs.sregs = *sregs);
    }

    /// Puts what is on its way into the guest into the page.
    pub(crate) fn put_events(&self, events: &kvm_vcpu_events) {
        put!(self.s.regs.events = *events);
    }

    /// What the VMM answered to an MMIO read.
    pub(crate) fn mmio_data(&self) -> [u8; 8] {
        get!(self.__bindgen_anon_1.mmio.data)
    }

    /// What the VMM answered to a hypercall.
    pub(crate) fn hypercall_result(&self) -> u64 {
        get!(self.__bindgen_anon_1.hypercall.ret)
    }

    /// What the VMM answered to RDMSR or WRMSR: the value of an MSR that was read, or `None` where
    /// the guest is to get #GP.
    pub(crate) fn msr_answer(&self) -> Option<u64> {
        let refused = get!(self.__bindgen_anon_1.msr.error) != 0;
        (!refused).then(|| get!(self.__bindgen_anon_1.msr.data))
    }

    /// The reason that was set last, unless the VMM has changed it since.
    pub(crate) fn exit_reason(&self) -> u32 {
        get!(self.exit_reason)
    }

    /// Clears the flags, as a run starts.
    #[inline]
    pub(crate) fn clear_flags(&self) {
        put!(self.flags = 0);
    }

    /// What the VMM needs to know to inject interrupts.
    pub(crate) fn set_interrupt_state(&self, if_flag: bool, ready: bool, cr8: u64, apic_base: u64) {
        put!(self.if_flag = if_flag.into());
        put!(self.ready_for_interrupt_injection = ready.into());
        put!(self.cr8 = cr8);
        put!(self.apic_base = apic_base);
    }

    /// Says why the vCPU comes back.
    pub(crate) fn set_exit(&self, exit: &UserExit) {
        let reason = match *exit {
            UserExit::Unknown => bindings::KVM_EXIT_UNKNOWN,
            UserExit::Io {
                is_in,
                size,
                port,
                count,
                data_offset,
            } => {
                put!(
                    self.__bindgen_anon_1.io.direction = if is_in {
                        bindings::KVM_EXIT_IO_IN
                    } else {
                        bindings::KVM_EXIT_IO_OUT
                    } as u8
                );
                put!(self.__bindgen_anon_1.io.size = size);
                put!(self.__bindgen_anon_1.io.port = port);
                put!(self.__bindgen_anon_1.io.count = count);
                put!(self.__bindgen_anon_1.io.data_offset = data_offset);
                bindings::KVM_EXIT_IO
            }
            UserExit::Mmio {
                gpa,
                data,
                len,
                is_write,
            } => {
                put!(self.__bindgen_anon_1.mmio.phys_addr = gpa);
                put!(self.__bindgen_anon_1.mmio.data = data);
                put!(self.__bindgen_anon_1.mmio.len = len);
                put!(self.__bindgen_anon_1.mmio.is_write = is_write.into());
                bindings::KVM_EXIT_MMIO
            }
            UserExit::Hlt => bindings::KVM_EXIT_HLT,
            UserExit::Shutdown => bindings::KVM_EXIT_SHUTDOWN,
            UserExit::Intr => bindings::KVM_EXIT_INTR,
            UserExit::IrqWindowOpen => bindings::KVM_EXIT_IRQ_WINDOW_OPEN,
            UserExit::SetTpr => bindings::KVM_EXIT_SET_TPR,
            UserExit::DirtyRingFull => bindings::KVM_EXIT_DIRTY_RING_FULL,
            UserExit::TprAccess { rip, is_write } => {
                put!(self.__bindgen_anon_1.tpr_access.rip = rip);
                put!(self.__bindgen_anon_1.tpr_access.is_write = is_write.into());
                bindings::KVM_EXIT_TPR_ACCESS
            }
            UserExit::IoapicEoi { vector } => {
                put!(self.__bindgen_anon_1.eoi.vector = vector);
                bindings::KVM_EXIT_IOAPIC_EOI
            }
            UserExit::FailEntry { reason, cpu } => {
                put!(
                    self.__bindgen_anon_1
                        .fail_entry
                        .hardware_entry_failure_reason = reason
                );
                put!(self.__bindgen_anon_1.fail_entry.cpu = cpu);
                bindings::KVM_EXIT_FAIL_ENTRY
            }
            UserExit::InternalError {
                suberror,
                data,
                ndata,
            } => {
                put!(self.__bindgen_anon_1.internal.suberror = suberror);
                put!(self.__bindgen_anon_1.internal.ndata = ndata);
                put!(self.__bindgen_anon_1.internal.data = data);
                bindings::KVM_EXIT_INTERNAL_ERROR
            }
            UserExit::MemoryFault { gpa, size } => {
                put!(self.__bindgen_anon_1.memory_fault.flags = 0);
                put!(self.__bindgen_anon_1.memory_fault.gpa = gpa);
                put!(self.__bindgen_anon_1.memory_fault.size = size);
                bindings::KVM_EXIT_MEMORY_FAULT
            }
            UserExit::Hypercall {
                number,
                args: [a0, a1, a2],
                is_long,
            } => {
                // KVM_EXIT_HYPERCALL_LONG_MODE.
                let flags = u64::from(is_long);
                put!(self.__bindgen_anon_1.hypercall.nr = number);
                put!(self.__bindgen_anon_1.hypercall.args = [a0, a1, a2, 0, 0, 0]);
                // VMMs take it for what it was before, and answer nothing.
                put!(self.__bindgen_anon_1.hypercall.ret = 0);
                put!(self.__bindgen_anon_1.hypercall.__bindgen_anon_1.flags = flags);
                bindings::KVM_EXIT_HYPERCALL
            }
            UserExit::Msr {
                is_write,
                reason,
                index,
                data,
            } => {
                put!(self.__bindgen_anon_1.msr.error = 0);
                put!(self.__bindgen_anon_1.msr.pad = [0; 7]);
                put!(self.__bindgen_anon_1.msr.reason = reason);
                put!(self.__bindgen_anon_1.msr.index = index);
                put!(self.__bindgen_anon_1.msr.data = data);
                if is_write {
                    bindings::KVM_EXIT_X86_WRMSR
                } else {
                    bindings::KVM_EXIT_X86_RDMSR
                }
            }
            UserExit::Debug {
                exception,
                pc,
                dr6,
                dr7,
            } => {
                put!(self.__bindgen_anon_1.debug.arch.exception = exception);
                put!(self.__bindgen_anon_1.debug.arch.pc = pc);
                put!(self.__bindgen_anon_1.debug.arch.dr6 = dr6);
                put!(self.__bindgen_anon_1.debug.arch.dr7 = dr7);
                bindings::KVM_EXIT_DEBUG
            }
        };
        put!(self.exit_reason = reason);
    }
}
