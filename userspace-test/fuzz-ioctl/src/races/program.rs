// SPDX-License-Identifier: GPL-2.0
//! Code for vCPUs that share page tables which one of them rewrites, and the tables themselves.

use crate::machine::Machine;
use crate::program::{guarded, load_eax_edx, load_ecx, CODE, GDT, IDT};
use crate::random::Random;

/// Page tables of 64-bit mode, two of each level but the highest, that the guest goes between.
pub const PML4: u64 = 0x4000;
const PDPT: [u64; 2] = [0x5000, 0x8000];
const PD: [u64; 2] = [0x6000, 0x9000];
const PT: [u64; 2] = [0x7000, 0xb000];
/// What the check at the end stores.
pub const RESULT: u64 = 0xc000;
const HANDLERS: u64 = 0x3000;
/// A task state segment for each vCPU, for its stacks.
pub const TSS: u64 = 0x800;
const TSS_LEN: u64 = 0x80;
/// Between the code of two vCPUs, and between their stacks.
const APART: u64 = 0x4000;
const STACKS: u64 = 0x7_0000;
/// Code that any vCPU calls and any changes.
const PATCHED: u64 = 0x2_8000;

/// Pages by linear addresses of their own; they lie at [`FRAMES`] unless somebody changed that.
pub const PAGES: u64 = 0x30_0000;
/// Where they are in the guest's memory.
pub const FRAMES: u64 = 0x10_0000;
/// How many: in the first half nothing is stored but RETs, so that each can be executed at any time.
pub const COUNT: u64 = 16;
const PAGE: u64 = 0x1000;
const RETS: u64 = 0xc3c3_c3c3_c3c3_c3c3;
/// The entry of a page table for the first of them.
const FIRST: u64 = PAGES / PAGE % 512;
/// The local APIC's registers, by a linear address.
const APIC: u64 = 0x40_0000;
const APIC_ICR: u64 = APIC + 0x300;

/// Present, writable, user; a large page.
const TABLE: u64 = 7;
const LARGE: u64 = 0x87;
const NX: u64 = 1 << 63;
/// Above every physical address that there is.
const RESERVED: u64 = 1 << 51;

/// Where a vCPU's code is.
pub fn code_of(vcpu: usize) -> u64 {
    CODE + vcpu as u64 * APART
}

/// The top of a vCPU's stack.
pub fn stack_of(vcpu: usize) -> u64 {
    STACKS + (vcpu as u64 + 1) * APART
}

/// Where a vCPU's task state segment is.
pub fn tss_of(vcpu: usize) -> u64 {
    TSS + vcpu as u64 * TSS_LEN
}

/// Bytes between two handlers.
const HANDLER_LEN: u64 = 64;

/// Handlers: an interrupt is ended, a fault goes on R15 bytes further, or, where the instruction
/// itself could not be fetched, at R14 with the return address off the stack.
fn handlers() -> [&'static [u8]; 4] {
    [
        // mov dword [APIC_EOI], 0; iretq
        &[
            0xc7, 0x04, 0x25, 0xb0, 0x00, 0x40, 0x00, 0, 0, 0, 0, 0x48, 0xcf,
        ],
        // add [rsp], r15; iretq
        &[0x4c, 0x01, 0x3c, 0x24, 0x48, 0xcf],
        // add [rsp + 8], r15; add rsp, 8; iretq
        &[
            0x4c, 0x01, 0x7c, 0x24, 0x08, 0x48, 0x83, 0xc4, 0x08, 0x48, 0xcf,
        ],
        // push rax; mov rax, cr2; cmp rax, [rsp + 16]; jne 1f; mov [rsp + 16], r14;
        // add qword [rsp + 40], 8; jmp 2f; 1: add [rsp + 16], r15; 2: pop rax; add rsp, 8; iretq
        &[
            0x50, 0x0f, 0x20, 0xd0, 0x48, 0x3b, 0x44, 0x24, 0x10, 0x75, 0x0d, 0x4c, 0x89, 0x74,
            0x24, 0x10, 0x48, 0x83, 0x44, 0x24, 0x28, 0x08, 0xeb, 0x05, 0x4c, 0x01, 0x7c, 0x24,
            0x10, 0x58, 0x48, 0x83, 0xc4, 0x08, 0x48, 0xcf,
        ],
    ]
}

/// Gates for all vectors. #PF, #DF, interrupts and NMIs have stacks of their own: a handler that goes
/// on behind an instruction must not do so because of an interrupt that found a bad stack.
fn gates() -> Vec<u8> {
    (0..256u64)
        .flat_map(|vector| {
            let (handler, stack) = match vector {
                14 => (3, 1),
                8 => (2, 2),
                2 => (0, 4),
                // INT, by the stack that is there.
                0x21 | 0x80 => (0, 0),
                32.. => (0, 3),
                10..=13 | 17 | 21 => (2, 0),
                0 | 5..=7 | 16 | 18..=20 => (1, 0),
                _ => (0, 0),
            };
            let at = HANDLERS + handler * HANDLER_LEN;
            let low = at & 0xffff | 8 << 16 | (0x8e00 | stack) << 32 | (at >> 16 & 0xffff) << 48;
            [low.to_le_bytes(), [0; 8]].concat()
        })
        .collect()
}

/// Puts everything but code into the guest's memory as it is to be.
pub fn lay_out(machine: &Machine, vcpus: usize) {
    let word = |at: u64, value: u64| machine.load(at, &value.to_le_bytes());
    machine.load(
        GDT,
        &crate::program::DESCRIPTORS.map(u64::to_le_bytes).concat(),
    );
    machine.load(IDT, &gates());
    for (i, handler) in handlers().into_iter().enumerate() {
        machine.load(HANDLERS + i as u64 * HANDLER_LEN, handler);
    }
    for vcpu in 0..vcpus {
        machine.load(tss_of(vcpu), &[0; TSS_LEN as usize]);
        // The stacks of gates, beginning with 1.
        for i in 0..4 {
            word(
                tss_of(vcpu) + 0x24 + 8 * i,
                stack_of(vcpu) - 0x1000 - 0x800 * i,
            );
        }
    }
    machine.load(PATCHED, &[0x66, 0x90, 0xc3]);
    // Descriptors for LIDT: the table itself, and the copy in the last page.
    for (i, base) in [IDT, PAGES + (COUNT - 1) * PAGE].into_iter().enumerate() {
        machine.load(IDTRS + 16 * i as u64, &0xfffu16.to_le_bytes());
        word(IDTRS + 16 * i as u64 + 2, base);
    }
    for page in 0..COUNT {
        let content = match page {
            _ if page == COUNT - 1 => gates(),
            _ if page < COUNT / 2 => vec![0xc3; PAGE as usize],
            _ => vec![0; PAGE as usize],
        };
        machine.load(FRAMES + page * PAGE, &content);
    }
    tables(machine);
}

/// The page tables as they are to be.
pub fn tables(machine: &Machine) {
    let word = |at: u64, value: u64| machine.load(at, &value.to_le_bytes());
    for i in 0..2 {
        machine.load(PT[i], &[0; PAGE as usize]);
        for page in 0..COUNT {
            // The other table has each half the other way round.
            let half = COUNT / 2;
            let frame = if i == 0 { page } else { page ^ (half - 1) };
            word(PT[i] + 8 * (FIRST + page), FRAMES + frame * PAGE | TABLE);
        }
        machine.load(PD[i], &[0; PAGE as usize]);
        word(PD[i], LARGE);
        word(PD[i] + 8, PT[i] | TABLE);
        // Not to be cached.
        word(PD[i] + 16, 0xfee0_0000 | LARGE | 0x18);
        machine.load(PDPT[i], &[0; PAGE as usize]);
        word(PDPT[i], PD[i] | TABLE);
    }
    machine.load(PML4, &[0; PAGE as usize]);
    word(PML4, PDPT[0] | TABLE);
}

const IDTRS: u64 = 0xd000;

fn mov_rbx(code: &mut Vec<u8>, value: u64) {
    code.extend([0x48, 0xbb]);
    code.extend(value.to_le_bytes());
}

fn mov_rax(code: &mut Vec<u8>, value: u64) {
    code.extend([0x48, 0xb8]);
    code.extend(value.to_le_bytes());
}

/// Any of the pages; one that may be executed; one that may hold anything.
fn any_page(random: &mut Random) -> u64 {
    PAGES + random.below(COUNT) * PAGE
}

fn code_page(random: &mut Random) -> u64 {
    PAGES + random.below(COUNT / 2) * PAGE
}

fn data_page(random: &mut Random) -> u64 {
    code_page(random) + COUNT / 2 * PAGE
}

/// An entry for one of the pages.
fn leaf(random: &mut Random, page: u64) -> u64 {
    let half = COUNT / 2;
    let frame = FRAMES + (page / half * half + random.below(half)) * PAGE;
    match random.below(16) {
        0 => 0,
        1 => random.pick(&[frame, RESERVED | frame, 1 << 40 | frame]) | 7,
        2 => frame | NX | 7,
        3 => frame | 5,
        4 => frame | 3,
        5 => frame | 1,
        6 => frame | 0x107,
        7 => frame | random.pick(&[0x18, 0x80, 0x98, 0x8]) | 7,
        8 => frame | 0x67,
        // Behind the memory, and the local APIC.
        9 if page >= half => random.pick(&[0x50_0007, 0xfee0_0007, 0x4007, 0x7007]),
        _ => frame | 7,
    }
}

/// A store of an entry at any level: where, what, and what has to come after it.
fn rewrite(random: &mut Random, code: &mut Vec<u8>) {
    let table = random.below(2) as usize;
    let (at, value, after) = match random.below(12) {
        0 | 1 => {
            let whole = [PT[0] | TABLE, PT[1] | TABLE, LARGE, PT[0] | 5, PT[1] | 3];
            let odd = [
                0,
                PT[0] | TABLE | NX,
                LARGE | 0x2000,
                PD[0] | TABLE,
                RESERVED | 7,
            ];
            let value = if random.one_in(3) {
                random.pick(&odd)
            } else {
                random.pick(&whole)
            };
            (PD[table] + 8, value, None)
        }
        2 => {
            let good = PD[random.below(2) as usize] | TABLE;
            let bad = random.pick(&[good, good, 0, RESERVED | 7, LARGE, good | 0x60]);
            (PDPT[table], bad, Some(good))
        }
        3 => {
            let good = PDPT[random.below(2) as usize] | TABLE;
            let bad = random.pick(&[good, good, good, 0, good | 0x80, good | NX]);
            (PML4, bad, Some(good))
        }
        _ => {
            let page = random.below(COUNT);
            (PT[table] + 8 * (FIRST + page), leaf(random, page), None)
        }
    };
    mov_rbx(code, at);
    for value in [Some(value), after].into_iter().flatten() {
        mov_rax(code, value);
        let store: &[u8] = random.pick(&[
            // mov [rbx], rax; xchg [rbx], rax; mov [rbx], eax
            &[0x48, 0x89, 0x03][..],
            &[0x48, 0x89, 0x03],
            &[0x48, 0x87, 0x03],
            &[0x89, 0x03],
        ]);
        guarded(code, store);
    }
    if random.one_in(8) {
        // lock btc qword [rbx], bit
        let bit = random.pick(&[0, 1, 2, 5, 6, 8, 63]);
        if after.is_none() {
            guarded(code, &[0xf0, 0x48, 0x0f, 0xba, 0x3b, bit]);
        }
    }
    flush(random, code);
}

fn flush(random: &mut Random, code: &mut Vec<u8>) {
    match random.below(6) {
        0 | 1 => {
            mov_rbx(code, any_page(random));
            guarded(code, &[0x0f, 0x01, 0x3b]);
        }
        // mov rax, cr3; mov cr3, rax
        2 => guarded(code, &[0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8]),
        // mov rax, cr4; btc rax, 7; mov cr4, rax
        3 => {
            code.extend([0x0f, 0x20, 0xe0, 0x48, 0x0f, 0xba, 0xf8, 7]);
            guarded(code, &[0x0f, 0x22, 0xe0]);
        }
        _ => {}
    }
}

/// Reads, writes, executes and more, by one of the pages.
fn touch(random: &mut Random, code: &mut Vec<u8>) {
    let offset = random.pick(&[0, 8, 0x800, 0xff8, 0xffc]);
    match random.below(14) {
        0 | 1 => {
            mov_rbx(code, any_page(random) + offset);
            guarded(
                code,
                random.pick(&[&[0x8b, 0x03][..], &[0x48, 0x8b, 0x03], &[0xf3, 0xac]]),
            );
        }
        2 | 3 => {
            mov_rbx(code, any_page(random) + offset);
            mov_rax(code, RETS);
            let store: &[u8] = random.pick(&[
                &[0x48, 0x89, 0x03][..],
                &[0xf0, 0x48, 0x09, 0x03],
                &[0x48, 0x87, 0x03],
                &[0xf0, 0x48, 0x0f, 0xb1, 0x03],
            ]);
            guarded(code, store);
        }
        4..=6 => {
            mov_rbx(code, code_page(random) + offset);
            // lea r14, [rip + 8] behind the call; mov r15d, 2; call rbx
            code.extend([0x4c, 0x8d, 0x35, 8, 0, 0, 0]);
            guarded(code, &[0xff, 0xd3]);
        }
        7 => {
            // mov rsi, from; mov rdi, to; mov ecx, 5000; rep movsb
            code.extend([0x48, 0xbe]);
            code.extend(code_page(random).to_le_bytes());
            code.extend([0x48, 0xbf]);
            code.extend(code_page(random).to_le_bytes());
            load_ecx(code, 5000);
            guarded(code, &[0xf3, 0xa4]);
        }
        8 => {
            // fxsave, xsave, fxrstor or xrstor [rbx]
            mov_rbx(
                code,
                data_page(random) + random.pick(&[0, 0x800, 0xe00, 0xfc0]),
            );
            load_eax_edx(code, random.pick(&[7, u64::MAX, 3]));
            guarded(code, &[0x0f, 0xae, random.pick(&[0x03, 0x23, 0x0b, 0x2b])]);
        }
        9 | 10 => {
            // mov r13, rsp; lea rsp, [rbx + offset]; push or int; mov rsp, r13
            mov_rbx(code, data_page(random));
            code.extend([0x49, 0x89, 0xe5, 0x48, 0x8d, 0xa3]);
            code.extend(random.pick(&[0x1000u32, 0x20, 0x8]).to_le_bytes());
            guarded(
                code,
                random.pick(&[&[0x50][..], &[0xcd, 0x21], &[0x0f, 0x0b], &[0xcc]]),
            );
            code.extend([0x4c, 0x89, 0xec]);
        }
        11 => {
            // lidt [copy]; int or ud2; lidt [table]
            lidt(code, 1);
            guarded(
                code,
                random.pick(&[&[0xcd, 0x21][..], &[0x0f, 0x0b], &[0xcd, 0x80]]),
            );
            lidt(code, 0);
        }
        12 => {
            // mov word [PATCHED], instruction; call PATCHED
            mov_rbx(code, PATCHED);
            let two = random.pick(&[0x9066u16, 0x9066, 0xa20f, 0x0b0f, 0xe9e6, 0x310f]);
            code.extend([0x66, 0xc7, 0x03]);
            code.extend(two.to_le_bytes());
            guarded(code, &[0xff, 0xd3]);
        }
        _ => own_code(random, code),
    }
}

fn lidt(code: &mut Vec<u8>, which: u64) {
    mov_rbx(code, IDTRS + 16 * which);
    guarded(code, &[0x0f, 0x01, 0x1b]);
}

/// Changes the instruction right behind: CPUID, UD2 or a no-operation of two bytes.
fn own_code(random: &mut Random, code: &mut Vec<u8>) {
    let two = random.pick(&[0xa20fu16, 0x0b0f, 0x9066]);
    code.extend([0x41, 0xbf, 2, 0, 0, 0]);
    // mov word [rip + 0], two
    code.extend([0x66, 0xc7, 0x05, 0, 0, 0, 0]);
    code.extend(two.to_le_bytes());
    code.extend([0x66, 0x90]);
}

/// Interrupts and NMIs for all, memory types, and what decides how tables are read.
fn disturb(random: &mut Random, code: &mut Vec<u8>) {
    match random.below(6) {
        0 | 1 => {
            let command = random.pick(&[
                0x4_0030u32,
                0x8_0031,
                0xc_0040,
                0x8_0400,
                0xc_0400,
                0x4_0400,
                0x8_0033,
            ]);
            // mov dword [ICR], command
            code.extend([0xc7, 0x04, 0x25]);
            code.extend((APIC_ICR as u32).to_le_bytes());
            code.extend(command.to_le_bytes());
        }
        2 => {
            let types = [
                0x0007_0406_0007_0406,
                0x0606_0606_0606_0606,
                0,
                0x0105_0006_0400_0106,
            ];
            let (index, value) = match random.below(4) {
                0 => (0x277, random.pick(&types)),
                1 => (0x2ff, random.pick(&[0xc06, 0xc00, 0, 0x806, 0x406])),
                2 => (0x200, random.pick(&[FRAMES, FRAMES | 6, FRAMES | 1])),
                _ => (0x201, random.pick(&[0, 0xff_ffff_0800, 0xff_fff0_0800])),
            };
            load_ecx(code, index);
            load_eax_edx(code, value);
            guarded(code, &[0x0f, 0x30]);
        }
        // CR0.WP, CR0.CD, CR4.SMEP, CR4.DE
        3 | 4 => {
            let (register, bit) = random.pick(&[(0xc0, 16), (0xc0, 30), (0xe0, 20), (0xe0, 3)]);
            code.extend([0x0f, 0x20, register, 0x48, 0x0f, 0xba, 0xf8, bit]);
            guarded(code, &[0x0f, 0x22, register]);
        }
        // EFER.NXE: without it NX is a reserved bit.
        _ => {
            load_ecx(code, 0xc000_0080);
            load_eax_edx(code, random.pick(&[0xd01, 0x501]));
            guarded(code, &[0x0f, 0x30]);
        }
    }
}

/// Code for the vCPU `number`, which goes round until it is stopped: the first one rewrites, the
/// others use what it rewrites.
pub fn code(random: &mut Random, number: usize) -> Vec<u8> {
    let mut code = vec![0xfb];
    for _ in 0..24 {
        match random.below(10) {
            0 => disturb(random, &mut code),
            1 | 2 => touch(random, &mut code),
            _ if number == 0 => rewrite(random, &mut code),
            _ => touch(random, &mut code),
        }
    }
    let back = -(code.len() as i32 + 5);
    code.push(0xe9);
    code.extend(back.to_le_bytes());
    assert!(code.len() < APART as usize);
    code
}

/// Reads the first word of each page to [`RESULT`], stores `marker` in the second, then in the word
/// behind the results.
pub fn checker(marker: u64) -> Vec<u8> {
    let mut code = vec![0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8, 0x48, 0xb9];
    code.extend(marker.to_le_bytes());
    let keep = |code: &mut Vec<u8>, at: u64| {
        // mov [RESULT + at], rax
        code.extend([0x48, 0x89, 0x04, 0x25]);
        code.extend(((RESULT + at) as u32).to_le_bytes());
    };
    for page in 0..COUNT {
        mov_rbx(&mut code, PAGES + page * PAGE);
        // mov rax, [rbx]; mov [rbx + 8], rcx
        code.extend([0x48, 0x8b, 0x03, 0x48, 0x89, 0x4b, 8]);
        keep(&mut code, 8 * page);
    }
    // mov rax, rcx; out E8H, al
    code.extend([0x48, 0x89, 0xc8]);
    keep(&mut code, 8 * COUNT);
    code.extend([0xe6, 0xe8]);
    code
}
