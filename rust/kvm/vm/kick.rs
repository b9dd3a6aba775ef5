// SPDX-License-Identifier: GPL-2.0

//! Who is in guest mode, and how to get them out.

use core::sync::atomic::{
    AtomicBool,
    AtomicU32,
    Ordering, //
};

use kernel::{
    prelude::*,
    sync::{
        Arc,
        SpinLock, //
    },
};

use crate::host::cpu;

/// What others may know of a vCPU while its thread has it.
pub(crate) struct Runner {
    in_guest: AtomicBool,
    cpu: AtomicU32,
}

impl Runner {
    /// A vCPU that is not in guest mode.
    pub(crate) const fn new() -> Self {
        Self {
            in_guest: AtomicBool::new(false),
            cpu: AtomicU32::new(0),
        }
    }

    /// The vCPU is about to enter the guest on `cpu`. What it reads after this is not older than
    /// what anybody wrote before looking for runners.
    #[inline]
    pub(crate) fn enter(&self, cpu: u32) {
        self.cpu.store(cpu, Ordering::Relaxed);
        self.in_guest.swap(true, Ordering::SeqCst);
    }

    /// The vCPU is out.
    #[inline]
    pub(crate) fn exit(&self) {
        self.in_guest.store(false, Ordering::Release);
    }
}

/// The vCPUs of a VM.
#[pin_data]
pub(crate) struct Runners {
    #[pin]
    list: SpinLock<KVec<Arc<Runner>>>,
}

impl Runners {
    /// No vCPUs.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            list <- kernel::new_spinlock!(KVec::new()),
        })
    }

    /// Adds a vCPU. Calls come one after another.
    pub(crate) fn add(&self, runner: Arc<Runner>) -> Result {
        let count = self.list.lock().len();
        let mut grown = KVec::with_capacity(count + 1, GFP_KERNEL_ACCOUNT)?;
        let mut list = self.list.lock();
        for old in list.iter() {
            grown.push(old.clone(), GFP_ATOMIC)?;
        }
        grown.push(runner, GFP_ATOMIC)?;
        core::mem::swap(&mut *list, &mut grown);
        drop(list);
        Ok(())
    }

    /// Takes back the last [`Self::add`].
    pub(crate) fn remove_last(&self) {
        let last = self.list.lock().pop();
        drop(last);
    }

    /// Interrupts every vCPU that is in guest mode, and returns when all are out. `mask` has room
    /// for a bit a CPU.
    pub(crate) fn kick_all(&self, mask: &mut [usize]) {
        mask.fill(0);
        let mut any = false;
        for runner in self.list.lock().iter() {
            if runner.in_guest.load(Ordering::SeqCst) {
                let cpu = runner.cpu.load(Ordering::Relaxed) as usize;
                mask[cpu / usize::BITS as usize] |= 1 << (cpu % usize::BITS as usize);
                any = true;
            }
        }
        if any {
            let _pinned = cpu::Pinned::new();
            cpu::kick(mask);
        }
    }
}
