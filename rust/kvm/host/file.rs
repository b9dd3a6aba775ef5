// SPDX-License-Identifier: GPL-2.0

//! Files that user space talks to: /dev/kvm, a VM, a vCPU.
//!
//! C headers: `include/linux/fs.h`, `include/linux/anon_inodes.h`, `include/linux/miscdevice.h`.

use core::{
    marker::PhantomData,
    ops::Range,
    ptr::NonNull, //
};

use kernel::{
    error::{
        from_err_ptr,
        VTABLE_DEFAULT_ERROR, //
    },
    fs::file::{
        flags as file_flags,
        File,
        FileDescriptorReservation, //
    },
    module::this_module,
    page::Page,
    prelude::*,
    str::CString,
    sync::{
        aref::ARef,
        Arc,
        ArcBorrow, //
    },
    types::{
        ForeignOwnable,
        Opaque, //
    },
    uaccess::{
        UserPtr,
        UserSlice,
        UserSliceWriter, //
    },
};

use super::{
    bindings,
    mm::check, //
};

/// The minor number of /dev/kvm (`KVM_MINOR` in `include/linux/miscdevice.h`).
const KVM_MINOR: i32 = 232;

/// What stands behind a file.
pub(crate) trait FileObject: Send + Sync + 'static {
    /// The name in `/proc/PID/fd`, as in `anon_inode:NAME`.
    const NAME: &'static CStr;
    /// Whether the file can be mapped.
    const HAS_PAGES: bool = false;
    /// Whether the file is there to be read, and for nothing else.
    const HAS_BYTES: bool = false;

    /// What tells this one from others of its kind, where that belongs to the name: `NAME:NUMBER`.
    fn number(&self) -> Option<u32> {
        None
    }

    /// An ioctl.
    fn ioctl(_this: ArcBorrow<'_, Self>, _cmd: u32, _arg: usize) -> Result<i32> {
        Err(ENOTTY)
    }

    /// Copies what the file has from `offset` on, as much as there is room for. Returns how much
    /// that is; at the end of the file, nothing.
    fn read(&self, _offset: u64, _to: &mut UserSliceWriter) -> Result<usize> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Whether `pages` of the file may be mapped, as the file's or, if not `shared`, as copies.
    fn may_map(&self, _pages: &Range<usize>, _shared: bool) -> bool {
        true
    }

    /// Page number `index` of the file's mapping.
    fn page(&self, _index: usize) -> Option<&Page> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }
}

struct Ops<T: FileObject>(PhantomData<T>);

impl<T: FileObject> Ops<T> {
    const FILE: bindings::file_operations = bindings::file_operations {
        owner: this_module::<crate::KvmModule>().as_ptr(),
        release: Some(Self::release),
        unlocked_ioctl: Some(Self::ioctl),
        compat_ioctl: kernel::bindings::compat_ptr_ioctl,
        read: if T::HAS_BYTES { Some(Self::read) } else { None },
        mmap: if T::HAS_PAGES { Some(Self::mmap) } else { None },
        llseek: Some(kernel::bindings::noop_llseek),
        ..pin_init::zeroed()
    };

    const DEVICE: bindings::file_operations = bindings::file_operations {
        open: Some(Self::open),
        ..Self::FILE
    };

    const VMA: kernel::bindings::vm_operations_struct = kernel::bindings::vm_operations_struct {
        fault: Some(Self::fault),
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// `file` is a file of this kind that is not being released.
    unsafe fn object<'a>(file: *mut bindings::file) -> ArcBorrow<'a, T> {
        // SAFETY: `private_data` came from `Arc::into_foreign` when the file was made.
        unsafe { <Arc<T> as ForeignOwnable>::borrow((*file).private_data.cast()) }
    }

    /// # Safety
    ///
    /// Called by the kernel, with the file of a [`Device<T>`] that is being opened.
    unsafe extern "C" fn open(_inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: `misc_open` leaves the address of the registered `miscdevice` here, which is the
        // first field of a `Device<T>` and stays registered while a file is opened.
        let device = unsafe { &*(*file).private_data.cast::<Device<T>>() };
        // SAFETY: The file is ours to fill while it is opened.
        unsafe { (*file).private_data = device.object.clone().into_foreign().cast() };
        0
    }

    /// # Safety
    ///
    /// Called by the kernel, with a file of this kind that nobody uses any more.
    unsafe extern "C" fn release(_inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: `private_data` came from `into_foreign`; nobody uses the file any more.
        drop(unsafe { <Arc<T> as ForeignOwnable>::from_foreign((*file).private_data.cast()) });
        0
    }

    /// # Safety
    ///
    /// Called by the kernel, with an open file of this kind.
    unsafe extern "C" fn ioctl(file: *mut bindings::file, cmd: c_uint, arg: c_ulong) -> c_long {
        // SAFETY: The file is open during the call.
        match T::ioctl(unsafe { Self::object(file) }, cmd, arg) {
            Ok(value) => value as c_long,
            Err(e) => e.to_errno() as c_long,
        }
    }

    /// # Safety
    ///
    /// Called by the kernel, with an open file of this kind, a buffer of the user's and a position.
    unsafe extern "C" fn read(
        file: *mut bindings::file,
        to: *mut c_char,
        room: usize,
        position: *mut kernel::bindings::loff_t,
    ) -> isize {
        // SAFETY: The file is open during the call.
        let object = unsafe { Self::object(file) };
        // SAFETY: The kernel gives a position that is its own to change.
        let offset = unsafe { *position };
        let mut to = UserSlice::new(UserPtr::from_ptr(to.cast()), room).writer();
        match object.read(offset as u64, &mut to) {
            Ok(count) => {
                // SAFETY: As above.
                unsafe { *position = offset.wrapping_add(count as i64) };
                count as isize
            }
            Err(e) => e.to_errno() as isize,
        }
    }

    /// # Safety
    ///
    /// Called by the kernel, with a mapping of such a file that is being set up.
    unsafe extern "C" fn mmap(
        file: *mut bindings::file,
        vma: *mut bindings::vm_area_struct,
    ) -> c_int {
        // SAFETY: The file is open during the call, and the mapping is being set up.
        let (object, pages, shared) = unsafe {
            let first = (*vma).vm_pgoff;
            (
                Self::object(file),
                first..first.wrapping_add(bindings::shim_vma_pages(vma) as usize),
                bindings::shim_vma_is_shared(vma),
            )
        };
        if !object.may_map(&pages, shared) {
            return EINVAL.to_errno();
        }
        // SAFETY: The mapping is being set up and is ours to fill.
        unsafe { (*vma).vm_ops = &Self::VMA };
        0
    }

    /// # Safety
    ///
    /// Called by the kernel, with a fault in a mapping of such a file.
    unsafe extern "C" fn fault(
        vmf: *mut kernel::bindings::vm_fault,
    ) -> kernel::bindings::vm_fault_t {
        // SAFETY: A mapping holds its file; the anonymous union's fields are always valid to read.
        let (object, index) = unsafe {
            let place = &(*vmf).__bindgen_anon_1;
            (Self::object((*place.vma).vm_file), place.pgoff)
        };
        let Some(page) = object.page(index) else {
            return kernel::bindings::vm_fault_reason_VM_FAULT_SIGBUS;
        };
        // SAFETY: The page is alive; the mapping takes a reference of its own.
        unsafe {
            bindings::shim_get_page(page.as_ptr());
            (*vmf).page = page.as_ptr();
        }
        0
    }
}

/// A new file descriptor of the current process for what `make` makes, which is told its number.
///
/// The file holds a reference to this module: it cannot be unloaded before the last one is closed.
///
/// # Errors
///
/// EMFILE, ENFILE, ENOMEM, and `make`'s.
pub(crate) fn new_fd<T: FileObject>(make: impl FnOnce(u32) -> Result<Arc<T>>) -> Result<i32> {
    let reservation = FileDescriptorReservation::get_unused_fd_flags(file_flags::O_CLOEXEC)?;
    let fd = reservation.reserved_fd();
    let object = make(fd)?;
    let name = match object.number() {
        Some(number) => CString::try_from_fmt(fmt!("{}:{}", T::NAME, number))?,
        None => T::NAME.to_cstring()?,
    };
    let data = object.into_foreign();
    let getfile = if T::HAS_BYTES {
        bindings::shim_anon_inode_getfile_readonly
    } else {
        bindings::shim_anon_inode_getfile
    };
    // SAFETY: The operations are static and belong to `data`'s type.
    let file = from_err_ptr(unsafe { getfile(name.as_char_ptr(), &Ops::<T>::FILE, data.cast()) });
    match file.map(NonNull::new) {
        Ok(Some(file)) => {
            // SAFETY: The file is new, its only reference is ours, and no thread is in `fdget_pos`
            // with it.
            reservation.fd_install(unsafe { ARef::from_raw(file.cast::<File>()) });
            Ok(fd as i32)
        }
        other => {
            // SAFETY: No file took `data`.
            drop(unsafe { <Arc<T> as ForeignOwnable>::from_foreign(data) });
            Err(other.err().unwrap_or(ENOMEM))
        }
    }
}

/// The character device `/dev/kvm`.
///
/// # Invariants
///
/// `misc` is registered and is the first field.
#[repr(C)]
#[pin_data(PinnedDrop)]
pub(crate) struct Device<T: FileObject> {
    #[pin]
    misc: Opaque<kernel::bindings::miscdevice>,
    object: Arc<T>,
}

// SAFETY: Registering and unregistering may happen in different threads.
unsafe impl<T: FileObject> Send for Device<T> {}
// SAFETY: There are no methods on `&self` but the shared `object`.
unsafe impl<T: FileObject> Sync for Device<T> {}

impl<T: FileObject> Device<T> {
    /// Registers the device with `object` behind each file.
    pub(crate) fn register(object: Arc<T>) -> impl PinInit<Self, Error> {
        try_pin_init!(&this in Self {
            object: object,
            misc <- Opaque::try_ffi_init(move |slot: *mut kernel::bindings::miscdevice| {
                let _ = this;
                // SAFETY: `slot` is valid and pinned until drop unregisters it.
                check(unsafe {
                    slot.write(kernel::bindings::miscdevice {
                        minor: KVM_MINOR,
                        name: c"kvm".as_char_ptr(),
                        fops: &Ops::<T>::DEVICE,
                        ..pin_init::zeroed()
                    });
                    kernel::bindings::misc_register(slot)
                })
            }),
        })
    }
}

#[pinned_drop]
impl<T: FileObject> PinnedDrop for Device<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the invariants.
        unsafe { kernel::bindings::misc_deregister(self.misc.get()) };
    }
}
