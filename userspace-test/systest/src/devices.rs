// SPDX-License-Identifier: GPL-2.0
//! The ioctls of interrupt controllers, timers, event descriptors and clocks in the kernel, with
//! their structures where those of the bindings hold a union.

use kvm_bindings::*;

use crate::expect;
use crate::request::{ioc, read, read_write, sized, write, KvmFd, Request};
use crate::sys::Errno;
use crate::vcpu::Vcpu;
use crate::vm::Vm;

pub const CREATE_IRQCHIP: u64 = ioc(0, 0x60, 0);
pub const IRQ_LINE: Request<IrqLevel> = write(0x61);
pub const GET_PIC: Request<PicChip> = read_write(0x62);
/// The header calls it a reading ioctl, but it is one that writes.
pub const SET_PIC: Request<PicChip> = read(0x63);
pub const GET_IOAPIC: Request<IoapicChip> = read_write(0x62);
pub const SET_IOAPIC: Request<IoapicChip> = read(0x63);
pub const CREATE_PIT: u64 = ioc(0, 0x64, 0);
pub const GET_PIT: Request<kvm_pit_state> = read_write(0x65);
/// As [`SET_PIC`].
pub const SET_PIT: Request<kvm_pit_state> = read(0x66);
pub const IRQ_LINE_STATUS: Request<IrqLevel> = read_write(0x67);
pub const REGISTER_COALESCED_MMIO: Request<CoalescedZone> = write(0x67);
pub const UNREGISTER_COALESCED_MMIO: Request<CoalescedZone> = write(0x68);
pub const IRQFD: Request<kvm_irqfd> = write(0x76);
pub const IOEVENTFD: Request<kvm_ioeventfd> = write(0x79);
pub const SET_GSI_ROUTING: Request<Routing> = sized(1, 0x6a, 8);
/// Its number tells no size, its argument is a structure all the same.
pub const REINJECT_CONTROL: Request<kvm_reinject_control> = sized(0, 0x71, 0);
pub const CREATE_PIT2: Request<kvm_pit_config> = write(0x77);
pub const SET_BOOT_CPU_ID: u64 = ioc(0, 0x78, 0);
pub const SET_CLOCK: Request<kvm_clock_data> = write(0x7b);
pub const GET_CLOCK: Request<kvm_clock_data> = read(0x7c);
pub const KVMCLOCK_CTRL: u64 = ioc(0, 0xad, 0);
pub const SET_DEVICE_ATTR: Request<kvm_device_attr> = write(0xe1);
pub const GET_DEVICE_ATTR: Request<kvm_device_attr> = write(0xe2);
pub const HAS_DEVICE_ATTR: Request<kvm_device_attr> = write(0xe3);
pub const GET_LAPIC: Request<kvm_lapic_state> = read(0x8e);
pub const SET_LAPIC: Request<kvm_lapic_state> = write(0x8f);
pub const TPR_ACCESS_REPORTING: Request<kvm_tpr_access_ctl> = read_write(0x92);
pub const SET_VAPIC_ADDR: Request<kvm_vapic_addr> = write(0x93);
pub const GET_PIT2: Request<kvm_pit_state2> = read(0x9f);
pub const SET_PIT2: Request<kvm_pit_state2> = write(0xa0);
pub const ENABLE_CAP: Request<kvm_enable_cap> = write(0xa3);
pub const SIGNAL_MSI: Request<kvm_msi> = write(0xa5);

/// `struct kvm_irq_level`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct IrqLevel {
    /// The GSI; KVM_IRQ_LINE_STATUS leaves its answer here.
    pub irq: u32,
    /// 0 or 1.
    pub level: u32,
}

/// `struct kvm_irqchip` with a PIC in it.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug, PartialEq)]
pub struct PicChip {
    /// `KVM_IRQCHIP_*`.
    pub chip_id: u32,
    /// Unused.
    pub pad: u32,
    /// The state.
    pub pic: kvm_pic_state,
    rest: [[u64; 31]; 2],
}

/// `struct kvm_irqchip` with the IOAPIC in it.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug, PartialEq)]
pub struct IoapicChip {
    /// `KVM_IRQCHIP_IOAPIC`.
    pub chip_id: u32,
    /// Unused.
    pub pad: u32,
    /// Guest-physical address of its registers.
    pub base_address: u64,
    /// The register that IOWIN shows.
    pub ioregsel: u32,
    /// Its APIC ID.
    pub id: u32,
    /// Lines that are up, a bit a pin.
    pub irr: u32,
    /// Unused.
    pub pad2: u32,
    /// The redirection table.
    pub redirtbl: [u64; 24],
    rest: [u64; 32],
    rest2: [u64; 5],
}

impl PicChip {
    /// The structure for KVM_GET_IRQCHIP, of any chip.
    pub fn of(chip_id: u32) -> Self {
        Self {
            chip_id,
            ..Self::default()
        }
    }
}

const _: () = assert!(size_of::<PicChip>() == size_of::<kvm_irqchip>());
const _: () = assert!(size_of::<IoapicChip>() == size_of::<kvm_irqchip>());

/// `struct kvm_coalesced_mmio_zone`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct CoalescedZone {
    /// Guest-physical address or port.
    pub addr: u64,
    /// Bytes or ports.
    pub size: u32,
    /// 1 for ports.
    pub pio: u32,
}

/// `struct kvm_irq_routing_entry`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Route {
    /// The GSI.
    pub gsi: u32,
    /// `KVM_IRQ_ROUTING_*`.
    pub kind: u32,
    /// 0, or `KVM_MSI_VALID_DEVID`.
    pub flags: u32,
    /// Unused.
    pub pad: u32,
    /// Chip and pin, or low address, high address and data of an MSI.
    pub to: [u32; 8],
}

const _: () = assert!(size_of::<Route>() == size_of::<kvm_irq_routing_entry>());

impl Route {
    /// A route from `gsi` to a pin of a chip (`KVM_IRQCHIP_*`).
    pub fn pin(gsi: u32, chip: u32, pin: u32) -> Self {
        let kind = KVM_IRQ_ROUTING_IRQCHIP;
        let to = [chip, pin, 0, 0, 0, 0, 0, 0];
        Self {
            gsi,
            kind,
            to,
            ..Self::default()
        }
    }

    /// A route from `gsi` to a message.
    pub fn msi(gsi: u32, address: u64, data: u32) -> Self {
        let kind = KVM_IRQ_ROUTING_MSI;
        let to = [address as u32, (address >> 32) as u32, data, 0, 0, 0, 0, 0];
        Self {
            gsi,
            kind,
            to,
            ..Self::default()
        }
    }
}

/// Most routes that a VM can have (KVM_MAX_IRQ_ROUTES).
pub const ROUTES: usize = 4096;

/// `struct kvm_irq_routing` with room for its entries.
#[repr(C)]
pub struct Routing {
    /// Entries in use.
    pub nr: u32,
    /// 0.
    pub flags: u32,
    /// The routes.
    pub entries: [Route; ROUTES],
}

impl Routing {
    /// A table of `routes`.
    pub fn new(routes: &[Route]) -> Box<Self> {
        let mut table = Box::new(Self {
            nr: routes.len() as u32,
            flags: 0,
            entries: [Route::default(); ROUTES],
        });
        table.entries[..routes.len()].copy_from_slice(routes);
        table
    }
}

/// The address of a message to the APIC with the physical (8-bit) ID `id` (SDM vol. 3, 12.11.1).
pub const fn msi_address(id: u8) -> u64 {
    0xfee0_0000 | (id as u64) << 12
}

/// A register of a LAPIC's state, by its offset in the register page.
pub fn lapic_register(state: &kvm_lapic_state, offset: usize) -> u32 {
    let bytes: [u8; 4] = std::array::from_fn(|i| state.regs[offset + i] as u8);
    u32::from_le_bytes(bytes)
}

/// Changes a register of a LAPIC's state.
pub fn set_lapic_register(state: &mut kvm_lapic_state, offset: usize, value: u32) {
    for (place, byte) in state.regs[offset..].iter_mut().zip(value.to_le_bytes()) {
        *place = byte as _;
    }
}

impl Vm {
    /// A VM with all interrupt controllers in the kernel.
    #[track_caller]
    pub fn with_irqchip() -> Self {
        let vm = Self::new();
        expect::ok("KVM_CREATE_IRQCHIP", vm.call(CREATE_IRQCHIP, 0));
        vm
    }

    /// A VM with LAPICs in the kernel, and `pins` GSIs for an IOAPIC outside.
    #[track_caller]
    pub fn with_split_irqchip(pins: u64) -> Self {
        let vm = Self::new();
        expect::ok(
            "KVM_CAP_SPLIT_IRQCHIP",
            vm.enable(KVM_CAP_SPLIT_IRQCHIP, pins),
        );
        vm
    }

    /// KVM_ENABLE_CAP with one argument.
    pub fn enable(&self, cap: u32, argument: u64) -> Result<i32, Errno> {
        let cap = kvm_enable_cap {
            cap,
            args: [argument, 0, 0, 0],
            ..kvm_enable_cap::default()
        };
        self.set(ENABLE_CAP, &cap)
    }

    /// KVM_IRQ_LINE.
    #[track_caller]
    pub fn irq_line(&self, irq: u32, up: bool) {
        let level = u32::from(up);
        expect::ok("KVM_IRQ_LINE", self.set(IRQ_LINE, &IrqLevel { irq, level }));
    }

    /// KVM_IRQ_LINE_STATUS, with its answer.
    #[track_caller]
    pub fn irq_line_status(&self, irq: u32, up: bool) -> i32 {
        let mut line = IrqLevel {
            irq,
            level: u32::from(up),
        };
        expect::ok(
            "KVM_IRQ_LINE_STATUS",
            self.update(IRQ_LINE_STATUS, &mut line),
        );
        line.irq as i32
    }

    /// KVM_SIGNAL_MSI.
    pub fn signal_msi(&self, address: u64, data: u32) -> Result<i32, Errno> {
        let msi = kvm_msi {
            address_lo: address as u32,
            address_hi: (address >> 32) as u32,
            data,
            ..kvm_msi::default()
        };
        self.set(SIGNAL_MSI, &msi)
    }

    /// KVM_SET_GSI_ROUTING.
    pub fn set_routes(&self, routes: &[Route]) -> Result<i32, Errno> {
        self.set(SET_GSI_ROUTING, &Routing::new(routes))
    }

    /// The state of a PIC.
    #[track_caller]
    pub fn pic(&self, chip_id: u32) -> PicChip {
        let mut chip = PicChip::of(chip_id);
        expect::ok("KVM_GET_IRQCHIP", self.update(GET_PIC, &mut chip));
        chip
    }

    /// Sets the state of a PIC.
    #[track_caller]
    pub fn set_pic(&self, chip: &PicChip) {
        let mut chip = *chip;
        expect::ok("KVM_SET_IRQCHIP", self.update(SET_PIC, &mut chip));
    }

    /// The state of the IOAPIC.
    #[track_caller]
    pub fn ioapic(&self) -> IoapicChip {
        let mut chip = IoapicChip {
            chip_id: KVM_IRQCHIP_IOAPIC,
            ..IoapicChip::default()
        };
        expect::ok("KVM_GET_IRQCHIP", self.update(GET_IOAPIC, &mut chip));
        chip
    }

    /// Sets the state of the IOAPIC.
    #[track_caller]
    pub fn set_ioapic(&self, chip: &IoapicChip) {
        let mut chip = *chip;
        expect::ok("KVM_SET_IRQCHIP", self.update(SET_IOAPIC, &mut chip));
    }

    /// Makes the PIT.
    #[track_caller]
    pub fn create_pit2(&self, flags: u32) {
        let config = kvm_pit_config {
            flags,
            ..kvm_pit_config::default()
        };
        expect::ok("KVM_CREATE_PIT2", self.set(CREATE_PIT2, &config));
    }
}

impl Vcpu {
    /// The state of the LAPIC.
    #[track_caller]
    pub fn lapic(&self) -> kvm_lapic_state {
        expect::ok("KVM_GET_LAPIC", self.get(GET_LAPIC))
    }

    /// A register of the LAPIC, by its offset in the register page.
    #[track_caller]
    pub fn lapic_register(&self, offset: usize) -> u32 {
        lapic_register(&self.lapic(), offset)
    }

    /// Sets the state of the LAPIC.
    #[track_caller]
    pub fn set_lapic(&self, state: &kvm_lapic_state) {
        expect::ok("KVM_SET_LAPIC", self.set(SET_LAPIC, state));
    }

    /// `KVM_MP_STATE_*`.
    #[track_caller]
    pub fn mp_state(&self) -> u32 {
        expect::ok("KVM_GET_MP_STATE", self.get(crate::request::GET_MP_STATE)).mp_state
    }

    /// KVM_SET_MP_STATE.
    pub fn set_mp_state(&self, mp_state: u32) -> Result<i32, Errno> {
        self.set(crate::request::SET_MP_STATE, &kvm_mp_state { mp_state })
    }
}
