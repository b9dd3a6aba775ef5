// SPDX-License-Identifier: GPL-2.0

//! A vCPU's file: vCPU ioctls, and the mapping of `kvm_run`.

use core::ops::Range;

use kernel::{
    page::Page,
    prelude::*,
    sync::{
        Arc,
        ArcBorrow, //
    },
};

use super::{
    clock,
    copy,
    cpuid,
    debugfs::{
        Shown,
        VmcsFile, //
    },
    dirty_log,
    events,
    fpu,
    lapic,
    mce,
    msr,
    number,
    one_reg,
    regs,
    sregs,
    stats::VcpuStats,
    sync_regs, //
};
use crate::{
    host::{
        bindings::{
            self,
            kvm_signal_mask, //
        },
        file::{
            self,
            FileObject, //
        },
        shared, //
    },
    vm::{
        Backend,
        Loaded,
        Vcpu,
        Vm, //
    },
};

/// Where in the mapping the ring of coalesced writes is.
const COALESCED_PAGE: usize = bindings::KVM_COALESCED_MMIO_PAGE_OFFSET as usize;

/// Where the ring of written pages begins.
const DIRTY_RING_PAGE: usize = bindings::KVM_DIRTY_LOG_PAGE_OFFSET as usize;

/// What stands behind a vCPU's file.
pub(super) struct VcpuFile<B: Backend> {
    vm: Arc<Vm<B>>,
    vcpu: Arc<Vcpu<B>>,
    _vmcs: VmcsFile<B>,
    shown: Arc<Shown<B>>,
}

impl<B: Backend> VcpuFile<B> {
    pub(super) fn new(shown: Arc<Shown<B>>, vcpu: Arc<Vcpu<B>>) -> Result<Arc<Self>> {
        let file = Self {
            _vmcs: shown.show_vcpu(vcpu.clone())?,
            vm: shown.vm.clone(),
            vcpu,
            shown,
        };
        Ok(Arc::new(file, GFP_KERNEL_ACCOUNT)?)
    }

    fn with_loaded<R>(&self, f: impl FnOnce(&mut Loaded<'_, B>) -> Result<R>) -> Result<R> {
        self.vcpu.with_loaded(&self.vm, f)
    }

    /// api.rst, 4.17 KVM_SET_SIGNAL_MASK.
    fn set_signal_mask(&self, arg: usize) -> Result<i32> {
        let mask = if arg == 0 {
            None
        } else {
            let header: kvm_signal_mask = copy::read(arg)?;
            if header.len as usize != size_of::<u64>() {
                return Err(EINVAL);
            }
            let set: u64 = copy::read(arg + size_of::<kvm_signal_mask>())?;
            Some(set)
        };
        self.vcpu.with_state(|state| {
            state.sigmask = mask;
            Ok(0)
        })
    }
}

impl<B: Backend> FileObject for VcpuFile<B> {
    const NAME: &'static CStr = c"kvm-vcpu";
    const HAS_PAGES: bool = true;

    fn number(&self) -> Option<u32> {
        Some(self.vcpu.id)
    }

    fn ioctl(this: ArcBorrow<'_, Self>, cmd: u32, arg: usize) -> Result<i32> {
        if !this.vm.memory.mm.is_current() {
            return Err(EIO);
        }
        match cmd {
            number::KVM_RUN if arg == 0 => this.with_loaded(|cx| sync_regs::run(cx)),
            number::KVM_GET_REGS => this.with_loaded(|cx| regs::get(cx, arg)),
            number::KVM_SET_REGS => {
                let new = regs::read(arg)?;
                this.with_loaded(|cx| {
                    regs::set(cx, &new);
                    Ok(0)
                })
            }
            number::KVM_GET_SREGS => this.with_loaded(|cx| sregs::get(cx, arg)),
            number::KVM_SET_SREGS => this.with_loaded(|cx| sregs::set(cx, arg)),
            number::KVM_GET_SREGS2 => this.with_loaded(|cx| sregs::get2(cx, arg)),
            number::KVM_SET_SREGS2 => this.with_loaded(|cx| sregs::set2(cx, arg)),
            number::KVM_TRANSLATE => this.with_loaded(|cx| sregs::translate(cx, arg)),
            number::KVM_INTERRUPT => this.with_loaded(|cx| events::interrupt(cx, arg)),
            number::KVM_NMI => this.with_loaded(|cx| events::nmi(cx)),
            number::KVM_GET_VCPU_EVENTS => this.with_loaded(|cx| events::get(cx, arg)),
            number::KVM_SET_VCPU_EVENTS => this.with_loaded(|cx| events::set(cx, arg)),
            number::KVM_SET_GUEST_DEBUG => this.with_loaded(|cx| regs::set_guest_debug(cx, arg)),
            number::KVM_GET_DEBUGREGS => this.with_loaded(|cx| regs::get_debugregs(cx, arg)),
            number::KVM_SET_DEBUGREGS => this.with_loaded(|cx| regs::set_debugregs(cx, arg)),
            number::KVM_GET_MSRS => this.with_loaded(|cx| msr::get(cx, arg)),
            number::KVM_SET_MSRS => this.with_loaded(|cx| msr::set(cx, arg)),
            number::KVM_SET_CPUID2 => this.with_loaded(|cx| cpuid::set(cx, arg)),
            number::KVM_SET_CPUID => this.with_loaded(|cx| cpuid::set_without_index(cx, arg)),
            number::KVM_GET_ONE_REG => this.with_loaded(|cx| one_reg::get(cx, arg)),
            number::KVM_SET_ONE_REG => this.with_loaded(|cx| one_reg::set(cx, arg)),
            number::KVM_GET_REG_LIST => one_reg::list(arg),
            // As in a KVM that was built without system-management mode.
            number::KVM_SMI => Err(ENOTTY),
            number::KVM_GET_CPUID2 => this.vcpu.with_state(|state| cpuid::get(&state.cpuid, arg)),
            number::KVM_GET_FPU => this.vcpu.with_state(|state| fpu::get(state, arg)),
            number::KVM_SET_FPU => this.vcpu.with_state(|state| fpu::set(state, arg)),
            number::KVM_GET_XSAVE => this.vcpu.with_state(|state| fpu::get_xsave(state, arg)),
            number::KVM_GET_XSAVE2 => this.vcpu.with_state(|state| fpu::get_xsave2(state, arg)),
            number::KVM_SET_XSAVE => this.vcpu.with_state(|state| fpu::set_xsave(state, arg)),
            number::KVM_GET_XCRS => this.vcpu.with_state(|state| fpu::get_xcrs(state, arg)),
            number::KVM_SET_XCRS => this.with_loaded(|cx| fpu::set_xcrs(cx, arg)),
            number::KVM_GET_TSC_KHZ => this.vcpu.with_state(|state| Ok(state.tsc_khz as i32)),
            number::KVM_SET_TSC_KHZ => {
                this.with_loaded(|cx| cx.set_tsc_khz(arg as u32).map(|()| 0))
            }
            number::KVM_KVMCLOCK_CTRL => this.with_loaded(|cx| cx.guest_was_stopped().map(|()| 0)),
            number::KVM_HAS_DEVICE_ATTR => {
                this.with_loaded(|cx| clock::attribute(cx, clock::Access::Has, arg))
            }
            number::KVM_GET_DEVICE_ATTR => {
                this.with_loaded(|cx| clock::attribute(cx, clock::Access::Get, arg))
            }
            number::KVM_SET_DEVICE_ATTR => {
                this.with_loaded(|cx| clock::attribute(cx, clock::Access::Set, arg))
            }
            number::KVM_ENABLE_CAP => this.with_loaded(|cx| clock::enable_capability(cx, arg)),
            number::KVM_GET_MP_STATE => this.with_loaded(|cx| lapic::get_mp_state(cx, arg)),
            number::KVM_SET_MP_STATE => this.with_loaded(|cx| lapic::set_mp_state(cx, arg)),
            number::KVM_GET_LAPIC => this.with_loaded(|cx| lapic::get(cx, arg)),
            number::KVM_SET_LAPIC => this.with_loaded(|cx| lapic::set(cx, arg)),
            number::KVM_TPR_ACCESS_REPORTING => {
                this.with_loaded(|cx| lapic::tpr_access_reporting(cx, arg))
            }
            number::KVM_SET_VAPIC_ADDR => this.with_loaded(|cx| lapic::set_vapic_addr(cx, arg)),
            number::KVM_X86_SETUP_MCE => this.with_loaded(|cx| mce::set_up(cx, arg)),
            number::KVM_X86_SET_MCE => this.with_loaded(|cx| mce::report(cx, arg)),
            number::KVM_GET_STATS_FD => {
                file::new_fd(|_| VcpuStats::new(this.shown.clone(), this.vcpu.clone()))
            }
            number::KVM_PRE_FAULT_MEMORY => this.with_loaded(|cx| dirty_log::pre_fault(cx, arg)),
            number::KVM_SET_SIGNAL_MASK => this.set_signal_mask(arg),
            _ => Err(EINVAL),
        }
    }

    fn page(&self, index: usize) -> Option<&Page> {
        match index {
            0 => Some(self.vcpu.run.page()),
            1 => Some(self.vcpu.pio.page()),
            COALESCED_PAGE => Some(self.vm.buses.ring_page()),
            _ => {
                let ring = self.vcpu.ring.as_ref()?;
                ring.page(index.checked_sub(DIRTY_RING_PAGE)?)
            }
        }
    }

    /// A copy of the ring would tell nobody anything. (That it is not executed, the kernel sees to.)
    fn may_map(&self, pages: &Range<usize>, shared: bool) -> bool {
        let is_ring = |index: usize| {
            let pages = self.vm.memory.ring_size() as usize / shared::SIZE;
            (DIRTY_RING_PAGE..DIRTY_RING_PAGE + pages).contains(&index)
        };
        let has_ring = is_ring(pages.start) || is_ring(pages.end.wrapping_sub(1));
        shared || !has_ring
    }
}
