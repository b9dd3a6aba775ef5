// SPDX-License-Identifier: GPL-2.0

//! Interrupts by eventfd (api.rst, 4.75 KVM_IRQFD).
//!
//! Whoever signals the eventfd injects the interrupt then and there, whatever the context. Left to a
//! thread of the kernel's, since the eventfd's own lock is held, is an interrupt for many processors,
//! and to forget an eventfd that is closed.

use core::sync::atomic::{
    AtomicBool,
    Ordering, //
};

use kernel::{
    new_mutex, new_spinlock_irq,
    prelude::*,
    sync::{
        Arc,
        Mutex,
        SpinLockIrq, //
    },
};

use super::irq::{
    AckNotifier,
    Irqchip,
    Source, //
};
use crate::host::{
    eventfd::{
        EventFd,
        EventFile,
        Watch,
        Watcher, //
    },
    work::{
        Job,
        Work, //
    },
};

/// The irqfds of a VM; made when the first is.
#[pin_data]
pub(crate) struct Irqfds {
    #[pin]
    list: Mutex<Option<Arc<Work<List>>>>,
}

/// What there is to inject.
pub(crate) struct Inject {
    /// Descriptor of the eventfd.
    pub(crate) fd: i32,
    /// The interrupt line.
    pub(crate) gsi: u32,
    /// Descriptor of the eventfd that hears of the interrupt's end, where the line is
    /// level-triggered.
    pub(crate) resample_fd: Option<i32>,
}

#[pin_data]
struct List {
    #[pin]
    irqfds: Mutex<KVVec<Pin<KBox<Watch<Irqfd>>>>>,
    resamplers: Arc<Resamplers>,
    /// The same, as the interrupt controllers know it.
    notifier: Arc<dyn AckNotifier>,
}

/// One eventfd and its line.
struct Irqfd {
    gsi: u32,
    irqchip: Arc<Irqchip>,
    resample: Option<Arc<EventFd>>,
    /// To be injected by a thread.
    is_due: AtomicBool,
    /// The eventfd was closed: to be forgotten.
    is_closed: AtomicBool,
    list: Arc<Work<List>>,
}

/// Who hears of the end of which line's interrupts.
#[pin_data]
struct Resamplers {
    irqchip: Arc<Irqchip>,
    #[pin]
    entries: SpinLockIrq<KVVec<Resampler>>,
}

/// Most of them: all are looked at with interrupts off.
const MAX_RESAMPLERS: usize = 256;
/// More than this are not told of the end of an interrupt where interrupts are off.
const FEW_RESAMPLERS: usize = 4;

struct Resampler {
    gsi: u32,
    eventfd: Arc<EventFd>,
}

impl Irqfds {
    /// None yet.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            list <- new_mutex!(None),
        })
    }

    /// Has an eventfd inject an interrupt.
    ///
    /// # Errors
    ///
    /// EINVAL where the end of interrupts is asked for and the IOAPIC is not in the kernel; EBADF
    /// and EINVAL for what is no eventfd; EBUSY where the eventfd injects already, here or in
    /// another VM; ENOSPC where [`MAX_RESAMPLERS`] hear of interrupts' ends; ENOMEM.
    pub(crate) fn assign(&self, irqchip: &Arc<Irqchip>, inject: &Inject) -> Result {
        if inject.resample_fd.is_some() && !irqchip.has_chips() {
            return Err(EINVAL);
        }
        let (file, eventfd) = EventFile::from_fd(inject.fd)?;
        let resample = match inject.resample_fd {
            Some(fd) => Some(Arc::new(EventFd::from_fd(fd)?, GFP_KERNEL_ACCOUNT)?),
            None => None,
        };
        let list = self.list(irqchip)?;

        let mut irqfds = list.irqfds.lock();
        irqfds.reserve(1, GFP_KERNEL_ACCOUNT)?;
        if let Some(eventfd) = &resample {
            list.resamplers.add(inject.gsi, eventfd.clone())?;
        }
        let irqfd = Irqfd {
            gsi: inject.gsi,
            irqchip: irqchip.clone(),
            resample: resample.clone(),
            is_due: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            list: list.clone(),
        };
        match Watch::new(&file, eventfd, irqfd) {
            Ok((watch, is_pending)) => {
                if is_pending {
                    watch.watcher().inject();
                }
                irqfds.push(watch, GFP_KERNEL_ACCOUNT)?;
                Ok(())
            }
            Err(e) => {
                if let Some(eventfd) = &resample {
                    list.resamplers.remove(inject.gsi, eventfd);
                }
                Err(e)
            }
        }
    }

    /// Has an eventfd inject an interrupt no longer. When this returns, no more will come.
    ///
    /// # Errors
    ///
    /// EBADF and EINVAL for what is no eventfd. It is no error if it injects nothing.
    pub(crate) fn deassign(&self, fd: i32, gsi: u32) -> Result {
        let eventfd = EventFd::from_fd(fd)?;
        let list = self.list.lock().clone();
        if let Some(list) = list {
            list.remove(|irqfd| irqfd.watcher().gsi == gsi && *irqfd.eventfd() == eventfd);
        }
        Ok(())
    }

    /// Forgets all of them, as the VM's file is closed.
    pub(crate) fn release(&self) {
        let list = self.list.lock().take();
        if let Some(list) = list {
            list.remove(|_| true);
            list.resamplers.irqchip.remove_notifier(&list.notifier);
        }
    }

    fn list(&self, irqchip: &Arc<Irqchip>) -> Result<Arc<Work<List>>> {
        let mut list = self.list.lock();
        if let Some(list) = &*list {
            return Ok(list.clone());
        }
        let new = Arc::pin_init(Work::new(List::new(irqchip)), GFP_KERNEL_ACCOUNT)?;
        irqchip.add_notifier(new.notifier.clone())?;
        *list = Some(new.clone());
        Ok(new)
    }
}

impl List {
    fn new(irqchip: &Arc<Irqchip>) -> impl PinInit<Self, Error> + use<'_> {
        pin_init::pin_init_scope(move || {
            let resamplers = Arc::pin_init(Resamplers::new(irqchip.clone()), GFP_KERNEL_ACCOUNT)?;
            Ok(try_pin_init!(Self {
                irqfds <- new_mutex!(KVVec::new()),
                notifier: resamplers.clone(),
                resamplers: resamplers,
            }? Error))
        })
    }

    /// Removes the irqfds that `goes` says. When this returns, they are gone.
    fn remove(&self, goes: impl Fn(&Watch<Irqfd>) -> bool) {
        let mut irqfds = self.irqfds.lock();
        while let Some(at) = irqfds.iter().position(|irqfd| goes(irqfd)) {
            let Ok(irqfd) = irqfds.remove(at) else {
                return;
            };
            let gsi = irqfd.watcher().gsi;
            let resample = irqfd.watcher().resample.clone();
            // Under the lock: once it is ours, whoever held it before is done with what it removed.
            drop(irqfd);
            if let Some(eventfd) = resample {
                self.resamplers.remove(gsi, &eventfd);
            }
        }
    }
}

impl Job for List {
    fn run(&self) {
        for irqfd in self.irqfds.lock().iter() {
            let irqfd = irqfd.watcher();
            if irqfd.is_due.load(Ordering::Relaxed) && irqfd.is_due.swap(false, Ordering::Acquire) {
                irqfd.inject();
            }
        }
        self.remove(|irqfd| irqfd.watcher().is_closed.load(Ordering::Acquire));
    }
}

impl Irqfd {
    fn inject(&self) {
        if self.resample.is_some() {
            self.irqchip.set_gsi(Source::Resampler, self.gsi, true);
        } else {
            self.irqchip.set_gsi(Source::User, self.gsi, true);
            self.irqchip.set_gsi(Source::User, self.gsi, false);
        }
    }
}

impl Watcher for Irqfd {
    fn signalled(&self) {
        if self.irqchip.is_quick_line(self.gsi) {
            self.inject();
        } else {
            self.is_due.store(true, Ordering::Release);
            self.list.schedule();
        }
    }

    fn closed(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.list.schedule();
    }
}

impl Resamplers {
    fn new(irqchip: Arc<Irqchip>) -> impl PinInit<Self> {
        pin_init!(Self {
            irqchip,
            entries <- new_spinlock_irq!(KVVec::new()),
        })
    }

    /// Adds one. Calls come one after another.
    fn add(&self, gsi: u32, eventfd: Arc<EventFd>) -> Result {
        let count = self.entries.lock().len();
        if count >= MAX_RESAMPLERS {
            return Err(ENOSPC);
        }
        self.irqchip.set_many_listen(count >= FEW_RESAMPLERS);
        // Memory is neither allocated nor freed with interrupts off.
        let mut grown = KVVec::with_capacity(count + 1, GFP_KERNEL_ACCOUNT)?;
        let mut entries = self.entries.lock();
        for entry in entries.drain_all() {
            let _always_fits = grown.push_within_capacity(entry);
        }
        let _always_fits = grown.push_within_capacity(Resampler { gsi, eventfd });
        core::mem::swap(&mut *entries, &mut grown);
        drop(entries);
        Ok(())
    }

    /// Removes one. With the last of a line the line goes down.
    fn remove(&self, gsi: u32, eventfd: &Arc<EventFd>) {
        let mut entries = self.entries.lock();
        let at = entries
            .iter()
            .position(|entry| entry.gsi == gsi && Arc::ptr_eq(&entry.eventfd, eventfd));
        let removed = at.and_then(|at| entries.remove(at).ok());
        let is_last = !entries.iter().any(|entry| entry.gsi == gsi);
        let count = entries.len();
        drop(entries);
        self.irqchip.set_many_listen(count > FEW_RESAMPLERS);
        drop(removed);
        if is_last {
            self.irqchip.set_gsi(Source::Resampler, gsi, false);
        }
    }
}

impl AckNotifier for Resamplers {
    /// The line goes down before the VMM hears of it: it may raise it again at once.
    fn acknowledged(&self, gsi: u32) {
        let nth = |n: usize| {
            let entries = self.entries.lock();
            let mut of_line = entries.iter().filter(|entry| entry.gsi == gsi);
            of_line.nth(n).map(|entry| entry.eventfd.clone())
        };
        let mut n = 0;
        while let Some(eventfd) = nth(n) {
            if n == 0 {
                self.irqchip.set_gsi(Source::Resampler, gsi, false);
            }
            // Not under the lock: an irqfd may be listening, which leads back here.
            eventfd.signal();
            n += 1;
        }
    }
}
