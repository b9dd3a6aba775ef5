// SPDX-License-Identifier: GPL-2.0
//! What a VMM has the kernel allocate is charged to the VMM's control group, so that its limit holds.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kvm_bindings::*;

use super::tests;
use crate::code64;
use crate::devices::*;
use crate::eventfd::Event;
use crate::expect;
use crate::guest::{layout, Guest};
use crate::harness::skip;
use crate::memory::{Mapping, LARGE_PAGE, PAGE};
use crate::request::*;
use crate::sys;
use crate::vm::{Slot, Vm};

tests! {
    "charges":
    vms, vcpus, tables, logs, routes, irqfds,
}

/// Where control groups are, version 2.
const ROOT: &str = "/sys/fs/cgroup";

/// A control group with this process in it.
struct Group(PathBuf);

impl Group {
    /// Skips the test where memory has no control groups.
    fn new() -> Self {
        let root = Path::new(ROOT);
        let controllers = root.join("cgroup.controllers");
        if !controllers.exists() && sys::mount("cgroup2", ROOT).is_err() {
            skip("the kernel has no control groups (CGROUPS)");
        }
        let there = fs::read_to_string(controllers).unwrap_or_default();
        if !there.split_whitespace().any(|name| name == "memory") {
            skip("memory has no control groups (MEMCG)");
        }
        fs::write(root.join("cgroup.subtree_control"), "+memory").expect("the root's controllers");
        let group = root.join(format!("systest-{}", std::process::id()));
        fs::create_dir(&group).expect("a new group");
        fs::write(group.join("cgroup.procs"), "0").expect("a process for the group");
        Self(group)
    }

    /// Bytes of the kernel's that are charged to it.
    fn charged(&self) -> u64 {
        let text = fs::read_to_string(self.0.join("memory.stat")).expect("memory.stat");
        let number = text.lines().find_map(|line| line.strip_prefix("kernel "));
        number
            .and_then(|number| number.parse().ok())
            .expect("a line of the kernel's memory")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::write(Path::new(ROOT).join("cgroup.procs"), "0");
        let _ = fs::remove_dir(&self.0);
    }
}

/// What `make` makes is charged with at least so many bytes, which are given back.
#[track_caller]
fn charged<T>(what: &str, least: usize, make: impl Fn() -> T) {
    /// Charges are made, and given back, several pages at once.
    const SLACK: u64 = 32 * PAGE as u64;
    let group = Group::new();
    drop(make());
    std::thread::sleep(Duration::from_millis(100));
    let before = group.charged();
    let made = make();
    let bytes = group.charged().saturating_sub(before) + SLACK;
    expect::that(
        &format!("{what}: charged with {bytes} bytes, of at least {least}"),
        bytes >= least as u64,
    );
    drop(made);
    for _ in 0..100 {
        if group.charged() <= before + SLACK {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!(
        "{what}: expected a charge of {before} again, got {}",
        group.charged()
    );
}

fn vms() {
    // The root of its tables, the bitmaps of ports and MSRs, and what is known of it.
    charged("64 VMs", 64 * 5 * PAGE, || {
        let guests = (0..64).map(|_| Vm::with_irqchip());
        guests.collect::<Vec<_>>()
    });
}

fn vcpus() {
    // The run page and the VMCS, and what is known of it.
    charged("64 vCPUs", 64 * 3 * PAGE, || {
        let vm = Vm::with_irqchip();
        let vcpus: Vec<_> = (0..64).map(|id| vm.create_vcpu(id)).collect();
        (vm, vcpus)
    });
}

/// A table for each 2 MiB of which a page is used.
fn tables() {
    const TABLES: usize = 256;
    charged("second-level tables", TABLES * PAGE, || {
        let guest = Guest::long(code64!(
            "mov ecx, 256",
            "2: mov eax, [rbx]",
            "add rbx, 0x200000",
            "loop 2b",
            "hlt"
        ));
        let memory = Mapping::anonymous(TABLES * LARGE_PAGE);
        guest.vm.add_memory(1, layout::EXTRA, &memory);
        guest.vcpu.set_regs(&kvm_regs {
            rbx: layout::EXTRA,
            ..guest.vcpu.regs()
        });
        guest.run_to_halt();
        (guest, memory)
    });
}

/// A bit for each page of a slot with a log.
fn logs() {
    const SIZE: usize = 4 << 30;
    charged("the log of a slot", SIZE / PAGE / 8, || {
        let vm = Vm::new();
        let memory = Mapping::anonymous(SIZE);
        let slot = Slot {
            flags: KVM_MEM_LOG_DIRTY_PAGES,
            ..Slot::of(0, 0, &memory)
        };
        expect::ok("a slot", vm.set_slot(slot));
        (vm, memory)
    });
}

fn routes() {
    let all: Vec<_> = (0..ROUTES as u32)
        .map(|gsi| Route::msi(gsi, msi_address(0), 0x41))
        .collect();
    charged("4096 routes", ROUTES * 48, || {
        let vm = Vm::with_irqchip();
        expect::ok("KVM_SET_GSI_ROUTING", vm.set_routes(&all));
        vm
    });
}

fn irqfds() {
    const EVENTS: usize = 2000;
    sys::allow_files(EVENTS as u64 + 64);
    let events: Vec<_> = (0..EVENTS).map(|_| Event::new()).collect();
    charged("2000 irqfds", EVENTS * 128, || {
        let vm = Vm::with_irqchip();
        for event in &events {
            let irqfd = kvm_irqfd {
                fd: event.fd() as u32,
                gsi: 4,
                ..kvm_irqfd::default()
            };
            expect::ok("KVM_IRQFD", vm.set(IRQFD, &irqfd));
        }
        vm
    });
}
