// SPDX-License-Identifier: GPL-2.0

//! `minivmm info`: what VT-x and /dev/kvm on this machine can do.

mod kvm;
mod msr;
mod processor;
mod report;
mod show;
mod vmx;

use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;

use crate::machine::vm;
use kvm::Support;
use msr::Msrs;
use processor::Processor;
use report::Report;
use vmx::Vmx;

/// Why nothing can be shown.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be put into JSON.
    #[error("cannot print JSON")]
    Json(#[from] serde_json::Error),
    /// Standard output takes nothing.
    #[error("cannot write to standard output")]
    Print(#[source] io::Error),
}

/// All there is to show.
#[derive(Debug, Serialize)]
struct Info {
    processor: Processor,
    /// VT-x, if the processor has it and it can be asked.
    vmx: Option<Vmx>,
    /// What our module says, if it is the one that is loaded.
    module: Option<Report>,
    /// /dev/kvm, if it is there.
    kvm: Option<Support>,
    /// Why this machine can run no virtual machines, and what to do.
    problems: Vec<String>,
    /// What could not be shown, and what to do.
    notes: Vec<String>,
}

/// Shows it. The exit status says whether this machine has both VT-x and /dev/kvm.
///
/// # Errors
///
/// [`Error::Json`] or [`Error::Print`].
pub fn run(json: bool) -> Result<ExitCode, Error> {
    let info = Info::gather();
    let text = if json {
        serde_json::to_string_pretty(&info)? + "\n"
    } else {
        info.to_string()
    };
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever reads it has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        written => written.map_err(Error::Print)?,
    }
    for line in info.problems.iter().chain(&info.notes) {
        eprintln!("minivmm: {line}");
    }
    Ok(if info.problems.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Info {
    fn gather() -> Self {
        let processor = Processor::this();
        let mut info = Self {
            module: report::read(),
            vmx: None,
            kvm: None,
            problems: Vec::new(),
            notes: Vec::new(),
            processor,
        };
        if info.processor.vmx {
            info.gather_vmx();
        } else {
            info.problems.push(
                "this processor has no VT-x, or its firmware or hypervisor hides it: turn it on \
                 there, or use the lab, which emulates it (scripts/lab)"
                    .into(),
            );
        }
        info.gather_kvm();
        info
    }

    fn gather_vmx(&mut self) {
        let report = self.module.as_ref();
        match Msrs::open().and_then(|msrs| Vmx::from_msrs(&msrs, report)) {
            Ok(vmx) => self.vmx = Some(vmx),
            Err(error) => {
                self.notes
                    .push(format!("the VT-x capability MSRs are not shown: {error}"));
                self.vmx = report.map(Vmx::from_report);
            }
        }
    }

    fn gather_kvm(&mut self) {
        let support = match vm::open() {
            Ok(kvm) => Support::of(&kvm)
                .map_err(|(call, error)| format!("{call} failed on /dev/kvm: {error}")),
            Err(error) => Err(error.to_string()),
        };
        match support {
            Ok(support) => self.kvm = Some(support),
            Err(problem) => self.problems.push(problem),
        }
    }
}
