// SPDX-License-Identifier: GPL-2.0

//! A guest that writes pages, over and over, for measurements of the log of written pages.
//!
//! Started in 64-bit mode with the first address in R12, the bytes from one to the next in R13, and
//! their number in R14. Each round ends at the port that says so.

use super::guest;

guest! {
    /// The guest.
    PAGE_WRITER, "page_writer", r#"
.code64
1:
    movq    %r12, %rdi
    movq    %r14, %rcx
2:
    incq    (%rdi)
    addq    %r13, %rdi
    decq    %rcx
    jnz     2b
    done
    jmp     1b
"#
}
