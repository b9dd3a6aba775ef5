// SPDX-License-Identifier: GPL-2.0

//! KVM_RUN that never enters the guest: `immediate_exit` makes it return with EINTR at once
//! (api.rst 5, "The kvm_run structure"). It is the floor under every exit to the VMM.

use std::arch::asm;

use kvm_ioctls::Kvm;

use super::cost::Cost;
use super::{ROUNDS, WARM_UP};
use crate::guests::real_mode::REAL_MODE;
use crate::guests::{Error, Machine};

/// Measures it, from this side since there is no other.
///
/// # Errors
///
/// As the KVM calls give them.
pub fn measure(kvm: &Kvm) -> Result<Cost, Error> {
    let machine = Machine::new(kvm)?;
    let mut vcpu = machine.vcpu(0)?;
    machine.start_real_mode(&vcpu, &REAL_MODE)?;
    vcpu.set_kvm_immediate_exit(1);
    let empty = sample(|| Ok(()))?;
    let full = sample(|| match vcpu.run() {
        Err(e) if e.errno() == libc::EINTR => Ok(()),
        Err(e) => Err(Error::Ioctl("KVM_RUN", e)),
        Ok(exit) => Err(Error::Exit {
            guest: REAL_MODE.name,
            exit: format!("{exit:?}"),
            rip: 0,
        }),
    })?;
    Ok(Cost::of(&full, &empty))
}

/// The ticks that each of many calls of `call` took.
fn sample(mut call: impl FnMut() -> Result<(), Error>) -> Result<Vec<u64>, Error> {
    let mut samples = Vec::with_capacity(WARM_UP + ROUNDS);
    for _ in 0..WARM_UP + ROUNDS {
        let start = tsc();
        call()?;
        samples.push(tsc() - start);
    }
    Ok(samples.split_off(WARM_UP))
}

/// The time-stamp counter, read neither earlier nor later than here.
fn tsc() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: LFENCE is in every 64-bit CPU, and RDTSC changes EAX and EDX alone. Linux lets
    // programs read the counter unless they asked it not to.
    unsafe {
        asm!("lfence", "rdtsc", "lfence", out("eax") low, out("edx") high,
             options(nomem, nostack, preserves_flags));
    }
    (u64::from(high) << 32) | u64::from(low)
}
