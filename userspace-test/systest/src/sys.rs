// SPDX-License-Identifier: GPL-2.0
//! The system calls that the tests need, as safe functions. Those that cannot fail on a working
//! system end the test when they do.

use std::ffi::CString;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use crate::harness::own;

/// An error number as the kernel returned it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// The error of the last system call of this thread.
    pub fn last() -> Self {
        Self(io::Error::last_os_error().raw_os_error().unwrap_or(0))
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            libc::EPERM => "EPERM",
            libc::ENOENT => "ENOENT",
            libc::EINTR => "EINTR",
            libc::EIO => "EIO",
            libc::ENXIO => "ENXIO",
            libc::E2BIG => "E2BIG",
            libc::EBADF => "EBADF",
            libc::EAGAIN => "EAGAIN",
            libc::ENOMEM => "ENOMEM",
            libc::EFAULT => "EFAULT",
            libc::EBUSY => "EBUSY",
            libc::EEXIST => "EEXIST",
            libc::ENODEV => "ENODEV",
            libc::EINVAL => "EINVAL",
            libc::ENOTTY => "ENOTTY",
            libc::ENOSPC => "ENOSPC",
            libc::EOPNOTSUPP => "EOPNOTSUPP",
            other => return write!(f, "errno {other}"),
        };
        f.write_str(name)
    }
}

/// Turns a system call's return value into a result.
pub fn result(value: i64) -> Result<i64, Errno> {
    if value < 0 {
        Err(Errno::last())
    } else {
        Ok(value)
    }
}

/// The value of a system call that has to succeed.
#[track_caller]
pub fn must(what: &str, value: i64) -> i64 {
    match result(value) {
        Ok(value) => value,
        Err(errno) => panic!("{what}: expected success, got {errno:?}"),
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this status.
    Exited(i32),
    /// By this signal.
    Signalled(i32),
}

/// Ends this process without running anything that the parent registered.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit takes any status and does not return.
    unsafe { libc::_exit(status) }
}

/// Forks; `None` in the child. Called while the process has one thread, or by tests whose child
/// only makes system calls.
pub fn fork() -> Option<libc::pid_t> {
    // SAFETY: see above; the child shares no Rust state with other threads of the parent.
    let pid = must("fork", unsafe { libc::fork() }.into());
    (pid != 0).then_some(pid as libc::pid_t)
}

/// Puts this process at the head of a process group of its own.
pub fn become_group_leader() {
    // SAFETY: setpgid has no memory arguments.
    unsafe { libc::setpgid(0, 0) };
}

/// Kills the process group of `leader`, if there is one.
pub fn kill_group(leader: libc::pid_t) {
    // SAFETY: kill has no memory arguments; `leader` is a child that has not been reaped or whose
    // group can only hold its own descendants.
    unsafe { libc::kill(-leader, libc::SIGKILL) };
}

/// Sends `signal` to a process.
pub fn kill(pid: libc::pid_t, signal: i32) {
    // SAFETY: kill has no memory arguments.
    must("kill", unsafe { libc::kill(pid, signal) }.into());
}

/// Waits for the child `pid` and says how it ended.
pub fn reap(pid: libc::pid_t) -> Ended {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    must(
        "waitpid",
        unsafe { libc::waitpid(pid, &mut status, 0) }.into(),
    );
    if libc::WIFSIGNALED(status) {
        Ended::Signalled(libc::WTERMSIG(status))
    } else {
        Ended::Exited(libc::WEXITSTATUS(status))
    }
}

/// Runs `body` in a child process; the test fails if it fails there.
#[track_caller]
pub fn in_child(body: impl FnOnce() + std::panic::UnwindSafe) {
    let pid = spawn(body);
    match reap(pid) {
        Ended::Exited(0) => {}
        other => panic!("child process: expected exit status 0, got {other:?}"),
    }
}

/// Waits until the child `pid` has stopped.
pub fn wait_stopped(pid: libc::pid_t) {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    let done = unsafe { libc::waitpid(pid, &mut status, libc::WUNTRACED) };
    must("waitpid", done.into());
    assert!(
        libc::WIFSTOPPED(status),
        "the child: expected to be stopped, got {status:#x}"
    );
}

/// Starts `body` in a child process.
pub fn spawn(body: impl FnOnce() + std::panic::UnwindSafe) -> libc::pid_t {
    match fork() {
        None => crate::harness::finish_child(body),
        Some(pid) => pid,
    }
}

/// A descriptor that becomes readable when `pid` has ended.
pub fn pidfd_open(pid: libc::pid_t) -> OwnedFd {
    // SAFETY: pidfd_open has no memory arguments.
    own(must("pidfd_open", unsafe {
        libc::syscall(libc::SYS_pidfd_open, pid, 0)
    }) as RawFd)
}

/// Waits until `fd` is readable or `limit` has passed; says whether it is.
pub fn wait_readable(fd: RawFd, limit: Duration) -> bool {
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd that outlives the call.
    unsafe { libc::poll(&mut poll, 1, limit.as_millis() as i32) == 1 }
}

/// A pipe: what is written to the second comes out of the first.
pub fn pipe() -> (OwnedFd, OwnedFd) {
    let mut fds = [0; 2];
    // SAFETY: room for the two descriptors.
    must(
        "pipe2",
        unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) }.into(),
    );
    (own(fds[0]), own(fds[1]))
}

/// Writes all of `data`, ignoring errors: there is nobody left to tell.
pub fn write_all(fd: RawFd, data: &[u8]) {
    // SAFETY: the kernel reads `data.len()` bytes at `data`.
    unsafe { libc::write(fd, data.as_ptr().cast(), data.len()) };
}

/// Makes reads of `fd` return at once.
pub fn set_nonblocking(fd: RawFd) {
    // SAFETY: fcntl with an integer argument.
    must(
        "fcntl",
        unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK) }.into(),
    );
}

/// Opens `path`.
pub fn open(path: &str, flags: i32) -> Result<OwnedFd, Errno> {
    let path = CString::new(path).expect("a path without a zero byte");
    // SAFETY: a zero-terminated path that outlives the call.
    result(unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) }.into())
        .map(|fd| own(fd as RawFd))
}

/// Mounts a file system that needs no device.
pub fn mount(kind: &str, on: &str) -> Result<(), Errno> {
    let [kind, on] = [kind, on].map(|text| CString::new(text).expect("text without a zero byte"));
    // SAFETY: zero-terminated strings that outlive the call, and no data.
    let done = unsafe {
        libc::mount(
            kind.as_ptr(),
            on.as_ptr(),
            kind.as_ptr(),
            0,
            std::ptr::null(),
        )
    };
    result(done.into()).map(|_| ())
}

/// Another descriptor of the same open file.
pub fn dup(fd: &impl AsRawFd) -> OwnedFd {
    // SAFETY: fcntl with an integer argument.
    own(must(
        "dup",
        unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 0) }.into(),
    ) as RawFd)
}

/// Calls `ioctl` with a plain number, an address or nothing as its argument.
///
/// # Safety
///
/// Where the request reads or writes memory, `argument` is an address at which the calling code
/// owns as much memory as the request may touch, or one at which nothing is mapped.
pub unsafe fn ioctl(fd: RawFd, request: u64, argument: u64) -> Result<i32, Errno> {
    // SAFETY: the caller's promise.
    result(unsafe { libc::ioctl(fd, request as _, argument) }.into()).map(|v| v as i32)
}

/// A thread of this process, to send signals to.
#[derive(Clone, Copy)]
pub struct ThreadId(libc::pid_t);

/// The calling thread.
pub fn this_thread() -> ThreadId {
    // SAFETY: gettid has no memory arguments.
    ThreadId(unsafe { libc::gettid() })
}

impl ThreadId {
    /// Sends `signal` to the thread, if it is still there.
    pub fn signal(self, signal: i32) {
        // SAFETY: tgkill has no memory arguments.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), self.0, signal) };
    }
}

impl ThreadId {
    /// Lets the thread run on one CPU alone.
    pub fn move_to(self, cpu: usize) {
        // SAFETY: a zeroed set is an empty one, and it outlives the call.
        let done = unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(cpu, &mut set);
            libc::sched_setaffinity(self.0, size_of::<libc::cpu_set_t>(), &set)
        };
        // The thread may have ended meanwhile.
        assert!(
            done == 0 || Errno::last().0 == libc::ESRCH,
            "sched_setaffinity: {:?}",
            Errno::last()
        );
    }
}

extern "C" fn do_nothing(_signal: i32) {}

/// Makes `signal` interrupt system calls and do nothing else.
pub fn catch(signal: i32) {
    // SAFETY: a zeroed sigaction is a valid one, without SA_RESTART; the handler touches nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = do_nothing as *const () as usize;
        must(
            "sigaction",
            libc::sigaction(signal, &action, std::ptr::null_mut()).into(),
        );
    }
}

/// Blocks `signal` in the calling thread, or no longer.
pub fn block(signal: i32, on: bool) {
    let how = if on {
        libc::SIG_BLOCK
    } else {
        libc::SIG_UNBLOCK
    };
    // SAFETY: the set is initialised by sigemptyset and outlives the calls.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, signal);
        libc::pthread_sigmask(how, &set, std::ptr::null_mut());
    }
}

/// Whether `signal` waits to be delivered to the calling thread.
pub fn is_pending(signal: i32) -> bool {
    // SAFETY: the set is written by sigpending before it is read.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigpending(&mut set);
        libc::sigismember(&set, signal) == 1
    }
}

/// Sends SIGALRM to this process after `delay`, then every `interval` if that is not zero.
pub fn set_timer(delay: Duration, interval: Duration) {
    let value = |d: Duration| libc::timeval {
        tv_sec: d.as_secs() as i64,
        tv_usec: d.subsec_micros().into(),
    };
    let timer = libc::itimerval {
        it_value: value(delay),
        it_interval: value(interval),
    };
    // SAFETY: `timer` outlives the call.
    let done = unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) };
    must("setitimer", done.into());
}

/// A file of `len` zero bytes that has no name and lives in memory.
pub fn memory_file(len: usize) -> OwnedFd {
    // SAFETY: a zero-terminated name that outlives the call.
    let fd = unsafe { libc::memfd_create(c"systest".as_ptr(), libc::MFD_CLOEXEC) };
    let file = own(must("memfd_create", fd.into()) as RawFd);
    // SAFETY: ftruncate has no memory arguments.
    must(
        "ftruncate",
        unsafe { libc::ftruncate(file.as_raw_fd(), len as i64) }.into(),
    );
    file
}

/// Whether part of a file can be mapped so; it is not for long.
pub fn map_and_unmap(
    fd: RawFd,
    len: usize,
    protection: i32,
    flags: i32,
    offset: usize,
) -> Result<(), Errno> {
    // SAFETY: a new mapping at an address of the kernel's choice, which goes again.
    unsafe {
        let start = libc::mmap(
            std::ptr::null_mut(),
            len,
            protection,
            flags,
            fd,
            offset as i64,
        );
        if start == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        libc::munmap(start, len);
    }
    Ok(())
}

/// Gives back the memory behind `offset..offset + len` of a file.
pub fn punch_hole(file: &OwnedFd, offset: usize, len: usize) {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: fallocate has no memory arguments.
    let done = unsafe { libc::fallocate(file.as_raw_fd(), mode, offset as i64, len as i64) };
    must("fallocate", done.into());
}

/// Swap space in a file, in use until it is dropped.
pub struct SwapFile(CString);

impl SwapFile {
    /// Makes and turns on swap space of `pages` pages; `None` where the file system or the kernel
    /// does not allow it.
    pub fn on(path: &str, pages: u32) -> Option<Self> {
        const PAGE: usize = 4096;
        let mut content = vec![0u8; pages as usize * PAGE];
        // The header of `mkswap`: version 1, the last page, the magic at the first page's end.
        content[1024..1028].copy_from_slice(&1u32.to_le_bytes());
        content[1028..1032].copy_from_slice(&(pages - 1).to_le_bytes());
        content[PAGE - 10..PAGE].copy_from_slice(b"SWAPSPACE2");
        std::fs::write(path, content).ok()?;
        let name = CString::new(path).ok()?;
        // SAFETY: a zero-terminated path that outlives the call.
        let done = unsafe { libc::swapon(name.as_ptr(), 0) };
        let file = Self(name);
        (done == 0).then_some(file)
    }
}

impl Drop for SwapFile {
    fn drop(&mut self) {
        // SAFETY: a zero-terminated path; both calls fail harmlessly where there is nothing to do.
        unsafe {
            libc::swapoff(self.0.as_ptr());
            libc::unlink(self.0.as_ptr());
        }
    }
}

/// The FS and GS base of the calling thread, as the kernel knows them.
pub fn segment_bases() -> [u64; 2] {
    const ARCH_GET_FS: i32 = 0x1003;
    const ARCH_GET_GS: i32 = 0x1004;
    [ARCH_GET_FS, ARCH_GET_GS].map(|which| {
        let mut base = 0u64;
        // SAFETY: `base` outlives the call.
        must("arch_prctl", unsafe {
            libc::syscall(libc::SYS_arch_prctl, which, &mut base)
        });
        base
    })
}

/// Whether a descriptor is closed when the process executes another program.
pub fn closes_on_exec(fd: RawFd) -> bool {
    // SAFETY: fcntl without memory arguments.
    let flags = must("fcntl", unsafe { libc::fcntl(fd, libc::F_GETFD) }.into());
    flags & i64::from(libc::FD_CLOEXEC) != 0
}

/// Reads one byte.
pub fn read_byte(fd: RawFd) -> Result<u8, Errno> {
    let mut byte = 0u8;
    // SAFETY: room for one byte.
    result(unsafe { libc::read(fd, (&mut byte as *mut u8).cast(), 1) } as i64).map(|_| byte)
}

/// While it lives this process gets no further descriptors.
pub struct DescriptorLimit(libc::rlimit);

impl DescriptorLimit {
    /// Sets the limit to the lowest number that is free.
    pub fn at_present() -> Self {
        let lowest = dup(&io::stdin()).as_raw_fd() as u64;
        let mut old = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: both structures outlive their calls.
        unsafe {
            must(
                "getrlimit",
                libc::getrlimit(libc::RLIMIT_NOFILE, &mut old).into(),
            );
            let new = libc::rlimit {
                rlim_cur: lowest,
                ..old
            };
            must(
                "setrlimit",
                libc::setrlimit(libc::RLIMIT_NOFILE, &new).into(),
            );
        }
        Self(old)
    }
}

impl Drop for DescriptorLimit {
    fn drop(&mut self) {
        // SAFETY: the structure outlives the call.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &self.0) };
    }
}

/// Two connected sockets.
pub fn socket_pair() -> (OwnedFd, OwnedFd) {
    let mut fds = [0; 2];
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    // SAFETY: room for the two descriptors.
    let done = unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) };
    must("socketpair", done.into());
    (own(fds[0]), own(fds[1]))
}

/// A message of one byte with room for one descriptor, to be used by `act`.
fn with_message(act: impl FnOnce(&mut libc::msghdr)) {
    let mut byte = 0u8;
    let mut part = libc::iovec {
        iov_base: (&mut byte as *mut u8).cast(),
        iov_len: 1,
    };
    let mut control = [0u64; 4];
    // SAFETY: a zeroed msghdr is an empty message.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    // SAFETY: CMSG_SPACE only computes.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(size_of::<RawFd>() as u32) } as _;
    act(&mut message);
}

/// Sends a descriptor over a socket (SCM_RIGHTS).
pub fn send_descriptor(socket: &OwnedFd, fd: RawFd) {
    with_message(|message| {
        // SAFETY: the control buffer has room for one header with one descriptor.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as _;
            libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(fd);
            must(
                "sendmsg",
                libc::sendmsg(socket.as_raw_fd(), message, 0) as i64,
            );
        }
    });
}

/// Receives a descriptor from a socket.
pub fn receive_descriptor(socket: &OwnedFd) -> OwnedFd {
    let mut fd = -1;
    with_message(|message| {
        // SAFETY: the message's buffers outlive the call; the header is looked at where there is
        // one.
        unsafe {
            must(
                "recvmsg",
                libc::recvmsg(socket.as_raw_fd(), message, 0) as i64,
            );
            let header = libc::CMSG_FIRSTHDR(message);
            assert!(!header.is_null(), "a message with a descriptor");
            fd = libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned();
        }
    });
    own(fd)
}

/// Unloads a kernel module that nobody uses.
pub fn delete_module(name: &str) -> Result<(), Errno> {
    let name = CString::new(name).expect("a name without a zero byte");
    // SAFETY: a zero-terminated name that outlives the call.
    let done = unsafe { libc::syscall(libc::SYS_delete_module, name.as_ptr(), libc::O_NONBLOCK) };
    result(done).map(|_| ())
}

/// A watchpoint of this thread, counted by the kernel.
pub struct Watchpoint(OwnedFd);

impl Watchpoint {
    /// Counts writes to the byte at `address`; `None` where the kernel does not do that.
    pub fn on_writes(address: u64) -> Option<Self> {
        const TYPE_BREAKPOINT: u32 = 5;
        const BREAKPOINT_W: u32 = 2;
        const EXCLUDE_KERNEL_AND_HYPERVISOR: u64 = 1 << 5 | 1 << 6;
        // `struct perf_event_attr`, version 1 (72 bytes), in 32-bit words.
        let mut attributes = [0u32; 18];
        attributes[0] = TYPE_BREAKPOINT;
        attributes[1] = 72;
        attributes[10] = EXCLUDE_KERNEL_AND_HYPERVISOR as u32;
        attributes[13] = BREAKPOINT_W;
        attributes[14] = address as u32;
        attributes[15] = (address >> 32) as u32;
        attributes[16] = 1;
        let (this_thread, any_cpu, no_group) = (0, -1, -1);
        // SAFETY: the attributes say their own size and outlive the call.
        let fd = unsafe {
            let attributes = attributes.as_ptr();
            libc::syscall(
                libc::SYS_perf_event_open,
                attributes,
                this_thread,
                any_cpu,
                no_group,
                0,
            )
        };
        (fd >= 0).then(|| Self(own(fd as RawFd)))
    }

    /// Writes so far.
    pub fn count(&self) -> u64 {
        let mut count = 0u64;
        // SAFETY: room for the 8 bytes of the counter.
        let done = unsafe { libc::read(self.0.as_raw_fd(), (&mut count as *mut u64).cast(), 8) };
        must("read of a counter", done as i64);
        count
    }
}

/// What the kernel's log holds.
pub fn kernel_log() -> String {
    const READ_ALL: i32 = 3;
    let mut text = vec![0u8; 1 << 20];
    // SAFETY: the kernel writes at most the buffer's length.
    let len = unsafe { libc::klogctl(READ_ALL, text.as_mut_ptr().cast(), text.len() as i32) };
    text.truncate(must("syslog", len.into()) as usize);
    String::from_utf8_lossy(&text).into_owned()
}

/// Writes a file's dirty pages back.
pub fn sync_file(file: &OwnedFd) {
    // SAFETY: fsync has no memory arguments.
    must("fsync", unsafe { libc::fsync(file.as_raw_fd()) }.into());
}

/// Lets this process have `count` files open.
pub fn allow_files(count: u64) {
    let limit = libc::rlimit {
        rlim_cur: count,
        rlim_max: count,
    };
    // SAFETY: The structure outlives the call.
    must(
        "setrlimit",
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }.into(),
    );
}

/// Memory whose pages are there once somebody puts them there, and for which threads wait until then
/// (userfaultfd(2)).
pub struct OnDemand(OwnedFd);

impl OnDemand {
    /// Makes the `len` bytes at `address`, which nobody has touched, such memory.
    pub fn new(address: u64, len: usize) -> Self {
        const UFFD_API: u64 = 0xaa;
        const UFFDIO_API: libc::Ioctl = 0xc018_aa3fu32 as libc::Ioctl;
        const UFFDIO_REGISTER: libc::Ioctl = 0xc020_aa00u32 as libc::Ioctl;
        const MODE_MISSING: u64 = 1;
        // SAFETY: Takes flags only.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
        let fd = own(must("userfaultfd", fd) as RawFd);
        let mut api = [UFFD_API, 0, 0];
        // SAFETY: `struct uffdio_api`.
        let done = unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_API, api.as_mut_ptr()) };
        must("UFFDIO_API", done.into());
        let mut range = [address, len as u64, MODE_MISSING, 0];
        // SAFETY: `struct uffdio_register`.
        let done = unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_REGISTER, range.as_mut_ptr()) };
        must("UFFDIO_REGISTER", done.into());
        Self(fd)
    }

    /// Puts a page there.
    pub fn supply(&self, address: u64, page: &[u64; 512]) {
        const UFFDIO_COPY: libc::Ioctl = 0xc028_aa03u32 as libc::Ioctl;
        let mut copy = [address, page.as_ptr() as u64, 4096, 0, 0];
        // SAFETY: `struct uffdio_copy`, from a page of ours.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), UFFDIO_COPY, copy.as_mut_ptr()) };
        must("UFFDIO_COPY", done.into());
    }
}
