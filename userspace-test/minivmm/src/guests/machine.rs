// SPDX-License-Identifier: GPL-2.0

//! The smallest machine that a guest of ours needs: memory and vCPUs, no devices.

use kvm_bindings::{
    kvm_dtable, kvm_segment, kvm_userspace_memory_region, CpuId, KVM_MAX_CPUID_ENTRIES,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, GuestRegionMmap};

use super::session::{Ended, Place};
use super::{Guest, LOAD_ADDRESS};

/// Memory from guest-physical address 0, in bytes.
const LOW_MEMORY: u64 = 4 << 20;

/// Guest-physical address of the page tables and the GDT of [`Machine::start_long_mode`]; eight
/// pages from here belong to them.
pub const LONG_MODE_TABLES: u64 = 0x1_0000;

const PAGE: u64 = 0x1000;
const GDT: u64 = LONG_MODE_TABLES + 7 * PAGE;

/// What goes wrong between us and /dev/kvm.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device is not there or may not be opened.
    #[error("/dev/kvm: {0}")]
    OpenKvm(kvm_ioctls::Error),
    /// An ioctl failed.
    #[error("{0}: {1}")]
    Ioctl(&'static str, kvm_ioctls::Error),
    /// Guest memory cannot be mapped or is not where it was looked for.
    #[error("guest memory: {0}")]
    Memory(String),
    /// The vCPU left the guest for a reason that no guest of ours has.
    #[error("guest {guest} ended with {exit} at {rip:#x}")]
    Exit {
        /// The guest's name.
        guest: &'static str,
        /// The exit, as KVM reports it.
        exit: String,
        /// The guest's instruction pointer then.
        rip: u64,
    },
    /// A guest asked for a port or an address that nothing is behind.
    #[error("guest {guest} used {place}, where no device is")]
    NoDevice {
        /// The guest's name.
        guest: &'static str,
        /// The port or address.
        place: Place,
    },
    /// The guest did something else than its demo waited for.
    #[error("guest {guest}: waited for {wanted:?}, got {ended:?}")]
    Order {
        /// The guest's name.
        guest: &'static str,
        /// What was waited for.
        wanted: Ended,
        /// What came.
        ended: Ended,
    },
    /// Two threads work together, and one failed.
    #[error("the other thread ended early")]
    Partner,
    /// No demo of that name.
    #[error("no demo is called {0:?}; there are: {1}")]
    NoSuchDemo(String, String),
    /// The output is gone.
    #[error("writing the report: {0}")]
    Output(#[from] std::io::Error),
}

/// A VM with a few megabytes of memory.
pub struct Machine {
    vm: VmFd,
    memory: GuestMemoryMmap,
    cpuid: CpuId,
    slots: u32,
}

impl Machine {
    /// Makes a VM with memory from address 0.
    ///
    /// # Errors
    ///
    /// As mmap and KVM_CREATE_VM, KVM_GET_SUPPORTED_CPUID and KVM_SET_USER_MEMORY_REGION give them.
    pub fn new(kvm: &Kvm) -> Result<Self, Error> {
        let mut machine = Self {
            vm: kvm
                .create_vm()
                .map_err(|e| Error::Ioctl("KVM_CREATE_VM", e))?,
            memory: GuestMemoryMmap::new(),
            cpuid: kvm
                .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
                .map_err(|e| Error::Ioctl("KVM_GET_SUPPORTED_CPUID", e))?,
            slots: 0,
        };
        machine.add_memory(0, LOW_MEMORY)?;
        Ok(machine)
    }

    /// Gives the VM `size` bytes of fresh memory at guest-physical address `gpa`, as a slot of its
    /// own. Both are multiples of a page. Returns where it lies in this process.
    ///
    /// # Errors
    ///
    /// As mmap and KVM_SET_USER_MEMORY_REGION give them.
    pub fn add_memory(&mut self, gpa: u64, size: u64) -> Result<*mut u8, Error> {
        let memory_error = |e: &dyn std::fmt::Display| Error::Memory(e.to_string());
        let region = GuestRegionMmap::from_range(GuestAddress(gpa), size as usize, None)
            .map_err(|e| memory_error(&e))?;
        let host = region.as_ptr();
        self.memory = self
            .memory
            .insert_region(std::sync::Arc::new(region))
            .map_err(|e| memory_error(&e))?;
        let slot = kvm_userspace_memory_region {
            slot: self.slots,
            guest_phys_addr: gpa,
            memory_size: size,
            userspace_addr: host as u64,
            flags: 0,
        };
        // SAFETY: The mapping is `size` bytes at `host`, nothing else owns it, and it lives in
        // `self.memory`, which is dropped after `self.vm`.
        unsafe { self.vm.set_user_memory_region(slot) }
            .map_err(|e| Error::Ioctl("KVM_SET_USER_MEMORY_REGION", e))?;
        self.slots += 1;
        Ok(host)
    }

    /// Makes the vCPU with number `id`, with all the CPUID that KVM offers, and the guest loaded.
    ///
    /// # Errors
    ///
    /// As KVM_CREATE_VCPU and KVM_SET_CPUID2 give them.
    pub fn vcpu(&self, id: u64) -> Result<VcpuFd, Error> {
        let vcpu = self
            .vm
            .create_vcpu(id)
            .map_err(|e| Error::Ioctl("KVM_CREATE_VCPU", e))?;
        vcpu.set_cpuid2(&self.cpuid)
            .map_err(|e| Error::Ioctl("KVM_SET_CPUID2", e))?;
        Ok(vcpu)
    }

    /// Writes `bytes` to guest memory at `gpa`.
    ///
    /// # Errors
    ///
    /// [`Error::Memory`] where there is none.
    pub fn write(&self, gpa: u64, bytes: &[u8]) -> Result<(), Error> {
        self.memory
            .write_slice(bytes, GuestAddress(gpa))
            .map_err(|e| Error::Memory(e.to_string()))
    }

    /// Reads `bytes.len()` bytes of guest memory at `gpa`.
    ///
    /// # Errors
    ///
    /// [`Error::Memory`] where there is none.
    pub fn read(&self, gpa: u64, bytes: &mut [u8]) -> Result<(), Error> {
        self.memory
            .read_slice(bytes, GuestAddress(gpa))
            .map_err(|e| Error::Memory(e.to_string()))
    }

    /// Where guest-physical `gpa` lies in this process.
    ///
    /// # Errors
    ///
    /// [`Error::Memory`] where there is no memory.
    pub fn host_address(&self, gpa: u64) -> Result<u64, Error> {
        self.memory
            .get_host_address(GuestAddress(gpa))
            .map(|host| host as u64)
            .map_err(|e| Error::Memory(e.to_string()))
    }

    /// Loads `guest` and makes `vcpu` enter it in real mode.
    ///
    /// A vCPU starts as a CPU does after reset (SDM vol. 3, table 10-1), at 16 bytes below 4 GiB.
    /// Here only CS and RIP are changed, which is what a firmware's jump to a boot sector does.
    ///
    /// # Errors
    ///
    /// [`Error::Ioctl`] or [`Error::Memory`].
    pub fn start_real_mode(&self, vcpu: &VcpuFd, guest: &Guest) -> Result<(), Error> {
        self.write(LOAD_ADDRESS, guest.image())?;
        let mut sregs = vcpu
            .get_sregs()
            .map_err(|e| Error::Ioctl("KVM_GET_SREGS", e))?;
        sregs.cs.selector = 0;
        sregs.cs.base = 0;
        vcpu.set_sregs(&sregs)
            .map_err(|e| Error::Ioctl("KVM_SET_SREGS", e))?;
        enter_at_load_address(vcpu)
    }

    /// Loads `guest` and makes `vcpu` enter it in 64-bit mode, ring 0, with the lowest 4 GiB
    /// mapped to themselves and usable by ring 3.
    ///
    /// Setting up such a state is one of a VMM's duties: the kernel takes these registers as they
    /// are and puts them into the VMCS's guest-state area, tables in memory and all.
    ///
    /// # Errors
    ///
    /// [`Error::Ioctl`] or [`Error::Memory`].
    pub fn start_long_mode(&self, vcpu: &VcpuFd, guest: &Guest) -> Result<(), Error> {
        self.write(LOAD_ADDRESS, guest.image())?;
        for (gpa, entry) in identity_tables() {
            self.write(gpa, &entry.to_le_bytes())?;
        }
        let code = 0x00af_9b00_0000_ffff_u64;
        let data = 0x00cf_9300_0000_ffff_u64;
        for (index, descriptor) in [0, code, data].into_iter().enumerate() {
            self.write(GDT + 8 * index as u64, &descriptor.to_le_bytes())?;
        }

        let mut sregs = vcpu
            .get_sregs()
            .map_err(|e| Error::Ioctl("KVM_GET_SREGS", e))?;
        let flat = kvm_segment {
            limit: u32::MAX,
            present: 1,
            s: 1,
            g: 1,
            selector: 0x10,
            type_: 0x3, // data, writable, accessed
            db: 1,
            ..Default::default()
        };
        let code = kvm_segment {
            selector: 0x08,
            type_: 0xb, // code, readable, accessed
            db: 0,
            l: 1,
            ..flat
        };
        sregs.cs = code;
        (sregs.ds, sregs.es, sregs.ss) = (flat, flat, flat);
        (sregs.fs, sregs.gs) = (flat, flat);
        sregs.gdt = kvm_dtable {
            base: GDT,
            limit: 3 * 8 - 1,
            ..Default::default()
        };
        sregs.cr3 = LONG_MODE_TABLES;
        sregs.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
        sregs.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_PG;
        sregs.efer = EFER_LME | EFER_LMA;
        vcpu.set_sregs(&sregs)
            .map_err(|e| Error::Ioctl("KVM_SET_SREGS", e))?;
        enter_at_load_address(vcpu)
    }
}

const CR0_PE: u64 = 1 << 0;
const CR0_MP: u64 = 1 << 1;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

fn enter_at_load_address(vcpu: &VcpuFd) -> Result<(), Error> {
    let mut regs = vcpu
        .get_regs()
        .map_err(|e| Error::Ioctl("KVM_GET_REGS", e))?;
    regs.rip = LOAD_ADDRESS;
    regs.rsp = LOAD_ADDRESS;
    regs.rflags = 2; // bit 1 is always set
    vcpu.set_regs(&regs)
        .map_err(|e| Error::Ioctl("KVM_SET_REGS", e))
}

/// The entries of page tables at [`LONG_MODE_TABLES`] that map the lowest 4 GiB to themselves with
/// 2 MiB pages: where each lies, and its value.
fn identity_tables() -> impl Iterator<Item = (u64, u64)> {
    const PRESENT_WRITABLE_USER: u64 = 0x7;
    const LARGE: u64 = 0x80;
    let pointers = LONG_MODE_TABLES + PAGE;
    let directories = LONG_MODE_TABLES + 2 * PAGE;
    let root = (LONG_MODE_TABLES, pointers | PRESENT_WRITABLE_USER);
    let second = (0..4).map(move |i| {
        (
            pointers + 8 * i,
            (directories + PAGE * i) | PRESENT_WRITABLE_USER,
        )
    });
    let third = (0..4 * 512).map(move |i| {
        (
            directories + 8 * i,
            (i << 21) | LARGE | PRESENT_WRITABLE_USER,
        )
    });
    std::iter::once(root).chain(second).chain(third)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Walks the tables as a CPU would.
    fn translate(tables: &BTreeMap<u64, u64>, address: u64) -> Option<u64> {
        let frame = |entry: u64| entry & 0x000f_ffff_ffff_f000;
        let entry = |table: u64, shift: u32| {
            tables
                .get(&(table + 8 * ((address >> shift) & 511)))
                .copied()
                .filter(|e| e & 1 != 0)
        };
        let pointers = frame(entry(LONG_MODE_TABLES, 39)?);
        let directory = frame(entry(pointers, 30)?);
        let page = entry(directory, 21)?;
        Some(frame(page) + (address & 0x1f_ffff))
    }

    #[test]
    fn identity_tables_map_4_gib_and_no_more() {
        let tables: BTreeMap<u64, u64> = identity_tables().collect();
        for address in [0, LOAD_ADDRESS, 0x10_0000, 0xd000_0010, 0xffff_ffff] {
            assert_eq!(translate(&tables, address), Some(address), "{address:#x}");
        }
        assert_eq!(translate(&tables, 1 << 32), None);
    }

    #[test]
    fn tables_keep_clear_of_the_gdt_and_the_guest() {
        let last = identity_tables().map(|(gpa, _)| gpa).max().unwrap();
        assert!(last < GDT);
        const { assert!(GDT + PAGE <= 0x2_0000, "where the guests' own tables begin") };
    }
}
