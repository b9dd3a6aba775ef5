// SPDX-License-Identifier: GPL-2.0
//! The module itself: what it shows in debugfs, and how it is unloaded and loaded. What only this
//! project's module shows is skipped on another.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use libc::{EAGAIN, ENODEV, ENOENT, ENXIO};

use super::tests;
use crate::code64;
use crate::expect;
use crate::guest::Guest;
use crate::harness::skip;
use crate::sys::{self, Errno};
use crate::vm::{Kvm, Vm};

tests! {
    "module":
    capabilities, directory_of_a_vm, directories_go, vmcs_dump, vmcs_dump_after_run,
    stays_while_in_use, unload_and_load(60), kernels_own_after_unload(60),
}

pub(super) const DEBUGFS: &str = "/sys/kernel/debug/kvm";
/// Where the lab keeps our module.
const OURS: &str = "/lab/kvm.ko";

/// Skips the test where another module is loaded.
fn only_ours() {
    if !Path::new("/sys/kernel/debug/kvm/vmx_capabilities").exists() {
        skip("the module that is loaded is not ours");
    }
}

/// The module's name in `/proc/modules`.
pub(super) fn name() -> &'static str {
    ["kvm_intel", "kvm_amd", "kvm"]
        .into_iter()
        .find(|name| Path::new("/sys/module").join(name).join("refcnt").exists())
        .unwrap_or_else(|| skip("KVM is no module here"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn capabilities() {
    only_ours();
    let text = read(format!("{DEBUGFS}/vmx_capabilities"));
    let value = |line: &str, key: &str| {
        let word = line
            .split_whitespace()
            .find_map(|word| word.strip_prefix(key));
        let word = word.unwrap_or_else(|| panic!("expected {key} in {line:?}"));
        let digits = word.trim_start_matches("0x");
        u32::from_str_radix(digits, 16).unwrap_or_else(|_| panic!("a number in {line:?}"))
    };
    let words: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("control "))
        .collect();
    expect::eq("control words", words.len(), 5);
    for line in words {
        let (one, may) = (value(line, "must_be_one="), value(line, "may_be_one="));
        let (wanted, got) = (value(line, "wanted="), value(line, "got="));
        expect::eq(&format!("{line}: what must be 1 is"), got & one, one);
        expect::eq(&format!("{line}: what must be 0 is"), got & !may, 0);
        let allowed = wanted & may;
        expect::eq(
            &format!("{line}: what is wanted and may be is"),
            got & allowed,
            allowed,
        );
    }
    for key in [
        "revision_id ",
        "misc ",
        "ept_vpid_cap ",
        "cr0_fixed ",
        "cr4_fixed ",
    ] {
        expect::that(
            &format!("a line of {key}"),
            text.lines().any(|line| line.starts_with(key)),
        );
    }
}

fn directory(vm: &Vm) -> PathBuf {
    PathBuf::from(format!(
        "{DEBUGFS}/{}-{}",
        std::process::id(),
        vm.as_raw_fd()
    ))
}

fn directory_of_a_vm() {
    only_ours();
    let vm = Vm::new();
    let place = directory(&vm);
    expect::that(&format!("{} is there", place.display()), place.is_dir());
    let _vcpus = [0, 1, 7].map(|id| vm.create_vcpu(id));
    for id in [0, 1, 7] {
        expect::that(
            &format!("vcpu{id}/vmcs"),
            place.join(format!("vcpu{id}/vmcs")).is_file(),
        );
    }
    expect::that("no other vCPU's", !place.join("vcpu2").exists());
}

fn directories_go() {
    only_ours();
    let place = {
        let vm = Vm::new();
        let _vcpu = vm.create_vcpu(0);
        directory(&vm)
    };
    expect::that("the directory is gone with its VM", !place.exists());
    let vm = Vm::new();
    let vcpu = vm.create_vcpu(0);
    let file = fs::File::open(directory(&vm).join("vcpu0/vmcs")).expect("the dump");
    drop(vcpu);
    drop(vm);
    // Reading what is left of it may fail and must do no harm.
    let _ = std::io::read_to_string(file);
    Guest::long(code64!("hlt")).run_to_halt();
}

/// The titles of the six groups and a field of each.
const GROUPS: [(&str, &str); 6] = [
    ("guest state", "rip"),
    ("host state", "rip"),
    ("execution controls", "pin"),
    ("exit controls", "exit"),
    ("entry controls", "entry"),
    ("exit information", "reason"),
];

/// The dump's groups, each with its lines.
fn groups(text: &str) -> Vec<(String, String)> {
    let mut groups: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        if !line.starts_with(' ') {
            groups.push((line.to_string(), String::new()));
        } else if let Some((_, lines)) = groups.last_mut() {
            lines.push_str(&line.to_lowercase());
            lines.push('\n');
        }
    }
    groups
}

fn vmcs_dump() {
    only_ours();
    let vm = Vm::new();
    let _vcpu = vm.create_vcpu(0);
    let text = read(directory(&vm).join("vcpu0/vmcs"));
    for (title, field) in GROUPS {
        let all = groups(&text);
        let group = all.iter().find(|(name, _)| name.contains(title));
        let Some((_, lines)) = group else {
            panic!("expected a group {title:?} in the dump")
        };
        expect::that(
            &format!("a field like {field} of {title}"),
            lines.contains(field),
        );
    }
}

fn vmcs_dump_after_run() {
    only_ours();
    let guest = Guest::long(code64!("2: hlt", "jmp 2b"));
    guest.run_to_halt();
    let text = read(directory(&guest.vm).join("vcpu0/vmcs"));
    let all = groups(&text);
    let (_, guest_state) = &all[0];
    let cr3 = format!("{:016x}", crate::guest::layout::PML4);
    expect::that(
        "the guest's CR3 in the guest state",
        guest_state.contains(&cr3),
    );
    guest.run_to_halt();
}

/// Asks the kernel to unload a module.
fn unload(name: &str) -> Result<(), Errno> {
    sys::delete_module(name)
}

#[track_caller]
fn command(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let words = String::from_utf8_lossy(&output.stderr);
    expect::that(
        &format!("{program} {arguments:?} succeeds ({words})"),
        output.status.success(),
    );
}

/// Unloads everything that is loaded of KVM; returns what loads it again.
#[track_caller]
pub(super) fn unload_all() -> impl Fn() {
    let vendor = name();
    let ours = vendor == "kvm";
    if ours && !Path::new(OURS).exists() {
        skip("where the module comes from is not known");
    }
    expect::ok("unload", unload(vendor));
    if !ours {
        expect::ok("unload kvm", unload("kvm"));
    }
    move || match ours {
        true => command("insmod", &[OURS]),
        false => command("modprobe", &[vendor]),
    }
}

#[track_caller]
fn expect_no_device() {
    let got = sys::open("/dev/kvm", libc::O_RDWR).map(|_| ());
    let gone = matches!(got, Err(Errno(ENOENT | ENODEV | ENXIO)));
    expect::that(&format!("no /dev/kvm (got {got:?})"), gone);
}

fn stays_while_in_use() {
    let name = name();
    let kvm = Kvm::open();
    if name == "kvm" {
        expect::errno("unload while /dev/kvm is open", unload(name), EAGAIN);
    }
    let guest = Guest::long(code64!("2: hlt", "jmp 2b"));
    drop(kvm);
    expect::errno("unload while a VM lives", unload(name), EAGAIN);
    let Guest { vcpu, vm, memory } = guest;
    drop(vm);
    expect::errno("unload while a vCPU lives", unload(name), EAGAIN);
    vcpu.expect_exit(crate::vcpu::Exit::Hlt);
    drop(vcpu);
    drop(memory);
}

fn unload_and_load() {
    for _ in 0..3 {
        let load = unload_all();
        expect_no_device();
        load();
        Guest::long(code64!("hlt")).run_to_halt();
    }
}

/// The kernel's own KVM refuses to start where CR4.VMXE was left set.
fn kernels_own_after_unload() {
    only_ours();
    let load = unload_all();
    command("modprobe", &["kvm-intel"]);
    Guest::long(code64!("hlt")).run_to_halt();
    expect::ok("unload kvm_intel", unload("kvm_intel"));
    expect::ok("unload kvm", unload("kvm"));
    load();
    Guest::long(code64!("hlt")).run_to_halt();
}
