// SPDX-License-Identifier: GPL-2.0

//! Raw mode of the terminal, and the way back from it.

use std::io;
use std::mem::MaybeUninit;
use std::panic;
use std::sync::Once;
use std::sync::{Mutex, PoisonError};

/// The mode to go back to, while the terminal is raw. The panic hook, which has no other way to
/// know, looks here.
static BEFORE: Mutex<Option<libc::termios>> = Mutex::new(None);
static HOOK: Once = Once::new();

/// Standard input in raw mode: each key reaches the guest, Ctrl-C included. Dropping it, or a
/// panic on any thread, restores the mode from before.
pub struct RawMode {
    raw: libc::termios,
}

impl RawMode {
    /// Sets raw mode, if standard input is a terminal. Output processing stays on, so that what
    /// minivmm itself prints still starts at the left.
    ///
    /// # Errors
    ///
    /// What the system says when it refuses a mode.
    pub fn enter() -> io::Result<Option<Self>> {
        let Some(before) = mode() else {
            return Ok(None);
        };
        let mut raw = before;
        // SAFETY: `raw` is a valid termios, which the function modifies and nothing else.
        unsafe { libc::cfmakeraw(&mut raw) };
        raw.c_oflag = before.c_oflag;
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        HOOK.call_once(|| {
            let next = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                restore();
                next(info);
            }));
        });
        let guard = Self { raw };
        guard.again()?;
        Ok(Some(guard))
    }

    /// Sets raw mode again, after somebody else (a shell, while minivmm was stopped) has changed
    /// it.
    ///
    /// # Errors
    ///
    /// What the system says when it refuses the mode.
    pub fn again(&self) -> io::Result<()> {
        set_mode(&self.raw)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Columns and rows of standard output, if it is a terminal that says.
pub fn size() -> Option<(u16, u16)> {
    let mut size = MaybeUninit::<libc::winsize>::zeroed();
    // SAFETY: the pointer is valid for a winsize to be written to.
    let result = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, size.as_mut_ptr()) };
    // SAFETY: all zeroes are a winsize too.
    let size = unsafe { size.assume_init() };
    (result == 0 && size.ws_col != 0 && size.ws_row != 0).then_some((size.ws_col, size.ws_row))
}

fn restore() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(before) = before {
        // A terminal that has gone away in the meantime needs no mode.
        let _ = set_mode(&before);
    }
}

/// The mode of standard input; `None` if it is no terminal.
fn mode() -> Option<libc::termios> {
    let mut mode = MaybeUninit::uninit();
    // SAFETY: the pointer is valid for a termios to be written to.
    let result = unsafe { libc::tcgetattr(libc::STDIN_FILENO, mode.as_mut_ptr()) };
    // SAFETY: the call succeeded, so it has written all of it.
    (result == 0).then(|| unsafe { mode.assume_init() })
}

fn set_mode(mode: &libc::termios) -> io::Result<()> {
    // SAFETY: `mode` is a valid termios, which the call only reads.
    match unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, mode) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
