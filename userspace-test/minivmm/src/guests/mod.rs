// SPDX-License-Identifier: GPL-2.0

//! Small guests of our own: machine code that shows one concept each and checks itself.
//!
//! A guest is assembled by rustc's own assembler (`global_asm!`) into read-only data of minivmm,
//! between two symbols, and copied into guest memory from there. The VMM never executes it: it is
//! data to us and code to the vCPU. Nothing but cargo is needed to build it.
//!
//! minivmm's linker decides where the *data* lies, so a guest must not use its labels as
//! addresses. Each guest defines `NAME.org` such that `label - NAME.org` is the guest-physical
//! address of `label` once the image is loaded at [`LOAD_ADDRESS`]; jumps and calls are relative
//! and need nothing.
//!
//! Labels of all guests share one name space (the assembler sees one file), so each guest's begin
//! with its name.
//!
//! # How a guest talks
//!
//! A guest reports by OUT, the one instruction that works alike in every mode and always ends in
//! the VMM: see [`ports`].

mod error;
mod machine;
mod session;

pub mod affinity;
pub mod hypercall;
pub mod interrupt_probe;
pub mod isolation;
pub mod long_mode;
pub mod mmio;
pub mod pae;
pub mod page_writer;
pub mod paging32;
pub mod port_io;
pub mod probe;
pub mod protected_mode;
pub mod real_mode;
pub mod rings;
pub mod threads;

pub use error::Error;
pub use machine::Machine;
pub use session::{Devices, Ended, NoDevices, Session};

/// Guest-physical address every guest is loaded at and entered at: where a PC's firmware puts a
/// boot sector. The stack grows down from here.
pub const LOAD_ADDRESS: u64 = 0x7c00;

/// The ports a guest reports to. All are below 0x100, so that `out` can name them directly.
pub mod ports {
    /// 32 bits: the value a check is about, for people to read. A [`CHECK`] follows.
    pub const SEEN: u16 = 0xf0;
    /// 8 bits: the guest's own verdict on the value just shown, 1 for right and 0 for wrong.
    pub const CHECK: u16 = 0xf1;
    /// 32 bits: a measurement, which is neither right nor wrong.
    pub const NOTE: u16 = 0xf2;
    /// 8 bits: a marker. The VMM counts the exits between two of them.
    pub const MARK: u16 = 0xf3;
    /// 8 bits: the guest has nothing more to show.
    pub const DONE: u16 = 0xf4;
    /// 8 bits: the guest waits for the other thread, see the guests that run two at a time.
    pub const TURN: u16 = 0xf5;
}

/// Something a guest looks at, in words.
#[derive(Clone, Copy, Debug)]
pub struct Subject {
    /// What it is.
    pub what: &'static str,
    /// Whether the value is a number of things, rather than bits or an address.
    pub counts: bool,
}

/// A subject whose value is a number of things.
const fn number(what: &'static str) -> Subject {
    Subject { what, counts: true }
}

/// A subject whose value is bits, an address or data, best read in hexadecimal.
const fn bits(what: &'static str) -> Subject {
    Subject {
        what,
        counts: false,
    }
}

/// A guest: its name and where this program's read-only data holds its machine code.
#[derive(Debug)]
pub struct Guest {
    /// The prefix of its labels.
    pub name: &'static str,
    /// The image's first byte and the byte after its last. A function, because no constant can
    /// hold an address that only the linker knows.
    bounds: fn() -> (*const u8, *const u8),
}

impl Guest {
    /// The machine code, to be loaded at [`LOAD_ADDRESS`].
    pub fn image(&self) -> &'static [u8] {
        let (start, end) = (self.bounds)();
        // SAFETY: Only `guest!` makes a `Guest`. Its two symbols are defined in this order in one
        // section, around bytes that live as long as the program and are never written.
        unsafe { std::slice::from_raw_parts(start, end.offset_from(start) as usize) }
    }
}

/// Assembles a guest and names its image.
///
/// Besides the guest's own instructions there are three macros: `expect WANT` shows EAX and checks
/// that it is WANT (the rest of EAX is lost), `note` shows EAX, `done` ends the guest.
macro_rules! guest {
    ($(#[$doc:meta])* $NAME:ident, $label:literal, $asm:expr $(, $operand:ident = const $value:expr)* $(,)?) => {
        $(#[$doc])*
        pub static $NAME: $crate::guests::Guest = {
            extern "C" {
                #[link_name = concat!("guest.", $label, ".start")]
                static START: u8;
                #[link_name = concat!("guest.", $label, ".end")]
                static END: u8;
            }
            $crate::guests::Guest {
                name: $label,
                bounds: || (&raw const START, &raw const END),
            }
        };

        core::arch::global_asm!(
            concat!(
                ".pushsection .rodata.guest.", $label, ", \"a\", @progbits\n",
                ".balign 16\n",
                ".globl guest.", $label, ".start\n",
                ".globl guest.", $label, ".end\n",
                ".macro expect want:req\n",
                "    outl %eax, ${SEEN}\n",
                "    cmpl $(\\want), %eax\n",
                "    sete %al\n",
                "    outb %al, ${CHECK}\n",
                ".endm\n",
                ".macro note\n",
                "    outl %eax, ${NOTE}\n",
                ".endm\n",
                ".macro done\n",
                "    outb %al, ${DONE}\n",
                ".endm\n",
                "guest.", $label, ".start:\n",
                ".set ", $label, ".org, guest.", $label, ".start - {LOAD}\n",
            ),
            $asm,
            concat!(
                "\n",
                "guest.", $label, ".end:\n",
                ".purgem expect\n",
                ".purgem note\n",
                ".purgem done\n",
                ".code64\n",
                ".popsection\n",
            ),
            SEEN = const $crate::guests::ports::SEEN,
            CHECK = const $crate::guests::ports::CHECK,
            NOTE = const $crate::guests::ports::NOTE,
            DONE = const $crate::guests::ports::DONE,
            LOAD = const $crate::guests::LOAD_ADDRESS,
            $($operand = const $value,)*
            options(att_syntax)
        );
    };
}
use guest;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::layout;
    use std::collections::HashSet;

    fn all() -> Vec<&'static Guest> {
        let mut guests = vec![
            &real_mode::REAL_MODE,
            &protected_mode::PROTECTED_MODE,
            &paging32::PAGING32,
            &pae::PAE,
            &long_mode::LONG_MODE,
            &rings::RINGS,
            &hypercall::HYPERCALL,
            &port_io::PORT_IO,
            &mmio::MMIO,
            &isolation::ISOLATION,
            &threads::THREADS,
        ];
        guests.extend(probe::ALL.iter().map(|probe| probe.guest));
        guests.extend(interrupt_probe::ALL.iter().map(|probe| probe.guest));
        guests
    }

    #[test]
    fn images_are_whole_and_fit_below_the_tables() {
        for guest in all() {
            let image = guest.image();
            assert!(image.len() > 16, "{} is {} bytes", guest.name, image.len());
            let end = LOAD_ADDRESS + image.len() as u64;
            assert!(
                end <= layout::PAGE_TABLES.0,
                "{} ends at {end:#x}",
                guest.name
            );
        }
    }

    #[test]
    fn every_guest_can_end() {
        let done = [0xe6, ports::DONE as u8]; // out %al, $DONE
        for guest in all() {
            let found = guest.image().windows(2).any(|bytes| bytes == done);
            assert!(found, "{} never says that it is done", guest.name);
        }
    }

    #[test]
    fn every_promised_check_is_in_the_code() {
        let check = [0xe6, ports::CHECK as u8];
        for (guest, checks) in [
            (&real_mode::REAL_MODE, real_mode::CHECKS),
            (&protected_mode::PROTECTED_MODE, protected_mode::CHECKS),
            (&paging32::PAGING32, paging32::CHECKS),
            (&pae::PAE, pae::CHECKS),
            (&long_mode::LONG_MODE, long_mode::CHECKS),
            (&rings::RINGS, rings::CHECKS),
            (&hypercall::HYPERCALL, hypercall::CHECKS),
            (&port_io::PORT_IO, port_io::CHECKS),
            (&mmio::MMIO, mmio::CHECKS),
            (&isolation::ISOLATION, isolation::CHECKS),
            (&threads::THREADS, threads::CHECKS),
        ] {
            let coded = guest
                .image()
                .windows(2)
                .filter(|bytes| *bytes == check)
                .count();
            assert_eq!(coded, checks.len(), "{}", guest.name);
        }
    }

    #[test]
    fn names_are_unique() {
        let names: HashSet<_> = all().iter().map(|guest| guest.name).collect();
        assert_eq!(names.len(), all().len());
    }

    #[test]
    fn labels_become_guest_physical_addresses() {
        // The real-mode guest's third data reference stores its handler's address: C7 06, the
        // place (vector 21h), the address.
        let image = real_mode::REAL_MODE.image();
        let store = image
            .windows(4)
            .position(|b| b == [0xc7, 0x06, 0x84, 0x00])
            .expect("store");
        let address = u16::from_le_bytes([image[store + 4], image[store + 5]]);
        let handler = usize::from(address) - LOAD_ADDRESS as usize;
        assert_eq!(image[handler..handler + 2], [0x89, 0xe9], "mov %bp, %cx");
    }
}
