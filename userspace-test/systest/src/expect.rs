// SPDX-License-Identifier: GPL-2.0
//! What a test expects. Each function ends the test when something else came.

use std::fmt::Debug;

use crate::sys::Errno;

/// Expects `got` to equal `want`.
#[track_caller]
pub fn eq<T: PartialEq + Debug>(what: &str, got: T, want: T) {
    if got != want {
        panic!("{what}: expected {want:x?}, got {got:x?}");
    }
}

/// Expects `got` to differ from `other`.
#[track_caller]
pub fn ne<T: PartialEq + Debug>(what: &str, got: T, other: T) {
    if got == other {
        panic!("{what}: expected something other than {other:x?}");
    }
}

/// Expects `truth`.
#[track_caller]
pub fn that(what: &str, truth: bool) {
    if !truth {
        panic!("expected {what}, it is not so");
    }
}

/// Expects success and hands over what came.
#[track_caller]
pub fn ok<T>(what: &str, got: Result<T, Errno>) -> T {
    match got {
        Ok(value) => value,
        Err(errno) => panic!("{what}: expected success, got {errno:?}"),
    }
}

/// Expects the error `want` (a libc errno).
#[track_caller]
pub fn errno<T: Debug>(what: &str, got: Result<T, Errno>, want: i32) {
    match got {
        Ok(value) => panic!(
            "{what}: expected {:?}, got success ({value:x?})",
            Errno(want)
        ),
        Err(errno) if errno.0 == want => {}
        Err(errno) => panic!("{what}: expected {:?}, got {errno:?}", Errno(want)),
    }
}
