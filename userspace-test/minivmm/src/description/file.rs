// SPDX-License-Identifier: GPL-2.0

//! The machine description in TOML.

use std::fs;
use std::path::Path;

use super::{Error, Options, MAX_CPUS, MAX_MEMORY};

/// Reads a machine description. Relative paths in it begin at its own directory.
///
/// # Errors
///
/// [`Error::Read`], [`Error::Syntax`] or [`Error::Range`].
pub fn read(path: &Path) -> Result<Options, Error> {
    let text = fs::read_to_string(path).map_err(|source| Error::Read {
        path: path.into(),
        source,
    })?;
    let mut options: Options = toml::from_str(&text).map_err(|error| Error::Syntax {
        path: path.into(),
        message: error.to_string().trim_end().into(),
    })?;
    for (key, value, last) in [
        ("memory", options.memory, MAX_MEMORY),
        ("cpus", options.cpus.map(u32::from), u32::from(MAX_CPUS)),
    ] {
        if let Some(value) = value.filter(|value| !(1..=last).contains(value)) {
            return Err(Error::Range {
                path: path.into(),
                key,
                value,
                range: format!("1 to {last}"),
            });
        }
    }
    options.relative_to(path.parent().unwrap_or(Path::new("")));
    Ok(options)
}
