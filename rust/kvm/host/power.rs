// SPDX-License-Identifier: GPL-2.0

//! CPUs that come and go, and machines that sleep, reboot or crash.
//!
//! C headers: `include/linux/cpuhotplug.h`, `include/linux/syscore_ops.h`,
//! `arch/x86/include/asm/virt.h`.

use core::marker::PhantomData;

use kernel::{
    prelude::*,
    types::Opaque, //
};

use super::{
    bindings,
    cpu::{
        self,
        Pinned, //
    },
    mm::check,
};

/// Hardware that has to be turned on and off on each CPU.
///
/// The methods have no `self`: the callbacks carry none.
pub(crate) trait PerCpuHardware: Send + Sync + 'static {
    /// Turns the hardware on here.
    ///
    /// # Errors
    ///
    /// EBUSY where somebody else has it.
    fn enable(pinned: &Pinned) -> Result;
    /// Turns it off here, if it is on.
    fn disable(pinned: &Pinned);
    /// The machine crashes or reboots, and the kernel is about to turn the hardware off here. May
    /// come in an NMI: no locks, no memory.
    fn emergency();
}

/// Hardware that is on, on every online CPU, until this is dropped.
#[pin_data(PinnedDrop)]
pub(crate) struct Enabled<T: PerCpuHardware> {
    #[pin]
    syscore: Opaque<bindings::syscore>,
    _hardware: PhantomData<T>,
}

// SAFETY: The callbacks may come on any CPU by the contract of `PerCpuHardware`.
unsafe impl<T: PerCpuHardware> Send for Enabled<T> {}
// SAFETY: As above.
unsafe impl<T: PerCpuHardware> Sync for Enabled<T> {}

impl<T: PerCpuHardware> Enabled<T> {
    const SYSCORE_OPS: bindings::syscore_ops = bindings::syscore_ops {
        suspend: Some(Self::suspend),
        resume: Some(Self::resume),
        shutdown: Some(Self::shutdown),
    };

    /// Turns the hardware on everywhere, or nowhere.
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            syscore <- Opaque::try_ffi_init(|slot: *mut bindings::syscore| {
                // SAFETY: The callback is a function of this module, which unregisters it.
                unsafe { bindings::x86_virt_register_emergency_callback(Some(Self::emergency)) };
                // SAFETY: As above.
                let online = check(unsafe {
                    bindings::shim_cpuhp_setup(Some(Self::online), Some(Self::offline))
                });
                if let Err(e) = online {
                    // SAFETY: Registered above.
                    unsafe {
                        bindings::x86_virt_unregister_emergency_callback(Some(Self::emergency))
                    };
                    return Err(e);
                }
                // SAFETY: `slot` is valid and pinned until drop unregisters it.
                unsafe {
                    slot.write(bindings::syscore::default());
                    (*slot).ops = &Self::SYSCORE_OPS;
                    bindings::register_syscore(slot);
                }
                Ok(())
            }),
            _hardware: PhantomData,
        })
    }

    /// # Safety
    ///
    /// Called by the kernel on the CPU that is meant, which the thread stays on.
    unsafe extern "C" fn online(_cpu: c_uint) -> c_int {
        T::enable(&Pinned::new()).map_or_else(|e| e.to_errno(), |()| 0)
    }

    /// # Safety
    ///
    /// As for `online`.
    unsafe extern "C" fn offline(_cpu: c_uint) -> c_int {
        T::disable(&Pinned::new());
        0
    }

    /// # Safety
    ///
    /// Called by the kernel on its way down, on every CPU.
    unsafe extern "C" fn emergency() {
        T::emergency();
    }

    /// # Safety
    ///
    /// Called by the kernel with one CPU online and interrupts off.
    unsafe extern "C" fn suspend(_data: *mut c_void) -> c_int {
        T::disable(&Pinned::new());
        0
    }

    /// # Safety
    ///
    /// As for `suspend`.
    unsafe extern "C" fn resume(_data: *mut c_void) {
        if T::enable(&Pinned::new()).is_err() {
            pr_err!(
                "VMX did not come back on after resume on CPU {}\n",
                cpu::current()
            );
        }
    }

    /// # Safety
    ///
    /// Called by the kernel before a reboot.
    unsafe extern "C" fn shutdown(_data: *mut c_void) {
        /// # Safety
        ///
        /// Called on the CPU that is meant, from an interrupt.
        unsafe extern "C" fn disable_here<T: PerCpuHardware>(_: *mut c_void) {
            T::disable(&Pinned::new());
        }
        // Guests still run in their threads; what they do with VMX from now on faults, and that
        // is swallowed.
        // SAFETY: The function takes no argument.
        unsafe {
            bindings::shim_set_virt_rebooting();
            bindings::shim_on_each_cpu(Some(disable_here::<T>), core::ptr::null_mut());
        }
    }
}

#[pinned_drop]
impl<T: PerCpuHardware> PinnedDrop for Enabled<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: `new` registered all three; removing the hotplug state turns every CPU off.
        unsafe {
            bindings::unregister_syscore(self.syscore.get());
            bindings::shim_cpuhp_remove();
            bindings::x86_virt_unregister_emergency_callback(Some(Self::emergency));
        }
    }
}
