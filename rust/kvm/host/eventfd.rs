// SPDX-License-Identifier: GPL-2.0

//! eventfds: counters with a file, by which kernel and user space tell each other that something
//! happened.
//!
//! C headers: `include/linux/eventfd.h`, `include/linux/wait.h`.

use core::{
    ptr::NonNull,
    sync::atomic::{
        AtomicBool,
        Ordering, //
    },
};

use kernel::{
    bindings,
    error::from_err_ptr,
    fs::LocalFile,
    prelude::*,
    sync::aref::ARef,
    types::Opaque, //
};

use super::{
    bindings::shim_eventfd_watch,
    mm::check, //
};

/// The poll events that an eventfd's wait queue is woken with (`uapi/linux/eventpoll.h`).
const EPOLLIN: usize = 1;
const EPOLLHUP: usize = 0x10;

/// A reference to an eventfd. Its file may be closed meanwhile.
///
/// # Invariants
///
/// The pointer is to a context of which we hold a reference.
pub(crate) struct EventFd(NonNull<bindings::eventfd_ctx>);

// SAFETY: The context locks, and is counted by an atomic.
unsafe impl Send for EventFd {}
// SAFETY: As above.
unsafe impl Sync for EventFd {}

impl EventFd {
    /// The eventfd behind a file descriptor of the current process.
    ///
    /// # Errors
    ///
    /// EBADF where there is no file, EINVAL where it is another kind of file.
    pub(crate) fn from_fd(fd: i32) -> Result<Self> {
        // SAFETY: Any number may be looked up.
        Self::from_raw(unsafe { bindings::eventfd_ctx_fdget(fd) })
    }

    fn from_raw(context: *mut bindings::eventfd_ctx) -> Result<Self> {
        // INVARIANT: The functions that look contexts up take a reference.
        Ok(Self(NonNull::new(from_err_ptr(context)?).ok_or(EINVAL)?))
    }

    /// Adds one to the counter and wakes who waits for it. Never sleeps.
    ///
    /// Who waits may be somebody who acts at once, another VM for one: the caller holds no lock
    /// that it could want.
    #[inline]
    pub(crate) fn signal(&self) {
        // SAFETY: By the type invariants.
        unsafe { bindings::eventfd_signal_mask(self.0.as_ptr(), 0) };
    }
}

impl PartialEq for EventFd {
    /// Whether the two are the same eventfd.
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Drop for EventFd {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { bindings::eventfd_ctx_put(self.0.as_ptr()) };
    }
}

/// An eventfd with its file, which cannot be closed for good while this exists.
pub(crate) struct EventFile {
    file: ARef<LocalFile>,
}

impl EventFile {
    /// The file behind a file descriptor of the current process, and its eventfd.
    ///
    /// # Errors
    ///
    /// EBADF where there is no file, EINVAL where it is another kind of file.
    pub(crate) fn from_fd(fd: i32) -> Result<(Self, EventFd)> {
        let file = LocalFile::fget(fd as u32)?;
        // SAFETY: We hold the file.
        let eventfd = EventFd::from_raw(unsafe { bindings::eventfd_ctx_fileget(file.as_ptr()) })?;
        Ok((Self { file }, eventfd))
    }
}

/// Who takes an eventfd's counts as they come.
///
/// Both calls come with interrupts off and the eventfd's lock held, perhaps in an interrupt: they
/// do not sleep, and do not touch the same eventfd.
pub(crate) trait Watcher: Send + Sync {
    /// The counter went up, and is taken.
    fn signalled(&self);
    /// The eventfd's last file was closed: nothing more will come.
    fn closed(&self);
}

/// A watcher of an eventfd, until this is dropped.
///
/// # Invariants
///
/// `entry` is the first field. If `registered`, it is in the wait queue of `eventfd`, with
/// [`Self::wake`] as its function; otherwise it is in none.
#[repr(C)]
#[pin_data(PinnedDrop)]
pub(crate) struct Watch<W: Watcher> {
    #[pin]
    entry: Opaque<bindings::wait_queue_entry>,
    registered: AtomicBool,
    eventfd: EventFd,
    watcher: W,
}

// SAFETY: The wait queue locks; watchers may be called in any thread.
unsafe impl<W: Watcher> Send for Watch<W> {}
// SAFETY: As above.
unsafe impl<W: Watcher> Sync for Watch<W> {}

impl<W: Watcher> Watch<W> {
    /// Has `watcher` take what comes to `eventfd`, whose file is `file`; others that poll it see
    /// nothing any more. Returns whether it has counts already, which stay.
    ///
    /// # Errors
    ///
    /// EBUSY where somebody watches the eventfd so, ENOMEM.
    pub(crate) fn new(
        file: &EventFile,
        eventfd: EventFd,
        watcher: W,
    ) -> Result<(Pin<KBox<Self>>, bool)> {
        let watch = KBox::pin_init(
            pin_init!(Self {
                entry: Opaque::zeroed(),
                // INVARIANT: In no queue yet.
                registered: AtomicBool::new(false),
                eventfd,
                watcher,
            }),
            GFP_KERNEL_ACCOUNT,
        )?;
        let mut pending = false;
        // SAFETY: The file is open, and is the eventfd's; the entry is pinned, and drop takes it
        // out of the queue.
        check(unsafe {
            shim_eventfd_watch(
                file.file.as_ptr(),
                watch.entry.get(),
                Some(Self::wake),
                &mut pending,
            )
        })?;
        // INVARIANT: The entry is in the queue now.
        watch.registered.store(true, Ordering::Relaxed);
        Ok((watch, pending))
    }

    /// The eventfd.
    pub(crate) fn eventfd(&self) -> &EventFd {
        &self.eventfd
    }

    /// Who watches it.
    pub(crate) fn watcher(&self) -> &W {
        &self.watcher
    }

    /// # Safety
    ///
    /// Called by the kernel, with the `entry` of a watch and the lock of its queue held.
    unsafe extern "C" fn wake(
        entry: *mut bindings::wait_queue_entry,
        _mode: c_uint,
        _flags: c_int,
        key: *mut c_void,
    ) -> c_int {
        // SAFETY: `entry` is the first field; drop takes the lock before it goes on.
        let (eventfd, watcher) = unsafe {
            let this = entry.cast::<Self>();
            (&(*this).eventfd, &(*this).watcher)
        };
        let events = key.addr();
        let mut taken = 0;
        if events & EPOLLIN != 0 {
            let mut count = 0;
            // SAFETY: The lock is held; `count` is valid for the write.
            unsafe { bindings::eventfd_ctx_do_read(eventfd.0.as_ptr(), &mut count) };
            watcher.signalled();
            taken = 1;
        }
        if events & EPOLLHUP != 0 {
            watcher.closed();
        }
        taken
    }
}

#[pinned_drop]
impl<W: Watcher> PinnedDrop for Watch<W> {
    fn drop(self: Pin<&mut Self>) {
        if self.registered.load(Ordering::Relaxed) {
            let mut count = 0;
            // SAFETY: By the invariants the entry is in the queue.
            unsafe {
                bindings::eventfd_ctx_remove_wait_queue(
                    self.eventfd.0.as_ptr(),
                    self.entry.get(),
                    &mut count,
                )
            };
        }
    }
}
