// SPDX-License-Identifier: GPL-2.0

//! The virtio devices that the command line asks for, and their connection to the machine.

use std::io;
use std::sync::Arc;

use super::vm::Vm;
use super::Error;
use crate::boot::acpi;
use crate::description::{ConsoleKind, Description, IrqchipMode, NetBackend, Transport};
use crate::devices::irqchip::FIRST_MESSAGE;
use crate::devices::pci::{self, Function, PciBus};
use crate::devices::virtio::backend::{Backend, KvmBackend};
use crate::devices::virtio::balloon::Statistics;
use crate::devices::virtio::block::Image;
use crate::devices::virtio::console::{Input, Size};
use crate::devices::virtio::net::{Net, Passt, Tap};
use crate::devices::virtio::pci::{vectors_of, Interrupts};
use crate::devices::virtio::vsock::{Listener, Vsock};
use crate::devices::virtio::{
    Balloon, Block, Console, Lineage, Lines, MmioBus, Rng, VirtioDevice, VirtioPci,
};
use crate::devices::Board;
use crate::terminal;

/// What devices share with the machine around them.
pub struct Ends {
    /// Where what is typed goes, if there is a virtio console.
    pub input: Option<Arc<Input>>,
    /// Where what the guest sends to that goes.
    pub output: Arc<terminal::Console>,
    /// Where what the guest says of its memory goes, if it is asked.
    pub memory: Option<Statistics>,
}

impl Ends {
    /// Those of a `machine` whose consoles go to `output`.
    ///
    /// # Errors
    ///
    /// What the system says when it refuses a descriptor.
    pub fn new(machine: &Description, output: Arc<terminal::Console>) -> io::Result<Self> {
        let input = (machine.console == ConsoleKind::Virtio).then(Input::new);
        Ok(Self {
            input: input.transpose()?.map(Arc::new),
            output,
            memory: machine.stats.then(Statistics::default),
        })
    }
}

/// The devices, connected to nothing but these `ends` yet.
///
/// # Errors
///
/// Why one of them cannot be had.
pub fn devices(machine: &Description, ends: &Ends) -> Result<Vec<Box<dyn VirtioDevice>>, Error> {
    let mut devices: Vec<Box<dyn VirtioDevice>> = Vec::new();
    for disk in &machine.disks {
        let image = Image::open(&disk.path, disk.read_only)?;
        devices.push(Box::new(Block::new(image)));
    }
    for (index, card) in machine.nets.iter().enumerate() {
        devices.push(match &card.backend {
            NetBackend::Tap(name) => Box::new(Net::new(index, Tap::open(name)?)),
            NetBackend::User { forward } => Box::new(Net::new(index, Passt::start(forward)?)),
        });
    }
    if let Some(vsock) = &machine.vsock {
        let listener = Listener::new(&vsock.socket)?;
        devices.push(Box::new(Vsock::new(vsock.cid, listener)));
    }
    if machine.rng {
        devices.push(Box::new(Rng::default()));
    }
    if let Some(mib) = machine.balloon {
        devices.push(Box::new(Balloon::new(mib, ends.memory.clone())));
    }
    if let Some(input) = &ends.input {
        let output = Arc::clone(&ends.output);
        let size = terminal::size().map(|(columns, rows)| Size { columns, rows });
        devices.push(Box::new(Console::new(
            Arc::clone(input),
            Arc::new(move |bytes: &[u8]| output.write_unsignalled(bytes)),
            size,
        )));
    }
    Ok(devices)
}

/// What the guest is told of its machine by ACPI.
pub fn hardware(machine: &Description, devices: &[Box<dyn VirtioDevice>]) -> acpi::Hardware {
    let pci = machine.virtio == Transport::Pci;
    acpi::Hardware {
        cpus: machine.cpus,
        virtio_mmio: if pci { 0 } else { devices.len() },
        pci: pci && !devices.is_empty(),
    }
}

/// Puts `devices` on the `board` of `vm`. What they do to interrupt lines that are not KVM's they
/// tell `lines`.
///
/// # Errors
///
/// What the system or KVM says when it refuses something, or that there are too many.
pub fn attach(
    devices: Vec<Box<dyn VirtioDevice>>,
    vm: &Vm,
    machine: &Description,
    lines: &Lines,
    board: &mut Board,
) -> io::Result<()> {
    if devices.is_empty() {
        return Ok(());
    }
    let memory = Arc::new(vm.memory.clone());
    let backend = KvmBackend {
        vm: Arc::clone(&vm.vm),
        routes: board.irqchip().routes().cloned(),
    };
    match machine.virtio {
        Transport::Mmio => {
            let lineage = match machine.irqchip {
                IrqchipMode::Kernel => Lineage::Kvm,
                IrqchipMode::Split | IrqchipMode::User => Lineage::Board(lines.clone()),
            };
            board.add_virtio(MmioBus::new(devices, &memory, &backend, &lineage)?);
        }
        Transport::Pci => {
            let mut functions = Vec::new();
            let has_messages = backend.routes.is_some();
            let backend: Arc<dyn Backend> = Arc::new(backend);
            let mut gsi = FIRST_MESSAGE;
            if devices.len() >= pci::SLOTS {
                return Err(io::Error::other(format!(
                    "there are {} slots on the PCI bus, and {} devices",
                    pci::SLOTS - 1,
                    devices.len()
                )));
            }
            for (slot, device) in (1..).zip(devices) {
                let interrupts = Interrupts {
                    lines,
                    first_gsi: has_messages.then_some(gsi),
                };
                gsi += u32::from(vectors_of(device.as_ref()));
                let function = VirtioPci::new(device, slot, &memory, &backend, &interrupts)?;
                functions.push(Box::new(function) as Box<dyn Function>);
            }
            board.add_pci(PciBus::new(functions));
        }
    }
    Ok(())
}
