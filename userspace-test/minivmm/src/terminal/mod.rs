// SPDX-License-Identifier: GPL-2.0

//! The person at the other end: terminal, keys and signals.

mod console;
mod escape;
pub mod poll;
mod raw;
mod signals;

pub use console::Console;
pub use escape::Escape;
pub use raw::{size, RawMode};
pub use signals::{Signal, Signals};
