// SPDX-License-Identifier: GPL-2.0

//! Asynchronous page faults: a guest that touches memory which the host has to fetch from a disk
//! may do something else meanwhile (Linux, `Documentation/virt/kvm/x86/msr.rst`,
//! MSR_KVM_ASYNC_PF_EN).
//!
//! The page is fetched by a thread of the kernel's. A guest that asked for it, and can take it, gets
//! a #PF whose CR2 is a token, and an interrupt with that token when the page is there. Any other
//! halts until then, or until an interrupt comes for it. The touch happens again after either.

use core::sync::atomic::{
    AtomicBool,
    Ordering, //
};

use arch::{
    addr::{
        Gfn,
        Gpa,
        Hva, //
    },
    control_regs::Cr0,
    exception::Exception, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

use crate::{
    host::{
        mm::AddressSpace,
        work::{
            Job,
            Work, //
        },
    },
    vm::{
        backend::Backend,
        kick::{
            Requests,
            Runner, //
        },
        vcpu::Loaded, //
    },
};

/// Pages that a vCPU may wait for at a time (KVM's `ASYNC_PF_PER_VCPU`).
const MAX_PAGES: usize = 64;
/// The token for all pages: whatever a guest waits for, it should look again.
const ALL: u32 = u32::MAX;

/// Bits of MSR_KVM_ASYNC_PF_EN.
mod enable {
    pub(super) const ENABLED: u64 = 1 << 0;
    /// Also at privilege level 0.
    pub(super) const SEND_ALWAYS: u64 = 1 << 1;
    /// An interrupt tells that a page is there.
    pub(super) const INTERRUPT: u64 = 1 << 3;
    pub(super) const RESERVED: u64 = 3 << 4;
    pub(super) const ADDRESS: u64 = !0x3f;
}

/// `struct kvm_vcpu_pv_apf_data`: why there was a #PF, and for which page an interrupt came.
mod layout {
    pub(super) const FLAGS: u64 = 0;
    pub(super) const TOKEN: u64 = 4;
    /// KVM_PV_REASON_PAGE_NOT_PRESENT.
    pub(super) const NOT_PRESENT: u32 = 1;
}

/// A page that is being fetched.
struct Fetch {
    mm: Arc<AddressSpace>,
    hva: Hva,
    runner: Arc<Runner>,
    is_done: AtomicBool,
}

impl Job for Fetch {
    fn run(&self) {
        // Where it cannot be had, the guest's next touch says why.
        self.mm.fault_in(self.hva);
        self.is_done.store(true, Ordering::Release);
        self.runner.request(Requests::PAGE_READY);
    }
}

/// A page that the vCPU waits for.
struct Wait {
    gfn: Gfn,
    token: u32,
    /// The guest was told, and is to hear of the end.
    is_told: bool,
    work: Pin<KBox<Work<Fetch>>>,
}

/// A vCPU's asynchronous page faults.
pub(crate) struct AsyncPf {
    /// MSR_KVM_ASYNC_PF_EN.
    pub(super) enable: u64,
    /// MSR_KVM_ASYNC_PF_INT.
    pub(super) vector: u8,
    waits: KVec<Wait>,
    /// The guest is to look again at all it waits for.
    tell_all: bool,
    /// The vCPU halts until a page is there.
    is_halted: bool,
    last_id: u32,
}

impl AsyncPf {
    /// Off.
    pub(super) const fn new() -> Self {
        Self {
            enable: 0,
            vector: 0,
            waits: KVec::new(),
            tell_all: false,
            is_halted: false,
            last_id: 0,
        }
    }

    /// Whether the guest wants to be told.
    fn is_on(&self) -> bool {
        const BOTH: u64 = enable::ENABLED | enable::INTERRUPT;
        self.enable & BOTH == BOTH
    }

    fn place(&self, offset: u64) -> Gpa {
        Gpa(self.enable & enable::ADDRESS).offset(offset)
    }

    /// Whether the vCPU halts until a page is there.
    #[inline]
    pub(crate) fn is_halted(&self) -> bool {
        self.is_halted
    }

    /// Something else came for the vCPU.
    pub(crate) fn end_halt(&mut self) {
        self.is_halted = false;
    }

    /// A token that is not 0 and not [`ALL`]: 20 bits that count, and the vCPU's id.
    fn new_token(&mut self, vcpu_id: u32) -> u32 {
        const ID_BITS: u32 = 20;
        self.last_id = (self.last_id + 1) % ((1 << ID_BITS) - 1);
        (self.last_id + 1) << (u32::BITS - ID_BITS) | vcpu_id & 0xfff
    }

    /// Off again. Returns when nothing is being fetched any more.
    pub(super) fn reset(&mut self) {
        *self = Self {
            last_id: self.last_id,
            ..Self::new()
        };
    }
}

impl<B: Backend> Loaded<'_, B> {
    /// MSR_KVM_ASYNC_PF_EN.
    ///
    /// # Errors
    ///
    /// EINVAL for reserved bits, for a place that is not in memory, and without a local APIC in the
    /// kernel to interrupt by.
    pub(super) fn write_async_pf(&mut self, value: u64) -> Result {
        if value & enable::RESERVED != 0 || (self.apic().is_none() && value != 0) {
            return Err(EINVAL);
        }
        let mut new = AsyncPf {
            enable: value,
            ..AsyncPf::new()
        };
        let is_on = new.is_on();
        if is_on && !self.vcpu.guest_memory().is_memory(new.place(0), false) {
            return Err(EINVAL);
        }
        let own = &mut self.state.pv.async_pf;
        if is_on {
            own.enable = value;
            own.tell_all = true;
            self.vcpu.runner.request_own(Requests::PAGE_READY);
        } else {
            new.vector = own.vector;
            new.last_id = own.last_id;
            *own = new;
        }
        Ok(())
    }

    /// MSR_KVM_ASYNC_PF_INT.
    ///
    /// # Errors
    ///
    /// EINVAL for what is no vector, and without a local APIC in the kernel.
    pub(super) fn write_async_pf_vector(&mut self, value: u64) -> Result {
        if self.apic().is_none() {
            return Err(EINVAL);
        }
        self.state.pv.async_pf.vector = u8::try_from(value).map_err(|_| EINVAL)?;
        Ok(())
    }

    /// MSR_KVM_ASYNC_PF_ACK: the guest has read the token, and there is room for another.
    pub(super) fn write_async_pf_ack(&mut self, value: u64) {
        if value & 1 != 0 {
            self.tell_of_pages();
        }
    }

    /// Whether the vCPU could do something else while a page is fetched: it could take interrupts.
    pub(crate) fn may_defer_fault(&self) -> bool {
        let events = &self.state.events;
        self.apic().is_some()
            && events.injected.is_none()
            && events.exception.is_none()
            && self.interrupts_enabled()
    }

    /// Has the page behind `gpa`, which is at `hva`, fetched, and finds the vCPU something to do
    /// meanwhile. Returns false where that cannot be: then it has to wait.
    pub(crate) fn defer_fault(&mut self, gpa: Gpa, hva: Hva) -> bool {
        let gfn = gpa.gfn();
        let own = &mut self.state.pv.async_pf;
        if own.waits.iter().any(|wait| wait.gfn == gfn) {
            // It touches the page again: there seems to be nothing else to do.
            own.is_halted = true;
            return true;
        }
        if own.waits.len() >= MAX_PAGES || own.waits.reserve(1, GFP_NOWAIT).is_err() {
            return false;
        }
        let fetch = Fetch {
            mm: self.vm.memory.mm.clone(),
            hva,
            runner: self.vcpu.runner.clone(),
            is_done: AtomicBool::new(false),
        };
        let Ok(work) = KBox::pin_init(Work::new(Ok(fetch)), GFP_NOWAIT) else {
            return false;
        };
        let token = own.new_token(self.vcpu.id);
        let is_told = self.tell_not_present(token);
        let own = &mut self.state.pv.async_pf;
        own.is_halted = !is_told;
        work.schedule();
        let wait = Wait {
            gfn,
            token,
            is_told,
            work,
        };
        // There is room: see above.
        own.waits.push(wait, GFP_NOWAIT).is_ok()
    }

    /// Raises the #PF that says that a page is not there yet. Returns whether it could.
    fn tell_not_present(&mut self, token: u32) -> bool {
        let own = &self.state.pv.async_pf;
        let is_wanted = own.is_on() && (own.enable & enable::SEND_ALWAYS != 0 || B::cpl(self) != 0);
        // Without paging a guest hardly expects a #PF.
        if !is_wanted || B::cr0(self) & Cr0::PG.bits() == 0 {
            return false;
        }
        let reason = layout::NOT_PRESENT.to_le_bytes();
        let place = own.place(layout::FLAGS);
        if self.vcpu.guest_memory().write(place, &reason).is_err() {
            return false;
        }
        let vector = Exception::PageFault.vector();
        self.state
            .events
            .queue_exception(vector, Some(0), Some(token.into()));
        true
    }

    /// Tells the guest of the pages that are there, as far as it has read of those before
    /// ([`Requests::PAGE_READY`]).
    pub(crate) fn tell_of_pages(&mut self) {
        if self.state.pv.async_pf.tell_all {
            if !self.can_tell() {
                return;
            }
            self.state.pv.async_pf.tell_all = false;
            self.tell(ALL);
        }
        loop {
            let waits = &self.state.pv.async_pf.waits;
            let is_done = |wait: &Wait| wait.work.is_done.load(Ordering::Acquire);
            let Some(done) = waits.iter().position(is_done) else {
                return;
            };
            if !self.can_tell() {
                return;
            }
            let own = &mut self.state.pv.async_pf;
            own.is_halted = false;
            let Ok(wait) = own.waits.remove(done) else {
                return;
            };
            if wait.is_told {
                self.tell(wait.token);
            }
        }
    }

    /// Whether the guest can be told of a page now; also where it is not to be told.
    fn can_tell(&self) -> bool {
        let own = &self.state.pv.async_pf;
        if !own.is_on() {
            return true;
        }
        let mut token = [0; 4];
        let place = own.place(layout::TOKEN);
        let is_free = self.vcpu.guest_memory().read(place, &mut token).is_ok() && token == [0; 4];
        is_free
            && self
                .apic()
                .is_some_and(|apic| apic.lapic.takes_interrupts())
    }

    /// Raises the interrupt that says that a page is there.
    fn tell(&mut self, token: u32) {
        let own = &mut self.state.pv.async_pf;
        own.is_halted = false;
        if !own.is_on() {
            return;
        }
        let (place, vector) = (own.place(layout::TOKEN), own.vector);
        let told = self.vcpu.guest_memory().write(place, &token.to_le_bytes());
        if let (Ok(()), Some(apic)) = (told, self.apic()) {
            apic.accept_fixed(vector, false, false);
        }
    }
}
