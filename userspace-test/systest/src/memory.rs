// SPDX-License-Identifier: GPL-2.0
//! Memory that a guest or the kernel writes behind Rust's back.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::ptr;

use kvm_bindings::{kvm_regs, kvm_sregs, kvm_vcpu_events};

use crate::sys::{self, Errno};

/// Size of a small page, bytes.
pub const PAGE: usize = 4096;
/// Size of a large page, bytes.
pub const LARGE_PAGE: usize = 2 << 20;

/// Pages of this process's memory, unmapped on drop. Reached by volatile accesses only, as others
/// change it at any time.
pub struct Mapping {
    start: *mut u8,
    len: usize,
    /// Bytes mapped without access behind it.
    guard: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread, and is only reached by volatile
// accesses.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Zeroed private memory.
    pub fn anonymous(len: usize) -> Self {
        Self::map(len, 0, 0, libc::MAP_PRIVATE)
    }

    /// Zeroed memory that processes share across fork.
    pub fn shared(len: usize) -> Self {
        Self::map(len, 0, 0, libc::MAP_SHARED)
    }

    /// Zeroed private memory with a page behind it that nobody may touch.
    pub fn guarded(len: usize) -> Self {
        Self::map(len, PAGE, 0, libc::MAP_PRIVATE)
    }

    /// Zeroed private memory that starts on a multiple of `align`.
    pub fn aligned(len: usize, align: usize) -> Self {
        Self::map(len, 0, align, libc::MAP_PRIVATE)
    }

    fn map(len: usize, guard: usize, align: usize, flags: i32) -> Self {
        let total = len + guard + align;
        let anonymous = flags | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                total,
                libc::PROT_READ | libc::PROT_WRITE,
                anonymous,
                -1,
                0,
            )
        };
        assert!(
            start != libc::MAP_FAILED,
            "mmap of {total} bytes: {:?}",
            Errno::last()
        );
        let mut start = start.cast::<u8>();
        if align != 0 {
            let before = (align - start as usize % align) % align;
            // SAFETY: `before` is less than `align`, within the mapping; both parts cut off are
            // inside it and unused.
            unsafe {
                libc::munmap(start.cast(), before);
                start = start.add(before);
                libc::munmap(start.add(len).cast(), align - before);
            }
        }
        let mapping = Self { start, len, guard };
        if guard != 0 {
            // SAFETY: the last `guard` bytes of the mapping just made.
            unsafe { libc::mprotect(start.add(len).cast(), guard, libc::PROT_NONE) };
        }
        mapping
    }

    /// Zeroed private memory of the kernel's reserve of 2 MiB pages, where there is enough.
    pub fn reserved_large(len: usize) -> Option<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, -1, 0) };
        (start != libc::MAP_FAILED).then(|| Self {
            start: start.cast(),
            len,
            guard: 0,
        })
    }

    /// A shared mapping of `len` bytes of `fd`.
    pub fn of_file(fd: i32, len: usize, offset: usize) -> Result<Self, Errno> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(
                ptr::null_mut(),
                len,
                protection,
                libc::MAP_SHARED,
                fd,
                offset as i64,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        Ok(Self {
            start: start.cast(),
            len,
            guard: 0,
        })
    }

    /// Where it starts in this process.
    pub fn address(&self) -> u64 {
        self.start as u64
    }

    /// Its size in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is accessible right behind it.
    pub fn is_guarded(&self) -> bool {
        self.guard != 0
    }

    fn place<T>(&self, offset: usize) -> *mut T {
        assert!(
            offset + size_of::<T>() <= self.len,
            "offset {offset:#x} is outside the mapping"
        );
        self.start.wrapping_add(offset).cast()
    }

    /// Reads the `T` at `offset`, which need not be aligned. `T` is an integer or an array of them.
    pub fn read<T: Plain>(&self, offset: usize) -> T {
        let place = self.place::<T>(offset);
        let mut bytes = std::mem::MaybeUninit::<T>::uninit();
        for i in 0..size_of::<T>() {
            // SAFETY: within the mapping, and within `bytes`.
            unsafe {
                let byte = place.cast::<u8>().add(i).read_volatile();
                bytes.as_mut_ptr().cast::<u8>().add(i).write(byte);
            }
        }
        // SAFETY: every byte is written, and any bytes make a `Plain`.
        unsafe { bytes.assume_init() }
    }

    /// Writes a `T` at `offset`, which need not be aligned.
    pub fn write<T: Plain>(&self, offset: usize, value: T) {
        let place = self.place::<T>(offset);
        // SAFETY: within the mapping; a `Plain` has no padding.
        unsafe {
            let bytes = std::slice::from_raw_parts(ptr::from_ref(&value).cast(), size_of::<T>());
            self.copy(place.cast(), bytes);
        }
    }

    /// Writes bytes at `offset`.
    pub fn write_bytes(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len);
        // SAFETY: within the mapping.
        unsafe { self.copy(self.start.add(offset), bytes) }
    }

    /// # Safety
    /// `place` has room for `bytes` within the mapping.
    unsafe fn copy(&self, place: *mut u8, bytes: &[u8]) {
        for (i, byte) in bytes.iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { place.add(i).write_volatile(*byte) };
        }
    }

    /// Reads `len` bytes at `offset`.
    pub fn read_bytes(&self, offset: usize, len: usize) -> Vec<u8> {
        (offset..offset + len)
            .map(|at| self.read::<u8>(at))
            .collect()
    }

    /// Gives advice about the pages of `offset..offset + len`.
    pub fn advise(&self, offset: usize, len: usize, advice: i32) -> Result<i64, Errno> {
        assert!(offset + len <= self.len);
        // SAFETY: the pages are of this mapping, which Rust sees through volatile accesses only.
        sys::result(unsafe { libc::madvise(self.start.add(offset).cast(), len, advice) }.into())
    }

    /// Has no large pages here, whether the kernel has any (with PREEMPT_RT it has none) or not.
    pub fn forbid_large_pages(&self) {
        let done = self.advise(0, self.len, libc::MADV_NOHUGEPAGE);
        let has_none = matches!(done, Err(Errno(libc::EINVAL)));
        assert!(done.is_ok() || has_none, "MADV_NOHUGEPAGE: {done:?}");
    }

    /// Changes the access rights of the pages of `offset..offset + len`.
    pub fn protect(&self, offset: usize, len: usize, protection: i32) {
        assert!(offset + len <= self.len);
        // SAFETY: as above; a wrong access ends this test's process.
        let done = unsafe { libc::mprotect(self.start.add(offset).cast(), len, protection) };
        assert!(done == 0, "mprotect: {:?}", Errno::last());
    }

    /// How many of its pages are in memory.
    pub fn resident_pages(&self) -> usize {
        let mut state = vec![0u8; self.len.div_ceil(PAGE)];
        // SAFETY: a byte for each page of the mapping.
        unsafe { libc::mincore(self.start.cast(), self.len, state.as_mut_ptr()) };
        state.iter().filter(|byte| **byte & 1 != 0).count()
    }

    /// How many of its pages the process would have to get from swap space, as
    /// `/proc/self/pagemap` tells (bit 62).
    pub fn swapped_pages(&self) -> usize {
        let map = File::open("/proc/self/pagemap").expect("/proc/self/pagemap");
        let mut entries = vec![0u8; self.len / PAGE * 8];
        let first = self.address() / PAGE as u64;
        map.read_exact_at(&mut entries, first * 8)
            .expect("this process's pages");
        entries
            .chunks(8)
            .filter(|entry| entry[7] & 0x40 != 0)
            .count()
    }

    /// Puts new zeroed memory in the place of `offset..offset + len`.
    pub fn map_anew(&self, offset: usize, len: usize) {
        assert!(offset + len <= self.len);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        // SAFETY: the pages are of this mapping, which Rust sees through volatile accesses only.
        let done =
            unsafe { libc::mmap(self.start.add(offset).cast(), len, protection, flags, -1, 0) };
        assert!(done != libc::MAP_FAILED, "mmap: {:?}", Errno::last());
    }

    /// Moves the pages elsewhere in this process; nothing is mapped where they were.
    pub fn relocate(mut self) -> Self {
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        let target = Self::anonymous(self.len);
        // SAFETY: both ranges are mappings of our own; the target is given up for the move.
        let moved =
            unsafe { libc::mremap(self.start.cast(), self.len, self.len, flags, target.start) };
        assert!(moved != libc::MAP_FAILED, "mremap: {:?}", Errno::last());
        self.start = moved.cast();
        std::mem::forget(target);
        self
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nobody refers to it any more.
        unsafe { libc::munmap(self.start.cast(), self.len + self.guard) };
    }
}

/// Types that any bytes make and that have no padding.
///
/// # Safety
///
/// As said.
pub unsafe trait Plain: Copy {}
// SAFETY: integers are such types.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for u16 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}
// SAFETY: arrays of such types have no padding either.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}
// SAFETY: KVM's ABI lays these out in integers and explicit padding.
unsafe impl Plain for kvm_regs {}
// SAFETY: as above.
unsafe impl Plain for kvm_sregs {}
// SAFETY: as above.
unsafe impl Plain for kvm_vcpu_events {}
