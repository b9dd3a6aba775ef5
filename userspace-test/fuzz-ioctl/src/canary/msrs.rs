// SPDX-License-Identifier: GPL-2.0
//! The host's MSRs, as the kernel's msr device reads them.

use std::arch::x86_64::__cpuid_count;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use super::GS;

/// What a hypervisor gives to guests, or could: read after each KVM_RUN.
const OFTEN: &[(u32, &str)] = &[
    (0x174, "IA32_SYSENTER_CS"),
    (0x175, "IA32_SYSENTER_ESP"),
    (0x176, "IA32_SYSENTER_EIP"),
    (0x1d9, "IA32_DEBUGCTL"),
    (0xc000_0080, "IA32_EFER"),
    (0xc000_0081, "IA32_STAR"),
    (0xc000_0082, "IA32_LSTAR"),
    (0xc000_0083, "IA32_CSTAR"),
    (0xc000_0084, "IA32_FMASK"),
    (KERNEL_GS_BASE, "IA32_KERNEL_GS_BASE"),
    (TSC_AUX, "IA32_TSC_AUX"),
    (0x48, "IA32_SPEC_CTRL"),
    (0x277, "IA32_PAT"),
    (0xda0, "IA32_XSS"),
];

/// What only a wrong intercept would let a guest have: read after each guest.
const RARELY: &[(u32, &str)] = &[
    (0x1b, "IA32_APIC_BASE"),
    (0x3a, "IA32_FEATURE_CONTROL"),
    (0x3b, "IA32_TSC_ADJUST"),
    (0xe1, "IA32_UMWAIT_CONTROL"),
    (TSX_CTRL, "IA32_TSX_CTRL"),
    (0x140, "MISC_FEATURES_ENABLES"),
    (0x17a, "IA32_MCG_STATUS"),
    (0x1a0, "IA32_MISC_ENABLE"),
    (0x1c4, "IA32_XFD"),
    (0x1c5, "IA32_XFD_ERR"),
    (0x200, "IA32_MTRR_PHYSBASE0"),
    (0x201, "IA32_MTRR_PHYSMASK0"),
    (0x250, "IA32_MTRR_FIX64K_00000"),
    (0x268, "IA32_MTRR_FIX4K_C0000"),
    (0x2ff, "IA32_MTRR_DEF_TYPE"),
    (0x38f, "IA32_PERF_GLOBAL_CTRL"),
    (0x6a0, "IA32_U_CET"),
    (0x6a2, "IA32_S_CET"),
    (0x6a4, "IA32_PL0_SSP"),
    (0x6a7, "IA32_PL3_SSP"),
    (0xd90, "IA32_BNDCFGS"),
    (0x400, "IA32_MC0_CTL"),
];

/// Whether the processor has an MSR, as far as CPUID tells: emulators read any MSR as 0.
fn is_there(device: &File, index: u32) -> bool {
    // SAFETY: there is CPUID, and leaves that there are not say nothing of these bits.
    let leaf = |function, sub| unsafe { __cpuid_count(function, sub) };
    let bit = |word: u32, bit: u32| word & 1 << bit != 0;
    match index {
        0x3b => bit(leaf(7, 0).ebx, 1),
        0x48 => bit(leaf(7, 0).edx, 26),
        0xe1 => bit(leaf(7, 0).ecx, 5),
        TSX_CTRL => {
            let has_list = bit(leaf(7, 0).edx, 29);
            has_list && read(device, ARCH_CAPABILITIES).is_some_and(|list| list & 1 << 7 != 0)
        }
        0x38f => leaf(0xa, 0).eax & 0xff > 1,
        0x6a0..=0x6a7 => bit(leaf(7, 0).ecx, 7) || bit(leaf(7, 0).edx, 20),
        0xd90 => bit(leaf(7, 0).ebx, 14),
        0xda0 => bit(leaf(0xd, 1).eax, 3),
        0x1c4 | 0x1c5 => bit(leaf(0xd, 1).eax, 4),
        TSC_AUX => bit(leaf(0x8000_0001, 0).edx, 27),
        _ => true,
    }
}

/// While the kernel runs, this thread's own base of GS.
const KERNEL_GS_BASE: u32 = 0xc000_0102;
const TSC_AUX: u32 = 0xc000_0103;
const TSX_CTRL: u32 = 0x122;
const ARCH_CAPABILITIES: u32 = 0x10a;

/// How often an MSR is read that is another one's, or a thread is looked for that another CPU takes in
/// the middle. While this thread is in the kernel to read it, another may have run that has not
/// returned to user space yet: what KVM switches lazily is its guest's until then.
const TRIES: usize = 8;

/// The MSRs of each CPU, before there are guests.
pub struct Msrs(BTreeMap<i32, Cpu>);

struct Cpu {
    device: File,
    often: Vec<Msr>,
    rarely: Vec<Msr>,
}

struct Msr {
    index: u32,
    name: &'static str,
    value: u64,
}

fn read(device: &File, index: u32) -> Option<u64> {
    let mut value = [0; 8];
    device.read_exact_at(&mut value, index.into()).ok()?;
    Some(u64::from_le_bytes(value))
}

impl Cpu {
    fn new(device: File) -> Self {
        let known = |list: &[(u32, &'static str)]| {
            list.iter()
                .filter(|(index, _)| is_there(&device, *index))
                .filter_map(|&(index, name)| {
                    let value = match index {
                        KERNEL_GS_BASE => Some(GS),
                        _ => read(&device, index),
                    };
                    value.map(|value| Msr { index, name, value })
                })
                .collect()
        };
        Self {
            often: known(OFTEN),
            rarely: known(RARELY),
            device,
        }
    }

    fn check(&self, list: &[Msr]) -> Result<(), String> {
        for Msr { index, name, value } in list {
            let mut now = None;
            for _ in 0..TRIES {
                now = read(&self.device, *index);
                if now == Some(*value) {
                    break;
                }
            }
            match now {
                Some(now) if now == *value => {}
                Some(now) => return Err(format!("{name} was {value:#x}, is {now:#x}")),
                None => return Err(format!("{name} cannot be read any more")),
            }
        }
        Ok(())
    }
}

fn this_cpu() -> i32 {
    // SAFETY: has no arguments.
    unsafe { libc::sched_getcpu() }
}

impl Msrs {
    /// What they are when this is called first, before there are guests; child processes have it from
    /// their parent. Those that the processor does not have are not looked at.
    pub fn at_first() -> &'static Self {
        static FIRST: OnceLock<Msrs> = OnceLock::new();
        FIRST.get_or_init(Self::now)
    }

    fn now() -> Self {
        let open = |number| File::open(format!("/dev/cpu/{number}/msr")).ok();
        let cpus: BTreeMap<_, _> = (0..)
            .map_while(|number| Some((number, Cpu::new(open(number)?))))
            .collect();
        assert!(
            !cpus.is_empty(),
            "/dev/cpu/0/msr: the host's MSRs cannot be read (CONFIG_X86_MSR)"
        );
        Self(cpus)
    }

    /// What is looked at.
    pub fn names(&self) -> Vec<&'static str> {
        let cpu = self.0.values().next();
        cpu.map_or(Vec::new(), |cpu| {
            cpu.often
                .iter()
                .chain(&cpu.rarely)
                .map(|m| m.name)
                .collect()
        })
    }

    fn check(&self, list: impl Fn(&Cpu) -> &[Msr]) -> Result<(), String> {
        // Only where this thread runs is it certain that the kernel has put back what it gives to
        // guests lazily, and that KERNEL_GS_BASE is this thread's.
        for _ in 0..TRIES {
            let number = this_cpu();
            let Some(cpu) = self.0.get(&number) else {
                return Err(format!("CPU {number} has no MSRs"));
            };
            let found = cpu.check(list(cpu));
            if this_cpu() == number {
                return found;
            }
        }
        Ok(())
    }

    /// Compares what guests share most.
    pub fn check_often(&self) -> Result<(), String> {
        self.check(|cpu| &cpu.often)
    }

    /// Compares the others.
    pub fn check_rarely(&self) -> Result<(), String> {
        self.check(|cpu| &cpu.rarely)
    }
}
