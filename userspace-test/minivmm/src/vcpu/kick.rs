// SPDX-License-Identifier: GPL-2.0

//! Getting a vCPU's thread out of KVM_RUN from another thread, without losing a kick
//! (api.rst, 5 "The kvm_run structure", `immediate_exit`).
//!
//! A signal alone is lost when it arrives just before KVM_RUN. So the kick first sets
//! `immediate_exit` in the page shared with the kernel, which makes the next KVM_RUN return at once,
//! and then sends the signal, which ends one that has begun.

use std::io;
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};

use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{register_signal_handler, unblock_signal, SIGRTMIN};

/// Kicks one vCPU.
///
/// # Invariants
///
/// `immediate_exit` points into the `kvm_run` page of a vCPU that is still open.
pub struct Kick {
    immediate_exit: *mut u8,
    /// Thread that runs the vCPU, 0 before it has said so.
    thread: AtomicI32,
}

// SAFETY: the byte is only accessed atomically, and the invariant says that it is there.
unsafe impl Send for Kick {}
// SAFETY: as above.
unsafe impl Sync for Kick {}

impl Kick {
    /// Prepares to kick `vcpu`.
    ///
    /// # Errors
    ///
    /// What the system says when it refuses the signal's handler.
    ///
    /// # Safety
    ///
    /// The result must not be used once `vcpu` is closed.
    pub unsafe fn new(vcpu: &mut VcpuFd) -> io::Result<Self> {
        extern "C" fn interrupt(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
        register_signal_handler(SIGRTMIN(), interrupt)?;
        // Whoever started minivmm may have had it blocked, and threads inherit that.
        unblock_signal(SIGRTMIN()).map_err(|error| io::Error::other(error.to_string()))?;
        // INVARIANT: the caller keeps the vCPU open.
        Ok(Self {
            immediate_exit: &raw mut vcpu.get_kvm_run().immediate_exit,
            thread: AtomicI32::new(0),
        })
    }

    /// The calling thread is the one that runs the vCPU.
    pub fn run_by_this_thread(&self) {
        // SAFETY: the call has no arguments and cannot fail.
        self.thread
            .store(unsafe { libc::gettid() }, Ordering::SeqCst);
    }

    /// Makes the KVM_RUN that is under way, or else the next one, return at once.
    pub fn kick(&self) {
        self.flag().store(1, Ordering::SeqCst);
        let thread = self.thread.load(Ordering::SeqCst);
        if thread != 0 {
            // SAFETY: the call touches no memory. A thread that has ended gets no signal.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, SIGRTMIN()) };
        }
    }

    /// Forgets the kicks so far. The vCPU's thread calls this before it looks at what it may have
    /// been kicked for: a kick from then on makes the next KVM_RUN return.
    pub fn clear(&self) {
        self.flag().store(0, Ordering::SeqCst);
    }

    fn flag(&self) -> &AtomicU8 {
        // SAFETY: the invariant; a byte is always aligned, and all accesses are atomic.
        unsafe { AtomicU8::from_ptr(self.immediate_exit) }
    }
}
