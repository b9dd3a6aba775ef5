// SPDX-License-Identifier: GPL-2.0

//! What is typed, taken apart into what is for the guest and what is for minivmm.

/// Ctrl-A: what follows is for minivmm.
const PREFIX: u8 = 0x01;

/// What one piece of input came to.
#[derive(PartialEq, Eq, Debug)]
pub struct Typed {
    /// For the guest.
    pub bytes: Vec<u8>,
    /// Ctrl-A X was typed: the machine shall end. What followed is dropped.
    pub end: bool,
}

/// Recognises Ctrl-A X and Ctrl-A Ctrl-A, however the input is cut into pieces.
///
/// Ctrl-A followed by anything else is not for minivmm, and the guest gets both.
#[derive(Default)]
pub struct Escape {
    after_prefix: bool,
}

impl Escape {
    /// Takes the next piece of input.
    pub fn take(&mut self, input: &[u8]) -> Typed {
        let mut typed = Typed {
            bytes: Vec::with_capacity(input.len()),
            end: false,
        };
        for &byte in input {
            match (self.after_prefix, byte) {
                (false, PREFIX) => self.after_prefix = true,
                (false, byte) => typed.bytes.push(byte),
                (true, b'x' | b'X') => {
                    typed.end = true;
                    return typed;
                }
                (true, PREFIX) => {
                    self.after_prefix = false;
                    typed.bytes.push(PREFIX);
                }
                (true, byte) => {
                    self.after_prefix = false;
                    typed.bytes.extend([PREFIX, byte]);
                }
            }
        }
        typed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(pieces: &[&[u8]]) -> Typed {
        let mut escape = Escape::default();
        let mut all = Typed {
            bytes: Vec::new(),
            end: false,
        };
        for piece in pieces {
            let typed = escape.take(piece);
            all.bytes.extend(typed.bytes);
            all.end |= typed.end;
        }
        all
    }

    #[test]
    fn plain_text_passes() {
        assert_eq!(
            typed(&[b"ls -l\r"]),
            Typed {
                bytes: b"ls -l\r".to_vec(),
                end: false
            }
        );
    }

    #[test]
    fn ctrl_a_x_ends_in_either_case_and_however_cut() {
        for pieces in [
            &[&b"a\x01x"[..]][..],
            &[b"a\x01X"],
            &[b"a\x01", b"xb"],
            &[b"a", b"\x01", b"X"],
        ] {
            assert_eq!(
                typed(pieces),
                Typed {
                    bytes: b"a".to_vec(),
                    end: true
                },
                "{pieces:?}"
            );
        }
    }

    #[test]
    fn ctrl_a_twice_is_one() {
        assert_eq!(
            typed(&[b"\x01\x01x"]),
            Typed {
                bytes: b"\x01x".to_vec(),
                end: false
            }
        );
        assert_eq!(
            typed(&[b"\x01", b"\x01"]),
            Typed {
                bytes: b"\x01".to_vec(),
                end: false
            }
        );
    }

    #[test]
    fn ctrl_a_and_something_else_reaches_the_guest() {
        assert_eq!(
            typed(&[b"\x01", b"bx"]),
            Typed {
                bytes: b"\x01bx".to_vec(),
                end: false
            }
        );
    }
}
