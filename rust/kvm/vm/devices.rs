// SPDX-License-Identifier: GPL-2.0

//! Where accesses to devices are served before they go to the VMM.

use arch::{
    addr::Gpa,
    mmio::Size, //
};

use super::{
    backend::Backend,
    bus::{
        Space,
        Write, //
    },
    vcpu::Loaded, //
};

impl<B: Backend> Loaded<'_, B> {
    /// Offers a write of up to 8 bytes to memory that is not there. Returns whether it is done.
    pub(crate) fn device_write(&mut self, gpa: Gpa, data: &[u8]) -> bool {
        let mut value = [0; 8];
        let Some(bytes) = value.get_mut(..data.len()) else {
            return false;
        };
        bytes.copy_from_slice(data);
        self.vm.buses.write(
            Space::Mmio,
            Write {
                address: gpa.0,
                len: data.len() as u8,
                value: u64::from_le_bytes(value),
            },
        )
    }

    /// Offers a write to a port. Returns whether it is done.
    #[inline]
    pub(crate) fn port_write(&mut self, port: u16, size: Size, value: u32) -> bool {
        self.vm.buses.write(
            Space::Pio,
            Write {
                address: port.into(),
                len: size.bytes() as u8,
                value: u64::from(value) & size.mask(),
            },
        )
    }
}
