// SPDX-License-Identifier: GPL-2.0

//! The vmlinux that a bzImage carries, compressed, as its payload (Documentation/arch/x86/boot.rst,
//! `payload_offset`). A bzImage unpacks it itself when it is entered by the boot protocol; its PVH
//! entry is in the vmlinux.

use std::io::Read;

use flate2::read::GzDecoder;
use ruzstd::decoding::StreamingDecoder;

use super::kernel::ELF_MAGIC;

/// `setup_sects`, `payload_offset` and `payload_length` in the setup header.
const SETUP_SECTS: usize = 0x1f1;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR: usize = 512;
/// `setup_sects` of 0 means this.
const DEFAULT_SETUP_SECTS: usize = 4;

/// What each compressor's output starts with.
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const OTHERS: [(&[u8], &str); 5] = [
    (b"BZh", "bzip2"),
    (&[0x5d, 0, 0], "LZMA"),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], "XZ"),
    (&[0x02, 0x21, 0x4c, 0x18], "LZ4"),
    (&[0x89, b'L', b'Z', b'O', 0], "LZO"),
];

/// The vmlinux in the bzImage `image`.
///
/// # Errors
///
/// What is wrong with it, in a few words.
pub fn unpack(image: &[u8]) -> Result<Vec<u8>, String> {
    let payload = payload(image).ok_or("its header names no payload within it")?;
    let mut vmlinux = Vec::new();
    if payload.starts_with(GZIP) {
        GzDecoder::new(payload)
            .read_to_end(&mut vmlinux)
            .map_err(|error| format!("gzip: {error}"))?;
    } else if payload.starts_with(ZSTD) {
        StreamingDecoder::new(payload)
            .map_err(|error| format!("zstd: {error}"))?
            .read_to_end(&mut vmlinux)
            .map_err(|error| format!("zstd: {error}"))?;
    } else if payload.starts_with(&ELF_MAGIC) {
        vmlinux.extend_from_slice(payload);
    } else {
        let other = OTHERS.iter().find(|(magic, _)| payload.starts_with(magic));
        let name = other.map_or("in an unknown way", |(_, name)| name);
        return Err(format!(
            "it is compressed, {name}, and neither gzip nor zstd"
        ));
    }
    if !vmlinux.starts_with(&ELF_MAGIC) {
        return Err("its payload is no ELF file".into());
    }
    Ok(vmlinux)
}

/// The payload: an offset from the part of the image that is loaded, and a length.
fn payload(image: &[u8]) -> Option<&[u8]> {
    let setup_sects = match usize::from(*image.get(SETUP_SECTS)?) {
        0 => DEFAULT_SETUP_SECTS,
        count => count,
    };
    let word = |at: usize| -> Option<usize> {
        let bytes = image.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let start = (setup_sects + 1) * SECTOR + word(PAYLOAD_OFFSET)?;
    let payload = image.get(start..start + word(PAYLOAD_LENGTH)?)?;
    (!payload.is_empty()).then_some(payload)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::write::GzEncoder;
    use flate2::Compression;

    use super::*;

    const ELF: &[u8] = b"\x7fELF and what follows";

    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 2 * SECTOR];
        image[SETUP_SECTS] = 1;
        image[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&16u32.to_le_bytes());
        let length = payload.len() as u32;
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&length.to_le_bytes());
        image.resize(2 * SECTOR + 16, 0);
        image.extend_from_slice(payload);
        image.extend_from_slice(b"behind it");
        image
    }

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(content).expect("compressed");
        encoder.finish().expect("compressed")
    }

    #[test]
    fn gzip_is_unpacked_with_what_the_build_puts_behind_it() {
        let mut payload = gzip(ELF);
        payload.extend((ELF.len() as u32).to_le_bytes());
        assert_eq!(unpack(&bzimage(&payload)).expect("unpacked"), ELF);
    }

    #[test]
    fn zstd_is_unpacked() {
        let content =
            ruzstd::encoding::compress_to_vec(ELF, ruzstd::encoding::CompressionLevel::Fastest);
        assert_eq!(unpack(&bzimage(&content)).expect("unpacked"), ELF);
    }

    #[test]
    fn what_is_not_compressed_is_taken_as_it_is() {
        assert_eq!(unpack(&bzimage(ELF)).expect("there"), ELF);
    }

    #[test]
    fn another_compressor_is_named() {
        let error = unpack(&bzimage(&[0xfd, b'7', b'z', b'X', b'Z', 0, 1])).expect_err("XZ");
        assert!(error.contains("XZ"), "{error}");
    }

    #[test]
    fn a_payload_that_is_no_kernel_is_refused() {
        let error = unpack(&bzimage(&gzip(b"#!/bin/sh"))).expect_err("a script");
        assert!(error.contains("ELF"), "{error}");
    }

    #[test]
    fn a_payload_outside_of_the_image_is_refused() {
        let mut image = bzimage(ELF);
        image[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&[0xff; 4]);
        assert!(unpack(&image).is_err());
        assert!(unpack(&image[..0x200]).is_err());
    }
}
