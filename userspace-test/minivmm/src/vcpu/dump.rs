// SPDX-License-Identifier: GPL-2.0

//! The state of a vCPU whose guest has died, for people to read.

use std::fmt::{self, Display, Formatter};

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Code bytes shown before RIP and from RIP on.
const BEFORE: u64 = 16;
const FROM: u64 = 32;

/// One byte of code, or why there is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum CodeByte {
    Is(u8),
    /// The guest's page tables do not map it, or there is no memory.
    Unmapped,
}

/// Registers and the code around RIP. What KVM does not tell is left out.
pub struct Dump {
    regs: Option<kvm_regs>,
    sregs: Option<kvm_sregs>,
    code: Vec<CodeByte>,
}

impl Dump {
    /// Reads the state of a vCPU.
    pub fn of(vcpu: &VcpuFd, memory: &GuestMemoryMmap) -> Self {
        let (regs, sregs) = (vcpu.get_regs().ok(), vcpu.get_sregs().ok());
        let code = match (&regs, &sregs) {
            (Some(regs), Some(sregs)) => {
                // The base counts outside 64-bit mode only, where KVM reports it as 0.
                let rip = sregs.cs.base.wrapping_add(regs.rip);
                (0..BEFORE + FROM)
                    .map(|index| {
                        let linear = rip.wrapping_sub(BEFORE).wrapping_add(index);
                        read_code(vcpu, memory, linear)
                    })
                    .collect()
            }
            _ => Vec::new(),
        };
        Self { regs, sregs, code }
    }
}

fn read_code(vcpu: &VcpuFd, memory: &GuestMemoryMmap, linear: u64) -> CodeByte {
    vcpu.translate_gva(linear)
        .ok()
        .filter(|translation| translation.valid != 0)
        .and_then(|translation| {
            memory
                .read_obj(GuestAddress(translation.physical_address))
                .ok()
        })
        .map_or(CodeByte::Unmapped, CodeByte::Is)
}

impl Display for Dump {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(regs) = &self.regs {
            write_registers(f, regs)?;
        }
        if let Some(sregs) = &self.sregs {
            write_system(f, sregs)?;
        }
        if !self.code.is_empty() {
            write_code(f, &self.code)?;
        }
        Ok(())
    }
}

fn write_registers(f: &mut Formatter<'_>, regs: &kvm_regs) -> fmt::Result {
    let rows = [
        [
            ("rax", regs.rax),
            ("rbx", regs.rbx),
            ("rcx", regs.rcx),
            ("rdx", regs.rdx),
        ],
        [
            ("rsi", regs.rsi),
            ("rdi", regs.rdi),
            ("rbp", regs.rbp),
            ("rsp", regs.rsp),
        ],
        [
            ("r8 ", regs.r8),
            ("r9 ", regs.r9),
            ("r10", regs.r10),
            ("r11", regs.r11),
        ],
        [
            ("r12", regs.r12),
            ("r13", regs.r13),
            ("r14", regs.r14),
            ("r15", regs.r15),
        ],
    ];
    for row in rows {
        for (name, value) in row {
            write!(f, "  {name} {value:016x}")?;
        }
        writeln!(f)?;
    }
    let flags = flags(regs.rflags).join(" ");
    writeln!(
        f,
        "  rip {:016x}  flags {:08x} {flags}",
        regs.rip, regs.rflags
    )
}

/// The names of the flags that are set.
fn flags(rflags: u64) -> Vec<&'static str> {
    const NAMES: [(u32, &str); 18] = [
        (0, "CF"),
        (2, "PF"),
        (4, "AF"),
        (6, "ZF"),
        (7, "SF"),
        (8, "TF"),
        (9, "IF"),
        (10, "DF"),
        (11, "OF"),
        (12, "IOPL&1"),
        (13, "IOPL&2"),
        (14, "NT"),
        (16, "RF"),
        (17, "VM"),
        (18, "AC"),
        (19, "VIF"),
        (20, "VIP"),
        (21, "ID"),
    ];
    NAMES
        .iter()
        .filter(|(bit, _)| (rflags >> bit) & 1 != 0)
        .map(|(_, name)| *name)
        .collect()
}

fn write_system(f: &mut Formatter<'_>, sregs: &kvm_sregs) -> fmt::Result {
    let segments = [
        ("cs", sregs.cs),
        ("ss", sregs.ss),
        ("ds", sregs.ds),
        ("es", sregs.es),
        ("fs", sregs.fs),
        ("gs", sregs.gs),
        ("tr", sregs.tr),
        ("ldt", sregs.ldt),
    ];
    for (name, segment) in segments {
        write_segment(f, name, &segment)?;
    }
    for (name, table) in [("gdt", sregs.gdt), ("idt", sregs.idt)] {
        let kvm_dtable { base, limit, .. } = table;
        writeln!(f, "  {name:<3}      base {base:016x} limit {limit:08x}")?;
    }
    writeln!(
        f,
        "  cr0 {:08x}  cr2 {:016x}  cr3 {:016x}  cr4 {:08x}  cr8 {:x}",
        sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4, sregs.cr8
    )?;
    writeln!(
        f,
        "  efer {:08x}  apic base {:016x}",
        sregs.efer, sregs.apic_base
    )
}

fn write_segment(f: &mut Formatter<'_>, name: &str, segment: &kvm_segment) -> fmt::Result {
    if segment.unusable != 0 {
        return writeln!(f, "  {name:<3} {:04x} unusable", segment.selector);
    }
    let bits = match (segment.l, segment.db) {
        (1, _) => 64,
        (_, 1) => 32,
        _ => 16,
    };
    writeln!(
        f,
        "  {name:<3} {:04x} base {:016x} limit {:08x} type {:x}{} dpl {} {bits}-bit{}",
        segment.selector,
        segment.base,
        segment.limit,
        segment.type_,
        if segment.s == 0 { " system" } else { "" },
        segment.dpl,
        if segment.present == 0 {
            " not present"
        } else {
            ""
        },
    )
}

fn write_code(f: &mut Formatter<'_>, code: &[CodeByte]) -> fmt::Result {
    write!(f, "  code")?;
    for (index, byte) in code.iter().enumerate() {
        let text = match byte {
            CodeByte::Is(byte) => format!("{byte:02x}"),
            CodeByte::Unmapped => "??".into(),
        };
        if index as u64 == BEFORE {
            write!(f, " <{text}>")?;
        } else {
            write!(f, " {text}")?;
        }
    }
    writeln!(f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_at_rip_is_marked() {
        let mut code = vec![CodeByte::Is(0x90); (BEFORE + FROM) as usize];
        code[BEFORE as usize] = CodeByte::Is(0xf4);
        code[0] = CodeByte::Unmapped;
        let dump = Dump {
            regs: None,
            sregs: None,
            code,
        }
        .to_string();
        assert!(
            dump.starts_with("  code ?? 90") && dump.contains("90 <f4> 90"),
            "{dump}"
        );
    }

    #[test]
    fn flags_have_names() {
        assert_eq!(flags(0x246), ["PF", "ZF", "IF"]);
        assert!(flags(0x2).is_empty());
    }

    #[test]
    fn segments_say_their_size() {
        let sregs = kvm_sregs {
            cs: kvm_segment {
                selector: 0x10,
                l: 1,
                type_: 0xb,
                s: 1,
                present: 1,
                ..Default::default()
            },
            ss: kvm_segment {
                unusable: 1,
                ..Default::default()
            },
            ..Default::default()
        };
        let dump = Dump {
            regs: Some(kvm_regs::default()),
            sregs: Some(sregs),
            code: Vec::new(),
        }
        .to_string();
        assert!(
            dump.contains("cs  0010 base") && dump.contains("64-bit"),
            "{dump}"
        );
        assert!(dump.contains("ss  0000 unusable"), "{dump}");
    }

    #[test]
    fn what_kvm_does_not_tell_is_left_out() {
        let dump = Dump {
            regs: None,
            sregs: None,
            code: Vec::new(),
        };
        assert_eq!(dump.to_string(), "");
    }
}
