// SPDX-License-Identifier: GPL-2.0

//! Guest-physical addresses on the command line.

use vm_memory::GuestAddress;

/// Parses a guest-physical address: decimal, or hexadecimal after `0x`; `_` may separate digits.
///
/// # Errors
///
/// A sentence that names the text, for clap to print.
pub fn parse(text: &str) -> Result<GuestAddress, String> {
    let digits = text.replace('_', "");
    let parsed = match digits
        .strip_prefix("0x")
        .or_else(|| digits.strip_prefix("0X"))
    {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => digits.parse(),
    };
    parsed
        .map(GuestAddress)
        .map_err(|error| format!("`{text}` is not an address such as 0x7c00 ({error})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_bases() {
        assert_eq!(parse("0x7c00"), Ok(GuestAddress(0x7c00)));
        assert_eq!(parse("4096"), Ok(GuestAddress(4096)));
        assert_eq!(parse("0xffff_f000"), Ok(GuestAddress(0xffff_f000)));
    }

    #[test]
    fn what_is_no_address_is_named() {
        for text in ["", "0x", "7c00h", "-1", "0x1_0000_0000_0000_0000"] {
            let error = parse(text).expect_err("no address");
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
    }
}
