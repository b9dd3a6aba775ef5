// SPDX-License-Identifier: GPL-2.0

//! Interrupt controllers in the kernel: what a VMM does to them.
//!
//! Structures with unions in them are read as the words that they are made of.

use arch::{
    ioapic::{
        self,
        Entry, //
    },
    pic::Chip,
};
use kernel::prelude::*;

use super::copy;
use crate::{
    host::bindings::{
        self,
        kvm_enable_cap,
        kvm_irq_routing,
        kvm_msi, //
    },
    vm::{
        irq::{
            Irqchip,
            Mode,
            Route,
            Routes,
            Source,
            Target,
            IOAPIC_PINS,
            MAX_ROUTES,
            X2APIC_API_DISABLE_BROADCAST_QUIRK,
            X2APIC_API_USE_32BIT_IDS,
            X2APIC_DISABLE_SUPPRESS_EOI_BROADCAST,
            X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST, //
        },
        Backend,
        Vm, //
    },
};

/// `struct kvm_irqchip`: the chip's number, padding, and 512 bytes of its state.
type ChipWords = [u64; 65];
/// `struct kvm_irq_routing_entry`: line, type, flags, padding, and a union of eight words.
type RouteWords = [u32; 12];

/// Pins of one PIC.
const PIC_PINS: u32 = 8;

/// KVM_IRQ_LINE and KVM_IRQ_LINE_STATUS (api.rst, 4.25): `struct kvm_irq_level` is the line, where
/// the status comes back, and the level.
pub(super) fn irq_line<B: Backend>(vm: &Vm<B>, arg: usize, wants_status: bool) -> Result<i32> {
    let [gsi, level]: [u32; 2] = copy::read(arg)?;
    let irqchip = vm.irqchip().ok_or(ENXIO)?;
    let status = irqchip.set_gsi(Source::User, gsi, level != 0);
    if wants_status {
        copy::write(arg, &[status.number() as u32, level])?;
    }
    Ok(0)
}

/// KVM_SIGNAL_MSI (api.rst, 4.70).
pub(super) fn signal_msi<B: Backend>(vm: &Vm<B>, arg: usize) -> Result<i32> {
    let msi: kvm_msi = copy::read(arg)?;
    let irqchip = vm.irqchip().ok_or(EINVAL)?;
    if msi.flags & !bindings::KVM_MSI_VALID_DEVID != 0 {
        return Err(EINVAL);
    }
    let address = u64::from(msi.address_hi) << 32 | u64::from(msi.address_lo);
    if !irqchip.is_valid_msi(address) {
        return Err(EINVAL);
    }
    match irqchip.send_msi(address, msi.data) {
        Some(count) => Ok(count as i32),
        // What KVM answers where nobody is addressed is -1, which is this.
        None => Err(EPERM),
    }
}

/// KVM_SET_GSI_ROUTING (api.rst, 4.52).
pub(super) fn set_gsi_routing<B: Backend>(vm: &Vm<B>, arg: usize) -> Result<i32> {
    let header: kvm_irq_routing = copy::read(arg)?;
    let irqchip = vm.irqchip().ok_or(EINVAL)?;
    if header.nr as usize > MAX_ROUTES || header.flags != 0 {
        return Err(EINVAL);
    }
    let mut routes = KVVec::with_capacity(header.nr as usize, GFP_KERNEL_ACCOUNT)?;
    for i in 0..header.nr as usize {
        let place = arg + size_of::<kvm_irq_routing>() + i * size_of::<RouteWords>();
        routes.push(
            parse_route(irqchip, &copy::read(place)?)?,
            GFP_KERNEL_ACCOUNT,
        )?;
    }
    irqchip.set_routes(Routes::new(&routes)?);
    Ok(0)
}

fn parse_route(irqchip: &Irqchip, words: &RouteWords) -> Result<Route> {
    let [gsi, kind, flags, _, u0, u1, u2, ..] = *words;
    if gsi as usize >= MAX_ROUTES {
        return Err(EINVAL);
    }
    let target = match kind {
        bindings::KVM_IRQ_ROUTING_IRQCHIP if flags == 0 && irqchip.has_chips() => {
            parse_pin(u0, u1)?
        }
        bindings::KVM_IRQ_ROUTING_MSI if flags & !bindings::KVM_MSI_VALID_DEVID == 0 => {
            let address = u64::from(u1) << 32 | u64::from(u0);
            if !irqchip.is_valid_msi(address) {
                return Err(EINVAL);
            }
            Target::Msi { address, data: u2 }
        }
        _ => return Err(EINVAL),
    };
    Ok(Route { gsi, target })
}

fn parse_pin(chip: u32, pin: u32) -> Result<Target> {
    match chip {
        bindings::KVM_IRQCHIP_PIC_MASTER if pin < PIC_PINS => Ok(Target::Pic(pin as u8)),
        bindings::KVM_IRQCHIP_PIC_SLAVE if pin < PIC_PINS => {
            Ok(Target::Pic((pin + PIC_PINS) as u8))
        }
        bindings::KVM_IRQCHIP_IOAPIC if pin < IOAPIC_PINS => Ok(Target::Ioapic(pin as u8)),
        _ => Err(EINVAL),
    }
}

/// KVM_GET_IRQCHIP (api.rst, 4.26).
pub(super) fn get_irqchip<B: Backend>(vm: &Vm<B>, arg: usize) -> Result<i32> {
    let mut words: ChipWords = copy::read(arg)?;
    let irqchip = vm.full_irqchip()?;
    let chip = words[0] as u32;
    words[1..].fill(0);
    match chip {
        bindings::KVM_IRQCHIP_PIC_MASTER => {
            set_pic_bytes(&mut words, irqchip.with_pic(|pic| pic.save(Chip::Master)));
        }
        bindings::KVM_IRQCHIP_PIC_SLAVE => {
            set_pic_bytes(&mut words, irqchip.with_pic(|pic| pic.save(Chip::Slave)));
        }
        bindings::KVM_IRQCHIP_IOAPIC => {
            let state = irqchip.ioapic_state();
            words[1] = state.base_address;
            words[2] = u64::from(state.id) << 32 | u64::from(state.ioregsel);
            words[3] = state.irr.into();
            for (word, entry) in words[4..].iter_mut().zip(state.redirtbl) {
                *word = entry.0;
            }
        }
        _ => return Err(EINVAL),
    }
    copy::write(arg, &words)?;
    Ok(0)
}

/// KVM_SET_IRQCHIP (api.rst, 4.27).
pub(super) fn set_irqchip<B: Backend>(vm: &Vm<B>, arg: usize) -> Result<i32> {
    let words: ChipWords = copy::read(arg)?;
    let irqchip = vm.full_irqchip()?;
    match words[0] as u32 {
        bindings::KVM_IRQCHIP_PIC_MASTER => {
            irqchip.with_pic(|pic| pic.restore(Chip::Master, &pic_bytes(&words)));
        }
        bindings::KVM_IRQCHIP_PIC_SLAVE => {
            irqchip.with_pic(|pic| pic.restore(Chip::Slave, &pic_bytes(&words)));
        }
        bindings::KVM_IRQCHIP_IOAPIC => {
            let mut redirtbl = [Entry::RESET; ioapic::PINS];
            for (entry, word) in redirtbl.iter_mut().zip(&words[4..]) {
                *entry = Entry(*word);
            }
            irqchip.set_ioapic_state(ioapic::State {
                base_address: words[1],
                ioregsel: words[2] as u32,
                id: (words[2] >> 32) as u32,
                irr: words[3] as u32,
                redirtbl,
            });
        }
        _ => return Err(EINVAL),
    }
    Ok(0)
}

/// Where `struct kvm_pic_state` is in the words.
fn pic_bytes(words: &ChipWords) -> [u8; 16] {
    (u128::from(words[2]) << 64 | u128::from(words[1])).to_le_bytes()
}

fn set_pic_bytes(words: &mut ChipWords, bytes: [u8; 16]) {
    let value = u128::from_le_bytes(bytes);
    words[1] = value as u64;
    words[2] = (value >> 64) as u64;
}

/// KVM_ENABLE_CAP of KVM_CAP_SPLIT_IRQCHIP (api.rst, 7.5).
pub(super) fn split<B: Backend>(vm: &Vm<B>, cap: &kvm_enable_cap) -> Result<i32> {
    let pins = cap.args[0];
    if pins > MAX_ROUTES as u64 {
        return Err(EINVAL);
    }
    vm.create_irqchip(Mode::Split { pins: pins as u32 })
        // Here KVM tells too late from twice by nothing.
        .map_err(|e| if e == EINVAL { EEXIST } else { e })?;
    Ok(0)
}

/// Flags of KVM_CAP_X2APIC_API for a VM whose interrupt controllers are split, or may be.
pub(super) const X2APIC_API: u8 = X2APIC_API_USE_32BIT_IDS
    | X2APIC_API_DISABLE_BROADCAST_QUIRK
    | X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST
    | X2APIC_DISABLE_SUPPRESS_EOI_BROADCAST;

/// KVM_CHECK_EXTENSION of KVM_CAP_X2APIC_API, of a VM.
pub(super) fn valid_x2apic_api<B: Backend>(vm: &Vm<B>) -> u8 {
    if vm.irqchip().is_some_and(|irqchip| !irqchip.has_chips()) {
        X2APIC_API
    } else {
        X2APIC_API & !X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST
    }
}

/// KVM_ENABLE_CAP of KVM_CAP_X2APIC_API (api.rst, 7.7).
///
/// # Errors
///
/// EINVAL for an unknown flag, for both about EOI broadcasts, and for their suppression where the
/// interrupt controllers are not split.
pub(super) fn x2apic_api<B: Backend>(vm: &Vm<B>, cap: &kvm_enable_cap) -> Result<i32> {
    const BOTH: u8 = X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST | X2APIC_DISABLE_SUPPRESS_EOI_BROADCAST;
    let flags = u8::try_from(cap.args[0]).map_err(|_| EINVAL)?;
    if flags & !valid_x2apic_api(vm) != 0 || flags & BOTH == BOTH {
        return Err(EINVAL);
    }
    vm.add_x2apic_api(flags);
    Ok(0)
}

/// KVM_ENABLE_CAP of KVM_CAP_X86_APIC_BUS_CYCLES_NS (api.rst, 7.36): nanoseconds to a cycle of the
/// APIC's bus.
pub(super) fn bus_cycle<B: Backend>(vm: &Vm<B>, cap: &kvm_enable_cap) -> Result<i32> {
    /// The longest for which no timer overflows.
    const LONGEST: u64 = u64::MAX / (u32::MAX as u64 * 128);
    let cycle = cap.args[0];
    if cycle == 0 || cycle > LONGEST {
        return Err(EINVAL);
    }
    vm.set_apic_bus_cycle(cycle)?;
    Ok(0)
}
