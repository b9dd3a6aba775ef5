// SPDX-License-Identifier: GPL-2.0

//! minikvm: a /dev/kvm in Rust, on Intel VT-x.
//!
//! A call goes down this list and never up: `abi` is Linux's KVM API, `vm` what a virtual
//! machine is, `vmx` what Intel does, `host` what the kernel does for us. `arch`, a crate of
//! its own, has the rules of the architecture, and `stats` what is counted. `Documentation/design.md`
//! tells the rest.

use kernel::{
    prelude::*,
    sync::Arc, //
};

mod abi;
mod host;
mod stats;
mod vm;
mod vmx;

module! {
    type: KvmModule,
    // The kernel exports what a hypervisor needs to modules of this name only.
    name: "kvm",
    authors: ["The minikvm authors"],
    description: "KVM in Rust on Intel VT-x",
    license: "GPL",
    params: {
        flexpriority: bool {
            default: true,
            description: "Have the processor keep the task priority of guests",
        },
        enable_apicv: bool {
            default: true,
            description: "Have the processor deliver interrupts to guests",
        },
        preemption_timer: bool {
            default: true,
            description: "Have the processor end a guest's turn when its APIC timer expires",
        },
        pml: bool {
            default: true,
            description: "Have the processor log which pages guests write",
        },
        halt_poll_ns: u32 {
            default: 200_000,
            description: "How long a halted vCPU may poll before it sleeps, in nanoseconds",
        },
    },
}

/// The module, while it is loaded. What is first here goes first.
#[pin_data]
struct KvmModule {
    #[pin]
    _device: host::file::Device<abi::System<vmx::Vmx>>,
    #[pin]
    _root_operation: vmx::RootOperation,
}

impl kernel::InPlaceModule for KvmModule {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        pin_init::pin_init_scope(|| {
            let backend = Arc::new(vmx::Vmx::new()?, GFP_KERNEL)?;
            let revision_id = backend.revision_id();
            let system = Arc::new(abi::System::new(backend)?, GFP_KERNEL)?;
            Ok(try_pin_init!(Self {
                _root_operation <- vmx::RootOperation::new(revision_id),
                _device <- host::file::Device::register(system),
            }? Error))
        })
    }
}
