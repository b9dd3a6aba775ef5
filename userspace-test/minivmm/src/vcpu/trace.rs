// SPDX-License-Identifier: GPL-2.0

//! A line for each exit (`--trace`).

use std::fmt::Write;

use super::exit::{Direction, Exit, Pio};

/// Bytes of a string instruction that are shown.
const SHOWN: usize = 16;

/// Describes one exit: of which vCPU, its number, what it was, and where the guest was.
///
/// `data` are the bytes of an access to a port or to memory-mapped registers, after it has been
/// served.
pub fn line(cpu: usize, number: u64, exit: &Exit, data: &[u8], rip: Option<u64>) -> String {
    let mut line = format!("vcpu{cpu} #{number} {}", describe(exit, data));
    match rip {
        Some(rip) => write!(line, " rip={rip:#x}"),
        None => write!(line, " rip=?"),
    }
    .expect("a string takes everything");
    line
}

/// What an exit was, in words.
pub fn describe(exit: &Exit, data: &[u8]) -> String {
    match exit {
        Exit::Io(pio) => describe_pio(pio, data),
        Exit::MmioRead { address } => describe_mmio("read", *address, data),
        Exit::MmioWrite { address } => describe_mmio("write", *address, data),
        Exit::IoapicEoi { vector } => format!("IOAPIC_EOI vector {vector:#x}"),
        Exit::SetTpr => "SET_TPR".into(),
        Exit::Halt => "HLT".into(),
        Exit::InterruptWindow => "IRQ_WINDOW_OPEN".into(),
        Exit::Interrupted => "INTR".into(),
        Exit::Shutdown => "SHUTDOWN (triple fault)".into(),
        Exit::FailEntry { reason, cpu } => {
            format!(
                "FAIL_ENTRY hardware reason {reason:#x} on CPU {cpu}{}",
                fail_entry(*reason)
            )
        }
        Exit::InternalError(error) => {
            let mut text = format!("INTERNAL_ERROR {}", suberror(error.suberror));
            if !error.instruction.is_empty() {
                write!(text, ", instruction {}", hex(&error.instruction))
                    .expect("a string takes everything");
            }
            for (index, word) in error.data.iter().enumerate() {
                write!(text, " data[{index}]={word:#x}").expect("a string takes everything");
            }
            text
        }
        Exit::Other(reason) => format!("{} ({reason})", name(*reason)),
    }
}

fn describe_pio(pio: &Pio, data: &[u8]) -> String {
    let direction = match pio.direction {
        Direction::In => "in",
        Direction::Out => "out",
    };
    let access = format!("IO {direction} {:#x} {}", pio.port, bytes(pio.width));
    if pio.count == 1 {
        return format!("{access} {}", value(data));
    }
    let shown = &data[..data.len().min(SHOWN)];
    let more = if shown.len() < data.len() { " .." } else { "" };
    format!("{access} x {} [{}{more}]", pio.count, hex(shown))
}

fn describe_mmio(what: &str, address: u64, data: &[u8]) -> String {
    format!(
        "MMIO {what} {address:#x} {} {}",
        bytes(data.len()),
        value(data)
    )
}

/// A little-endian number, and the character it may be.
fn value(data: &[u8]) -> String {
    let number = data
        .iter()
        .rev()
        .fold(0u64, |number, byte| (number << 8) | u64::from(*byte));
    match data {
        [byte] if byte.is_ascii_graphic() || *byte == b' ' => {
            format!("{number:#x} '{}'", char::from(*byte))
        }
        _ => format!("{number:#x}"),
    }
}

fn bytes(count: usize) -> String {
    format!("{count} byte{}", if count == 1 { "" } else { "s" })
}

fn hex(bytes: &[u8]) -> String {
    let bytes: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(" ")
}

/// KVM_INTERNAL_ERROR_*.
fn suberror(number: u32) -> String {
    let name = match number {
        1 => "EMULATION: an instruction KVM cannot emulate",
        2 => "SIMUL_EX: exceptions one upon the other",
        3 => "DELIVERY_EV: an exit while an event was being delivered",
        4 => "UNEXPECTED_EXIT_REASON: an exit KVM does not know",
        _ => return format!("suberror {number}"),
    };
    name.into()
}

/// What a VT-x processor means by a failed entry (SDM vol. 3, 28.8): bit 31 and a basic reason.
fn fail_entry(reason: u64) -> &'static str {
    match reason {
        0x8000_0021 => " (invalid guest state)",
        0x8000_0022 => " (MSR loading)",
        0x8000_0029 => " (machine check)",
        7 => " (VM entry with invalid control fields)",
        8 => " (VM entry with invalid host state)",
        _ => "",
    }
}

/// KVM_EXIT_*, those that x86 has.
fn name(reason: u32) -> &'static str {
    match reason {
        0 => "UNKNOWN",
        1 => "EXCEPTION",
        2 => "IO",
        3 => "HYPERCALL",
        4 => "DEBUG",
        5 => "HLT",
        6 => "MMIO",
        7 => "IRQ_WINDOW_OPEN",
        8 => "SHUTDOWN",
        9 => "FAIL_ENTRY",
        10 => "INTR",
        11 => "SET_TPR",
        12 => "TPR_ACCESS",
        16 => "NMI",
        17 => "INTERNAL_ERROR",
        24 => "SYSTEM_EVENT",
        26 => "IOAPIC_EOI",
        27 => "HYPERV",
        29 => "X86_RDMSR",
        30 => "X86_WRMSR",
        31 => "DIRTY_RING_FULL",
        33 => "X86_BUS_LOCK",
        37 => "NOTIFY",
        39 => "MEMORY_FAULT",
        _ => "an exit of unknown kind",
    }
}

#[cfg(test)]
mod tests {
    use super::super::exit::InternalError;
    use super::*;

    fn pio(direction: Direction, width: usize, count: usize) -> Exit {
        Exit::Io(Pio {
            direction,
            port: 0x3f8,
            width,
            count,
        })
    }

    #[test]
    fn a_port_access_is_shown_with_its_value() {
        assert_eq!(
            line(3, 12, &pio(Direction::Out, 1, 1), b"A", Some(0x7c05)),
            "vcpu3 #12 IO out 0x3f8 1 byte 0x41 'A' rip=0x7c05"
        );
        assert_eq!(
            describe(&pio(Direction::In, 4, 1), &[0x78, 0x56, 0x34, 0x12]),
            "IO in 0x3f8 4 bytes 0x12345678"
        );
    }

    #[test]
    fn a_string_access_is_shown_in_part() {
        assert_eq!(
            describe(&pio(Direction::Out, 2, 2), &[1, 2, 3, 4]),
            "IO out 0x3f8 2 bytes x 2 [01 02 03 04]"
        );
        let long = describe(&pio(Direction::Out, 1, 100), &[0xaa; 100]);
        assert!(long.ends_with("aa ..]") && long.len() < 90, "{long}");
    }

    #[test]
    fn an_internal_error_shows_its_instruction() {
        let error = InternalError {
            suberror: 1,
            data: vec![1],
            instruction: vec![0x0f, 0xff],
        };
        let text = describe(&Exit::InternalError(error), &[]);
        assert!(
            text.contains("EMULATION") && text.contains("instruction 0f ff"),
            "{text}"
        );
    }

    #[test]
    fn a_failed_entry_is_explained() {
        let text = describe(
            &Exit::FailEntry {
                reason: 0x8000_0021,
                cpu: 1,
            },
            &[],
        );
        assert!(
            text.contains("invalid guest state") && text.contains("CPU 1"),
            "{text}"
        );
    }

    #[test]
    fn an_unknown_place_is_said() {
        assert_eq!(line(0, 1, &Exit::Halt, &[], None), "vcpu0 #1 HLT rip=?");
    }

    #[test]
    fn an_access_to_registers_is_shown_with_its_value() {
        let exit = Exit::MmioWrite {
            address: 0xfec0_0010,
        };
        assert_eq!(
            describe(&exit, &[0x10, 0, 0, 0]),
            "MMIO write 0xfec00010 4 bytes 0x10"
        );
    }
}
