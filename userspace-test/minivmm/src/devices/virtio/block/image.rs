// SPDX-License-Identifier: GPL-2.0

//! A disk image: a file, or a block device of the host, that is nobody else's while a guest has it.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use super::storage::Storage;
use super::SECTOR;

/// What the image formats begin with that are not raw, and their names.
const FORMATS: [(&[u8], &str); 3] = [
    (b"QFI\xfb", "qcow2"),
    (b"KDMV", "VMDK"),
    (b"vhdxfile", "VHDX"),
];

/// Why an image cannot be a disk.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be opened.
    #[error("cannot open the disk image {}: {source} ({hint})", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
        /// What to do about it.
        hint: &'static str,
    },
    /// It is neither a file nor a block device.
    #[error("{} is neither a file nor a block device: a disk image is one of the two", path.display())]
    Kind {
        /// Which.
        path: PathBuf,
    },
    /// Somebody else has it.
    #[error(
        "the disk image {} is in use: another machine or program has locked it{}",
        path.display(), if *read_only { " to write" } else { ". End that, or give ,ro to both" }
    )]
    Locked {
        /// Which.
        path: PathBuf,
        /// Whether it was only to be read.
        read_only: bool,
    },
    /// Its system does not do locks.
    #[error("cannot lock the disk image {}", path.display())]
    Lock {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is nothing in it.
    #[error("the disk image {} is empty: `truncate -s 1G` makes it a blank disk", path.display())]
    Empty {
        /// Which.
        path: PathBuf,
    },
    /// It is not made of sectors.
    #[error(
        "the disk image {} is {size} bytes long, no multiple of {SECTOR}: it has been cut short, \
         or is not raw (`truncate -s %{SECTOR}` fills its last sector with zeroes)", path.display()
    )]
    Size {
        /// Which.
        path: PathBuf,
        /// Its bytes.
        size: u64,
    },
    /// It has a format.
    #[error(
        "the disk image {} is {format}, not raw: `qemu-img convert -O raw` makes a raw one of it",
        path.display()
    )]
    Format {
        /// Which.
        path: PathBuf,
        /// Its format.
        format: &'static str,
    },
}

/// A disk image, locked.
pub struct Image {
    storage: Box<dyn Storage>,
    path: PathBuf,
    sectors: u64,
    read_only: bool,
    /// A sync has failed: the host may have thrown away what was written before it, and would say
    /// so only once.
    lost: bool,
}

impl Image {
    /// Opens and locks the image at `path`.
    ///
    /// # Errors
    ///
    /// Why it cannot be a disk.
    pub fn open(path: &Path, read_only: bool) -> Result<Self, Error> {
        let at = || path.to_path_buf();
        let open_error = |source: io::Error| Error::Open {
            path: at(),
            hint: hint(&source, read_only),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(!read_only)
            .open(path)
            .map_err(open_error)?;
        let kind = file.metadata().map_err(open_error)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(Error::Kind { path: at() });
        }
        lock(&file, read_only).map_err(|source| {
            if matches!(source.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) {
                Error::Locked {
                    path: at(),
                    read_only,
                }
            } else {
                Error::Lock { path: at(), source }
            }
        })?;
        let size = file.seek(SeekFrom::End(0)).map_err(open_error)?;
        if size == 0 {
            return Err(Error::Empty { path: at() });
        }
        if let Some(format) = format_of(&file) {
            return Err(Error::Format { path: at(), format });
        }
        if size % SECTOR != 0 {
            return Err(Error::Size { path: at(), size });
        }
        Ok(Self::new(Box::new(file), path, size / SECTOR, read_only))
    }

    /// An image of `sectors` sectors in `storage`, called `path`.
    pub(super) fn new(
        storage: Box<dyn Storage>,
        path: &Path,
        sectors: u64,
        read_only: bool,
    ) -> Self {
        Self {
            storage,
            path: path.to_path_buf(),
            sectors,
            read_only,
            lost: false,
        }
    }

    /// Where its bytes are. They are synced by [`Self::sync`].
    pub fn storage(&self) -> &dyn Storage {
        self.storage.as_ref()
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    ///
    /// What the host says. After a first failure the image [`Self::is_lost`], and no later success
    /// is believed: it would not be about what was written before that.
    pub fn sync(&mut self) -> io::Result<()> {
        if self.lost {
            return Err(io::Error::other("an earlier sync has failed"));
        }
        let result = self.storage.sync();
        self.lost = result.is_err();
        result
    }

    /// Whether something that was written may be lost, because a sync has failed.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many sectors it has.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Whether it must not be written.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }
}

fn hint(error: &io::Error, read_only: bool) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOENT) => "`truncate -s 1G` makes a blank one",
        Some(libc::EACCES | libc::EPERM | libc::EROFS) if !read_only => {
            "if it is only to be read, give ,ro"
        }
        Some(libc::EISDIR) => "give the image, not its directory",
        _ => "a disk image is a file or a block device",
    }
}

fn format_of(file: &File) -> Option<&'static str> {
    let mut start = [0; 8];
    file.read_exact_at(&mut start, 0).ok()?;
    FORMATS
        .iter()
        .find(|(magic, _)| start.starts_with(magic))
        .map(|(_, name)| *name)
}

/// Locks a file for as long as it is open: against everybody, or against those who write.
fn lock(file: &File, shared: bool) -> io::Result<()> {
    let lock = libc::flock {
        l_type: if shared { libc::F_RDLCK } else { libc::F_WRLCK } as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        // All of it, however long it gets.
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: the argument is what the call reads, and outlives it.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
