// SPDX-License-Identifier: GPL-2.0

//! /sys/kernel/debug/kvm: what the hardware can do, and each vCPU's VMCS.
//!
//! ```text
//! kvm/vmx_capabilities
//! kvm/PID-FD/vcpuN/vmcs    PID is the VMM's, FD the VM's file in it
//! ```

use kernel::{
    debugfs::{
        Dir,
        File, //
    },
    prelude::*,
    str::CString,
    sync::Arc, //
};

use crate::vm::{
    Backend,
    Vcpu,
    Vm, //
};

/// The module's directory.
pub(super) struct SystemDir<B: Backend> {
    dir: Dir,
    _capabilities: Pin<KBox<File<Arc<B>>>>,
}

impl<B: Backend> SystemDir<B> {
    pub(super) fn new(backend: Arc<B>) -> Result<Self> {
        let dir = Dir::new(c"kvm");
        let capabilities = KBox::pin_init(
            dir.read_callback_file(c"vmx_capabilities", backend, &|backend: &Arc<B>, f| {
                backend.write_capabilities(f)
            }),
            GFP_KERNEL,
        )?;
        Ok(Self {
            dir,
            _capabilities: capabilities,
        })
    }

    /// A directory for the VM behind file descriptor `fd` of the current process.
    pub(super) fn vm_dir(&self, fd: u32) -> Result<Dir> {
        let pid = current!().tgid();
        let name = CString::try_from_fmt(fmt!("{}-{}", pid, fd))?;
        Ok(self.dir.subdir(&name))
    }
}

/// A vCPU whose VMCS can be read.
pub(super) struct VmcsView<B: Backend> {
    vm: Arc<Vm<B>>,
    vcpu: Arc<Vcpu<B>>,
}

/// The file with a vCPU's VMCS; it goes when this is dropped.
pub(super) type VmcsFile<B> = Pin<KBox<File<VmcsView<B>>>>;

/// Makes `vcpuN/vmcs` in a VM's directory.
pub(super) fn vmcs_file<B: Backend>(
    dir: &Dir,
    vm: Arc<Vm<B>>,
    vcpu: Arc<Vcpu<B>>,
) -> Result<VmcsFile<B>> {
    let name = CString::try_from_fmt(fmt!("vcpu{}", vcpu.id))?;
    let subdir = dir.subdir(&name);
    let file =
        subdir.read_callback_file(c"vmcs", VmcsView { vm, vcpu }, &|view: &VmcsView<B>, f| {
            // The VMCS is its thread's while KVM_RUN lasts: whoever reads waits for an exit to the
            // VMM.
            let shown = view
                .vcpu
                .with_loaded(&view.vm, |cx| cx.write_dump(f).map_err(|_| ENOMEM));
            if shown.is_err() {
                f.write_str("interrupted while the vCPU was running\n")?;
            }
            Ok(())
        });
    KBox::pin_init(file, GFP_KERNEL)
}
