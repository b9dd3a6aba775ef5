// SPDX-License-Identifier: GPL-2.0

//! The virtio devices that the command line asks for, and their connection to the machine.

use std::io;
use std::sync::Arc;

use super::vm::Vm;
use crate::description::{Description, IrqchipMode};
use crate::devices::virtio::backend::KvmBackend;
use crate::devices::virtio::block::{self, Image};
use crate::devices::virtio::{Block, Lineage, Lines, MmioBus, Rng, VirtioDevice};
use crate::devices::Board;

/// The devices, connected to nothing yet.
///
/// # Errors
///
/// Why one of them cannot be had.
pub fn devices(machine: &Description) -> Result<Vec<Box<dyn VirtioDevice>>, block::Error> {
    let mut devices: Vec<Box<dyn VirtioDevice>> = Vec::new();
    for disk in &machine.disks {
        let image = Image::open(&disk.path, disk.read_only)?;
        devices.push(Box::new(Block::new(image)));
    }
    if machine.rng {
        devices.push(Box::new(Rng::default()));
    }
    Ok(devices)
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
    irqchip: IrqchipMode,
    lines: &Lines,
    board: &mut Board,
) -> io::Result<()> {
    if devices.is_empty() {
        return Ok(());
    }
    let memory = Arc::new(vm.memory.clone());
    let backend = KvmBackend(Arc::clone(&vm.vm));
    let lineage = match irqchip {
        IrqchipMode::Kernel => Lineage::Kvm,
        IrqchipMode::Split | IrqchipMode::User => Lineage::Board(lines.clone()),
    };
    board.add_virtio(MmioBus::new(devices, &memory, &backend, &lineage)?);
    Ok(())
}
