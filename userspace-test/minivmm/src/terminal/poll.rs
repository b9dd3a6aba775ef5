// SPDX-License-Identifier: GPL-2.0

//! poll(2): unlike epoll it takes regular files and /dev/null, which standard input may well be.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

/// Waits until one of `fds` can be read or is at its end, or `timeout` has passed. Says which;
/// none after the timeout or a signal.
///
/// # Errors
///
/// What poll(2) says.
pub fn readable<const N: usize>(
    fds: [Option<RawFd>; N],
    timeout: Option<Duration>,
) -> io::Result<[bool; N]> {
    wait(fds, libc::POLLIN, timeout)
}

/// Waits until `fd` can be written, or `timeout` has passed.
///
/// # Errors
///
/// What poll(2) says.
pub fn writable(fd: RawFd, timeout: Duration) -> io::Result<bool> {
    wait([Some(fd)], libc::POLLOUT, Some(timeout)).map(|[ready]| ready)
}

fn wait<const N: usize>(
    fds: [Option<RawFd>; N],
    events: libc::c_short,
    timeout: Option<Duration>,
) -> io::Result<[bool; N]> {
    // poll(2) skips negative descriptors.
    let mut polled = fds.map(|fd| libc::pollfd {
        fd: fd.unwrap_or(-1),
        events,
        revents: 0,
    });
    let timeout = timeout.map_or(-1, |timeout| {
        libc::c_int::try_from(timeout.as_millis()).unwrap_or(libc::c_int::MAX)
    });
    // SAFETY: the pointer and the length are those of an array that outlives the call.
    let result = unsafe { libc::poll(polled.as_mut_ptr(), N as libc::nfds_t, timeout) };
    if result < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
        return Ok([false; N]);
    }
    Ok(polled.map(|polled| polled.revents != 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsRawFd;
    use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

    #[test]
    fn files_are_always_ready_and_events_once_they_happen() {
        let null = File::open("/dev/null").expect("/dev/null");
        let event = EventFd::new(EFD_NONBLOCK).expect("eventfd");
        let fds = [Some(null.as_raw_fd()), Some(event.as_raw_fd()), None];
        let instant = Some(Duration::ZERO);
        assert_eq!(readable(fds, instant).expect("poll"), [true, false, false]);
        event.write(1).expect("written");
        assert_eq!(readable(fds, instant).expect("poll"), [true, true, false]);
    }

    #[test]
    fn a_timeout_ends_the_wait() {
        let event = EventFd::new(EFD_NONBLOCK).expect("eventfd");
        let ready = readable([Some(event.as_raw_fd())], Some(Duration::from_millis(1)));
        assert_eq!(ready.expect("poll"), [false]);
    }
}
