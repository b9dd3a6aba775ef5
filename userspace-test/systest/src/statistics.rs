// SPDX-License-Identifier: GPL-2.0
//! The file of KVM_GET_STATS_FD (api.rst 4.133): what was counted of a VM or a vCPU.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use kvm_bindings::*;

use crate::expect;
use crate::harness::own;
use crate::request::*;

/// Bytes of the file's header.
pub const HEADER: usize = size_of::<kvm_stats_header>();
/// Bytes of a name.
pub const NAME: usize = 48;
/// Bytes of a descriptor.
pub const DESCRIPTOR: usize = 16 + NAME;

/// What a descriptor says: kind, unit, exponent and number of words.
pub type Meaning = (u32, u32, i16, u16);

/// The file with what was counted of a VM or a vCPU.
pub struct Stats(pub File);

impl Stats {
    /// The file of a VM or a vCPU, whose KVM_RUN is not under way: the ioctl would wait for its end.
    pub fn of(object: &impl KvmFd) -> Self {
        let fd = expect::ok("KVM_GET_STATS_FD", object.call(GET_STATS_FD, 0));
        Self(own(fd).into())
    }

    /// `len` bytes from `offset` on.
    pub fn bytes_at(&self, offset: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let got = self.0.read_at(&mut bytes, offset as u64);
        expect::eq("bytes read", got.expect("pread"), len);
        bytes
    }

    /// What the file begins with.
    pub fn header(&self) -> kvm_stats_header {
        let bytes = self.bytes_at(0, HEADER);
        let word = |i: usize| u32_at(&bytes, 4 * i);
        kvm_stats_header {
            flags: word(0),
            name_size: word(1),
            num_desc: word(2),
            id_offset: word(3),
            desc_offset: word(4),
            data_offset: word(5),
        }
    }

    /// What the file says whose it is.
    pub fn identity(&self) -> String {
        let bytes = self.bytes_at(self.header().id_offset as usize, NAME);
        text(&bytes)
    }

    /// Name, meaning, flags of the base, and where the words are.
    pub fn descriptors(&self) -> Vec<Descriptor> {
        let header = self.header();
        let count = header.num_desc as usize;
        let bytes = self.bytes_at(header.desc_offset as usize, count * DESCRIPTOR);
        let descriptors = bytes.chunks_exact(DESCRIPTOR).map(|bytes| {
            let flags = u32_at(bytes, 0);
            Descriptor {
                name: text(&bytes[16..]),
                meaning: (
                    flags & KVM_STATS_TYPE_MASK,
                    flags & KVM_STATS_UNIT_MASK,
                    i16::from_ne_bytes([bytes[4], bytes[5]]),
                    u16::from_ne_bytes([bytes[6], bytes[7]]),
                ),
                base: flags & KVM_STATS_BASE_MASK,
                offset: u32_at(bytes, 8) as usize,
                bucket_size: u32_at(bytes, 12),
            }
        });
        descriptors.collect()
    }

    /// All numbers; of histograms the sum.
    pub fn numbers(&self) -> BTreeMap<String, u64> {
        let data = self.header().data_offset as usize;
        let numbers = self.descriptors().into_iter().map(|descriptor| {
            let words = usize::from(descriptor.meaning.3);
            let bytes = self.bytes_at(data + descriptor.offset, 8 * words);
            let words = bytes
                .chunks_exact(8)
                .map(|word| u64::from_ne_bytes(word.try_into().expect("8 bytes")));
            (descriptor.name, words.sum())
        });
        numbers.collect()
    }

    /// One number.
    pub fn number(&self, name: &str) -> u64 {
        let numbers = self.numbers();
        let number = numbers.get(name);
        *number.unwrap_or_else(|| panic!("no statistic {name}"))
    }

    /// Waits until a number has this value.
    pub fn await_number(&self, name: &str, value: u64) {
        while self.number(name) != value {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Bytes of the whole file.
    pub fn size(&self) -> usize {
        let words: u16 = self.descriptors().iter().map(|d| d.meaning.3).sum();
        self.header().data_offset as usize + 8 * usize::from(words)
    }
}

/// One line of the file's description of itself.
pub struct Descriptor {
    pub name: String,
    pub meaning: Meaning,
    pub base: u32,
    pub offset: usize,
    pub bucket_size: u32,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0);
    let end = end.unwrap_or_else(|| panic!("no end of {bytes:?}"));
    String::from_utf8(bytes[..end].to_vec()).expect("a name")
}
