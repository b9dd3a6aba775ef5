// SPDX-License-Identifier: GPL-2.0
//! minikvm
use kernel::prelude::*;
mod host { 
#[allow(warnings, unsafe_op_in_unsafe_fn, clippy::all)]
pub(crate) mod bindings { use kernel::ffi; include!(env!("MINIKVM_BINDINGS")); }
}
bitflags::bitflags! { struct A: u32 { const B = 1; } }
module! {
    type: Kvm,
    name: "kvm",
    authors: ["minikvm"],
    description: "x",
    license: "GPL",
}
struct Kvm;
impl kernel::Module for Kvm {
    fn init(_m: &'static ThisModule) -> Result<Self> {
        pr_info!("hi {} {} {}\n", A::B.bits(), arch::addr::PAGE_SIZE, core::mem::size_of::<host::bindings::kvm_run>());
        Ok(Kvm)
    }
}
