// SPDX-License-Identifier: GPL-2.0

mod decode;
mod families;
mod faults;
mod machine;
mod random;
mod strings;
