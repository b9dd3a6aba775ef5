// SPDX-License-Identifier: GPL-2.0

//! Guest writes that do not come back to the VMM one by one, and interrupts by eventfd.

use kernel::prelude::*;

use super::copy;
use crate::{
    host::bindings::{
        self,
        kvm_coalesced_mmio_zone,
        kvm_ioeventfd,
        kvm_irqfd, //
    },
    vm::{
        Backend,
        Buses,
        Inject,
        Listen,
        Space,
        Vm, //
    },
};

// Flags of `struct kvm_ioeventfd`. In the header they come from an enumeration, by shifts that
// bindgen does not evaluate.
const IOEVENTFD_DATAMATCH: u32 = 1 << 0;
const IOEVENTFD_PIO: u32 = 1 << 1;
const IOEVENTFD_DEASSIGN: u32 = 1 << 2;
const IOEVENTFD_VIRTIO_CCW_NOTIFY: u32 = 1 << 3;
/// The kernel's own mark of what is in its table of MMIO without length. VMMs may set it, to no
/// effect.
const IOEVENTFD_FAST_MMIO: u32 = 1 << 4;
const IOEVENTFD_FLAGS: u32 = IOEVENTFD_DATAMATCH
    | IOEVENTFD_PIO
    | IOEVENTFD_DEASSIGN
    | IOEVENTFD_VIRTIO_CCW_NOTIFY
    | IOEVENTFD_FAST_MMIO;

/// api.rst, 4.59 KVM_IOEVENTFD.
pub(super) fn ioeventfd(buses: &Buses, arg: usize) -> Result<i32> {
    let request: kvm_ioeventfd = copy::read(arg)?;
    let flag = |bit| request.flags & bit != 0;
    let listen = Listen {
        space: if flag(IOEVENTFD_PIO) {
            Space::Pio
        } else if flag(IOEVENTFD_VIRTIO_CCW_NOTIFY) {
            Space::Ccw
        } else {
            Space::Mmio
        },
        address: request.addr,
        len: request.len,
        datamatch: flag(IOEVENTFD_DATAMATCH).then_some(request.datamatch),
        fd: request.fd,
    };
    if flag(IOEVENTFD_DEASSIGN) {
        // Flags that mean nothing are refused to those who assign only.
        buses.unlisten(&listen)?;
    } else {
        if request.flags & !IOEVENTFD_FLAGS != 0 {
            return Err(EINVAL);
        }
        buses.listen(&listen)?;
    }
    Ok(0)
}

/// A zone of KVM_(UN)REGISTER_COALESCED_MMIO, and its space.
fn read_zone(arg: usize) -> Result<(Space, kvm_coalesced_mmio_zone)> {
    let zone: kvm_coalesced_mmio_zone = copy::read(arg)?;
    let space = match zone.pio() {
        0 => Space::Mmio,
        1 => Space::Pio,
        _ => return Err(EINVAL),
    };
    Ok((space, zone))
}

/// api.rst, 4.116 KVM_REGISTER_COALESCED_MMIO.
pub(super) fn register_coalesced(buses: &Buses, arg: usize) -> Result<i32> {
    let (space, zone) = read_zone(arg)?;
    buses.coalesce(space, zone.addr, zone.size)?;
    Ok(0)
}

/// api.rst, 4.116 KVM_UNREGISTER_COALESCED_MMIO.
pub(super) fn unregister_coalesced(buses: &Buses, arg: usize) -> Result<i32> {
    let (space, zone) = read_zone(arg)?;
    buses.uncoalesce(space, zone.addr, zone.size)?;
    Ok(0)
}

/// api.rst, 4.75 KVM_IRQFD.
pub(super) fn irqfd<B: Backend>(vm: &Vm<B>, arg: usize) -> Result<i32> {
    const FLAGS: u32 = bindings::KVM_IRQFD_FLAG_DEASSIGN | bindings::KVM_IRQFD_FLAG_RESAMPLE;
    let request: kvm_irqfd = copy::read(arg)?;
    let flag = |bit| request.flags & bit != 0;
    if request.flags & !FLAGS != 0 {
        return Err(EINVAL);
    }
    if flag(bindings::KVM_IRQFD_FLAG_DEASSIGN) {
        vm.irqfds.deassign(request.fd as i32, request.gsi)?;
    } else {
        let inject = Inject {
            fd: request.fd as i32,
            gsi: request.gsi,
            resample_fd: flag(bindings::KVM_IRQFD_FLAG_RESAMPLE)
                .then_some(request.resamplefd as i32),
        };
        vm.irqfds.assign(vm.irqchip().ok_or(EINVAL)?, &inject)?;
    }
    Ok(0)
}
