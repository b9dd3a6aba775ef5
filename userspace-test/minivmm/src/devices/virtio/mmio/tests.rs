// SPDX-License-Identifier: GPL-2.0

//! The registers, as a driver uses them.

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::devices::virtio::backend::recorder::Recorder;
use crate::devices::virtio::{ids, Rng};

fn bus(lineage: &Lineage) -> (MmioBus, Recorder, Arc<GuestMemoryMmap>) {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).expect("memory");
    let memory = Arc::new(memory);
    let recorder = Recorder::default();
    let devices: Vec<Box<dyn VirtioDevice>> = vec![Box::new(Rng::default())];
    let bus = MmioBus::new(devices, &memory, &recorder, lineage).expect("eventfds");
    (bus, recorder, memory)
}

fn read(bus: &MmioBus, register: u32) -> u32 {
    let mut data = [0; 4];
    assert!(bus.read(BASE + u64::from(register), &mut data));
    u32::from_le_bytes(data)
}

fn write(bus: &mut MmioBus, register: u32, value: u32) {
    assert!(bus.write(BASE + u64::from(register), &value.to_le_bytes()));
}

#[test]
fn a_driver_finds_the_device_and_its_connections() {
    let (bus, recorder, _) = bus(&Lineage::Kvm);
    assert_eq!(read(&bus, VIRTIO_MMIO_MAGIC_VALUE), MAGIC);
    assert_eq!(read(&bus, VIRTIO_MMIO_DEVICE_ID), ids::VIRTIO_ID_RNG);
    assert_eq!(*recorder.interrupts.lock().expect("lock"), [16]);
    let doorbell = Doorbell {
        address: BASE + 0x50,
        value: Some(0),
    };
    assert_eq!(*recorder.doorbells.lock().expect("lock"), [doorbell]);
    assert!(!bus.read(BASE + LENGTH, &mut [0; 4]));
    assert!(!bus.read(BASE - 1, &mut [0; 1]));
}

#[test]
fn a_driver_that_does_everything_gets_its_buffer_filled() {
    let lines = Lines::new().expect("eventfd");
    let (mut bus, _, memory) = bus(&Lineage::Board(lines.clone()));
    write(&mut bus, VIRTIO_MMIO_STATUS, 3);
    write(&mut bus, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    write(&mut bus, VIRTIO_MMIO_DRIVER_FEATURES, 1);
    write(&mut bus, VIRTIO_MMIO_STATUS, 0xb);
    assert_eq!(read(&bus, VIRTIO_MMIO_STATUS), 0xb);
    write(&mut bus, VIRTIO_MMIO_QUEUE_SEL, 0);
    write(&mut bus, VIRTIO_MMIO_QUEUE_NUM, 8);
    write(&mut bus, VIRTIO_MMIO_QUEUE_DESC_LOW, 0x1000);
    write(&mut bus, VIRTIO_MMIO_QUEUE_AVAIL_LOW, 0x2000);
    write(&mut bus, VIRTIO_MMIO_QUEUE_USED_LOW, 0x3000);
    write(&mut bus, VIRTIO_MMIO_QUEUE_READY, 1);
    // What is enabled does not change any more.
    write(&mut bus, VIRTIO_MMIO_QUEUE_USED_LOW, 0x9000);
    write(&mut bus, VIRTIO_MMIO_STATUS, 0xf);
    let descriptor = [0x4000u64, 2 << 32 | 16];
    memory
        .write_obj(descriptor, GuestAddress(0x1000))
        .expect("memory");
    memory
        .write_obj(1u16, GuestAddress(0x2002))
        .expect("memory");
    write(&mut bus, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    while bus.take_edges().next().is_none() {
        std::thread::yield_now();
    }
    assert_eq!(read(&bus, VIRTIO_MMIO_INTERRUPT_STATUS), 1);
    write(&mut bus, VIRTIO_MMIO_INTERRUPT_ACK, 1);
    assert_eq!(read(&bus, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
    let used: [u32; 3] = memory.read_obj(GuestAddress(0x3000)).expect("memory");
    assert_eq!(used, [1 << 16, 0, 16]);
    // The reset waits for the device's thread, and until then nothing is set up.
    write(&mut bus, VIRTIO_MMIO_STATUS, 0);
    write(&mut bus, VIRTIO_MMIO_STATUS, 1);
    assert_eq!(read(&bus, VIRTIO_MMIO_STATUS), 0xf);
    let stopper = bus.take_stopper().expect("there is a thread");
    assert!(bus.take_stopper().is_none());
    stopper.wait();
    bus.finish_resets();
    assert_eq!(read(&bus, VIRTIO_MMIO_STATUS), 0);
    assert_eq!(read(&bus, VIRTIO_MMIO_QUEUE_READY), 0);
}

#[test]
fn a_driver_without_version_1_or_with_too_much_is_not_accepted() {
    for halves in [[0, 0], [1, 1], [0, 2]] {
        let (mut bus, _, _) = bus(&Lineage::Kvm);
        for (select, half) in (0..).zip(halves) {
            write(&mut bus, VIRTIO_MMIO_DRIVER_FEATURES_SEL, select);
            write(&mut bus, VIRTIO_MMIO_DRIVER_FEATURES, half);
        }
        write(&mut bus, VIRTIO_MMIO_STATUS, 0xb);
        assert_eq!(read(&bus, VIRTIO_MMIO_STATUS), 3, "{halves:?}");
        write(&mut bus, VIRTIO_MMIO_STATUS, 0xf);
        assert_eq!(read(&bus, VIRTIO_MMIO_STATUS), 7, "{halves:?}");
    }
}

#[test]
fn queues_that_cannot_be_need_a_reset() {
    for (register, value) in [
        (VIRTIO_MMIO_QUEUE_NUM, 0),
        (VIRTIO_MMIO_QUEUE_NUM, 3),
        (VIRTIO_MMIO_QUEUE_NUM, 0x1_0008),
        (VIRTIO_MMIO_QUEUE_DESC_LOW, 0x1001),
        (VIRTIO_MMIO_QUEUE_DESC_HIGH, 1),
        (VIRTIO_MMIO_QUEUE_USED_LOW, 0xf_fff0),
        (VIRTIO_MMIO_QUEUE_AVAIL_HIGH, u32::MAX),
    ] {
        let (mut bus, _, _) = bus(&Lineage::Kvm);
        write(&mut bus, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
        write(&mut bus, VIRTIO_MMIO_DRIVER_FEATURES, 1);
        write(&mut bus, VIRTIO_MMIO_STATUS, 0xb);
        write(&mut bus, register, value);
        write(&mut bus, VIRTIO_MMIO_QUEUE_READY, 1);
        write(&mut bus, VIRTIO_MMIO_STATUS, 0xf);
        assert_eq!(
            read(&bus, VIRTIO_MMIO_STATUS),
            0x4f,
            "{register:#x} {value:#x}"
        );
    }
}

#[test]
fn accesses_of_another_width_read_as_nothing_and_write_nothing() {
    let (mut bus, _, _) = bus(&Lineage::Kvm);
    for length in [1, 2, 8] {
        let mut data = vec![0xff; length];
        assert!(bus.read(BASE, &mut data));
        assert_eq!(data, vec![0; length]);
        assert!(bus.write(BASE + u64::from(VIRTIO_MMIO_STATUS), &data));
    }
    assert!(bus.write(BASE + u64::from(VIRTIO_MMIO_STATUS) + 1, &[1; 4]));
    assert_eq!(read(&bus, VIRTIO_MMIO_STATUS), 0);
}
