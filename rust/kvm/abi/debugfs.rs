// SPDX-License-Identifier: GPL-2.0

//! /sys/kernel/debug/kvm: what the hardware can do, what was counted, and each vCPU's VMCS.
//!
//! ```text
//! kvm/vmx_capabilities
//! kvm/STATISTIC            of all VMs
//! kvm/PID-FD/STATISTIC     of a VM, a vCPU's added up; PID is the thread that made the VM, FD its
//!                          file; as soon as it has a vCPU
//! kvm/PID-FD/vcpuN/vmcs
//! ```
//!
//! A directory is there as long as one of its VM's files is open.

use core::fmt::{
    self,
    Formatter, //
};

use kernel::{
    debugfs::{
        Dir,
        File, //
    },
    new_mutex,
    prelude::*,
    str::{
        parse_int::ParseInt,
        BStr,
        CString, //
    },
    sync::{
        Arc,
        Mutex,
        SetOnce, //
    },
    uaccess::UserSliceReader, //
};

use crate::{
    host::sched,
    stats::{
        self,
        Statistic, //
    },
    vm::{
        Backend,
        Counted,
        Vcpu,
        Vm, //
    },
};

/// The VMs that there are.
#[pin_data]
struct Vms<B: Backend> {
    #[pin]
    list: Mutex<KVec<Arc<Vm<B>>>>,
}

/// The module's directory.
pub(super) struct SystemDir<B: Backend> {
    dir: Dir,
    vms: Arc<Vms<B>>,
    _capabilities: Pin<KBox<File<Arc<B>>>>,
    _numbers: KVec<NumberFile<Arc<Vms<B>>>>,
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
        let vms = Arc::pin_init(
            pin_init!(Vms {
                list <- new_mutex!(KVec::new()),
            }),
            GFP_KERNEL,
        )?;
        Ok(Self {
            _numbers: number_files(&dir, &vms),
            dir,
            vms,
            _capabilities: capabilities,
        })
    }

    /// Shows the VM behind file descriptor `fd` of the current process.
    pub(super) fn show(&self, vm: Arc<Vm<B>>, fd: u32) -> Result<Arc<Shown<B>>> {
        let creator = sched::current_thread();
        let name = CString::try_from_fmt(fmt!("{}-{}", creator, fd))?;
        let shown = Arc::new(
            Shown {
                numbers: SetOnce::new(),
                dir: self.dir.subdir(&name),
                creator,
                vms: self.vms.clone(),
                vm,
            },
            GFP_KERNEL_ACCOUNT,
        )?;
        let listed = shown.vm.clone();
        self.vms.list.lock().push(listed, GFP_KERNEL_ACCOUNT)?;
        Ok(shown)
    }
}

/// A VM and what debugfs shows of it. All of the VM's files share it.
pub(super) struct Shown<B: Backend> {
    numbers: SetOnce<KVec<NumberFile<Arc<Vm<B>>>>>,
    dir: Dir,
    /// The thread that made the VM.
    pub(super) creator: i32,
    vms: Arc<Vms<B>>,
    pub(super) vm: Arc<Vm<B>>,
}

impl<B: Backend> Drop for Shown<B> {
    fn drop(&mut self) {
        let mut list = self.vms.list.lock();
        let place = list.iter().position(|vm| Arc::ptr_eq(vm, &self.vm));
        let listed = place.and_then(|place| list.remove(place).ok());
        drop(list);
        drop(listed);
    }
}

/// Something whose statistics are in debugfs, or many such things together.
trait Numbers: Clone + Send + Sync + 'static {
    fn sum(&self, which: Counted) -> u64;
    fn clear(&self, which: Counted);
}

impl<B: Backend> Numbers for Arc<Vm<B>> {
    fn sum(&self, which: Counted) -> u64 {
        self.counted(which)
    }

    fn clear(&self, which: Counted) {
        self.clear_counted(which);
    }
}

impl<B: Backend> Numbers for Arc<Vms<B>> {
    fn sum(&self, which: Counted) -> u64 {
        let vms = self.list.lock();
        vms.iter()
            .fold(0, |sum, vm| sum.wrapping_add(vm.counted(which)))
    }

    fn clear(&self, which: Counted) {
        for vm in self.list.lock().iter() {
            vm.clear_counted(which);
        }
    }
}

/// A statistic of something.
struct Number<N: Numbers> {
    of: N,
    which: Counted,
}

type NumberFile<N> = Pin<KBox<File<Number<N>>>>;

/// Makes a file for each statistic of `of`. Without memory there are fewer: debugfs is no reason for
/// anything to fail.
fn number_files<N: Numbers>(dir: &Dir, of: &N) -> KVec<NumberFile<N>> {
    let mut files = KVec::new();
    let tables = [
        (&stats::vm::TABLE[..], Counted::OfVm as fn(usize) -> Counted),
        (&stats::vcpu::TABLE, Counted::OfVcpus),
    ];
    for (table, counted) in tables {
        for (index, statistic) in table.iter().enumerate() {
            let number = Number {
                of: of.clone(),
                which: counted(stats::words_before(table, index)),
            };
            let made = number_file(dir, statistic, number).and_then(|file| {
                files.push(file, GFP_KERNEL_ACCOUNT)?;
                Ok(())
            });
            if made.is_err() {
                return files;
            }
        }
    }
    files
}

fn number_file<N: Numbers>(
    dir: &Dir,
    statistic: &Statistic,
    number: Number<N>,
) -> Result<NumberFile<N>> {
    if statistic.is_clearable() {
        let file = dir.read_write_callback_file(
            statistic.name,
            number,
            &|number: &Number<N>, f| write_number(number, f),
            &|number: &Number<N>, from| clear_number(number, from),
        );
        KBox::pin_init(file, GFP_KERNEL_ACCOUNT)
    } else {
        let file = dir.read_callback_file(statistic.name, number, &|number: &Number<N>, f| {
            write_number(number, f)
        });
        KBox::pin_init(file, GFP_KERNEL_ACCOUNT)
    }
}

fn write_number<N: Numbers>(number: &Number<N>, f: &mut Formatter<'_>) -> fmt::Result {
    writeln!(f, "{}", number.of.sum(number.which))
}

/// A zero that is written sets the number back.
///
/// # Errors
///
/// EINVAL for anything else, EFAULT.
fn clear_number<N: Numbers>(number: &Number<N>, from: &mut UserSliceReader) -> Result {
    let mut text = [0; 24];
    let text = text.get_mut(..from.len()).ok_or(EINVAL)?;
    from.read_slice(text)?;
    if u64::from_str(BStr::from_bytes(text.trim_ascii()))? != 0 {
        return Err(EINVAL);
    }
    number.of.clear(number.which);
    Ok(())
}

/// A vCPU whose VMCS can be read.
pub(super) struct VmcsView<B: Backend> {
    vm: Arc<Vm<B>>,
    vcpu: Arc<Vcpu<B>>,
}

/// The file with a vCPU's VMCS; it goes when this is dropped.
pub(super) type VmcsFile<B> = Pin<KBox<File<VmcsView<B>>>>;

impl<B: Backend> Shown<B> {
    /// Shows a vCPU: makes `vcpuN/vmcs`, and with the first vCPU the statistics. Calls come one after
    /// another.
    pub(super) fn show_vcpu(&self, vcpu: Arc<Vcpu<B>>) -> Result<VmcsFile<B>> {
        if self.numbers.as_ref().is_none() {
            self.numbers.populate(number_files(&self.dir, &self.vm));
        }
        let name = CString::try_from_fmt(fmt!("vcpu{}", vcpu.id))?;
        let subdir = self.dir.subdir(&name);
        let view = VmcsView {
            vm: self.vm.clone(),
            vcpu,
        };
        let file = subdir.read_callback_file(c"vmcs", view, &|view: &VmcsView<B>, f| {
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
        KBox::pin_init(file, GFP_KERNEL_ACCOUNT)
    }
}
