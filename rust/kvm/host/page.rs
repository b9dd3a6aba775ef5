// SPDX-License-Identifier: GPL-2.0

//! Pages that hardware reads by their physical address.

use core::{
    ops::Deref,
    sync::atomic::AtomicU64, //
};

use arch::{
    addr::Hpa,
    apic::Registers, //
};
use kernel::prelude::*;

use super::bindings;

/// Words in a page.
pub(crate) const WORDS: usize = 512;

/// The words of a page. Hardware may write them at any time, so they are atomic.
#[repr(C, align(4096))]
pub(crate) struct Words(pub(crate) [AtomicU64; WORDS]);

// SAFETY: An `AtomicU64` may be all zeroes.
unsafe impl pin_init::Zeroable for Words {}

/// A page of kernel memory that hardware is told of by its physical address.
///
/// Memory is charged to the control group of the process it is for.
pub(crate) struct HardwarePage(KBox<Words>);

impl HardwarePage {
    /// A page of zeroes.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(KBox::zeroed(GFP_KERNEL_ACCOUNT)?))
    }

    /// Its physical address.
    pub(crate) fn hpa(&self) -> Hpa {
        // SAFETY: The memory is in the kernel's linear mapping, where `kmalloc` takes it from.
        Hpa(unsafe { bindings::shim_phys_from_virt(core::ptr::from_ref(&*self.0).cast()) })
    }

    /// Its words.
    pub(crate) fn words(&self) -> &[AtomicU64; WORDS] {
        &self.0 .0
    }

    /// Gives the page up to whoever remembers its address; [`Self::from_hpa`] takes it back.
    pub(crate) fn into_hpa(self) -> Hpa {
        let hpa = self.hpa();
        let words = KBox::into_raw(self.0);
        if cfg!(CONFIG_DEBUG_KMEMLEAK) {
            // A leak, to who looks for virtual addresses.
            // SAFETY: The page was allocated by `new`.
            unsafe { bindings::shim_kmemleak_ignore(words.cast()) };
        }
        hpa
    }

    /// Takes back what [`Self::into_hpa`] gave up.
    ///
    /// # Safety
    ///
    /// `hpa` came from [`Self::into_hpa`] and is taken back once.
    pub(crate) unsafe fn from_hpa(hpa: Hpa) -> Self {
        // SAFETY: The address came from `KBox::into_raw` by way of its physical address.
        Self(unsafe { KBox::from_raw(bindings::shim_virt_from_phys(hpa.0).cast()) })
    }

    /// The words of a page that [`Self::into_hpa`] gave up.
    ///
    /// # Safety
    ///
    /// `hpa` came from [`Self::into_hpa`] and is not taken back during `'a`.
    pub(crate) unsafe fn borrow_hpa<'a>(hpa: Hpa) -> &'a [AtomicU64; WORDS] {
        // SAFETY: The page is alive for `'a`, and atomics allow sharing.
        unsafe { &(*bindings::shim_virt_from_phys(hpa.0).cast::<Words>()).0 }
    }
}

/// The register page of a local APIC, which the processor may read and write.
pub(crate) struct ApicPage(KBox<Zeroed>);

#[repr(transparent)]
struct Zeroed(Registers);

// SAFETY: Atomics may be all zeroes, and there is nothing else in it.
unsafe impl pin_init::Zeroable for Zeroed {}

impl ApicPage {
    /// Registers that are all zero.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(KBox::zeroed(GFP_KERNEL_ACCOUNT)?))
    }

    /// Its physical address.
    pub(crate) fn hpa(&self) -> Hpa {
        // SAFETY: The memory is in the kernel's linear mapping, where `kmalloc` takes it from.
        Hpa(unsafe { bindings::shim_phys_from_virt(core::ptr::from_ref(&*self.0).cast()) })
    }
}

impl Deref for ApicPage {
    type Target = Registers;

    #[inline]
    fn deref(&self) -> &Registers {
        &self.0 .0
    }
}
