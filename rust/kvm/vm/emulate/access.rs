// SPDX-License-Identifier: GPL-2.0

//! Operands in guest memory and at devices.

use arch::{
    addr::{
        Gpa,
        Gva,
        PAGE_SIZE, //
    },
    emulator::{
        Fault,
        Stop, //
    },
    exception::Exception,
    paging::{
        AccessKind,
        WalkError, //
    },
};

use super::{
    super::backend::Backend,
    machine::Guest,
    queue::{
        Piece, //
        Place,
    },
};

/// A page as the guest's tables translate it.
#[derive(Clone, Copy)]
pub(crate) struct Known {
    gva: Gva,
    gpa: Gpa,
    /// Found for a write, and not just for a read.
    write: bool,
}

impl Known {
    /// From an access that the processor has translated.
    pub(crate) fn new(gva: Gva, gpa: Gpa, write: bool) -> Self {
        Self {
            gva: gva.page_base(),
            gpa: gpa.page_base(),
            write,
        }
    }
}

/// The translations that one instruction uses: as in a processor, a page is walked to once.
pub(super) struct Translations {
    pages: [Option<Known>; 3],
    /// The place to fill next.
    next: u8,
    /// No more are found out.
    sealed: bool,
}

impl Translations {
    pub(super) const fn new() -> Self {
        Self {
            pages: [None; 3],
            next: 0,
            sealed: false,
        }
    }

    #[inline]
    pub(super) fn begin(&mut self, known: Option<Known>) {
        self.pages = [known, None, None];
        self.next = 1;
        self.sealed = false;
    }

    /// From now on all other pages are unknown.
    #[inline]
    pub(super) fn seal(&mut self) {
        self.sealed = true;
    }

    #[inline]
    fn find(&self, gva: Gva, write: bool) -> Option<Gpa> {
        let page = gva.page_base();
        self.pages
            .iter()
            .flatten()
            .find(|known| known.gva == page && (known.write || !write))
            .map(|known| known.gpa.offset(gva.page_offset()))
    }

    fn remember(&mut self, known: Known) {
        if let Some(slot) = self.pages.get_mut(usize::from(self.next)) {
            *slot = Some(known);
        }
        self.next = if self.next >= 2 { 0 } else { self.next + 1 };
    }
}

/// An operand's two parts, where it crosses a page.
struct Parts {
    gpas: [Gpa; 2],
    /// Bytes in the first.
    first: usize,
}

impl<B: Backend> Guest<'_, '_, B> {
    /// Where `gva` leads for the access, with accessed and dirty bits set on the way.
    #[inline]
    fn translate(&mut self, gva: Gva, write: bool) -> Result<Gpa, Stop> {
        if let Some(gpa) = self.cx.state.emulation.translations.find(gva, write) {
            return Ok(gpa);
        }
        self.walk(gva, write)
    }

    fn walk(&mut self, gva: Gva, write: bool) -> Result<Gpa, Stop> {
        if self.cx.state.emulation.translations.sealed {
            return Err(Stop::Unknown);
        }
        let kind = if write {
            AccessKind::Write
        } else {
            AccessKind::Read
        };
        let access = self.cx.access(kind);
        let translation = self
            .cx
            .paging()
            .translate_and_mark(&mut &*self.memory, gva, access)
            .map_err(|error| walk_stop(error, gva))?;
        self.cx
            .state
            .emulation
            .translations
            .remember(Known::new(gva, translation.gpa, write));
        Ok(translation.gpa)
    }

    /// Both parts of an operand are translated before either is touched.
    #[inline]
    fn parts(&mut self, gva: Gva, len: usize, write: bool) -> Result<Parts, Stop> {
        let first = len.min((PAGE_SIZE - gva.page_offset()) as usize);
        let mut gpas = [self.translate(gva, write)?; 2];
        if first < len {
            gpas[1] = self.translate(gva.offset(first as u64), write)?;
        }
        Ok(Parts { gpas, first })
    }

    #[inline]
    pub(super) fn read_operand(
        &mut self,
        gva: Gva,
        to: &mut [u8],
        write: bool,
    ) -> Result<(), Stop> {
        let parts = self.parts(gva, to.len(), write)?;
        let (first, second) = to.split_at_mut(parts.first);
        self.read_part(parts.gpas[0], first)?;
        if second.is_empty() {
            return Ok(());
        }
        self.read_part(parts.gpas[1], second)
    }

    fn read_part(&mut self, gpa: Gpa, to: &mut [u8]) -> Result<(), Stop> {
        // Where the VMM has no memory behind a slot, it is asked as for a device.
        if self.memory.is_memory(gpa, false) && self.memory.read(gpa, to).is_ok() {
            return Ok(());
        }
        let mut at = gpa;
        for piece in to.chunks_mut(8) {
            self.read_device(Place::Memory(at), piece)?;
            at = at.offset(piece.len() as u64);
        }
        Ok(())
    }

    /// Reads a device, or takes the answer it gave before.
    pub(super) fn read_device(&mut self, place: Place, to: &mut [u8]) -> Result<(), Stop> {
        let emulation = &mut self.cx.state.emulation;
        if let Some(answer) = emulation.answer(self.reads, place, to.len()) {
            self.reads += 1;
            to.copy_from_slice(&answer[..to.len()]);
            return Ok(());
        }
        let answered = match place {
            Place::Memory(gpa) => self.cx.device_read(gpa.0, to),
            Place::Port(port) => self.cx.port_read(port, to),
        };
        if answered {
            self.reads += 1;
            self.cx.state.emulation.push_answer(Piece::new(place, to));
            return Ok(());
        }
        to.fill(0);
        self.cx.state.emulation.wanted = Piece::new(place, to);
        Err(Stop::Exit)
    }

    pub(super) fn prepare_operand(&mut self, gva: Gva, len: usize) -> Result<(), Stop> {
        self.parts(gva, len, true).map(|_| ())
    }

    #[inline]
    pub(super) fn write_operand(&mut self, gva: Gva, from: &[u8]) -> Result<(), Stop> {
        let parts = self.parts(gva, from.len(), true)?;
        let (first, second) = from.split_at(parts.first);
        self.write_part(parts.gpas[0], first);
        if !second.is_empty() {
            self.write_part(parts.gpas[1], second);
        }
        Ok(())
    }

    fn write_part(&mut self, gpa: Gpa, from: &[u8]) {
        if self.memory.is_memory(gpa, true) && self.memory.write(gpa, from).is_ok() {
            return;
        }
        let mut at = gpa;
        for piece in from.chunks(8) {
            self.write_device(Place::Memory(at), piece);
            at = at.offset(piece.len() as u64);
        }
    }

    /// Writes a device, now or by way of the VMM.
    pub(super) fn write_device(&mut self, place: Place, from: &[u8]) {
        let taken = match place {
            Place::Memory(gpa) => self.cx.device_write(gpa.0, from),
            Place::Port(port) => self.cx.port_write(port, from),
        };
        if !taken {
            self.cx.state.emulation.push_write(Piece::new(place, from));
        }
    }

    /// Replaces an operand at once where it is naturally aligned memory of at most 8 bytes. What is
    /// larger, or crosses its alignment, is written plainly, as KVM does.
    pub(super) fn exchange_operand(
        &mut self,
        gva: Gva,
        old: &[u8],
        new: &[u8],
    ) -> Result<(), Stop> {
        let len = new.len();
        if len <= 8 && gva.0 & (len as u64 - 1) == 0 {
            let gpa = self.translate(gva, true)?;
            if self.memory.is_memory(gpa, true) {
                match self.memory.compare_exchange(gpa, old, new) {
                    Some(true) => return Ok(()),
                    Some(false) => return Err(Stop::Retry),
                    None => {}
                }
            }
        }
        self.write_operand(gva, new)
    }
}

/// What a walk that failed means for the instruction.
pub(super) fn walk_stop(error: WalkError, gva: Gva) -> Stop {
    match error {
        WalkError::Fault(code) => Stop::Fault(Fault {
            exception: Exception::PageFault,
            error_code: Some(code.bits()),
            cr2: Some(gva),
        }),
        WalkError::NonCanonical => Stop::fault(Exception::GeneralProtection),
        WalkError::Contended => Stop::Retry,
        WalkError::Unreadable(_) => Stop::Unknown,
    }
}
