// SPDX-License-Identifier: GPL-2.0
//! The system calls that the fuzzer makes. Memory that the kernel is told of lies at fixed addresses
//! that Rust knows nothing of.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// What a system call returned, or the error number below 0.
pub fn errno(value: i64) -> i64 {
    if value >= 0 {
        return value;
    }
    -i64::from(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
}

/// The value of a system call that cannot fail on a working system.
pub fn must(what: &str, value: i64) -> i64 {
    let value = errno(value);
    assert!(value >= 0, "{what}: error {}", -value);
    value
}

/// A descriptor that the kernel has just made.
pub fn own(fd: i64) -> OwnedFd {
    assert!(fd >= 0);
    // SAFETY: the kernel has just made it, and nobody else knows of it.
    unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
}

/// Makes an ioctl; the return value, or the error number below 0.
///
/// What the kernel writes has to go to the places of [`Place`], or nowhere: the generators see to
/// the pointers.
pub fn ioctl(fd: RawFd, number: u64, argument: u64) -> i64 {
    // SAFETY: see above; no object of Rust's is at such an address.
    errno(unsafe { libc::ioctl(fd, number as libc::Ioctl, argument) }.into())
}

/// A file filled with one byte, of which all mappings are copies on write: child processes that have
/// it from their parent share its pages.
pub struct Filled {
    fd: OwnedFd,
    len: usize,
}

impl Filled {
    /// A new file of `len` bytes (whole pages), which nobody can change.
    pub fn new(len: usize, byte: u8) -> Self {
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        // SAFETY: a zero-terminated name.
        let fd = unsafe { libc::memfd_create(c"guest".as_ptr(), flags) };
        let fd = own(must("memfd_create", fd.into()));
        let bytes = vec![byte; len];
        // SAFETY: `len` bytes.
        let written = unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), len) };
        assert!(written as usize == len);
        let seals =
            libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        // SAFETY: takes numbers only.
        let sealed = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) };
        must("F_ADD_SEALS", sealed.into());
        Self { fd, len }
    }
}

/// Memory at a fixed address, with a page without access on either side.
pub struct Place {
    address: u64,
    len: usize,
    /// Where new pages come from.
    file: Option<&'static Filled>,
}

/// Bytes of a page.
pub const PAGE: usize = 4096;

impl Place {
    /// `len` bytes (whole pages) of new memory at `address`.
    pub fn new(address: u64, len: usize) -> Self {
        map(address - PAGE as u64, len + 2 * PAGE, libc::PROT_NONE);
        map(address, len, libc::PROT_READ | libc::PROT_WRITE);
        Self {
            address,
            len,
            file: None,
        }
    }

    /// New memory at `address` that is what the file is, as is all that comes in its place later.
    pub fn of_file(address: u64, file: &'static Filled) -> Self {
        map(address - PAGE as u64, file.len + 2 * PAGE, libc::PROT_NONE);
        let place = Self {
            address,
            len: file.len,
            file: Some(file),
        };
        place.map_file(0, file.len);
        place
    }

    /// As [`Self::new`], with code to come.
    pub fn executable(address: u64, len: usize) -> Self {
        let place = Self::new(address, len);
        let rights = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        map(address, len, rights);
        place
    }

    /// Calls what is at its start: code that changes no register and returns.
    pub fn call(&self) {
        // SAFETY: says who wrote it.
        let code: extern "C" fn() = unsafe { std::mem::transmute(self.address as *const ()) };
        code();
    }

    /// Maps part of the file, privately: what is written stays with this process.
    fn map_file(&self, offset: usize, len: usize) {
        let at = (self.address + offset as u64) as *mut libc::c_void;
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE;
        let fd = self.file.map_or(-1, |file| file.fd.as_raw_fd());
        // SAFETY: inside the place, where no objects are.
        unsafe { libc::mmap(at, len, rights, flags, fd, offset as i64) };
    }

    /// The pages of a vCPU's descriptor, wherever there is room.
    pub fn of_vcpu(fd: &OwnedFd, len: usize) -> Option<Self> {
        let (prot, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: new memory.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, shared, fd.as_raw_fd(), 0) };
        (at != libc::MAP_FAILED).then_some(Self {
            address: at as u64,
            len,
            file: None,
        })
    }

    /// Where it starts.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Copies `bytes` to `offset`.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len);
        let to = (self.address + offset as u64) as *mut u8;
        // SAFETY: inside the mapping, which holds no objects.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }

    /// A copy of the `len` bytes at `offset`.
    pub fn read(&self, offset: usize, len: usize) -> Vec<u8> {
        assert!(offset + len <= self.len);
        let mut bytes = vec![0; len];
        let from = (self.address + offset as u64) as *const u8;
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), len) };
        bytes
    }

    /// Takes the pages from `offset` on away from this process: there is nothing any more, new
    /// memory, or memory with other rights.
    pub fn disturb(&self, offset: usize, len: usize, how: Disturbance) {
        assert!(offset + len <= self.len);
        let at = self.address + offset as u64;
        let pointer = at as *mut libc::c_void;
        // SAFETY: inside the mapping, which holds no objects.
        unsafe {
            match how {
                Disturbance::Unmap => libc::munmap(pointer, len),
                Disturbance::Discard => libc::madvise(pointer, len, libc::MADV_DONTNEED),
                Disturbance::Protect(rights) => libc::mprotect(pointer, len, rights),
                Disturbance::Remap => {
                    self.map_file(offset, len);
                    0
                }
            }
        };
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // SAFETY: nobody has a reference into it.
        unsafe { libc::munmap(self.address as *mut libc::c_void, self.len) };
    }
}

/// What happens to memory under a VM's feet.
#[derive(Clone, Copy, Debug)]
pub enum Disturbance {
    /// munmap.
    Unmap,
    /// mmap of new memory over it.
    Remap,
    /// madvise(MADV_DONTNEED).
    Discard,
    /// mprotect.
    Protect(i32),
}

/// Maps anonymous memory at exactly `address`, over whatever is there.
fn map(address: u64, len: usize, rights: i32) {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
    // SAFETY: the addresses are chosen where neither the program nor its libraries are.
    let at = unsafe { libc::mmap(address as *mut libc::c_void, len, rights, flags, -1, 0) };
    assert!(at as u64 == address, "mmap at {address:#x} failed");
}

/// Opens the device.
pub fn open_kvm() -> OwnedFd {
    // SAFETY: a zero-terminated path.
    let fd = unsafe { libc::open(c"/dev/kvm".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
    own(must("open /dev/kvm", fd.into()))
}

/// A new eventfd that never blocks.
pub fn eventfd() -> OwnedFd {
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    own(must("eventfd", fd.into()))
}

/// The number of an eventfd's events, which it then forgets; 0 where there are none.
pub fn drain(event: &OwnedFd) -> u64 {
    let mut count = 0u64;
    // SAFETY: room for 8 bytes.
    unsafe { libc::read(event.as_raw_fd(), (&raw mut count).cast(), 8) };
    count
}

/// What a [`Breakpoint`] waits for.
#[derive(Clone, Copy)]
pub enum Kind {
    /// A store.
    Write = 2,
    /// A load or a store.
    Access = 3,
    /// An instruction that begins there.
    Execute = 4,
}

/// One of this thread's debug registers. It counts, in user space.
pub struct Breakpoint(OwnedFd);

impl Breakpoint {
    /// Sets one.
    pub fn new(kind: Kind, address: u64, len: u64) -> Self {
        const TYPE_BREAKPOINT: u64 = 5;
        const VERSION_1: u64 = 72;
        const EXCLUDE_KERNEL_AND_HYPERVISOR: u64 = 1 << 5 | 1 << 6;
        // `struct perf_event_attr`, in words.
        let mut attributes = [0u64; 9];
        attributes[0] = TYPE_BREAKPOINT | VERSION_1 << 32;
        attributes[5] = EXCLUDE_KERNEL_AND_HYPERVISOR;
        attributes[6] = (kind as u64) << 32;
        attributes[7] = address;
        attributes[8] = len;
        let (this_thread, any_cpu, no_group, no_flags) = (0, -1, -1, 0);
        // SAFETY: the attributes say their own size and outlive the call.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                attributes.as_ptr(),
                this_thread,
                any_cpu,
                no_group,
                no_flags,
            )
        };
        Self(own(must("perf_event_open", fd)))
    }

    /// How often it was hit.
    pub fn count(&self) -> u64 {
        let mut count = 0u64;
        // SAFETY: room for 8 bytes.
        let done = unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), 8) };
        must("read of a counter", done as i64);
        count
    }
}

extern "C" fn nothing(_: i32) {}

/// Has `signal` interrupt system calls and do nothing else.
pub fn catch(signal: i32) {
    // SAFETY: the handler touches nothing; a zeroed sigaction is one without flags.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as extern "C" fn(i32) as usize;
        must(
            "sigaction",
            libc::sigaction(signal, &action, std::ptr::null_mut()).into(),
        );
    }
}

/// Sends SIGALRM in `first` and each `first` after that; never again for zero.
pub fn alarm(first: Duration) {
    let time = libc::timeval {
        tv_sec: first.as_secs() as i64,
        tv_usec: first.subsec_micros().into(),
    };
    let timer = libc::itimerval {
        it_interval: time,
        it_value: time,
    };
    // SAFETY: the structure outlives the call.
    let done = unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) };
    must("setitimer", done.into());
}

/// A counter that child processes share.
pub struct Shared(u64);

impl Shared {
    /// Starts at 0.
    pub fn new() -> Self {
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: new memory, which is 0.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), PAGE, rights, flags, -1, 0) };
        assert!(at != libc::MAP_FAILED);
        Self(at as u64)
    }

    /// The counter.
    pub fn counter(&self) -> &AtomicU64 {
        // SAFETY: mapped as long as this lives, and for longer.
        unsafe { &*(self.0 as *const AtomicU64) }
    }
}

/// Runs `body` in a child process, which ends with it.
pub fn fork(body: impl FnOnce()) -> i32 {
    // SAFETY: this process has one thread.
    let pid = must("fork", unsafe { libc::fork() }.into()) as i32;
    if pid == 0 {
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        // SAFETY: ends the process.
        unsafe { libc::_exit(i32::from(done.is_err())) };
    }
    pid
}

/// Kills a child.
pub fn kill(pid: i32) {
    // SAFETY: takes numbers only.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// How a child has ended, if it has: whether by itself, and well. It is then gone.
pub fn has_ended(pid: i32) -> Option<bool> {
    let mut status = 0;
    // SAFETY: room for the status.
    let ended = unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) };
    (ended == pid).then_some(status == 0)
}

/// The kernel's number of this thread.
pub fn thread_id() -> i32 {
    // SAFETY: has no arguments.
    unsafe { libc::gettid() }
}

/// Sends SIGALRM to a thread of this process, if `id` is one.
pub fn signal_thread(id: i32) {
    if id > 0 {
        // SAFETY: takes numbers only.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), id, libc::SIGALRM) };
    }
}
