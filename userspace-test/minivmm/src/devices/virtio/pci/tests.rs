// SPDX-License-Identifier: GPL-2.0

//! A virtio function as a driver finds it.

use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::EventFd;

use super::*;
use crate::devices::virtio::backend::recorder::Recorder;
use crate::devices::virtio::interrupt::Route;
use crate::devices::virtio::Rng;

const SLOT: usize = 3;
const FIRST_GSI: u32 = 24;
const AT: u64 = 0xd100_0000;
/// In the common configuration.
const QUEUE_VECTOR: u64 = 0x1a;
const STATUS: u64 = 0x14;

struct Guest {
    function: VirtioPci,
    recorder: Arc<Recorder>,
    _lines: Lines,
}

fn guest(messages: bool) -> Guest {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).expect("memory");
    let recorder = Arc::new(Recorder::default());
    let backend: Arc<dyn Backend> = recorder.clone();
    let lines = Lines::new().expect("eventfd");
    let interrupts = Interrupts {
        lines: &lines,
        first_gsi: messages.then_some(FIRST_GSI),
    };
    let device = Box::new(Rng::default());
    let function = VirtioPci::new(device, SLOT, &Arc::new(memory), &backend, &interrupts);
    Guest {
        function: function.expect("eventfds"),
        recorder,
        _lines: lines,
    }
}

impl Guest {
    fn config<const N: usize>(&mut self, offset: usize) -> [u8; N] {
        let mut data = [0; N];
        self.function.read_config(offset, &mut data);
        data
    }

    fn config_u32(&mut self, offset: usize) -> u32 {
        u32::from_le_bytes(self.config(offset))
    }

    /// Puts the region at [`AT`].
    fn place(&mut self) {
        self.function
            .write_config(config::BAR0, &(AT as u32).to_le_bytes());
        self.function.write_config(config::COMMAND, &[0x06, 0]);
    }

    fn read<const N: usize>(&mut self, offset: u64) -> [u8; N] {
        let mut data = [0xff; N];
        assert!(self.function.read(AT + offset, &mut data));
        data
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        assert!(self.function.write(AT + offset, data));
    }

    fn connected(&self) -> Vec<u32> {
        self.recorder.interrupts.lock().expect("lock").clone()
    }
}

#[test]
fn capabilities_lead_to_each_part() {
    let mut guest = guest(true);
    let (mut found, mut others) = (Vec::new(), Vec::new());
    let [mut at] = guest.config(config::CAPABILITIES);
    while at != 0 {
        let [kind, next, _, purpose] = guest.config(at.into());
        if kind == VENDOR_CAPABILITY {
            found.push((purpose, guest.config_u32(usize::from(at) + 8)));
        } else {
            others.push(kind);
        }
        at = next;
    }
    assert_eq!(
        found,
        [(1, 0), (3, 0x1000), (4, 0x2000), (2, 0x3000), (5, 0)]
    );
    assert_eq!(others, [msix::CAPABILITY, EXPRESS]);
    // Nothing is behind the first 256 bytes, and there is something to say so.
    assert_eq!(guest.config(0x100), [0; 4]);
    assert_eq!(guest.config(config::VENDOR), [0xf4, 0x1a, 0x44, 0x10]);
}

#[test]
fn the_region_says_how_long_it_is_and_moves_with_its_doorbells() {
    let mut guest = guest(true);
    guest.function.write_config(config::BAR0, &[0xff; 4]);
    assert_eq!(
        guest.config_u32(config::BAR0),
        !(LENGTH as u32 - 1) | BAR_64_BIT
    );
    assert!(guest.recorder.doorbells.lock().expect("lock").is_empty());
    guest.place();
    let rings = |guest: &Guest| -> Vec<u64> {
        let doorbells = guest.recorder.doorbells.lock().expect("lock");
        doorbells.iter().map(|doorbell| doorbell.address).collect()
    };
    assert_eq!(rings(&guest), [AT + NOTIFY.start]);
    guest.function.write_config(config::BAR0 + 4, &[1, 0, 0, 0]);
    assert_eq!(rings(&guest), [(1 << 32) + AT + NOTIFY.start]);
    guest.function.write_config(config::COMMAND, &[0, 0]);
    assert!(rings(&guest).is_empty());
    assert!(!guest.function.read(AT, &mut [0; 4]));
}

#[test]
fn a_vector_is_connected_while_it_may_interrupt() {
    let mut guest = guest(true);
    guest.place();
    // Enabled, but masked one by one, as after a reset.
    guest.function.write_config(MSIX_CONTROL, &[0, 0x80]);
    assert!(guest.connected().is_empty());
    guest.write(TABLE.start + 16, &0xfee0_1000u32.to_le_bytes());
    guest.write(TABLE.start + 24, &0x41u32.to_le_bytes());
    guest.write(TABLE.start + 28, &[0; 4]);
    assert_eq!(guest.connected(), [FIRST_GSI + 1]);
    let message = guest.recorder.messages.lock().expect("lock")[&(FIRST_GSI + 1)];
    assert_eq!(message, (0xfee0_1000, 0x41));
    guest.write(TABLE.start + 24, &0x42u32.to_le_bytes());
    let message = guest.recorder.messages.lock().expect("lock")[&(FIRST_GSI + 1)];
    assert_eq!(message, (0xfee0_1000, 0x42));
    // All masked at once, and what comes then is pending.
    guest.function.write_config(MSIX_CONTROL, &[0, 0xc0]);
    assert!(guest.connected().is_empty());
    guest.write(QUEUE_VECTOR, &[1, 0]);
    assert_eq!(guest.read(PENDING.start), [0]);
    guest.function.route.queue(0);
    assert_eq!(guest.read(PENDING.start), [0b10]);
    guest.function.write_config(MSIX_CONTROL, &[0, 0x80]);
    assert_eq!(guest.connected(), [FIRST_GSI + 1]);
    assert!(!guest.function.wants_line());
    // A reset of the device forgets it.
    guest.function.write_config(MSIX_CONTROL, &[0, 0xc0]);
    guest.write(STATUS, &[0]);
    assert_eq!(guest.read(PENDING.start), [0]);
    assert_eq!(guest.read(QUEUE_VECTOR), [0xff, 0xff]);
}

#[test]
fn vectors_that_are_not_there_are_none() {
    let mut guest = guest(true);
    guest.place();
    guest.write(QUEUE_VECTOR, &[2, 0]);
    assert_eq!(guest.read(QUEUE_VECTOR), [0xff, 0xff]);
    guest.write(TABLE.start + 32, &[1; 4]);
    assert_eq!(guest.read(TABLE.start + 32), [0; 4]);
    let event: Option<EventFd> = guest.function.route.queue_event(0);
    assert!(event.is_none());
}

#[test]
fn the_line_follows_the_interrupt_status_until_it_is_read() {
    let mut guest = guest(false);
    guest.place();
    assert_eq!(guest.config(config::CAPABILITIES), [COMMON_AT as u8]);
    guest.function.route.queue(0);
    assert!(guest.function.wants_line());
    assert_eq!(guest.config::<1>(config::STATUS), [0x18]);
    guest.function.write_config(config::COMMAND, &[0x06, 0x04]);
    assert!(!guest.function.wants_line());
    guest.function.write_config(config::COMMAND, &[0x06, 0]);
    assert_eq!(guest.read(ISR.start), [1]);
    assert_eq!(guest.read(ISR.start), [0]);
    assert!(!guest.function.wants_line());
    assert_eq!(guest.config::<1>(config::STATUS), [0x10]);
}

#[test]
fn the_window_leads_into_the_region() {
    let mut guest = guest(true);
    guest
        .function
        .write_config(WINDOW_LENGTH, &1u32.to_le_bytes());
    guest
        .function
        .write_config(WINDOW_OFFSET, &(STATUS as u32).to_le_bytes());
    guest.function.write_config(WINDOW_DATA, &[3]);
    assert_eq!(guest.config(WINDOW_DATA), [3]);
    // Anywhere else it leads nowhere.
    for (offset, length) in [(LENGTH as u32, 4), (2, 4), (0, 3), (0, 0), (u32::MAX, 1)] {
        guest
            .function
            .write_config(WINDOW_OFFSET, &offset.to_le_bytes());
        guest
            .function
            .write_config(WINDOW_LENGTH, &u32::to_le_bytes(length));
        guest.function.write_config(WINDOW_DATA, &[0; 4]);
        let _: [u8; 4] = guest.config(WINDOW_DATA);
    }
}
