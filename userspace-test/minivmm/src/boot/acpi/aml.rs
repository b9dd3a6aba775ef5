// SPDX-License-Identifier: GPL-2.0

//! As much of the ACPI machine language as a namespace without methods needs (ACPI 6.5, chapter 20;
//! resources: 6.4). Each function gives the encoding of one term.

const BYTE_PREFIX: u8 = 0x0a;
const DWORD_PREFIX: u8 = 0x0c;
const STRING_PREFIX: u8 = 0x0d;
const NAME_OP: u8 = 0x08;
const SCOPE_OP: u8 = 0x10;
const BUFFER_OP: u8 = 0x11;
const PACKAGE_OP: u8 = 0x12;
const EXTENDED_PREFIX: u8 = 0x5b;
const DEVICE_OP: u8 = 0x82;
const ROOT: u8 = b'\\';
/// Small resource items: type in bits 6 to 3, bytes that follow in bits 2 to 0.
const IO_PORT_ITEM: u8 = 0x47;
const IRQ_ITEM: u8 = 0x22;
const END_TAG_ITEM: u8 = 0x79;
/// Large resource items: type, then bytes that follow in 16 bits.
const MEMORY32_FIXED_ITEM: [u8; 3] = [0x86, 9, 0];
const INTERRUPT_ITEM: [u8; 3] = [0x89, 6, 0];
const DWORD_SPACE_ITEM: [u8; 3] = [0x87, 0x17, 0];
const WORD_SPACE_ITEM: [u8; 3] = [0x88, 0x0d, 0];
/// Of an address space: what it is of, and that its ends are where they are.
const SPACE_OF_MEMORY: u8 = 0;
const SPACE_OF_BUSES: u8 = 2;
const ENDS_FIXED: u8 = 0b1100;
/// Of memory: it can be written.
const WRITABLE: u8 = 1;
/// Of an interrupt: the device takes it from the bus; edge-triggered.
const CONSUMER: u8 = 1 << 0;
const EDGE: u8 = 1 << 1;
/// Of an I/O port item: all 16 bits of an address are decoded.
const DECODE_16: u8 = 1;

/// An integer of 8 bits.
pub fn byte(value: u8) -> Vec<u8> {
    vec![BYTE_PREFIX, value]
}

/// An integer of 32 bits.
pub fn dword(value: u32) -> Vec<u8> {
    [&[DWORD_PREFIX], &value.to_le_bytes()[..]].concat()
}

/// A string of ASCII characters.
pub fn string(value: &str) -> Vec<u8> {
    [&[STRING_PREFIX], value.as_bytes(), &[0]].concat()
}

/// An EISA ID, three letters and four hexadecimal digits: as an integer of 32 bits, high byte
/// first, the letters in five bits each.
pub fn eisa_id(id: &str) -> Vec<u8> {
    let (letters, digits) = id.split_at(3);
    let vendor = letters.bytes().fold(0, |vendor: u16, letter| {
        vendor << 5 | u16::from(letter & 0x1f)
    });
    let product = u16::from_str_radix(digits, 16).expect("four hexadecimal digits");
    let mut encoded = vec![DWORD_PREFIX];
    encoded.extend(vendor.to_be_bytes());
    encoded.extend(product.to_be_bytes());
    encoded
}

/// An object of the name `name`.
pub fn name(name: [u8; 4], object: &[u8]) -> Vec<u8> {
    [&[NAME_OP], &name[..], object].concat()
}

/// A list of objects.
pub fn package(elements: &[Vec<u8>]) -> Vec<u8> {
    let count = u8::try_from(elements.len()).expect("a handful of elements");
    let content = [vec![count], elements.concat()].concat();
    [vec![PACKAGE_OP], with_length(&content)].concat()
}

/// A device and what is in it.
pub fn device(name: [u8; 4], content: &[Vec<u8>]) -> Vec<u8> {
    let content = [name.to_vec(), content.concat()].concat();
    [vec![EXTENDED_PREFIX, DEVICE_OP], with_length(&content)].concat()
}

/// What is in `\_SB_`, where devices are.
pub fn system_bus(content: &[Vec<u8>]) -> Vec<u8> {
    let content = [[&[ROOT], &b"_SB_"[..]].concat(), content.concat()].concat();
    [vec![SCOPE_OP], with_length(&content)].concat()
}

/// The resources that a device uses.
pub fn resources(items: &[Vec<u8>]) -> Vec<u8> {
    // A checksum of zero counts as right.
    let items = [items.concat(), vec![END_TAG_ITEM, 0]].concat();
    let size = byte(u8::try_from(items.len()).expect("a handful of items"));
    let content = [size, items].concat();
    [vec![BUFFER_OP], with_length(&content)].concat()
}

/// A resource: `count` I/O ports from `first` on.
pub fn io_ports(first: u16, count: u8) -> Vec<u8> {
    let [low, high] = first.to_le_bytes();
    vec![IO_PORT_ITEM, DECODE_16, low, high, low, high, 1, count]
}

/// A resource: an ISA interrupt line, edge-triggered and active-high.
pub fn irq(line: u8) -> Vec<u8> {
    let [low, high] = (1u16 << line).to_le_bytes();
    vec![IRQ_ITEM, low, high]
}

/// A resource: `length` bytes of device memory from `first` on.
pub fn memory(first: u32, length: u32) -> Vec<u8> {
    let [first, length] = [first, length].map(u32::to_le_bytes);
    [&MEMORY32_FIXED_ITEM, &[WRITABLE][..], &first, &length].concat()
}

/// A resource: `length` bytes of device memory from `first` on, for a bus to give out.
pub fn memory_window(first: u32, length: u32) -> Vec<u8> {
    let mut item = DWORD_SPACE_ITEM.to_vec();
    item.extend([SPACE_OF_MEMORY, ENDS_FIXED, WRITABLE]);
    for field in [0, first, first + (length - 1), 0, length] {
        item.extend(field.to_le_bytes());
    }
    item
}

/// A resource: bus 0.
pub fn first_bus() -> Vec<u8> {
    let mut item = WORD_SPACE_ITEM.to_vec();
    item.extend([SPACE_OF_BUSES, ENDS_FIXED, 0]);
    for field in [0u16, 0, 0, 0, 1] {
        item.extend(field.to_le_bytes());
    }
    item
}

/// A resource: an input of the IOAPIC, edge-triggered and active-high.
pub fn interrupt(gsi: u32) -> Vec<u8> {
    [
        &INTERRUPT_ITEM,
        &[CONSUMER | EDGE, 1][..],
        &gsi.to_le_bytes(),
    ]
    .concat()
}

/// `content` with its length before it, that of the length itself included (20.2.4): one byte up
/// to 63, or else four bits, and the number of bytes with eight bits more each.
fn with_length(content: &[u8]) -> Vec<u8> {
    let total = content.len() + 1;
    let mut encoded = match total {
        0..0x40 => vec![total as u8],
        0x40..0xfff => {
            let total = total + 1;
            vec![0x40 | (total & 0xf) as u8, (total >> 4) as u8]
        }
        0xfff..0xf_fffe => {
            let total = total + 2;
            let [low, middle, high, _] = ((total >> 4) as u32).to_le_bytes();
            debug_assert_eq!(high, 0);
            vec![0x80 | (total & 0xf) as u8, low, middle]
        }
        _ => unreachable!("nothing here is that long"),
    };
    encoded.extend_from_slice(content);
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_packed_as_in_every_firmware() {
        assert_eq!(eisa_id("PNP0501"), [0x0c, 0x41, 0xd0, 0x05, 0x01]);
        assert_eq!(eisa_id("PNP0B00"), [0x0c, 0x41, 0xd0, 0x0b, 0x00]);
    }

    #[test]
    fn lengths_count_themselves() {
        for length in [0, 1, 62, 63, 64, 200, 1000, 4092, 4093, 4094, 5000] {
            let encoded = with_length(&vec![0xaa; length]);
            let told = match encoded[0] >> 6 {
                0 => usize::from(encoded[0]),
                1 => usize::from(encoded[0] & 0xf) | usize::from(encoded[1]) << 4,
                _ => {
                    let high = u16::from_le_bytes([encoded[1], encoded[2]]);
                    usize::from(encoded[0] & 0xf) | usize::from(high) << 4
                }
            };
            assert_eq!(told, encoded.len(), "of {length}");
        }
    }

    #[test]
    fn resources_end_with_their_tag() {
        let encoded = resources(&[io_ports(0x3f8, 8), irq(4)]);
        let expected = [
            0x11, 0x10, 0x0a, 0x0d, 0x47, 1, 0xf8, 3, 0xf8, 3, 1, 8, 0x22, 0x10, 0, 0x79, 0,
        ];
        assert_eq!(encoded, expected);
    }

    #[test]
    fn a_package_counts_its_elements() {
        assert_eq!(
            package(&[byte(5), byte(5)]),
            [0x12, 0x06, 2, 0x0a, 5, 0x0a, 5]
        );
    }
}
