// SPDX-License-Identifier: GPL-2.0

//! KVM's binary statistics (api.rst, 4.133 KVM_GET_STATS_FD).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;

use kvm_bindings::{KVM_STATS_TYPE_CUMULATIVE, KVM_STATS_TYPE_MASK};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl::ioctl;
use vmm_sys_util::ioctl_io_nr;

ioctl_io_nr!(KVM_GET_STATS_FD, 0xae, 0xce);

/// Bytes of the header, and of a descriptor before its name.
const HEADER: usize = 24;
const DESCRIPTOR: usize = 16;
/// Statistics and bytes of a name that are more than any kernel has.
const MOST: usize = 1024;

/// A counter, of all vCPUs together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Statistic {
    /// Its name.
    pub name: String,
    /// What it has counted.
    pub value: u64,
}

/// The counters of all `vcpus`; none where KVM does not give them.
pub fn read(vcpus: &[VcpuFd]) -> Vec<Statistic> {
    let mut sum: Vec<Statistic> = Vec::new();
    for vcpu in vcpus {
        let statistics = open(vcpu)
            .and_then(|file| parse(|bytes, offset| file.read_exact_at(bytes, offset as u64)));
        for statistic in statistics.unwrap_or_default() {
            match sum.iter_mut().find(|other| other.name == statistic.name) {
                Some(other) => other.value += statistic.value,
                None => sum.push(statistic),
            }
        }
    }
    sum
}

fn open(vcpu: &VcpuFd) -> io::Result<File> {
    // SAFETY: the call takes no argument and makes a descriptor.
    let fd = unsafe { ioctl(&vcpu.as_raw_fd(), KVM_GET_STATS_FD()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, so nobody else owns it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Reads the counters by way of `read_at`, which fills bytes from an offset on.
fn parse(read_at: impl Fn(&mut [u8], usize) -> io::Result<()>) -> io::Result<Vec<Statistic>> {
    let mut header = [0; HEADER];
    read_at(&mut header, 0)?;
    let word = |index: usize| u32_at(&header, 4 * index) as usize;
    let (name_size, count) = (word(1), word(2));
    let (descriptors, data) = (word(4), word(5));
    if name_size > MOST || count > MOST {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    let mut statistics = Vec::new();
    let size = DESCRIPTOR + name_size;
    let mut descriptor = vec![0; size];
    for index in 0..count {
        read_at(&mut descriptor, descriptors + index * size)?;
        let is_counter = u32_at(&descriptor, 0) & KVM_STATS_TYPE_MASK == KVM_STATS_TYPE_CUMULATIVE;
        let values = u16::from_ne_bytes([descriptor[6], descriptor[7]]);
        if !is_counter || values != 1 {
            continue;
        }
        let name = descriptor[DESCRIPTOR..].split(|byte| *byte == 0).next();
        let mut value = [0; 8];
        read_at(&mut value, data + u32_at(&descriptor, 8) as usize)?;
        statistics.push(Statistic {
            name: String::from_utf8_lossy(name.unwrap_or_default()).into(),
            value: u64::from_ne_bytes(value),
        });
    }
    Ok(statistics)
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_ne_bytes(bytes[offset..offset + 4].try_into().expect("4 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of three statistics: a counter, a momentary value, a histogram.
    fn file() -> Vec<u8> {
        let mut file = Vec::new();
        for word in [0u32, 8, 3, 24, 24, 96] {
            file.extend(word.to_ne_bytes());
        }
        for (flags, values, offset, name) in [
            (0u32, 1u16, 8u32, b"exits\0\0\0"),
            (1, 1, 0, b"mode\0\0\0\0"),
            (4, 2, 16, b"hist\0\0\0\0"),
        ] {
            file.extend(flags.to_ne_bytes());
            file.extend(0u16.to_ne_bytes());
            file.extend(values.to_ne_bytes());
            file.extend(offset.to_ne_bytes());
            file.extend(0u32.to_ne_bytes());
            file.extend(name);
        }
        for value in [5u64, 77, 1, 2] {
            file.extend(value.to_ne_bytes());
        }
        file
    }

    fn parse_bytes(file: &[u8]) -> io::Result<Vec<Statistic>> {
        parse(|bytes, offset| {
            let end = offset + bytes.len();
            let from = file.get(offset..end).ok_or(io::ErrorKind::UnexpectedEof)?;
            bytes.copy_from_slice(from);
            Ok(())
        })
    }

    #[test]
    fn counters_are_found_and_nothing_else() {
        let statistics = parse_bytes(&file()).expect("valid");
        let exits = Statistic {
            name: "exits".into(),
            value: 77,
        };
        assert_eq!(statistics, [exits]);
    }

    #[test]
    fn a_file_that_is_cut_short_is_an_error() {
        let file = file();
        for length in [0, 23, 40, 95, 96] {
            assert!(parse_bytes(&file[..length]).is_err(), "{length}");
        }
    }
}
