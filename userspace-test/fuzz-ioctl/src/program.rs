// SPDX-License-Identifier: GPL-2.0
//! Code for hostile guests. None of it jumps backwards but for loops that count: a guest that spins
//! with interrupts off for ever is nothing that a host could not end, but emulated hosts cannot.

use crate::lists::MSRS;
use crate::random::Random;

/// Where tables and code lie in the guest's memory.
pub const GDT: u64 = 0x1000;
pub const IDT: u64 = 0x2000;
pub const HANDLERS: u64 = 0x3000;
pub const CODE: u64 = 0x1_0000;

/// Descriptors: none, 64-bit code, data.
pub const DESCRIPTORS: [u64; 3] = [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

/// Bytes of a handler.
const HANDLER_LEN: usize = 32;
/// Counts down, from what memory is filled with, the exceptions until one exits: a fault that its handler
/// brings back would keep the processor busy for as long as it is let.
const COUNTDOWN: u32 = HANDLERS as u32 + 0x800;
/// Vectors that have one.
pub const VECTORS: usize = 32;

/// Handlers in 64-bit mode: #UD and #GP go on R15 bytes further, until they were [`COUNTDOWN`] in all;
/// the others exit.
pub fn handlers() -> Vec<u8> {
    let mut code = Vec::new();
    for vector in 0..VECTORS {
        let handler: &[u8] = match vector {
            // add [rsp], r15; iretq
            6 => &[0x4c, 0x01, 0x3c, 0x24, 0x48, 0xcf],
            // add [rsp + 8], r15; add rsp, 8; iretq
            13 => &[
                0x4c, 0x01, 0x7c, 0x24, 0x08, 0x48, 0x83, 0xc4, 0x08, 0x48, 0xcf,
            ],
            _ => &[0xe6, 0xe9],
        };
        if handler.ends_with(&[0x48, 0xcf]) {
            // dec byte ptr [COUNTDOWN]; jz behind the handler, where an OUT is.
            code.extend_from_slice(&[0xfe, 0x0c, 0x25]);
            code.extend_from_slice(&COUNTDOWN.to_le_bytes());
            code.extend_from_slice(&[0x74, handler.len() as u8]);
        }
        code.extend_from_slice(handler);
        code.resize((vector + 1) * HANDLER_LEN, crate::machine::CODE);
    }
    code
}

/// Interrupt gates of 64-bit mode for [`handlers`].
pub fn gates() -> Vec<u8> {
    (0..VECTORS as u64)
        .flat_map(|vector| {
            let at = HANDLERS + vector * HANDLER_LEN as u64;
            let low = at & 0xffff | 8 << 16 | 0x8e00 << 32 | (at >> 16 & 0xffff) << 48;
            [low.to_le_bytes(), [0; 8]].concat()
        })
        .collect()
}

/// Opcodes that exit, or that a hypervisor decodes; any bytes follow as their operands.
const OPCODES: &[&[u8]] = &[
    &[0x0f, 0x01],
    &[0x0f, 0x00],
    &[0x0f, 0x20],
    &[0x0f, 0x21],
    &[0x0f, 0x22],
    &[0x0f, 0x23],
    &[0x0f, 0x30],
    &[0x0f, 0x32],
    &[0x0f, 0xa2],
    &[0x0f, 0x09],
    &[0x0f, 0x08],
    &[0x0f, 0xc7],
    &[0x0f, 0xae],
    &[0x0f, 0x05],
    &[0x0f, 0x34],
    &[0x0f, 0x07],
    &[0x0f, 0x06],
    &[0x0f, 0x31],
    &[0x6c],
    &[0x6d],
    &[0x6e],
    &[0x6f],
    &[0xf3, 0x6c],
    &[0xf3, 0x6e],
    &[0xf3, 0xa4],
    &[0xf3, 0xab],
    &[0xe4],
    &[0xe5],
    &[0xe6],
    &[0xec],
    &[0xed],
    &[0xee],
    &[0xef],
    &[0x88, 0x03],
    &[0x8a, 0x03],
    &[0x89, 0x43],
    &[0x8b, 0x83],
    &[0xc7, 0x03],
    &[0x0f, 0xb6, 0x03],
    &[0xa0],
    &[0xa3],
    &[0x8e],
    &[0xcd],
    &[0xf4],
    &[0x9d],
    &[0x17],
    &[0x66],
    &[0x67],
    &[0xf0],
    &[0x64],
    &[0x48],
    &[0xf1],
    &[0x0f, 0x38, 0x82],
    &[0x0f, 0x01, 0xd1],
    &[0x0f, 0x01, 0xc1],
    &[0x0f, 0x01, 0xf9],
    &[0x0f, 0xae, 0x2b],
    &[0x0f, 0xae, 0x23],
    &[0x0f, 0xc7, 0xf0],
    &[0xfb],
    &[0xfa],
    &[0x9c],
];

/// Whether a byte may begin a jump, a call or a return.
fn may_jump(byte: u8) -> bool {
    matches!(byte, 0x70..=0x8f | 0x9a | 0xc2 | 0xc3 | 0xca | 0xcb | 0xcf | 0xe0..=0xe3 | 0xe8..=0xeb | 0xff)
}

/// Any bytes.
fn anything(random: &mut Random) -> Vec<u8> {
    random
        .bytes(256)
        .into_iter()
        .filter(|b| !may_jump(*b))
        .collect()
}

/// What hypervisors have to do with.
fn exits(random: &mut Random) -> Vec<u8> {
    let mut code = Vec::new();
    while code.len() < 200 {
        code.extend_from_slice(random.pick(OPCODES));
        let operands = random.below(4) as usize;
        code.extend(random.bytes(operands).into_iter().filter(|b| !may_jump(*b)));
    }
    code
}

/// `mov r15d, length` and the instruction: handlers go on that much further.
pub fn guarded(code: &mut Vec<u8>, instruction: &[u8]) {
    code.extend([0x41, 0xbf, instruction.len() as u8, 0, 0, 0]);
    code.extend(instruction);
}

/// `mov eax, low` and `mov edx, high`.
pub fn load_eax_edx(code: &mut Vec<u8>, value: u64) {
    code.push(0xb8);
    code.extend((value as u32).to_le_bytes());
    code.push(0xba);
    code.extend(((value >> 32) as u32).to_le_bytes());
}

/// `mov ecx, value`.
pub fn load_ecx(code: &mut Vec<u8>, value: u32) {
    code.push(0xb9);
    code.extend(value.to_le_bytes());
}

/// Reads and writes MSRs: known ones, their neighbours and any.
fn msrs(random: &mut Random) -> Vec<u8> {
    let mut code = Vec::new();
    let start = random.pick(&[
        0,
        0x100,
        0x1a0,
        0x200,
        0x300,
        0x400,
        0x480,
        0x600,
        0x800,
        0xd00,
        0xc000_0080,
        0xc000_0100,
        0xc001_0000,
        0x4b56_4d00,
        0x4000_0000,
    ]) + random.below(128);
    for i in 0..24 {
        let index = match random.below(4) {
            0 => random.pick(MSRS),
            1 => random.number(),
            _ => start + i,
        };
        load_ecx(&mut code, index as u32);
        load_eax_edx(&mut code, random.number());
        guarded(
            &mut code,
            if random.one_in(2) {
                &[0x0f, 0x32]
            } else {
                &[0x0f, 0x30]
            },
        );
    }
    code
}

/// Moves to control and debug registers, XSETBV, and XRSTOR of what memory holds.
fn registers(random: &mut Random) -> Vec<u8> {
    let mut code = Vec::new();
    for _ in 0..16 {
        let value = random.number();
        // mov rax, value
        code.extend([0x48, 0xb8]);
        code.extend(value.to_le_bytes());
        match random.below(8) {
            0 => guarded(&mut code, &[0x0f, 0x22, random.pick(&[0xc0, 0xe0])]),
            // CR4 or CR0 with one bit the other way round: mov rax, crN; btc rax, bit; mov crN, rax
            1..=3 => {
                let register = random.pick(&[0xc0, 0xe0]);
                code.extend([0x0f, 0x20, register]);
                code.extend([0x48, 0x0f, 0xba, 0xf8, random.below(33) as u8]);
                guarded(&mut code, &[0x0f, 0x22, register]);
            }
            4 => guarded(&mut code, &[0x44, 0x0f, 0x22, 0xc0]),
            5 => guarded(
                &mut code,
                &[0x0f, 0x23, 0xc0 | (random.below(8) as u8) << 3],
            ),
            6 => {
                load_ecx(&mut code, random.pick(&[0, 0, 0, 1]));
                load_eax_edx(&mut code, random.pick(&[1, 3, 7, 5, 0xff, 0x207, value]));
                guarded(&mut code, &[0x0f, 0x01, 0xd1]);
            }
            _ => {
                load_eax_edx(&mut code, random.pick(&[7, u64::MAX, 0]));
                // xrstor [rbx]
                guarded(&mut code, &[0x0f, 0xae, 0x2b]);
            }
        }
    }
    code
}

/// INs and OUTs of every width at a range of ports.
fn ports(random: &mut Random) -> Vec<u8> {
    let mut code = Vec::new();
    let start = random.pick(&[0, 0x20, 0x40, 0x60, 0x70, 0xa0, 0x4d0, 0xcf8, 0xffe0]);
    for i in 0..12 {
        // mov edx, port
        code.push(0xba);
        code.extend((start + i as u32 + random.below(16) as u32).to_le_bytes());
        let instruction: &[u8] = random.pick(&[
            &[0xec][..],
            &[0xed],
            &[0x66, 0xed],
            &[0xee],
            &[0xef],
            &[0x66, 0xef],
        ]);
        code.extend(instruction);
    }
    code
}

/// Rewrites entries of its page tables and its own code, and goes on in both.
fn rewrites(random: &mut Random) -> Vec<u8> {
    let mut code = vec![0xbd, 40, 0, 0, 0]; // mov ebp, 40
    let start = code.len();
    for _ in 0..4 {
        let at = random.pick(&[0x4000u32, 0x5000, 0x6000, 0x6008, 0x2_0000]);
        let value = random.pick(&[0x5007u32, 0x6007, 0x87, 0xe7, 0x83, 0x20_0087, 0x7]);
        // mov dword [at], value; mov cr3, (mov rax, cr3) or invlpg [0]; mov ecx, [0x200000]
        code.extend([0xc7, 0x04, 0x25]);
        code.extend(at.to_le_bytes());
        code.extend(value.to_le_bytes());
        let flush: &[u8] = random.pick(&[
            &[0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8][..],
            &[0x0f, 0x01, 0x3c, 0x25, 0, 0, 0, 0],
            &[],
        ]);
        code.extend(flush);
        code.extend([0x8b, 0x0c, 0x25, 0, 0, 0x02, 0]);
        // mov byte [rip + 0], 0x90: what follows is another instruction now.
        code.extend([0xc6, 0x05, 0, 0, 0, 0, 0x90, 0xf4]);
    }
    code.extend([0xff, 0xcd]); // dec ebp
    let back = start as i32 - (code.len() as i32 + 6);
    code.extend([0x0f, 0x85]); // jnz
    code.extend(back.to_le_bytes());
    code
}

/// Interrupts itself: by its local APIC's ICR, from ring 0 to itself and to all.
fn storms(random: &mut Random) -> Vec<u8> {
    let mut code = vec![0xfb, 0xbd, 50, 0, 0, 0]; // sti; mov ebp, 50
    let start = code.len();
    let command = random.pick(&[
        0x4_0030u64,
        0x4_0430,
        0x8_0040,
        0xc_0430,
        0x4_0031,
        0x8_0530,
    ]);
    load_ecx(&mut code, 0x830);
    load_eax_edx(&mut code, command);
    guarded(&mut code, &[0x0f, 0x30]);
    // mov dword [0xfee00300], command, by an address of 64 bits in RAX's form: mov rbx, address
    code.extend([0x48, 0xbb]);
    code.extend(0xfee0_0300u64.to_le_bytes());
    code.extend([0xc7, 0x03]);
    code.extend((command as u32).to_le_bytes());
    code.extend([0xff, 0xcd]);
    let back = start as i32 - (code.len() as i32 + 6);
    code.extend([0x0f, 0x85]);
    code.extend(back.to_le_bytes());
    code
}

/// A program for 64-bit mode, or, where it is of bytes alone, for any.
pub fn any(random: &mut Random) -> Vec<u8> {
    match random.below(10) {
        0 | 1 => anything(random),
        2 | 3 => exits(random),
        4 => ports(random),
        5 => rewrites(random),
        6 => storms(random),
        7 => registers(random),
        _ => msrs(random),
    }
}
