// SPDX-License-Identifier: GPL-2.0

//! Raw code: loaded as it is and entered in the mode asked for.

use std::fs;
use std::path::Path;

use kvm_bindings::kvm_sregs;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::{state, write, CpuState, Error};
use crate::description::FlatMode;

/// Loads `path` at `load` and returns the state to enter it at `entry`. `reset` is the state of a
/// new vCPU.
///
/// # Errors
///
/// What is wrong with the file, its size or the entry point.
pub fn load(
    memory: &GuestMemoryMmap,
    path: &Path,
    load: GuestAddress,
    entry: GuestAddress,
    mode: FlatMode,
    reset: kvm_sregs,
) -> Result<CpuState, Error> {
    let code = fs::read(path).map_err(|source| Error::Read {
        path: path.to_path_buf(),
        source,
    })?;
    if code.is_empty() {
        return Err(Error::Empty {
            path: path.to_path_buf(),
        });
    }
    let state = match mode {
        FlatMode::Real => state::real_mode(reset, entry),
        FlatMode::Protected => state::protected_mode(memory, reset, entry),
        FlatMode::Long => state::long_mode(memory, reset, entry),
    }?;
    write(memory, "the raw code", load, &code)?;
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::layout;
    use vm_memory::Bytes;
    use vmm_sys_util::tempfile::TempFile;

    const LOAD: GuestAddress = GuestAddress(0x7c00);

    fn try_load(code: &[u8], load_at: GuestAddress) -> Result<(GuestMemoryMmap, CpuState), Error> {
        let memory = GuestMemoryMmap::from_ranges(&layout::ram(1 << 20)).expect("memory");
        let file = TempFile::new().expect("a temporary file");
        fs::write(file.as_path(), code).expect("written");
        let state = load(
            &memory,
            file.as_path(),
            load_at,
            load_at,
            FlatMode::Real,
            kvm_sregs::default(),
        )?;
        Ok((memory, state))
    }

    #[test]
    fn code_is_where_it_was_asked_for() {
        let (memory, state) = try_load(&[0xf4, 0x90], LOAD).expect("loads");
        assert_eq!(
            memory.read_obj::<[u8; 2]>(LOAD).expect("in memory"),
            [0xf4, 0x90]
        );
        assert_eq!(state.regs.rip, LOAD.0);
    }

    #[test]
    fn code_past_the_end_of_memory_is_refused() {
        let error = try_load(&[0; 4096], GuestAddress(0xf_f800)).expect_err("too long");
        assert!(
            matches!(
                error,
                Error::Write {
                    at: GuestAddress(0xf_f800),
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn an_empty_file_is_refused() {
        assert!(matches!(try_load(&[], LOAD), Err(Error::Empty { .. })));
    }

    #[test]
    fn a_missing_file_is_named() {
        let memory = GuestMemoryMmap::from_ranges(&layout::ram(1 << 20)).expect("memory");
        let path = Path::new("/no/such/code");
        let error = load(
            &memory,
            path,
            LOAD,
            LOAD,
            FlatMode::Real,
            kvm_sregs::default(),
        )
        .expect_err("missing");
        assert!(error.to_string().contains("/no/such/code"), "{error}");
    }
}
