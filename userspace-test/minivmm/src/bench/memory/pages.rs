// SPDX-License-Identifier: GPL-2.0

//! How many pages the kernel uses for itself, from its own counters.
//!
//! Pages that are free, in the zones or on a CPU's list of free pages, are subtracted, and so are
//! those that hold files, programs' memory, and page tables of either kind. What remains is in use by
//! the kernel: slabs, stacks, pages it allocated as such.

use std::fs;
use std::io::{self, ErrorKind};

/// Bytes in a page.
const PAGE: u64 = 4096;
/// Counters of /proc/meminfo, in KiB, of what is not the kernel's own.
const OTHERS: [&str; 6] = [
    "Cached",
    "SwapCached",
    "Buffers",
    "AnonPages",
    "PageTables",
    "SecPageTables",
];

/// A reading of the counters: pages that are free or not the kernel's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pages(u64);

impl Pages {
    /// Reads the counters.
    ///
    /// # Errors
    ///
    /// As reading the files gives them, and InvalidData if a counter is not there.
    pub fn now() -> io::Result<Self> {
        // Folds what each CPU has counted by itself into the sums. Only root may, and elsewhere the
        // sums are that much less exact.
        let _ = fs::write("/proc/sys/vm/stat_refresh", "1");
        Self::from(
            &fs::read_to_string("/proc/zoneinfo")?,
            &fs::read_to_string("/proc/meminfo")?,
        )
    }

    /// As the texts of /proc/zoneinfo and /proc/meminfo have them.
    fn from(zones: &str, memory: &str) -> io::Result<Self> {
        Ok(Self(free(zones)? + others(memory)?))
    }

    /// Bytes that the kernel uses more than it did `before`, or 0.
    pub fn bytes_since(self, before: Self) -> u64 {
        before.0.saturating_sub(self.0) * PAGE
    }
}

/// Free pages: `pages free N` of each zone, and `count: N` of each CPU's list.
fn free(zones: &str) -> io::Result<u64> {
    let mut zones_seen = 0;
    let mut pages = 0;
    for line in zones.lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("pages"), Some("free"), Some(count)) => {
                zones_seen += 1;
                pages += number(count)?;
            }
            (Some("count:"), Some(count), None) => pages += number(count)?,
            _ => {}
        }
    }
    if zones_seen == 0 {
        return Err(missing("/proc/zoneinfo has no free pages"));
    }
    Ok(pages)
}

/// Pages of [`OTHERS`]. A kernel that lacks a counter has no such pages, except for the first, which
/// every kernel has.
fn others(memory: &str) -> io::Result<u64> {
    let mut pages = 0;
    let mut first_seen = false;
    for line in memory.lines() {
        let Some((name, rest)) = line.split_once(':') else {
            continue;
        };
        if OTHERS.contains(&name) {
            first_seen |= name == OTHERS[0];
            let kib = rest.trim().trim_end_matches(" kB");
            pages += number(kib)? * 1024 / PAGE;
        }
    }
    if !first_seen {
        return Err(missing("/proc/meminfo has no Cached"));
    }
    Ok(pages)
}

fn number(text: &str) -> io::Result<u64> {
    text.parse()
        .map_err(|_| missing(&format!("{text:?} is not a number of pages")))
}

fn missing(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZONES: &str = "\
Node 0, zone      DMA
  per-node stats
      nr_inactive_anon 7
  pages free     3840
        boost    0
        min      67
      nr_free_pages 3840
  pagesets
    cpu: 0
              count:    0
              high:     0
Node 0, zone    DMA32
  pages free     200000
  pagesets
    cpu: 0
              count:    63
              high:     378
    cpu: 1
              count:    100
";
    const MEMORY: &str = "\
MemTotal:        1011572 kB
MemFree:          900000 kB
Buffers:             400 kB
Cached:             8000 kB
SwapCached:            0 kB
AnonPages:          1600 kB
Slab:               9000 kB
PageTables:          160 kB
SecPageTables:        40 kB
";

    #[test]
    fn what_is_free_or_of_others_is_added_up() {
        let pages = Pages::from(ZONES, MEMORY).expect("counters");
        assert_eq!(
            pages,
            Pages(3840 + 200_000 + 163 + 100 + 2000 + 400 + 40 + 10)
        );
    }

    #[test]
    fn what_the_kernel_takes_is_no_longer_there() {
        let before = Pages::from(ZONES, MEMORY).expect("counters");
        let more = ZONES.replace("200000", "199990");
        let after = Pages::from(&more, MEMORY).expect("counters");
        assert_eq!(after.bytes_since(before), 10 * 4096);
        assert_eq!(before.bytes_since(after), 0);
    }

    #[test]
    fn a_page_that_goes_to_a_program_is_not_the_kernels() {
        let before = Pages::from(ZONES, MEMORY).expect("counters");
        let zones = ZONES.replace("200000", "199999");
        let memory = MEMORY.replace("1600", "1604");
        let after = Pages::from(&zones, &memory).expect("counters");
        assert_eq!(after.bytes_since(before), 0);
    }

    #[test]
    fn counters_that_are_missing_are_an_error() {
        assert!(Pages::from("", MEMORY).is_err());
        assert!(Pages::from(ZONES, "MemFree: 1 kB\n").is_err());
        assert!(Pages::from("pages free many", MEMORY).is_err());
    }
}
