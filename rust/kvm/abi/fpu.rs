// SPDX-License-Identifier: GPL-2.0

//! FPU, vector and extended state.

use kernel::prelude::*;

use super::copy;
use crate::{
    host::{
        abi_types::Plain,
        bindings::{
            kvm_fpu,
            kvm_xcrs, //
        },
    },
    vm::{
        Backend,
        Loaded,
        State, //
    },
};

/// Bytes in `struct kvm_xsave`.
const XSAVE_SIZE: usize = 4096;
/// Where the header of an XSAVE area begins.
const HEADER: usize = 512;
/// XCR0: x87 and SSE, which every area has.
const FP_SSE: u64 = 3;

/// The FXSAVE image, field by field as `struct kvm_fpu` has them.
mod fxsave {
    pub(super) const FCW: usize = 0;
    pub(super) const FSW: usize = 2;
    pub(super) const FTW: usize = 4;
    pub(super) const FOP: usize = 6;
    pub(super) const RIP: usize = 8;
    pub(super) const RDP: usize = 16;
    pub(super) const MXCSR: usize = 24;
    pub(super) const MXCSR_MASK: usize = 28;
    pub(super) const FPR: usize = 32;
    pub(super) const XMM: usize = 160;
}

fn word16(image: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([image[at], image[at + 1]])
}

fn word32(image: &[u8], at: usize) -> u32 {
    u32::from(word16(image, at)) | u32::from(word16(image, at + 2)) << 16
}

fn word64(image: &[u8], at: usize) -> u64 {
    u64::from(word32(image, at)) | u64::from(word32(image, at + 4)) << 32
}

/// KVM_GET_FPU (api.rst, 4.22).
pub(super) fn get<B: Backend>(state: &mut State<B>, arg: usize) -> Result<i32> {
    let image = state.fpu.fxsave();
    let mut out = kvm_fpu::zeroed();
    for (i, register) in out.fpr.iter_mut().enumerate() {
        register.copy_from_slice(&image[fxsave::FPR + i * 16..][..16]);
    }
    for (i, register) in out.xmm.iter_mut().enumerate() {
        register.copy_from_slice(&image[fxsave::XMM + i * 16..][..16]);
    }
    out.fcw = word16(image, fxsave::FCW);
    out.fsw = word16(image, fxsave::FSW);
    out.ftwx = image[fxsave::FTW];
    out.last_opcode = word16(image, fxsave::FOP);
    out.last_ip = word64(image, fxsave::RIP);
    out.last_dp = word64(image, fxsave::RDP);
    copy::write(arg, &out)?;
    Ok(0)
}

/// KVM_SET_FPU (api.rst, 4.23).
pub(super) fn set<B: Backend>(state: &mut State<B>, arg: usize) -> Result<i32> {
    let new: kvm_fpu = copy::read(arg)?;
    let image = state.fpu.fxsave();
    for (i, register) in new.fpr.iter().enumerate() {
        image[fxsave::FPR + i * 16..][..16].copy_from_slice(register);
    }
    for (i, register) in new.xmm.iter().enumerate() {
        image[fxsave::XMM + i * 16..][..16].copy_from_slice(register);
    }
    image[fxsave::FCW..][..2].copy_from_slice(&new.fcw.to_le_bytes());
    image[fxsave::FSW..][..2].copy_from_slice(&new.fsw.to_le_bytes());
    image[fxsave::FTW] = new.ftwx;
    image[fxsave::FOP..][..2].copy_from_slice(&new.last_opcode.to_le_bytes());
    image[fxsave::RIP..][..8].copy_from_slice(&new.last_ip.to_le_bytes());
    image[fxsave::RDP..][..8].copy_from_slice(&new.last_dp.to_le_bytes());
    Ok(0)
}

/// The features that an area of this vCPU can have: those its CPUID offers, and the legacy ones.
fn features<B: Backend>(state: &State<B>) -> u64 {
    state.cpuid.limits().xcr0.bits() | FP_SSE
}

fn save<B: Backend>(state: &mut State<B>, size: usize) -> Result<KVVec<u8>> {
    let mut area = KVVec::from_elem(0u8, size, GFP_KERNEL_ACCOUNT)?;
    let features = features(state);
    state.fpu.save_to(&mut area, features, 0);
    Ok(area)
}

/// KVM_GET_XSAVE (api.rst, 4.42).
pub(super) fn get_xsave<B: Backend>(state: &mut State<B>, arg: usize) -> Result<i32> {
    if state.fpu.uabi_size() > XSAVE_SIZE {
        return Err(EINVAL);
    }
    let area = save(state, XSAVE_SIZE)?;
    copy::write_bytes(arg, &area)?;
    Ok(0)
}

/// KVM_GET_XSAVE2 (api.rst, 4.134): as many bytes as KVM_CAP_XSAVE2 says.
pub(super) fn get_xsave2<B: Backend>(state: &mut State<B>, arg: usize) -> Result<i32> {
    let size = state.fpu.uabi_size();
    let area = save(state, size)?;
    copy::write_bytes(arg, &area)?;
    Ok(0)
}

/// KVM_SET_XSAVE (api.rst, 4.43).
pub(super) fn set_xsave<B: Backend>(state: &mut State<B>, arg: usize) -> Result<i32> {
    let mut area = KVVec::from_elem(0u8, state.fpu.uabi_size(), GFP_KERNEL_ACCOUNT)?;
    copy::read_bytes(arg, &mut area)?;
    // Reserved bits of MXCSR would fault when the registers are loaded.
    let mxcsr = word32(&area, fxsave::MXCSR);
    let mask = word32(state.fpu.fxsave(), fxsave::MXCSR_MASK);
    let mask = if mask == 0 { 0xffbf } else { mask };
    let xstate_bv = word64(&area, HEADER);
    if xstate_bv & FP_SSE != 0 && mxcsr & !mask != 0 {
        return Err(EINVAL);
    }
    let supported = super::system::supported_xcr0();
    state.fpu.restore_from(&area, supported | FP_SSE)?;
    Ok(0)
}

/// KVM_GET_XCRS (api.rst, 4.44).
pub(super) fn get_xcrs<B: Backend>(state: &mut State<B>, arg: usize) -> Result<i32> {
    let mut out = kvm_xcrs::zeroed();
    out.nr_xcrs = 1;
    out.xcrs[0].value = state.xcr0;
    copy::write(arg, &out)?;
    Ok(0)
}

/// KVM_SET_XCRS (api.rst, 4.45).
pub(super) fn set_xcrs<B: Backend>(cx: &mut Loaded<'_, B>, arg: usize) -> Result<i32> {
    let new: kvm_xcrs = copy::read(arg)?;
    let count = new.nr_xcrs as usize;
    if count > new.xcrs.len() || new.flags != 0 {
        return Err(EINVAL);
    }
    // Only the first one for XCR0 counts.
    match new.xcrs[..count].iter().find(|xcr| xcr.xcr == 0) {
        Some(xcr) => cx.set_xcr0(xcr.value).map(|()| 0),
        None => Ok(0),
    }
}
