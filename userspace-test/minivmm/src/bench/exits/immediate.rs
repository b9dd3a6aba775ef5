// SPDX-License-Identifier: GPL-2.0

//! KVM_RUN that never enters the guest: `immediate_exit` makes it return with EINTR at once
//! (api.rst 5, "The kvm_run structure"). It is the floor under every exit to the VMM.

use kvm_ioctls::Kvm;

use super::super::cost::Cost;
use super::super::{tsc, COUNT, WARM_UP};
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
    let mut samples = Vec::with_capacity(COUNT);
    for _ in 0..COUNT {
        let start = tsc::read();
        call()?;
        samples.push(tsc::read() - start);
    }
    Ok(samples.split_off(WARM_UP))
}
