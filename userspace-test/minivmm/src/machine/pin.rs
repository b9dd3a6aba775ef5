// SPDX-License-Identifier: GPL-2.0

//! Keeping a vCPU's thread on one CPU of the host (`--pin`).

use std::io;
use std::mem;

/// Keeps the calling thread on host CPU `cpu`.
///
/// # Errors
///
/// What sched_setaffinity(2) says: EINVAL for a CPU there is not, or that is not online.
pub fn this_thread(cpu: usize) -> io::Result<()> {
    // SAFETY: a set of CPUs is a bit mask, of which all zeroes is the empty one.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    if cpu >= 8 * size_of::<libc::cpu_set_t>() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: the CPU's bit is within the set, by the check above.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the pointer and the size are those of a set that outlives the call.
    match unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_stays_where_it_is_put() {
        std::thread::spawn(|| {
            // SAFETY: the call has no arguments.
            let here = unsafe { libc::sched_getcpu() };
            let here = usize::try_from(here).expect("a CPU");
            this_thread(here).expect("it is online");
            let now = unsafe {
                // SAFETY: the call has no arguments.
                libc::sched_getcpu()
            };
            assert_eq!(usize::try_from(now), Ok(here));
        })
        .join()
        .expect("no panic");
    }

    #[test]
    fn a_cpu_there_is_not_is_an_error() {
        for cpu in [1023, 1024, usize::MAX] {
            let error = this_thread(cpu).expect_err("no such CPU");
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        }
    }
}
