// SPDX-License-Identifier: GPL-2.0
//! What of this thread's processor state a VM could spoil or show: it has values here that nothing
//! else has, and is compared after KVM_RUN.

mod msrs;
mod watch;

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count, __rdtscp};
use std::os::fd::RawFd;

use crate::calls;
use crate::random::Random;
use msrs::Msrs;
use watch::Watch;

/// Room for all that XSAVE can save on processors that there are.
const XSAVE_LEN: usize = 12 * 1024;

#[repr(align(64))]
struct Area([u8; XSAVE_LEN]);

/// A state component of XSAVE: its number, where it lies, its bytes.
struct Component(u32, usize, usize);

/// The values, and room for what they are found to be afterwards.
pub struct Canary {
    before: Box<Area>,
    after: Box<Area>,
    mask: u64,
    components: Vec<Component>,
    has_rdtscp: bool,
    /// What the debug registers of guests point to: a trap here is a leak.
    trap: Box<u64>,
    msrs: &'static Msrs,
    /// None before they are asked for: they are at addresses of which a process has one each.
    watch: Option<Watch>,
}

/// What is compared beside XSAVE.
#[derive(PartialEq, Eq, Debug)]
struct Others {
    fs: u64,
    gs: u64,
    /// DS, ES, FS, GS, LDTR and TR.
    selectors: [u16; 6],
    /// Direction, alignment check, nested task, trap, interrupts, I/O privilege level.
    flags: u64,
    /// Not the IDT's, which exits leave at 64 KiB: there are no vectors behind its end.
    gdt_limit: u16,
    /// The lower half of CR0.
    machine_status: u16,
}

const PKRU: u32 = 9;
const ARCH_SET_GS: i32 = 0x1001;
const ARCH_GET_FS: i32 = 0x1003;
const ARCH_GET_GS: i32 = 0x1004;
/// A base of GS that no thread has: nothing uses it.
const GS: u64 = 0x1234_5678_9000;

fn xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads XCR0, where CPUID has said that there is one.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem)) };
    u64::from(high) << 32 | u64::from(low)
}

fn base(which: i32) -> u64 {
    let mut value = 0u64;
    // SAFETY: the kernel writes one u64.
    unsafe { libc::syscall(libc::SYS_arch_prctl, which, &raw mut value) };
    value
}

impl Others {
    fn now() -> Self {
        const FLAGS: u64 = 1 << 8 | 1 << 9 | 1 << 10 | 3 << 12 | 1 << 14 | 1 << 18;
        let mut selectors = [0u16; 6];
        let machine_status: u16;
        let flags: u64;
        let mut gdt = [0u16; 5];
        // SAFETY: reads registers. The kernel answers for those that CR4.UMIP forbids.
        unsafe {
            asm!(
                "mov {0:x}, ds", "mov {1:x}, es", "mov {2:x}, fs", "mov {3:x}, gs",
                "sldt {4:x}", "str {5:x}", "smsw {6:x}",
                out(reg) selectors[0], out(reg) selectors[1], out(reg) selectors[2],
                out(reg) selectors[3], out(reg) selectors[4], out(reg) selectors[5],
                out(reg) machine_status,
                options(nomem, nostack),
            );
            asm!(
                "pushfq", "pop {0}", "sgdt [{1}]",
                out(reg) flags, in(reg) gdt.as_mut_ptr(),
            );
        }
        Self {
            fs: base(ARCH_GET_FS),
            gs: base(ARCH_GET_GS),
            selectors,
            flags: flags & FLAGS,
            gdt_limit: gdt[0],
            machine_status,
        }
    }
}

/// Notes what is the host's own. Called before there are guests, where others than this thread run
/// them: another CPU may have a guest's MSRs while it is in the kernel.
pub fn prepare() {
    Msrs::at_first();
}

impl Canary {
    /// Chooses values, and puts one in GS's base.
    pub fn new(random: &mut Random) -> Self {
        // SAFETY: there is CPUID, and what it says of leaf 0DH counts with XSAVE only.
        let (features, extended) = unsafe { (__cpuid(1), __cpuid(0x8000_0001)) };
        assert!(features.ecx & 1 << 27 != 0, "XSAVE is in use");
        let mask = xcr0();
        let mut components = vec![Component(0, 32, 128), Component(1, 160, 256)];
        for number in (2..63).filter(|n| mask & 1 << n != 0) {
            // SAFETY: as above.
            let leaf = unsafe { __cpuid_count(0xd, number) };
            components.push(Component(number, leaf.ebx as usize, leaf.eax as usize));
        }
        let mut before = Box::new(Area([0; XSAVE_LEN]));
        for Component(number, at, len) in &components {
            before.0[*at..*at + *len].copy_from_slice(&random.bytes(*len));
            if *number == 0 {
                // ST registers have 10 bytes each.
                before.0[*at..*at + *len]
                    .chunks_mut(16)
                    .for_each(|register| register[10..].fill(0));
            }
            if *number == PKRU {
                before.0[*at..*at + 8].copy_from_slice(&0x5555_5554u64.to_le_bytes());
            }
        }
        before.0[..2].copy_from_slice(&0x037eu16.to_le_bytes());
        before.0[24..28].copy_from_slice(&0x1fa0u32.to_le_bytes());
        before.0[512..520].copy_from_slice(&mask.to_le_bytes());
        // SAFETY: nothing in this program is addressed by GS.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, GS) };
        Self {
            before,
            after: Box::new(Area([0; XSAVE_LEN])),
            mask,
            components,
            has_rdtscp: extended.edx & 1 << 27 != 0,
            trap: Box::new(0),
            msrs: Msrs::at_first(),
            watch: None,
        }
    }

    /// What is compared, for people.
    pub fn describe(&self) -> String {
        let components: Vec<_> = self.components.iter().map(|c| c.0.to_string()).collect();
        let msrs = self.msrs.names();
        format!(
            "XSAVE {}, four breakpoints, {} MSRs ({})",
            components.join(" "),
            msrs.len(),
            msrs.join(" ")
        )
    }

    /// Begins another guest: the thread has breakpoints, or none.
    pub fn begin(&mut self, breakpoints: bool) {
        self.watch.get_or_insert_with(Watch::new).set(breakpoints);
    }

    /// What is compared once for each guest.
    pub fn end(&self) -> Result<(), String> {
        self.msrs.check_rarely()
    }

    /// Where guests' debug registers point.
    pub fn trap_address(&self) -> u64 {
        &raw const *self.trap as u64
    }

    /// KVM_RUN with the values in the registers. Returns what the call returned, and what was not as
    /// it had been.
    pub fn run(&mut self, fd: RawFd) -> (i64, Result<(), String>) {
        let others = Others::now();
        let mut result = libc::SYS_ioctl;
        let (low, high) = (self.mask as u32, (self.mask >> 32) as u32);
        // SAFETY: the areas are aligned and have room for what the mask has; all registers that
        // XRSTOR changes are declared; KVM_RUN writes to no memory of ours but what was mapped for it.
        unsafe {
            asm!(
                "mov r12, rax",
                "mov eax, r8d",
                "mov edx, r9d",
                "xrstor64 [r13]",
                "mov rax, r12",
                "xor edx, edx",
                "syscall",
                "mov r12, rax",
                "mov eax, r8d",
                "mov edx, r9d",
                "xsave64 [r14]",
                "fninit",
                "push 0x1f80",
                "ldmxcsr [rsp]",
                "pop rax",
                "vzeroall",
                "mov rax, r12",
                inout("rax") result,
                in("rdi") fd as i64,
                in("rsi") calls::RUN,
                in("r8") u64::from(low),
                in("r9") u64::from(high),
                in("r13") self.before.0.as_ptr(),
                in("r14") self.after.0.as_mut_ptr(),
                out("r12") _, out("rdx") _, out("rcx") _, out("r11") _,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _,
                out("xmm5") _, out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _,
                out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _, out("xmm14") _,
                out("xmm15") _,
                out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _, out("st(4)") _,
                out("st(5)") _, out("st(6)") _, out("st(7)") _,
            );
        }
        (result, self.check(&others))
    }

    fn check(&mut self, others: &Others) -> Result<(), String> {
        let now = Others::now();
        if *others != now {
            return Err(format!("before {others:x?}, after {now:x?}"));
        }
        let same = |at: usize, len| self.before.0[at..at + len] == self.after.0[at..at + len];
        if !same(0, 2) || !same(24, 4) {
            return Err("the x87 control word or MXCSR".into());
        }
        for Component(number, at, len) in &self.components {
            if !same(*at, *len) {
                return Err(format!("XSAVE's component {number}"));
            }
        }
        // A leaked watchpoint traps here.
        let trap = &raw mut *self.trap;
        // SAFETY: our own variable.
        unsafe { trap.write_volatile(trap.read_volatile() + 1) };
        if self.has_rdtscp {
            self.check_cpu_number()?;
        }
        self.watch.as_mut().map_or(Ok(()), Watch::check)?;
        self.msrs.check_often()
    }

    /// Linux has the CPU's number in IA32_TSC_AUX.
    fn check_cpu_number(&self) -> Result<(), String> {
        // A thread may be moved in between.
        let mut last = String::new();
        for _ in 0..3 {
            let (mut aux, mut cpu) = (0, 0u32);
            // SAFETY: there is RDTSCP; the kernel writes a u32.
            unsafe {
                __rdtscp(&mut aux);
                let null = std::ptr::null_mut::<u32>();
                libc::syscall(libc::SYS_getcpu, &raw mut cpu, null, null);
            }
            if aux & 0xfff == cpu {
                return Ok(());
            }
            last = format!("IA32_TSC_AUX is {aux:x} on CPU {cpu}");
        }
        Err(last)
    }
}
