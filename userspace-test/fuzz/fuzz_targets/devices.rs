// SPDX-License-Identifier: GPL-2.0

//! Virtio devices and the PCI bus, with a driver that does anything at all.

#![no_main]

libfuzzer_sys::fuzz_target!(|orders: &[u8]| minivmm::drive_devices(orders));
