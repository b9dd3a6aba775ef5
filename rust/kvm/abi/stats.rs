// SPDX-License-Identifier: GPL-2.0

//! The files that tell what was counted of a VM or a vCPU (api.rst, 4.133 KVM_GET_STATS_FD).
//!
//! Such a file is a header, an identity, a descriptor for each statistic, and the numbers.

use core::sync::atomic::{
    AtomicU64,
    Ordering, //
};

use kernel::{
    fmt::Arguments,
    prelude::*,
    str::CString,
    sync::Arc,
    uaccess::UserSliceWriter, //
};

use super::debugfs::Shown;
use crate::{
    host::{
        bindings,
        file::FileObject, //
    },
    stats::{
        self,
        Kind,
        Statistic,
        Unit, //
    },
    vm::{
        Backend,
        Vcpu, //
    },
};

/// Bytes of `struct kvm_stats_header`.
const HEADER_SIZE: usize = 24;
/// Bytes of a name and of the identity.
const NAME_SIZE: usize = bindings::KVM_STATS_NAME_SIZE as usize;
/// Bytes of `struct kvm_stats_desc` before the name.
const DESCRIPTOR_FIXED: usize = 16;
/// Bytes of a descriptor.
const DESCRIPTOR_SIZE: usize = DESCRIPTOR_FIXED + NAME_SIZE;
/// Where the descriptors are in the file.
const DESCRIPTORS: usize = HEADER_SIZE + NAME_SIZE;

/// The descriptors of a table, as they are in the file. `N` is how many bytes that is.
const fn describe<const N: usize>(table: &[Statistic]) -> [u8; N] {
    let mut bytes = [0; N];
    let mut i = 0;
    while i < table.len() {
        let statistic = &table[i];
        let offset = 8 * stats::words_before(table, i);
        let exponent: i16 = match statistic.unit {
            Unit::Nanoseconds => -9,
            Unit::None | Unit::Boolean => 0,
        };
        // What is left, the size of a linear histogram's buckets, is 0.
        let at = i * DESCRIPTOR_SIZE;
        put(&mut bytes, at, &flags(statistic).to_ne_bytes());
        put(&mut bytes, at + 4, &exponent.to_ne_bytes());
        put(&mut bytes, at + 6, &(statistic.words as u16).to_ne_bytes());
        put(&mut bytes, at + 8, &(offset as u32).to_ne_bytes());
        put(
            &mut bytes,
            at + DESCRIPTOR_FIXED,
            statistic.name.to_bytes_with_nul(),
        );
        i += 1;
    }
    bytes
}

const fn put(bytes: &mut [u8], at: usize, part: &[u8]) {
    let mut i = 0;
    while i < part.len() {
        bytes[at + i] = part[i];
        i += 1;
    }
}

const fn flags(statistic: &Statistic) -> u32 {
    let kind = match statistic.kind {
        Kind::Cumulative => bindings::KVM_STATS_TYPE_CUMULATIVE,
        Kind::Instant => bindings::KVM_STATS_TYPE_INSTANT,
        Kind::Peak => bindings::KVM_STATS_TYPE_PEAK,
        Kind::LogHistogram => bindings::KVM_STATS_TYPE_LOG_HIST,
    };
    let unit = match statistic.unit {
        Unit::None => bindings::KVM_STATS_UNIT_NONE,
        Unit::Nanoseconds => bindings::KVM_STATS_UNIT_SECONDS,
        Unit::Boolean => bindings::KVM_STATS_UNIT_BOOLEAN,
    };
    kind | unit | bindings::KVM_STATS_BASE_POW10
}

static VM_DESCRIPTORS: [u8; stats::vm::TABLE.len() * DESCRIPTOR_SIZE] = describe(&stats::vm::TABLE);
static VCPU_DESCRIPTORS: [u8; stats::vcpu::TABLE.len() * DESCRIPTOR_SIZE] =
    describe(&stats::vcpu::TABLE);

/// What is the same each time a file is read.
struct Layout {
    identity: [u8; NAME_SIZE],
    descriptors: &'static [u8],
}

impl Layout {
    fn new(identity: Arguments<'_>, descriptors: &'static [u8]) -> Result<Self> {
        let text = CString::try_from_fmt(identity)?;
        let mut identity = [0; NAME_SIZE];
        for (to, from) in identity[..NAME_SIZE - 1].iter_mut().zip(text.to_bytes()) {
            *to = *from;
        }
        Ok(Self {
            identity,
            descriptors,
        })
    }

    fn header(&self) -> [u8; HEADER_SIZE] {
        let words = [
            0,
            NAME_SIZE,
            self.descriptors.len() / DESCRIPTOR_SIZE,
            HEADER_SIZE,
            DESCRIPTORS,
            DESCRIPTORS + self.descriptors.len(),
        ];
        let mut bytes = [0; HEADER_SIZE];
        for (to, word) in bytes.chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&(word as u32).to_ne_bytes());
        }
        bytes
    }

    /// Copies what there is from `offset` on.
    ///
    /// # Errors
    ///
    /// EFAULT.
    fn read(&self, offset: u64, numbers: &[AtomicU64], to: &mut UserSliceWriter) -> Result<usize> {
        let mut part = Part {
            left: usize::try_from(offset).unwrap_or(usize::MAX),
            copied: 0,
        };
        part.copy(&self.header(), to)?;
        part.copy(&self.identity, to)?;
        part.copy(self.descriptors, to)?;
        for number in numbers {
            part.copy(&number.load(Ordering::Relaxed).to_ne_bytes(), to)?;
        }
        Ok(part.copied)
    }
}

/// A part of the file on its way to the user.
struct Part {
    /// Bytes to come before it.
    left: usize,
    copied: usize,
}

impl Part {
    fn copy(&mut self, bytes: &[u8], to: &mut UserSliceWriter) -> Result {
        match bytes.get(self.left..) {
            Some(bytes) => {
                let bytes = &bytes[..bytes.len().min(to.len())];
                to.write_slice(bytes)?;
                self.copied += bytes.len();
                self.left = 0;
            }
            None => self.left -= bytes.len(),
        }
        Ok(())
    }
}

/// A VM's file.
pub(super) struct VmStats<B: Backend> {
    vm: Arc<Shown<B>>,
    layout: Layout,
}

impl<B: Backend> VmStats<B> {
    pub(super) fn new(vm: Arc<Shown<B>>) -> Result<Arc<Self>> {
        let layout = Layout::new(fmt!("kvm-{}", vm.creator), &VM_DESCRIPTORS)?;
        Ok(Arc::new(Self { vm, layout }, GFP_KERNEL_ACCOUNT)?)
    }
}

impl<B: Backend> FileObject for VmStats<B> {
    const NAME: &'static CStr = c"kvm-vm-stats";
    const HAS_BYTES: bool = true;

    fn read(&self, offset: u64, to: &mut UserSliceWriter) -> Result<usize> {
        let numbers = self.vm.vm.memory.stats.words();
        self.layout.read(offset, numbers, to)
    }
}

/// A vCPU's file.
pub(super) struct VcpuStats<B: Backend> {
    vcpu: Arc<Vcpu<B>>,
    /// The VM stays in debugfs as long as there is one of its files.
    _vm: Arc<Shown<B>>,
    layout: Layout,
}

impl<B: Backend> VcpuStats<B> {
    pub(super) fn new(vm: Arc<Shown<B>>, vcpu: Arc<Vcpu<B>>) -> Result<Arc<Self>> {
        let layout = Layout::new(
            fmt!("kvm-{}/vcpu-{}", vcpu.creator, vcpu.id),
            &VCPU_DESCRIPTORS,
        )?;
        let file = Self {
            vcpu,
            _vm: vm,
            layout,
        };
        Ok(Arc::new(file, GFP_KERNEL_ACCOUNT)?)
    }
}

impl<B: Backend> FileObject for VcpuStats<B> {
    const NAME: &'static CStr = c"kvm-vcpu-stats";
    const HAS_BYTES: bool = true;

    fn number(&self) -> Option<u32> {
        Some(self.vcpu.id)
    }

    fn read(&self, offset: u64, to: &mut UserSliceWriter) -> Result<usize> {
        self.layout.read(offset, self.vcpu.stats.words(), to)
    }
}
