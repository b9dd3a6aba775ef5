// SPDX-License-Identifier: GPL-2.0

//! `minivmm bench interrupts`: what interrupts cost, and exits that end in the interrupt controllers
//! in the kernel.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use kvm_bindings::{
    kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_msi, kvm_mp_state,
    KvmIrqRouting, KVM_IRQ_ROUTING_MSI, KVM_MP_STATE_RUNNABLE,
};
use kvm_ioctls::{IoEventAddress, Kvm, NoDatamatch, VcpuExit, VcpuFd};
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use super::cost::Cost;
use super::report::{Report, Unit};
use super::vmm::{self, Start};
use super::watchdog::Watchdog;
use super::ROUNDS;
use crate::guests::interrupt_probe::{self, EVENT_PORT, IOAPIC_WINDOW, IPI_ANSWERER, VECTOR};
use crate::guests::probe::Probe;
use crate::guests::{ports, Error, Guest, Machine, LOAD_ADDRESS};
use crate::vcpu::Kick;

/// The stack of the vCPU that answers IPIs.
const ANSWERER_STACK: u64 = 0x7000;
/// IA32_APIC_BASE.EN: the local APIC is on.
const APIC_ENABLE: u64 = 1 << 11;
/// The first line that no IOAPIC pin has.
const MSI_LINE: u32 = 24;
/// Where a message-signalled interrupt is written for the vCPU with APIC ID 0.
const MSI_ADDRESS: u32 = 0xfee0_0000;

/// Measures each and prints it.
///
/// # Errors
///
/// [`Error`] for the first that cannot be measured.
pub fn run(json: bool) -> Result<(), Error> {
    let kvm = Kvm::new().map_err(Error::OpenKvm)?;
    let title = format!("TSC ticks, {ROUNDS} rounds of each");
    let mut report = Report::new(io::stdout().lock(), json, Unit::Ticks, &title)?;
    for probe in &interrupt_probe::ALL {
        let _watchdog = Watchdog::new(probe.exit);
        report.print(probe.exit, probe.meaning, measure(&kvm, probe)?)?;
    }
    Ok(())
}

/// Runs `probe` in a new VM.
fn measure(kvm: &Kvm, probe: &Probe) -> Result<Cost, Error> {
    let machine = Machine::with_irqchip(kvm)?;
    // Open until the guest is done.
    let _event = match probe.exit {
        "ioeventfd" => Some(event_at_port(&machine)?),
        "irqfd" => {
            let event = event_at_port(&machine)?;
            interrupt_by(&machine, &event)?;
            Some(event)
        }
        _ => None,
    };
    let mut vcpu = vcpu(&machine, 0, probe.guest, LOAD_ADDRESS)?;
    if probe.exit == "ipi" {
        let answerer = self::vcpu(&machine, IPI_ANSWERER, probe.guest, ANSWERER_STACK)?;
        exchange(vcpu, answerer, probe.guest)?;
    } else {
        vmm::serve(&mut vcpu, probe.guest, &AtomicBool::new(false))?;
    }
    vmm::cost(&machine)
}

/// Makes a vCPU that starts in `guest` with its local APIC on.
fn vcpu(machine: &Machine, number: u8, guest: &Guest, stack: u64) -> Result<VcpuFd, Error> {
    let vcpu = machine.vcpu(number.into())?;
    machine.start_long_mode(&vcpu, guest)?;
    let mut sregs = vcpu
        .get_sregs()
        .map_err(|e| Error::Ioctl("KVM_GET_SREGS", e))?;
    sregs.apic_base |= APIC_ENABLE;
    vcpu.set_sregs(&sregs)
        .map_err(|e| Error::Ioctl("KVM_SET_SREGS", e))?;
    vmm::pass(
        &vcpu,
        Start {
            address: IOAPIC_WINDOW,
            vcpu: number.into(),
            stack,
        },
    )?;
    // All but the first vCPU would wait for INIT and SIPI.
    let mp_state = KVM_MP_STATE_RUNNABLE;
    vcpu.set_mp_state(kvm_mp_state { mp_state })
        .map_err(|e| Error::Ioctl("KVM_SET_MP_STATE", e))?;
    Ok(vcpu)
}

/// Makes a write of a byte to [`EVENT_PORT`] an event.
fn event_at_port(machine: &Machine) -> Result<EventFd, Error> {
    let event = EventFd::new(EFD_NONBLOCK)?;
    let port = IoEventAddress::Pio(EVENT_PORT.into());
    machine
        .vm()
        .register_ioevent(&event, &port, NoDatamatch)
        .map_err(|e| Error::Ioctl("KVM_IOEVENTFD", e))?;
    Ok(event)
}

/// Makes an event of `event` an MSI.
fn interrupt_by(machine: &Machine, event: &EventFd) -> Result<(), Error> {
    let msi = kvm_irq_routing_msi {
        address_lo: MSI_ADDRESS,
        data: VECTOR.into(),
        ..Default::default()
    };
    let route = kvm_irq_routing_entry {
        gsi: MSI_LINE,
        type_: KVM_IRQ_ROUTING_MSI,
        u: kvm_irq_routing_entry__bindgen_ty_1 { msi },
        ..Default::default()
    };
    let routing = KvmIrqRouting::from_entries(&[route]).expect("one entry");
    machine
        .vm()
        .set_gsi_routing(&routing)
        .map_err(|e| Error::Ioctl("KVM_SET_GSI_ROUTING", e))?;
    machine
        .vm()
        .register_irqfd(event, MSI_LINE)
        .map_err(|e| Error::Ioctl("KVM_IRQFD", e))
}

/// Runs `sender` until it is done, and `answerer` as long, each on a thread of its own. Both
/// threads are on one CPU, as this one is.
fn exchange(mut sender: VcpuFd, mut answerer: VcpuFd, guest: &Guest) -> Result<(), Error> {
    // It says by this exit that it is ready for interrupts.
    match answerer.run() {
        Ok(VcpuExit::IoOut(ports::TURN, _)) => {}
        Ok(other) => {
            let exit = format!("{other:?}");
            return Err(vmm::unexpected(&answerer, guest, exit));
        }
        Err(e) => return Err(Error::Ioctl("KVM_RUN", e)),
    }
    // SAFETY: The kicks are dropped before the vCPUs, at the end of this function.
    let kicks = unsafe { [Kick::new(&mut sender)?, Kick::new(&mut answerer)?] };
    let over = AtomicBool::new(false);
    let drive = |vcpu: &mut VcpuFd, own: &Kick, other: &Kick| {
        own.run_by_this_thread();
        let result = vmm::serve(vcpu, guest, &over);
        over.store(true, Ordering::SeqCst);
        other.kick();
        result
    };
    thread::scope(|scope| {
        let answers = scope.spawn(|| drive(&mut answerer, &kicks[1], &kicks[0]));
        let sent = drive(&mut sender, &kicks[0], &kicks[1]);
        let answered = answers
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        sent.and(answered)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_have_the_names_that_other_programs_look_for() {
        let names: Vec<_> = interrupt_probe::ALL
            .iter()
            .map(|probe| probe.exit)
            .collect();
        let expected = [
            "self_ipi_hlt",
            "ipi",
            "tsc_deadline",
            "pio_kernel",
            "mmio_kernel",
            "ioeventfd",
            "irqfd",
        ];
        assert_eq!(names, expected);
    }
}
