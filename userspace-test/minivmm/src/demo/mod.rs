// SPDX-License-Identifier: GPL-2.0

//! `minivmm demo`: each concept of virtualisation by a small guest that checks itself.
//!
//! The guests are in [`crate::guests`], with what happens inside the machine. Here is the other
//! side: what the VMM does for each, and what it sees of it.

mod hypercall;
mod io;
mod isolation;
mod modes;
mod partner;
mod report;
mod rings;
mod statistics;
mod threads;

use std::process::ExitCode;

use kvm_ioctls::Kvm;

use crate::guests::Error;
use report::{Outcome, Report};

/// One demonstration.
struct Demo {
    /// What to call it on the command line.
    name: &'static str,
    /// The concept it shows.
    concept: &'static str,
    run: fn(&Kvm) -> Result<Outcome, Error>,
}

/// All, from the oldest mode of the CPU to what only a hypervisor does.
static DEMOS: [Demo; 11] = [
    Demo {
        name: "real-mode",
        concept: "real mode: segments of 64 KiB, no protection, no paging",
        run: modes::real_mode,
    },
    Demo {
        name: "protected-mode",
        concept: "protected mode: segments with base, limit and rights",
        run: modes::protected_mode,
    },
    Demo {
        name: "paging32",
        concept: "32-bit paging: two levels of the guest's own tables, under the VMM's EPT",
        run: modes::paging32,
    },
    Demo {
        name: "pae",
        concept: "PAE: 32-bit code, memory above 4 GiB, pages that cannot be executed",
        run: modes::pae,
    },
    Demo {
        name: "long-mode",
        concept: "long mode: 64-bit registers and four levels of tables",
        run: modes::long_mode,
    },
    Demo {
        name: "rings",
        concept:
            "rings in non-root operation: ring 3 traps to the guest's own ring 0, with no exit",
        run: rings::run,
    },
    Demo {
        name: "hypercall",
        concept: "paravirtualisation: the guest finds its hypervisor and calls it",
        run: hypercall::run,
    },
    Demo {
        name: "port-io",
        concept: "port I/O: a device in the VMM behind IN, OUT and their string forms",
        run: io::port_io,
    },
    Demo {
        name: "mmio",
        concept: "MMIO: a device in the VMM behind an address without memory",
        run: io::mmio,
    },
    Demo {
        name: "isolation",
        concept: "two VMs at once, the same guest-physical addresses, different memory",
        run: isolation::run,
    },
    Demo {
        name: "threads",
        concept: "a vCPU is a thread: two in one VM, each with a VMCS and registers of its own",
        run: threads::run,
    },
];

/// Runs the demos called `names`, or all of them, and prints what was seen: a section a demo, or
/// with `json` a line of JSON a demo. The last line says how it went, and so does the exit code.
///
/// # Errors
///
/// [`Error::NoSuchDemo`], and [`Error::OpenKvm`]; what goes wrong in a demo is in the report.
pub fn run(names: &[String], json: bool) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let chosen = choose(names)?;
    let kvm = Kvm::new().map_err(Error::OpenKvm)?;
    let mut report = Report::new(json);
    for demo in chosen {
        report.begin(demo.name, demo.concept)?;
        let outcome = (demo.run)(&kvm).unwrap_or_else(|error| Outcome::broken(&error));
        report.end(&outcome)?;
    }
    Ok(if report.finish()? {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn choose(names: &[String]) -> Result<Vec<&'static Demo>, Error> {
    if names.is_empty() {
        return Ok(DEMOS.iter().collect());
    }
    names
        .iter()
        .map(|name| {
            DEMOS.iter().find(|demo| demo.name == *name).ok_or_else(|| {
                let all: Vec<_> = DEMOS.iter().map(|demo| demo.name).collect();
                Error::NoSuchDemo(name.clone(), all.join(" "))
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_is_all_demos() {
        assert_eq!(choose(&[]).unwrap().len(), DEMOS.len());
    }

    #[test]
    fn demos_come_in_the_order_asked_for() {
        let names = ["mmio", "pae"].map(String::from);
        let chosen: Vec<_> = choose(&names)
            .unwrap()
            .iter()
            .map(|demo| demo.name)
            .collect();
        assert_eq!(chosen, ["mmio", "pae"]);
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let Err(error) = choose(&["rings".into(), "wings".into()]) else {
            panic!("wings was found");
        };
        let message = error.to_string();
        assert!(
            message.contains("\"wings\"") && message.contains("rings hypercall"),
            "{message}"
        );
    }
}
