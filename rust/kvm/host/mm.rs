// SPDX-License-Identifier: GPL-2.0

//! The VMM's memory, as its page tables have it at this moment.

use core::ptr::NonNull;

use arch::addr::{
    Hpa,
    Hva, //
};
use kernel::{
    error::to_result,
    prelude::*,
    uaccess::{
        UserPtr,
        UserSlice, //
    },
};

use super::bindings;

/// The address space of the process that a VM belongs to.
///
/// It keeps the structure, not the mappings: those go when the process goes.
pub(crate) struct AddressSpace(NonNull<bindings::mm_struct>);

// SAFETY: An `mm_struct` may be used from any thread; we hold a reference.
unsafe impl Send for AddressSpace {}
// SAFETY: As above.
unsafe impl Sync for AddressSpace {}

impl AddressSpace {
    /// The current process's.
    ///
    /// # Errors
    ///
    /// EIO in a kernel thread, which has none.
    pub(crate) fn current() -> Result<Self> {
        // SAFETY: Reads the current task's pointer.
        let mm = NonNull::new(unsafe { bindings::shim_current_mm() }).ok_or(EIO)?;
        // SAFETY: The current task keeps its address space alive.
        unsafe { bindings::shim_mmgrab(mm.as_ptr()) };
        Ok(Self(mm))
    }

    /// Whether the current thread lives in this address space.
    #[inline]
    pub(crate) fn is_current(&self) -> bool {
        // SAFETY: Reads the current task's pointer.
        core::ptr::eq(self.0.as_ptr(), unsafe { bindings::shim_current_mm() })
    }

    /// log2 of the bytes that one entry of the process's page tables maps at `hva`, or `None` where
    /// it maps nothing.
    pub(crate) fn mapping_shift(&self, hva: Hva) -> Option<u32> {
        // SAFETY: The structure is alive; the walk keeps the tables in place itself.
        match unsafe { bindings::shim_host_mapping_shift(self.0.as_ptr(), hva.0) } {
            0 => None,
            shift => Some(shift as u32),
        }
    }

    /// Has the page at `hva` fetched, if it can be; in any thread that may sleep.
    pub(crate) fn fault_in(&self, hva: Hva) {
        // SAFETY: The structure is alive; whether the mappings are is looked at there.
        unsafe { bindings::shim_fault_in(self.0.as_ptr(), hva.0) };
    }

    pub(super) fn as_ptr(&self) -> *mut bindings::mm_struct {
        self.0.as_ptr()
    }
}

impl Drop for AddressSpace {
    fn drop(&mut self) {
        // SAFETY: `current` took the reference.
        unsafe { bindings::shim_mmdrop(self.0.as_ptr()) };
    }
}

/// Whether `size` bytes at `hva` can be user memory at all.
pub(crate) fn is_user_range(hva: Hva, size: u64) -> bool {
    // SAFETY: Compares addresses.
    unsafe { bindings::shim_access_ok(hva.0, size) }
}

/// A reference to the page behind a user address: short-lived, given back on drop.
pub(crate) struct UserPage {
    page: NonNull<bindings::page>,
    /// Whether the process may write the page now.
    pub(crate) writable: bool,
    dirty: bool,
}

impl UserPage {
    /// The page at `hva` of the current process, faulted in if need be.
    ///
    /// Where only `write` is false, the page is still found writable if that needs no fault.
    ///
    /// # Errors
    ///
    /// EFAULT where nothing is mapped or the mapping does not allow the access, EHWPOISON where the
    /// memory is broken.
    pub(crate) fn get(hva: Hva, write: bool) -> Result<Self> {
        let mut page = core::ptr::null_mut();

        // SAFETY: `page` is valid for the write.
        if unsafe { bindings::shim_try_get_user_page(hva.0, true, &mut page) } {
            return Ok(Self {
                page: NonNull::new(page).ok_or(EFAULT)?,
                writable: true,
                dirty: false,
            });
        }

        if !write {
            return Self::get_readonly(hva);
        }
        // SAFETY: `page` is valid for the write; the caller may sleep.
        let got = unsafe { bindings::shim_get_user_page(hva.0, true, &mut page) };
        if got < 0 {
            return Err(Error::from_errno(got));
        }
        Ok(Self {
            page: NonNull::new(page).ok_or(EFAULT)?,
            writable: true,
            dirty: false,
        })
    }

    /// As [`Self::get`], but `None` where the page would have to be fetched from a disk.
    ///
    /// # Errors
    ///
    /// As for [`Self::get`].
    pub(crate) fn get_nowait(hva: Hva, write: bool) -> Result<Option<Self>> {
        let mut page = core::ptr::null_mut();
        // SAFETY: `page` is valid for the write.
        let writable = if unsafe { bindings::shim_try_get_user_page(hva.0, true, &mut page) } {
            true
        } else {
            // SAFETY: `page` is valid for the write; the caller may sleep.
            match unsafe { bindings::shim_get_user_page_nowait(hva.0, write, &mut page) } {
                0 => return Ok(None),
                got if got < 0 => return Err(Error::from_errno(got)),
                _ => write,
            }
        };
        Ok(Some(Self {
            page: NonNull::new(page).ok_or(EFAULT)?,
            writable,
            dirty: false,
        }))
    }

    /// The page at `hva`, for reading alone.
    ///
    /// # Errors
    ///
    /// As for [`Self::get`].
    pub(crate) fn get_readonly(hva: Hva) -> Result<Self> {
        let mut page = core::ptr::null_mut();
        // SAFETY: `page` is valid for the write; the caller may sleep.
        let got = unsafe { bindings::shim_get_user_page(hva.0, false, &mut page) };
        if got < 0 {
            return Err(Error::from_errno(got));
        }
        Ok(Self {
            page: NonNull::new(page).ok_or(EFAULT)?,
            writable: false,
            dirty: false,
        })
    }

    /// Its physical address.
    pub(crate) fn hpa(&self) -> Hpa {
        // SAFETY: We hold a reference to the page.
        Hpa(unsafe { bindings::shim_page_phys(self.page.as_ptr()) })
    }

    /// Notes that a guest may write the page from now on.
    pub(crate) fn mark_dirty(&mut self) {
        self.dirty = true;
    }
}

impl Drop for UserPage {
    fn drop(&mut self) {
        // SAFETY: `get` took the reference.
        unsafe { bindings::shim_put_page(self.page.as_ptr(), self.dirty) };
    }
}

/// Copies from the current process.
///
/// # Errors
///
/// EFAULT.
pub(crate) fn read(hva: Hva, to: &mut [u8]) -> Result {
    UserSlice::new(UserPtr::from_addr(hva.0 as usize), to.len())
        .reader()
        .read_slice(to)
}

/// Reads an aligned word of the current process; `None` where it has none.
#[inline]
pub(crate) fn read_u64(hva: Hva) -> Option<u64> {
    let mut value = 0;
    // SAFETY: `value` is valid for the write; a fault is caught.
    (unsafe { bindings::shim_get_user_u64(hva.0, &mut value) } == 0).then_some(value)
}

/// A word of the current process, at an address, and a value that it had.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct UserWord {
    pub(crate) hva: u64,
    pub(crate) value: u64,
}

impl UserWord {
    /// No word.
    pub(crate) const NONE: Self = Self { hva: 0, value: 0 };
}

/// Whether all of `words` have the values they had. Never sleeps: a word that is not at hand counts
/// as changed.
#[inline]
pub(crate) fn are_unchanged(words: &[UserWord]) -> bool {
    // SAFETY: `words` is valid for reads; a fault is caught.
    unsafe { bindings::shim_user_words_unchanged(words.as_ptr().cast(), words.len() as u32) }
}

/// As [`read_u64`].
#[inline]
pub(crate) fn read_u32(hva: Hva) -> Option<u32> {
    let mut value = 0;
    // SAFETY: As above.
    (unsafe { bindings::shim_get_user_u32(hva.0, &mut value) } == 0).then_some(value)
}

/// Writes an aligned word of the current process.
///
/// # Errors
///
/// EFAULT.
#[inline]
pub(crate) fn write_u64(hva: Hva, value: u64) -> Result {
    // SAFETY: A fault is caught.
    to_result(unsafe { bindings::shim_put_user_u64(hva.0, value) })
}

/// As [`write_u64`].
///
/// # Errors
///
/// EFAULT.
#[inline]
pub(crate) fn write_u32(hva: Hva, value: u32) -> Result {
    // SAFETY: A fault is caught.
    to_result(unsafe { bindings::shim_put_user_u32(hva.0, value) })
}

/// Replaces an aligned value of `size` bytes (1, 2, 4 or 8) of the current process at once.
/// Whether it was still `old`; `None` where the process has no memory that may be written.
pub(crate) fn compare_exchange(hva: Hva, old: u64, new: u64, size: usize) -> Option<bool> {
    // SAFETY: A fault is caught.
    match unsafe { bindings::shim_cmpxchg_user(hva.0, old, new, size as u32) } {
        0 => Some(true),
        1 => Some(false),
        _ => None,
    }
}

/// Copies to the current process.
///
/// # Errors
///
/// EFAULT.
pub(crate) fn write(hva: Hva, from: &[u8]) -> Result {
    UserSlice::new(UserPtr::from_addr(hva.0 as usize), from.len())
        .writer()
        .write_slice(from)
}

/// Swaps a byte of the current process with `value`, and returns what was there.
///
/// # Errors
///
/// EFAULT.
pub(crate) fn exchange_u8(hva: Hva, mut value: u8) -> Result<u8> {
    // SAFETY: `value` is valid for reads and writes; a fault is caught.
    to_result(unsafe { bindings::shim_exchange_user_u8(hva.0, &mut value) })?;
    Ok(value)
}

/// Copies to the current process where that needs no page to be fetched; in any context.
///
/// # Errors
///
/// EFAULT.
pub(crate) fn write_nofault(hva: Hva, from: &[u8]) -> Result {
    // SAFETY: `from` is valid for reads of its length; a fault is caught.
    to_result(unsafe {
        bindings::shim_write_user_nofault(hva.0, from.as_ptr().cast(), from.len() as u64)
    })
}

/// `Result` of a C function that returns an errno; for symmetry with the kernel crate.
pub(super) fn check(ret: i32) -> Result {
    to_result(ret)
}
