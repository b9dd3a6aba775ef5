// SPDX-License-Identifier: GPL-2.0

//! Copying arguments in and results out.

use core::mem::MaybeUninit;

use kernel::{
    prelude::*,
    uaccess::{
        UserPtr,
        UserSlice, //
    },
};

use crate::host::abi_types::Plain;

/// Copies a structure in.
///
/// # Errors
///
/// EFAULT.
pub(super) fn read<T: Plain>(arg: usize) -> Result<T> {
    let mut value = MaybeUninit::<T>::uninit();
    UserSlice::new(UserPtr::from_addr(arg), size_of::<T>())
        .reader()
        .read_raw(value.as_bytes_mut_raw())?;
    Ok(T::assume_copied(value))
}

/// Copies a structure out.
///
/// # Errors
///
/// EFAULT.
pub(super) fn write<T: Plain>(arg: usize, value: &T) -> Result {
    write_bytes(arg, value.as_bytes())
}

/// Copies bytes in.
///
/// # Errors
///
/// EFAULT.
pub(super) fn read_bytes(arg: usize, to: &mut [u8]) -> Result {
    UserSlice::new(UserPtr::from_addr(arg), to.len())
        .reader()
        .read_slice(to)
}

/// Copies bytes out.
///
/// # Errors
///
/// EFAULT.
pub(super) fn write_bytes(arg: usize, bytes: &[u8]) -> Result {
    UserSlice::new(UserPtr::from_addr(arg), bytes.len())
        .writer()
        .write_slice(bytes)
}

/// The bytes of a value that is being filled.
trait RawBytes {
    fn as_bytes_mut_raw(&mut self) -> &mut [MaybeUninit<u8>];
}

impl<T: Plain> RawBytes for MaybeUninit<T> {
    fn as_bytes_mut_raw(&mut self) -> &mut [MaybeUninit<u8>] {
        T::raw_bytes(self)
    }
}
