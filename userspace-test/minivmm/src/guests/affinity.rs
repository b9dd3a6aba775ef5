// SPDX-License-Identifier: GPL-2.0

//! Which CPUs of the host a thread runs on.

use std::io;
use std::mem::{size_of, zeroed};

/// The CPUs that this thread may run on.
///
/// # Errors
///
/// As sched_getaffinity(2).
pub fn allowed() -> io::Result<Vec<usize>> {
    // SAFETY: All bit patterns are a CPU set, that of zeroes is the empty one.
    let mut set: libc::cpu_set_t = unsafe { zeroed() };
    // SAFETY: `set` is as large as is said, and the kernel writes to nothing else.
    let result = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: The indices are below the size of the set.
    Ok((0..libc::CPU_SETSIZE as usize)
        .filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) })
        .collect())
}

/// Moves this thread to `cpu` and keeps it there.
///
/// # Errors
///
/// As sched_setaffinity(2).
pub fn pin(cpu: usize) -> io::Result<()> {
    // SAFETY: All bit patterns are a CPU set, that of zeroes is the empty one.
    let mut set: libc::cpu_set_t = unsafe { zeroed() };
    // SAFETY: `cpu` came from `allowed` and is below the size of the set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: `set` is as large as is said, and the kernel only reads it.
    let result = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
