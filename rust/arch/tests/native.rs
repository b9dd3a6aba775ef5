// SPDX-License-Identifier: GPL-2.0

//! The emulator against the processor that runs the test: the same instruction, the same registers
//! and the same memory, and what is left of all three.
//!
//! `EMULATOR_NATIVE_RUNS` sets how often each instruction is tried; the seed is always the same.

#[path = "native/machine.rs"]
mod machine;
#[path = "native/processor.rs"]
mod processor;

use arch::emulator::{decode, execute, Progress};
use arch::operand::CodeSize;
use machine::Emulated;
use processor::{Processor, Registers, BUFFER};

const CF: u64 = 1 << 0;
const PF: u64 = 1 << 2;
const AF: u64 = 1 << 4;
const ZF: u64 = 1 << 6;
const SF: u64 = 1 << 7;
const DF: u64 = 1 << 10;
const OF: u64 = 1 << 11;
const STATUS: u64 = CF | PF | AF | ZF | SF | OF;

/// Which operands an instruction has beside its ModRM byte's.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// ModRM, then so many bytes of immediate; 4 is one of the operand's size.
    ModRm(usize),
    /// ModRM with memory alone.
    Memory,
    /// Implied.
    String,
    /// Implied, on the stack.
    Stack,
}

/// An opcode with what may vary.
#[derive(Clone, Copy)]
struct Template {
    /// Mandatory prefix, escape and opcode.
    opcode: &'static [u8],
    /// Values of the reg field, where it is part of the opcode.
    regs: &'static [u8],
    kind: Kind,
    /// The opcode has forms of 16, 32 and 64 bits.
    sized: bool,
    /// Flags that the manual leaves undefined.
    undefined: u64,
}

const ANY: &[u8] = &[0, 1, 2, 3, 4, 5, 6, 7];
const fn template(
    opcode: &'static [u8],
    regs: &'static [u8],
    kind: Kind,
    sized: bool,
    undefined: u64,
) -> Template {
    Template {
        opcode,
        regs,
        kind,
        sized,
        undefined,
    }
}

const RM: Kind = Kind::ModRm(0);
const BT: u64 = STATUS & !CF & !ZF;
const ROTATE: u64 = OF;
const SHIFT: u64 = OF | AF | CF;
const MUL: u64 = SF | ZF | AF | PF;

fn templates() -> Vec<Template> {
    let mut templates = vec![
        template(&[0x88], ANY, RM, false, 0),
        template(&[0x89], ANY, RM, true, 0),
        template(&[0x8a], ANY, RM, false, 0),
        template(&[0x8b], ANY, RM, true, 0),
        template(&[0xc6], &[0], Kind::ModRm(1), false, 0),
        template(&[0xc7], &[0], Kind::ModRm(4), true, 0),
        template(&[0x63], ANY, RM, true, 0),
        template(&[0x0f, 0xb6], ANY, RM, true, 0),
        template(&[0x0f, 0xb7], ANY, RM, true, 0),
        template(&[0x0f, 0xbe], ANY, RM, true, 0),
        template(&[0x0f, 0xbf], ANY, RM, true, 0),
        template(&[0x80], &[1, 4, 6], Kind::ModRm(1), false, AF),
        template(&[0x80], &[0, 2, 3, 5, 7], Kind::ModRm(1), false, 0),
        template(&[0x81], &[1, 4, 6], Kind::ModRm(4), true, AF),
        template(&[0x81], &[0, 2, 3, 5, 7], Kind::ModRm(4), true, 0),
        template(&[0x83], &[1, 4, 6], Kind::ModRm(1), true, AF),
        template(&[0x83], &[0, 2, 3, 5, 7], Kind::ModRm(1), true, 0),
        template(&[0x84], ANY, RM, false, AF),
        template(&[0x85], ANY, RM, true, AF),
        template(&[0xf6], &[0, 1], Kind::ModRm(1), false, AF),
        template(&[0xf7], &[0, 1], Kind::ModRm(4), true, AF),
        template(&[0xf6], &[2, 3], RM, false, 0),
        template(&[0xf7], &[2, 3], RM, true, 0),
        template(&[0xf6], &[4, 5], RM, false, MUL),
        template(&[0xf7], &[4, 5], RM, true, MUL),
        template(&[0xf6], &[6, 7], RM, false, STATUS),
        template(&[0xf7], &[6, 7], RM, true, STATUS),
        template(&[0x69], ANY, Kind::ModRm(4), true, MUL),
        template(&[0x6b], ANY, Kind::ModRm(1), true, MUL),
        template(&[0x0f, 0xaf], ANY, RM, true, MUL),
        template(&[0xfe], &[0, 1], RM, false, 0),
        template(&[0xff], &[0, 1], RM, true, 0),
        template(&[0xd0], &[0, 1, 2, 3], RM, false, 0),
        template(&[0xd1], &[0, 1, 2, 3], RM, true, 0),
        template(&[0xd0], &[4, 5, 6, 7], RM, false, AF),
        template(&[0xd1], &[4, 5, 6, 7], RM, true, AF),
        template(&[0xc0], &[0, 1, 2, 3], Kind::ModRm(1), false, ROTATE),
        template(&[0xc1], &[0, 1, 2, 3], Kind::ModRm(1), true, ROTATE),
        template(&[0xc0], &[4, 5, 6, 7], Kind::ModRm(1), false, SHIFT),
        template(&[0xc1], &[4, 5, 6, 7], Kind::ModRm(1), true, SHIFT),
        template(&[0xd2], &[0, 1, 2, 3], RM, false, ROTATE),
        template(&[0xd3], &[0, 1, 2, 3], RM, true, ROTATE),
        template(&[0xd2], &[4, 5, 6, 7], RM, false, SHIFT),
        template(&[0xd3], &[4, 5, 6, 7], RM, true, SHIFT),
        template(&[0x0f, 0xa4], ANY, Kind::ModRm(1), true, OF | AF),
        template(&[0x0f, 0xac], ANY, Kind::ModRm(1), true, OF | AF),
        template(&[0x0f, 0xa5], ANY, RM, true, OF | AF),
        template(&[0x0f, 0xad], ANY, RM, true, OF | AF),
        template(&[0x86], ANY, RM, false, 0),
        template(&[0x87], ANY, RM, true, 0),
        template(&[0x0f, 0xc0], ANY, RM, false, 0),
        template(&[0x0f, 0xc1], ANY, RM, true, 0),
        template(&[0x0f, 0xb0], ANY, RM, false, 0),
        template(&[0x0f, 0xb1], ANY, RM, true, 0),
        template(&[0x0f, 0xc7], &[1], Kind::Memory, true, 0),
        template(&[0x0f, 0xa3], ANY, RM, true, BT),
        template(&[0x0f, 0xab], ANY, RM, true, BT),
        template(&[0x0f, 0xb3], ANY, RM, true, BT),
        template(&[0x0f, 0xbb], ANY, RM, true, BT),
        template(&[0x0f, 0xba], &[4, 5, 6, 7], Kind::ModRm(1), true, BT),
        template(&[0x0f, 0xc3], ANY, Kind::Memory, false, 0),
        template(&[0x50], &[0], Kind::Stack, true, 0),
        template(&[0x5d], &[0], Kind::Stack, true, 0),
        template(&[0xff], &[6], Kind::Memory, true, 0),
        template(&[0x8f], &[0], Kind::Memory, true, 0),
        template(&[0xa4], &[0], Kind::String, false, 0),
        template(&[0xa5], &[0], Kind::String, true, 0),
        template(&[0xa6], &[0], Kind::String, false, 0),
        template(&[0xa7], &[0], Kind::String, true, 0),
        template(&[0xaa], &[0], Kind::String, false, 0),
        template(&[0xab], &[0], Kind::String, true, 0),
        template(&[0xac], &[0], Kind::String, false, 0),
        template(&[0xad], &[0], Kind::String, true, 0),
        template(&[0xae], &[0], Kind::String, false, 0),
        template(&[0xaf], &[0], Kind::String, true, 0),
    ];
    static ALU: [[u8; 1]; 32] = {
        let mut opcodes = [[0]; 32];
        let mut at = 0;
        while at < 32 {
            opcodes[at] = [(at / 4 * 8 + at % 4) as u8];
            at += 1;
        }
        opcodes
    };
    for (number, opcode) in ALU.iter().enumerate() {
        let undefined = if [1, 4, 6].contains(&(number / 4)) {
            AF
        } else {
            0
        };
        templates.push(template(opcode, ANY, RM, number % 2 == 1, undefined));
    }
    static CONDITIONS: [[[u8; 2]; 2]; 16] = {
        let mut opcodes = [[[0x0f, 0]; 2]; 16];
        let mut at = 0;
        while at < 16 {
            opcodes[at][0][1] = 0x40 + at as u8;
            opcodes[at][1][1] = 0x90 + at as u8;
            at += 1;
        }
        opcodes
    };
    for [cmov, set] in &CONDITIONS {
        templates.push(template(cmov, ANY, RM, true, 0));
        templates.push(template(set, &[0], RM, false, 0));
    }
    if is_x86_feature_detected!("movbe") {
        templates.push(template(&[0x0f, 0x38, 0xf0], ANY, Kind::Memory, true, 0));
        templates.push(template(&[0x0f, 0x38, 0xf1], ANY, Kind::Memory, true, 0));
    }
    let sse: [&[u8]; 22] = [
        &[0x0f, 0x10],
        &[0x0f, 0x11],
        &[0x66, 0x0f, 0x10],
        &[0xf3, 0x0f, 0x10],
        &[0xf3, 0x0f, 0x11],
        &[0xf2, 0x0f, 0x10],
        &[0xf2, 0x0f, 0x11],
        &[0x0f, 0x12],
        &[0x0f, 0x13],
        &[0x0f, 0x16],
        &[0x66, 0x0f, 0x17],
        &[0x0f, 0x28],
        &[0x66, 0x0f, 0x29],
        &[0x66, 0x0f, 0x2b],
        &[0x66, 0x0f, 0x6f],
        &[0xf3, 0x0f, 0x7f],
        &[0x66, 0x0f, 0xe7],
        &[0xf2, 0x0f, 0xf0],
        &[0x66, 0x0f, 0x6e],
        &[0x66, 0x0f, 0x7e],
        &[0xf3, 0x0f, 0x7e],
        &[0x66, 0x0f, 0xd6],
    ];
    templates.extend(sse.map(|opcode| template(opcode, ANY, Kind::Memory, false, 0)));
    if is_x86_feature_detected!("avx") {
        let avx: [&[u8]; 14] = [
            &[0xc5, 0xf8, 0x10],
            &[0xc5, 0xfc, 0x10],
            &[0xc5, 0xfc, 0x11],
            &[0xc5, 0xf9, 0x28],
            &[0xc5, 0xfd, 0x29],
            &[0xc5, 0xfa, 0x10],
            &[0xc5, 0xfb, 0x11],
            &[0xc5, 0xfe, 0x6f],
            &[0xc5, 0xf9, 0x7f],
            &[0xc5, 0xfd, 0xe7],
            &[0xc5, 0xf9, 0x6e],
            &[0xc4, 0xe1, 0xf9, 0x7e],
            &[0xc5, 0xfa, 0x7e],
            &[0xc5, 0xf9, 0xd6],
        ];
        templates.extend(avx.map(|opcode| template(opcode, ANY, Kind::Memory, false, 0)));
    }
    templates
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn value(&mut self) -> u64 {
        match self.below(4) {
            0 => self.below(4).wrapping_sub(2),
            1 => 1 << self.below(64),
            2 => (1u64 << self.below(64)).wrapping_sub(1),
            _ => self.next(),
        }
    }
}

/// Numbers of RBX, RSP, RSI, RDI and RCX.
const RCX: usize = 1;
const RBX: usize = 3;
const RSP: usize = 4;
const RSI: usize = 6;
const RDI: usize = 7;

fn instruction(template: &Template, random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    let size = if template.sized { random.below(3) } else { 1 };
    let (mandatory, opcode) = match template.opcode {
        [prefix @ (0x66 | 0xf2 | 0xf3), rest @ ..] if !rest.is_empty() => (Some(*prefix), rest),
        opcode => (None, opcode),
    };
    if template.kind == Kind::String {
        match random.below(4) {
            0 => {}
            1 => bytes.push(0xf2),
            _ => bytes.push(0xf3),
        }
    }
    if size == 0 {
        bytes.push(0x66);
    }
    bytes.extend(mandatory);
    let vex = matches!(opcode[0], 0xc4 | 0xc5) && opcode.len() > 2;
    if size == 2 {
        bytes.push(0x48);
    } else if !vex && mandatory.is_none() && random.below(4) == 0 {
        bytes.push(0x40);
    }
    bytes.extend_from_slice(opcode);
    if !matches!(template.kind, Kind::String | Kind::Stack) {
        let mut reg = template.regs[random.below(template.regs.len() as u64) as usize];
        if template.regs.len() == 8 && reg == RSP as u8 {
            reg = 5;
        }
        let to_register = template.kind != Kind::Memory && random.below(3) == 0;
        // RBX, or [RBX], or RBP, which is no address.
        bytes.push(
            match (to_register, random.below(2)) {
                (true, 0) => 0xc3,
                (true, _) => 0xc5,
                (false, _) => 0x03,
            } | reg << 3,
        );
    }
    if let Kind::ModRm(immediate) = template.kind {
        let len = match (immediate, size) {
            (4, 0) => 2,
            (len, _) => len,
        };
        bytes.extend_from_slice(&random.value().to_le_bytes()[..len]);
    }
    bytes
}

fn registers(template: &Template, random: &mut Random) -> Registers {
    let mut registers = Registers::default();
    for register in &mut registers.general {
        *register = random.value();
    }
    for register in &mut registers.vectors {
        *register = [random.next(), random.next(), random.next(), random.next()]
            .map(u64::to_le_bytes)
            .concat()
            .try_into()
            .unwrap();
    }
    // In the middle of the buffer, and every other time where all operands are aligned.
    let aligned = random.below(2) == 0;
    let offset = 0x400 + if aligned { 0 } else { random.below(64) };
    registers.general[RBX] = BUFFER + offset;
    registers.general[RSP] = BUFFER + 0xc00;
    registers.flags = random.next() & STATUS | 2;
    if template.kind == Kind::String {
        registers.general[RCX] = 1 + random.below(20);
        registers.general[RSI] = BUFFER + 0x200 + random.below(16);
        registers.general[RDI] = BUFFER + 0x800 + random.below(16);
        registers.flags |= random.next() & DF;
    } else if template.kind == Kind::ModRm(0) && template.undefined == BT {
        // Bits in the buffer.
        for register in &mut registers.general[..RBX] {
            *register = random.below(4096).wrapping_sub(2048);
        }
        for number in [5, 6, 7] {
            registers.general[number] = random.below(4096).wrapping_sub(2048);
        }
    }
    registers
}

#[test]
fn the_processor_agrees() {
    let runs: u32 = match std::env::var("EMULATOR_NATIVE_RUNS") {
        Ok(runs) => runs.parse().unwrap(),
        Err(_) => 200,
    };
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut processor = Processor::new();
    for template in templates() {
        let mut compared = 0;
        for _ in 0..runs {
            let bytes = instruction(&template, &mut random);
            let Ok(instruction) = decode(&bytes, CodeSize::Bits64) else {
                panic!("{bytes:x?} is not decoded");
            };
            assert_eq!(usize::from(instruction.length), bytes.len(), "{bytes:x?}");

            let before = registers(&template, &mut random);
            let memory: Vec<u8> = (0..processor::BUFFER_SIZE / 8)
                .flat_map(|_| random.value().to_le_bytes())
                .collect();
            let mut emulated = Emulated::new(&before, &memory);
            // CMPXCHG is to succeed now and then.
            if random.below(2) == 0 {
                emulated.make_equal(if random.below(2) == 0 { 4 } else { 8 });
            }
            let (before, memory) = (emulated.registers.clone(), emulated.memory.clone());
            match execute(&instruction, &mut emulated) {
                Ok(Progress::Done) => {}
                // A fault, or an undefined result.
                _ => continue,
            }
            compared += 1;

            let (after, memory) = processor.run(&bytes, &before, &memory);
            let what = format!("{bytes:x?} on {before:x?}");
            assert_eq!(emulated.registers.general, after.general, "{what}");
            assert_eq!(emulated.registers.vectors, after.vectors, "{what}");
            assert!(emulated.memory == memory, "memory after {what}");
            let defined = STATUS & !template.undefined;
            assert_eq!(
                emulated.registers.flags & defined,
                after.flags & defined,
                "flags after {what}"
            );
        }
        assert!(compared > runs / 20, "{:x?}: {compared}", template.opcode);
    }
}
