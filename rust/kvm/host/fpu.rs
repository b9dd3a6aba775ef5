// SPDX-License-Identifier: GPL-2.0

//! A guest's FPU, vector and other extended state.
//!
//! C header: `arch/x86/include/asm/fpu/api.h`.

use kernel::{
    error::to_result,
    prelude::*, //
};

use super::{
    bindings,
    cpu::IrqsOff, //
};

/// The legacy region of an XSAVE area: 512 bytes.
pub(crate) const FXSAVE_SIZE: usize = 512;

/// The extended state of one vCPU.
///
/// # Invariants
///
/// `state` was set up by `fpu_alloc_guest_fpstate`, and its heap part is not shared.
pub(crate) struct GuestFpu {
    state: bindings::fpu_guest,
    loaded: bool,
}

// SAFETY: The state is plain memory that is owned by this value.
unsafe impl Send for GuestFpu {}

impl GuestFpu {
    /// State as after reset.
    pub(crate) fn new() -> Result<Self> {
        let mut state = bindings::fpu_guest::default();
        // SAFETY: The value may be moved: the kernel keeps no pointer to it, only to the heap part.
        if !unsafe { bindings::fpu_alloc_guest_fpstate(&mut state) } {
            return Err(ENOMEM);
        }
        // INVARIANT: Just set up.
        Ok(Self {
            state,
            loaded: false,
        })
    }

    /// XCR0 bits that a guest of this process may use.
    pub(crate) fn permitted() -> u64 {
        // SAFETY: Reads the current process's permissions.
        unsafe { bindings::shim_guest_fpu_permitted() }
    }

    /// XCR0 bits that the kernel runs with; 0 without XSAVE.
    pub(crate) fn host_xcr0() -> u64 {
        // SAFETY: XGETBV is asked only where it exists.
        unsafe { bindings::shim_host_xcr0() }
    }

    /// Bytes in the guest's XSAVE area as user space sees it.
    pub(crate) fn uabi_size(&self) -> usize {
        self.state.uabi_size as usize
    }

    /// Puts the guest's state in the thread's place.
    pub(crate) fn load(&mut self) {
        // SAFETY: By the invariants of this type; the thread's own state is put away by the kernel.
        unsafe { bindings::fpu_swap_kvm_fpstate(&mut self.state, true) };
        self.loaded = true;
    }

    /// Puts the thread's own state back.
    pub(crate) fn unload(&mut self) {
        // SAFETY: By the invariants of this type; `load` was called in this thread.
        unsafe { bindings::fpu_swap_kvm_fpstate(&mut self.state, false) };
        self.loaded = false;
    }

    /// Whether the guest's state is in the thread's place.
    pub(crate) fn is_loaded(&self) -> bool {
        self.loaded
    }

    /// Makes sure that the registers hold what [`Self::load`] put in place; they may have been
    /// lost to a context switch.
    #[inline]
    pub(crate) fn refresh_registers(_irqs_off: &IrqsOff<'_>) {
        // SAFETY: Interrupts are off.
        unsafe { bindings::shim_load_guest_fpu_if_needed() };
    }

    /// Copies the state to `area`, in XSAVE's standard format.
    ///
    /// `features` are the XCR0 bits to take; PKRU is kept by the caller.
    pub(crate) fn save_to(&mut self, area: &mut [u8], features: u64, pkru: u32) {
        // SAFETY: `area` is valid for writes of its length.
        unsafe {
            bindings::fpu_copy_guest_fpstate_to_uabi(
                &mut self.state,
                area.as_mut_ptr().cast(),
                area.len() as u32,
                features,
                pkru,
            )
        }
    }

    /// Takes the state from `area`, in XSAVE's standard format; returns PKRU if the area has it.
    ///
    /// # Errors
    ///
    /// EINVAL where the area uses features beyond `features`, or its header is malformed.
    pub(crate) fn restore_from(&mut self, area: &[u8], features: u64) -> Result<Option<u32>> {
        if area.len() < self.uabi_size() {
            return Err(EINVAL);
        }
        const NONE: u32 = 0xdead_0001;
        let mut pkru = NONE;
        // SAFETY: `area` is as long as the guest's state is in this format.
        to_result(unsafe {
            bindings::fpu_copy_uabi_to_guest_fpstate(
                &mut self.state,
                area.as_ptr().cast(),
                features,
                &mut pkru,
            )
        })?;
        Ok((pkru != NONE).then_some(pkru))
    }

    /// The legacy region as FXSAVE lays it out.
    pub(crate) fn fxsave(&mut self) -> &mut [u8; FXSAVE_SIZE] {
        let mut size = 0;
        // SAFETY: By the invariants of this type.
        let area = unsafe { bindings::shim_guest_fpu_fxsave(&mut self.state, &mut size) };
        debug_assert_eq!(size as usize, FXSAVE_SIZE);
        // SAFETY: The legacy region is that long, and `self` is borrowed as long as the result.
        unsafe { &mut *area.cast() }
    }
}

impl Drop for GuestFpu {
    fn drop(&mut self) {
        debug_assert!(!self.loaded);
        // SAFETY: By the invariants of this type.
        unsafe { bindings::fpu_free_guest_fpstate(&mut self.state) };
    }
}
