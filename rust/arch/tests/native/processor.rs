// SPDX-License-Identifier: GPL-2.0

//! Runs one instruction on the processor, with all registers but R15 loaded before and stored
//! after it.

use std::ptr;

/// Where the memory that instructions use is mapped: below 4 GiB, for addresses of 32 bits.
pub const BUFFER: u64 = 0x3000_0000;
pub const BUFFER_SIZE: usize = 4096;

const VECTORS: usize = 8;

/// What an instruction finds and leaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Registers {
    /// RAX to R15. R15 holds the address of this structure on the processor.
    pub general: [u64; 16],
    pub flags: u64,
    /// Of the test's own stack.
    saved_rsp: u64,
    /// YMM0 to YMM7; without AVX their lower halves alone count.
    pub vectors: [[u8; 32]; VECTORS],
}

/// Pages for code and memory.
pub struct Processor {
    code: *mut u8,
    buffer: *mut u8,
    has_avx: bool,
}

const CODE_SIZE: usize = 4096;
const FLAGS: u32 = 128;
const SAVED_RSP: u32 = 136;
const VECTORS_AT: u32 = 144;
const RSP: u8 = 4;

struct Assembler(Vec<u8>);

impl Assembler {
    /// MOV between a register and `[R15 + offset]`.
    fn mov(&mut self, opcode: u8, register: u8, offset: u32) {
        self.0.extend([
            0x49 | register >> 3 << 2,
            opcode,
            0x87 | (register & 7) << 3,
        ]);
        self.0.extend(offset.to_le_bytes());
    }

    fn load(&mut self, register: u8, offset: u32) {
        self.mov(0x8b, register, offset);
    }

    fn store(&mut self, register: u8, offset: u32) {
        self.mov(0x89, register, offset);
    }

    /// VMOVUPS or MOVUPS between a register and its place.
    fn vector(&mut self, opcode: u8, register: u8, has_avx: bool) {
        if has_avx {
            self.0.extend([0xc4, 0xc1, 0x7c, opcode]);
        } else {
            self.0.extend([0x41, 0x0f, opcode]);
        }
        self.0.push(0x87 | register << 3);
        let offset = VECTORS_AT + 32 * u32::from(register);
        self.0.extend(offset.to_le_bytes());
    }

    fn general(&mut self, opcode: u8) {
        for register in (0..15).filter(|register| *register != RSP) {
            self.mov(opcode, register, 8 * u32::from(register));
        }
    }
}

impl Processor {
    pub fn new() -> Self {
        let map = |address: u64, size: usize, protection: i32| {
            // SAFETY: A new mapping at a place where a program has none, or anywhere.
            let page = unsafe {
                libc::mmap(
                    address as *mut libc::c_void,
                    size,
                    protection,
                    libc::MAP_PRIVATE
                        | libc::MAP_ANONYMOUS
                        | if address == 0 {
                            0
                        } else {
                            libc::MAP_FIXED_NOREPLACE
                        },
                    -1,
                    0,
                )
            };
            assert_ne!(page, libc::MAP_FAILED);
            page.cast::<u8>()
        };
        let data = libc::PROT_READ | libc::PROT_WRITE;
        Self {
            code: map(0, CODE_SIZE, data | libc::PROT_EXEC),
            buffer: map(BUFFER, BUFFER_SIZE, data),
            has_avx: is_x86_feature_detected!("avx"),
        }
    }

    /// Executes `instruction`, which goes on after itself; returns registers and memory.
    pub fn run(
        &mut self,
        instruction: &[u8],
        registers: &Registers,
        memory: &[u8],
    ) -> (Registers, Vec<u8>) {
        let mut code = Assembler(Vec::new());
        // PUSH RBX, RBP, R12 to R15; MOV R15, RDI.
        code.0
            .extend([0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57]);
        code.0.extend([0x49, 0x89, 0xff]);
        for register in 0..VECTORS as u8 {
            code.vector(0x10, register, self.has_avx);
        }
        // PUSH [R15 + FLAGS]; POPFQ.
        code.0.extend([0x41, 0xff, 0xb7]);
        code.0.extend(FLAGS.to_le_bytes());
        code.0.push(0x9d);
        code.store(RSP, SAVED_RSP);
        code.general(0x8b);
        code.load(RSP, 8 * u32::from(RSP));
        code.0.extend_from_slice(instruction);
        code.store(RSP, 8 * u32::from(RSP));
        code.load(RSP, SAVED_RSP);
        code.general(0x89);
        // PUSHFQ; POP [R15 + FLAGS]; CLD.
        code.0.extend([0x9c, 0x41, 0x8f, 0x87]);
        code.0.extend(FLAGS.to_le_bytes());
        code.0.push(0xfc);
        for register in 0..VECTORS as u8 {
            code.vector(0x11, register, self.has_avx);
        }
        if self.has_avx {
            // VZEROUPPER.
            code.0.extend([0xc5, 0xf8, 0x77]);
        }
        // POP R15 to R12, RBP, RBX; RET.
        code.0.extend([
            0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xc3,
        ]);
        assert!(code.0.len() <= CODE_SIZE && memory.len() == BUFFER_SIZE);

        let mut after = registers.clone();
        // SAFETY: Both pages are ours alone and large enough. The code keeps to the ABI of a C
        // function; what the instruction touches the emulator has found to lie in the buffer.
        unsafe {
            ptr::copy_nonoverlapping(code.0.as_ptr(), self.code, code.0.len());
            ptr::copy_nonoverlapping(memory.as_ptr(), self.buffer, BUFFER_SIZE);
            let function: extern "C" fn(*mut Registers) = std::mem::transmute(self.code);
            function(&mut after);
            let memory = std::slice::from_raw_parts(self.buffer, BUFFER_SIZE).to_vec();
            after.saved_rsp = registers.saved_rsp;
            after.general[15] = registers.general[15];
            if !self.has_avx {
                for (new, old) in after.vectors.iter_mut().zip(&registers.vectors) {
                    new[16..].copy_from_slice(&old[16..]);
                }
            }
            (after, memory)
        }
    }
}
