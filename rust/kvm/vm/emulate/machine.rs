// SPDX-License-Identifier: GPL-2.0

//! The vCPU as the emulator in `arch` sees it.

use arch::{
    addr::Gva,
    control_regs::{
        Cr0,
        Cr4, //
    },
    emulator::{
        Intent,
        Machine,
        Stop, //
    },
    operand::Segment,
    rflags::Rflags,
    segment, //
};

use super::{
    super::{
        backend::Backend,
        memory::GuestAccess,
        vcpu::Loaded, //
    },
    queue::Place, //
};
use crate::host::{
    guest_mode,
    vector_regs, //
};

/// A vCPU and its memory.
pub(super) struct Guest<'a, 'b, B: Backend> {
    pub(super) cx: &'a mut Loaded<'b, B>,
    pub(super) memory: &'a GuestAccess<'a>,
    /// Reads of devices since the last element began.
    pub(super) reads: u8,
}

impl<'a, 'b, B: Backend> Guest<'a, 'b, B> {
    pub(super) fn new(cx: &'a mut Loaded<'b, B>, memory: &'a GuestAccess<'a>) -> Self {
        Self {
            cx,
            memory,
            reads: 0,
        }
    }
}

impl<B: Backend> Machine for Guest<'_, '_, B> {
    #[inline]
    fn gpr(&self, number: u8) -> u64 {
        self.cx.reg(number.into())
    }

    #[inline]
    fn set_gpr(&mut self, number: u8, value: u64) {
        self.cx.set_reg(number.into(), value);
    }

    fn rip(&self) -> u64 {
        B::rip(self.cx)
    }

    fn rflags(&self) -> u64 {
        B::rflags(self.cx)
    }

    fn set_rflags(&mut self, value: u64) {
        B::set_rflags(self.cx, value);
    }

    fn segment_base(&self, segment: Segment) -> u64 {
        B::segment_base(self.cx, segment.into())
    }

    fn segment(&self, segment: Segment) -> segment::Segment {
        B::segment(self.cx, segment.into())
    }

    fn cr0(&self) -> Cr0 {
        Cr0::from_bits_retain(B::cr0(self.cx))
    }

    fn cr4(&self) -> Cr4 {
        Cr4::from_bits_retain(B::cr4(self.cx))
    }

    fn xcr0(&self) -> u64 {
        self.cx.state.xcr0
    }

    fn cpl(&self) -> u8 {
        B::cpl(self.cx)
    }

    fn xmm(&mut self, number: u8) -> u128 {
        vector_regs::xmm(&self.cx.state.fpu, number)
    }

    fn set_xmm(&mut self, number: u8, value: u128) {
        vector_regs::set_xmm(&mut self.cx.state.fpu, number, value);
    }

    fn ymm_high(&mut self, number: u8) -> u128 {
        vector_regs::ymm_high(&self.cx.state.fpu, number)
    }

    fn set_ymm_high(&mut self, number: u8, value: u128) {
        vector_regs::set_ymm_high(&mut self.cx.state.fpu, number, value);
    }

    fn read(&mut self, gva: Gva, to: &mut [u8], intent: Intent) -> Result<(), Stop> {
        self.read_operand(gva, to, intent == Intent::Modify)
    }

    fn write(&mut self, gva: Gva, from: &[u8]) -> Result<(), Stop> {
        self.write_operand(gva, from)
    }

    fn prepare_write(&mut self, gva: Gva, len: usize) -> Result<(), Stop> {
        self.prepare_operand(gva, len)
    }

    fn compare_exchange(&mut self, gva: Gva, old: &[u8], new: &[u8]) -> Result<(), Stop> {
        self.exchange_operand(gva, old, new)
    }

    fn port_read(&mut self, port: u16, to: &mut [u8]) -> Result<(), Stop> {
        self.read_device(Place::Port(port), to)
    }

    fn port_write(&mut self, port: u16, from: &[u8]) -> Result<(), Stop> {
        self.write_device(Place::Port(port), from);
        Ok(())
    }

    fn commit(&mut self) -> bool {
        self.cx.state.emulation.forget_answers();
        self.reads = 0;
        // Each element is a step of its own to whoever steps the guest.
        !self.cx.state.emulation.has_writes()
            && !guest_mode::work_pending()
            && B::rflags(self.cx) & Rflags::TF.bits() == 0
    }
}
