// SPDX-License-Identifier: GPL-2.0

//! What the kernel counts about a vCPU: KVM_GET_STATS_FD (api.rst 4.133).

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;

use kvm_bindings::KVMIO;
use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl_io_nr;

ioctl_io_nr!(KVM_GET_STATS_FD, KVMIO, 0xce);

/// Bytes of the file's header: flags, size of a name, number of descriptors, and the offsets of
/// the identifier, of the descriptors and of the data, 32 bits each.
const HEADER: usize = 24;
/// Bytes of a descriptor before its name: flags (32 bits), exponent and size (16 each), offset
/// into the data and bucket size (32 each).
const DESCRIPTOR: usize = 16;

/// The statistics of one vCPU.
#[derive(Debug)]
pub struct Statistics {
    file: File,
}

impl Statistics {
    /// Those of `vcpu`, where this KVM has any.
    pub fn open(vcpu: &VcpuFd) -> Option<Self> {
        // SAFETY: The ioctl takes no argument and touches no memory of ours.
        let fd = unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_GET_STATS_FD()) };
        if fd < 0 {
            return None;
        }
        // SAFETY: The kernel has just made this descriptor for us, nobody else owns it.
        Some(Self {
            file: unsafe { File::from_raw_fd(fd) },
        })
    }

    /// The present value of the counter `name`, if there is one.
    pub fn read(&self, name: &str) -> Option<u64> {
        let mut header = [0; HEADER];
        self.file.read_exact_at(&mut header, 0).ok()?;
        let [name_size, count, descriptors, data] = [4, 8, 16, 20].map(|at| word(&header, at));
        let size = DESCRIPTOR + name_size as usize;
        let mut table = vec![0; size * count as usize];
        self.file
            .read_exact_at(&mut table, u64::from(descriptors))
            .ok()?;

        let offset = offset_of(&table, size, name)?;
        let mut value = [0; 8];
        self.file
            .read_exact_at(&mut value, u64::from(data) + u64::from(offset))
            .ok()?;
        Some(u64::from_le_bytes(value))
    }
}

/// Where the counter `name` lies in the data, from a table of descriptors of `size` bytes each.
fn offset_of(table: &[u8], size: usize, name: &str) -> Option<u32> {
    table
        .chunks_exact(size)
        .find(|descriptor| {
            let field = &descriptor[DESCRIPTOR..];
            let end = field
                .iter()
                .position(|&byte| byte == 0)
                .unwrap_or(field.len());
            &field[..end] == name.as_bytes()
        })
        .map(|descriptor| word(descriptor, 8))
}

/// The 32-bit word at offset `at`.
fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_found_by_its_whole_name() {
        let mut table = Vec::new();
        for (name, offset) in [(b"exits_io", 8u32), (b"exits\0\0\0", 24)] {
            table.extend([0; 8]);
            table.extend(offset.to_le_bytes());
            table.extend([0; 4]);
            table.extend(name);
        }
        assert_eq!(offset_of(&table, DESCRIPTOR + 8, "exits"), Some(24));
        assert_eq!(offset_of(&table, DESCRIPTOR + 8, "exits_io"), Some(8));
        assert_eq!(offset_of(&table, DESCRIPTOR + 8, "exit"), None);
    }
}
