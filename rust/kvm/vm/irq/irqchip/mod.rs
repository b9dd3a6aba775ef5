// SPDX-License-Identifier: GPL-2.0

//! The interrupt controllers of a VM, and how interrupts find their way through them.
//!
//! A line (GSI) leads by the routing table to pins of the PICs and the IOAPIC, or is a message
//! itself. Pins make messages; messages find the local APICs they are for. All of this may happen in
//! any context, an interrupt included, so locks here are taken with interrupts off.

mod bounds;
mod end;

use core::{
    ops::Range,
    sync::atomic::{
        AtomicBool,
        AtomicU64,
        AtomicU8,
        AtomicUsize,
        Ordering, //
    },
};

use arch::{
    apic::{
        Delivery,
        Destination,
        Message, //
    },
    ioapic::{
        self,
        Ioapic,
        Written, //
    },
    line::LineStatus,
    pic::DualPic, //
};
use kernel::{
    new_spinlock_irq,
    prelude::*,
    sync::{
        Arc,
        SetOnce,
        SpinLockIrq, //
    },
};

use super::{
    local_apic::LocalApic,
    routing::{
        Routes,
        Target,
        IOAPIC_PINS,
        PIC_PINS, //
    },
};
use crate::{
    host::{
        timer::{
            self,
            Timer, //
        },
        trace::{
            kvm_pic_set_irq,
            trace, //
        },
    },
    vm::{
        kick::{
            Requests,
            Runner, //
        },
        MAX_VCPUS, //
    },
};

use self::bounds::Outbox;

pub(crate) use self::end::AckNotifier;

/// Who drives a line. A line is up as long as anybody holds it up.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Source {
    /// The VMM, by ioctl.
    User = 1 << 0,
    /// irqfds with a resample eventfd.
    Resampler = 1 << 1,
    /// The timer chip.
    Pit = 1 << 2,
}

/// Where the interrupt controllers are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// All in the kernel (KVM_CREATE_IRQCHIP).
    Kernel,
    /// Local APICs in the kernel, and an IOAPIC of that many pins in the VMM
    /// (KVM_CAP_SPLIT_IRQCHIP).
    Split { pins: u32 },
}

/// The local APICs of a VM, in the order in which its vCPUs were made.
pub(crate) struct Apics<'a> {
    irqchip: &'a Irqchip,
    places: Range<usize>,
}

impl<'a> Iterator for Apics<'a> {
    type Item = &'a LocalApic;

    fn next(&mut self) -> Option<&'a LocalApic> {
        self.irqchip
            .place(self.places.next()?)?
            .as_ref()
            .map(|apic| &**apic)
    }
}

/// Has the first vCPU's thread send again what the IOAPIC held back.
struct StormEnds(SetOnce<Arc<Runner>>);

impl timer::Target for StormEnds {
    const TAKES_NO_LOCK: bool = true;

    fn expired(&self, _now: u64) -> Option<u64> {
        if let Some(runner) = self.0.as_ref() {
            runner.request(Requests::IOAPIC_REINJECT);
        }
        None
    }
}

/// The chips that are not local APICs.
struct Chips {
    pic: DualPic,
    ioapic: Ioapic,
    /// Who holds up each pin of the PICs: bits are [`Source`].
    pic_levels: [u8; PIC_PINS as usize],
    /// Who holds up each pin of the IOAPIC.
    ioapic_levels: [u8; IOAPIC_PINS as usize],
}

/// The interrupt controllers of a VM.
#[pin_data]
pub(crate) struct Irqchip {
    mode: Mode,
    /// Of the first vCPUs, which is all of them in almost every VM.
    apics: [SetOnce<Arc<LocalApic>>; FEW_VCPUS],
    /// Of the others, once there are any.
    more_apics: SetOnce<KVVec<SetOnce<Arc<LocalApic>>>>,
    count: AtomicUsize,
    /// Whether the APIC of every id below 255 is at the place of that number, and no guest changed
    /// the id of one.
    ids_are_places: AtomicBool,
    #[pin]
    chips: SpinLockIrq<Chips>,
    /// Whether the PICs have an interrupt for the bootstrap processor.
    pic_output: AtomicBool,
    /// Vectors, a bit each, whose end the IOAPIC is told of: those of its level-triggered entries, of
    /// the timer chip and of the real-time clock, which wait for it.
    watched: [AtomicU64; 4],
    /// Runs while an interrupt storm is held back.
    #[pin]
    storm: Timer<StormEnds>,
    #[pin]
    routes: SpinLockIrq<Routes>,
    #[pin]
    notifiers: SpinLockIrq<KVec<Arc<dyn AckNotifier>>>,
    /// One of them has many to tell.
    many_listen: AtomicBool,
    /// KVM_X2APIC_API_*.
    x2apic_api: AtomicU8,
}

/// vCPUs whose APICs cost a VM no memory of their own.
const FEW_VCPUS: usize = 64;

/// KVM_X2APIC_API_USE_32BIT_IDS.
pub(crate) const X2APIC_API_USE_32BIT_IDS: u8 = 1 << 0;
/// KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK.
pub(crate) const X2APIC_API_DISABLE_BROADCAST_QUIRK: u8 = 1 << 1;
/// KVM_X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST.
pub(crate) const X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST: u8 = 1 << 2;
/// KVM_X2APIC_DISABLE_SUPPRESS_EOI_BROADCAST.
pub(crate) const X2APIC_DISABLE_SUPPRESS_EOI_BROADCAST: u8 = 1 << 3;

impl Irqchip {
    /// Controllers as after power-up.
    pub(crate) fn new(mode: Mode, x2apic_api: u8) -> Result<Arc<Self>> {
        let routes = match mode {
            Mode::Kernel => Routes::identity()?,
            Mode::Split { .. } => Routes::empty(),
        };
        Arc::pin_init(
            try_pin_init!(Self {
                mode: mode,
                apics: [const { SetOnce::new() }; FEW_VCPUS],
                more_apics: SetOnce::new(),
                count: AtomicUsize::new(0),
                ids_are_places: AtomicBool::new(true),
                chips <- new_spinlock_irq!(Chips {
                    pic: DualPic::new(),
                    ioapic: Ioapic::new(),
                    pic_levels: [0; PIC_PINS as usize],
                    ioapic_levels: [0; IOAPIC_PINS as usize],
                }),
                pic_output: AtomicBool::new(false),
                watched: [const { AtomicU64::new(0) }; 4],
                storm <- Timer::new(StormEnds(SetOnce::new())),
                routes <- new_spinlock_irq!(routes),
                notifiers <- new_spinlock_irq!(KVec::new()),
                many_listen: AtomicBool::new(false),
                x2apic_api: AtomicU8::new(x2apic_api),
            }? Error),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Whether the PICs and the IOAPIC are in the kernel.
    pub(crate) fn has_chips(&self) -> bool {
        self.mode == Mode::Kernel
    }

    /// KVM_X2APIC_API_* in force.
    pub(crate) fn x2apic_api(&self) -> u8 {
        self.x2apic_api.load(Ordering::Relaxed)
    }

    /// Sets them.
    pub(crate) fn set_x2apic_api(&self, flags: u8) {
        self.x2apic_api.store(flags, Ordering::Relaxed);
    }

    /// Whether APICs say that they can keep the end of an interrupt to themselves. With an IOAPIC
    /// here they do not, since it has no EOI register.
    pub(crate) fn can_suppress_eoi(&self) -> bool {
        match self.eoi_broadcast() {
            0 => !self.has_chips(),
            flags => flags == X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST,
        }
    }

    /// Whether an APIC that was told to do so does: not those that were to say that they can by
    /// default, as the VMMs of old found it.
    pub(crate) fn suppresses_eoi(&self) -> bool {
        match self.eoi_broadcast() {
            0 => self.has_chips(),
            flags => flags == X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST,
        }
    }

    fn eoi_broadcast(&self) -> u8 {
        self.x2apic_api()
            & (X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST | X2APIC_DISABLE_SUPPRESS_EOI_BROADCAST)
    }

    /// The place of an APIC.
    #[inline]
    fn place(&self, index: usize) -> Option<&SetOnce<Arc<LocalApic>>> {
        self.apics
            .get(index)
            .or_else(|| self.more_apics.as_ref()?.get(index - FEW_VCPUS))
    }

    /// Has a place for the next APIC. Called before [`Self::add_apic`], by the same thread.
    ///
    /// # Errors
    ///
    /// ENOMEM.
    pub(crate) fn make_room(&self) -> Result {
        let count = self.count.load(Ordering::Relaxed);
        if count < FEW_VCPUS || self.more_apics.as_ref().is_some() {
            return Ok(());
        }
        let mut places = KVVec::with_capacity(MAX_VCPUS - FEW_VCPUS, GFP_KERNEL_ACCOUNT)?;
        for _ in FEW_VCPUS..MAX_VCPUS {
            places.push(SetOnce::new(), GFP_KERNEL_ACCOUNT)?;
        }
        self.more_apics.populate(places);
        Ok(())
    }

    /// Makes a vCPU's APIC known. Calls come one after another, [`MAX_VCPUS`] at most.
    pub(crate) fn add_apic(&self, apic: Arc<LocalApic>) {
        let count = self.count.load(Ordering::Relaxed);
        if let Some(place) = self.place(count) {
            if apic.lapic.id() as usize != count {
                self.ids_are_places.store(false, Ordering::Relaxed);
            }
            self.storm.0.populate(apic.runner.clone());
            place.populate(apic);
            self.count.store(count + 1, Ordering::Release);
        }
    }

    /// A guest, or its VMM, may have given an APIC another id.
    pub(crate) fn id_changed(&self) {
        self.ids_are_places.store(false, Ordering::Relaxed);
    }

    /// How many local APICs there are.
    #[inline]
    fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// All local APICs.
    pub(crate) fn apics(&self) -> Apics<'_> {
        Apics {
            irqchip: self,
            places: 0..self.count(),
        }
    }

    /// Hands a message to the local APICs it is for; `from` is the one that sends it, if one does.
    /// Returns how many took it, or `None` where nobody is meant.
    pub(crate) fn deliver(&self, from: Option<&LocalApic>, message: &Message) -> Option<u32> {
        let ends_here = self.watches(message.vector);
        let accept = |apic: &LocalApic| u32::from(apic.accept(message, ends_here));
        if let Destination::Itself = message.destination {
            return from.map(accept);
        }
        if message.is_lowest_priority() {
            let willing = || {
                self.targets(from, message)
                    .filter(|apic| apic.lapic.takes_interrupts())
            };
            let chosen = message.choose(willing().count() as u32)?;
            return willing().nth(chosen as usize).map(accept);
        }
        if let Some(apic) = self.only_target(message) {
            return Some(accept(apic));
        }
        let mut taken = None;
        for apic in self.targets(from, message) {
            *taken.get_or_insert(0) += accept(apic);
        }
        taken
    }

    /// The APIC that alone is meant by a physical id, which in the usual case is also its place.
    #[inline]
    fn only_target(&self, message: &Message) -> Option<&LocalApic> {
        let Destination::Physical(id) = message.destination else {
            return None;
        };
        // 0xff and above may be everybody.
        if id >= 0xff {
            return None;
        }
        let apic = self.place(id as usize)?.as_ref()?;
        // Another one may have this id too, or have taken it for its own.
        (self.ids_are_places.load(Ordering::Relaxed) && apic.lapic.matches(message, false))
            .then_some(&**apic)
    }

    fn targets<'a>(
        &'a self,
        from: Option<&'a LocalApic>,
        message: &'a Message,
    ) -> impl Iterator<Item = &'a LocalApic> {
        let is_sender = move |apic: &LocalApic| from.is_some_and(|from| core::ptr::eq(from, apic));
        self.apics()
            .filter(move |apic| apic.lapic.matches(message, is_sender(apic)))
    }

    /// Sends a message-signalled interrupt; see [`Self::deliver`].
    pub(crate) fn send_msi(&self, address: u64, data: u32) -> Option<u32> {
        trace!(kvm_msi_set_irq(address, data.into()));
        self.deliver(None, &self.msi(address, data))
    }

    /// Whether an address is one that a message-signalled interrupt can have.
    pub(crate) fn is_valid_msi(&self, address: u64) -> bool {
        self.x2apic_api() & X2APIC_API_USE_32BIT_IDS == 0 || Message::is_valid_wide_address(address)
    }

    /// The message that an address and data stand for.
    fn msi(&self, address: u64, data: u32) -> Message {
        let api = self.x2apic_api();
        Message {
            x2apic: api & X2APIC_API_DISABLE_BROADCAST_QUIRK != 0,
            ..Message::from_msi(address, data, api & X2APIC_API_USE_32BIT_IDS != 0)
        }
    }

    /// Sets a line, for as long as `source` says so. With interrupts off only a line that
    /// [`Self::is_quick_line`] goes up.
    pub(crate) fn set_gsi(&self, source: Source, gsi: u32, level: bool) -> LineStatus {
        trace!(kvm_set_irq(
            gsi,
            level.into(),
            (source as u32).trailing_zeros() as i32
        ));
        let mut status = LineStatus::Ignored;
        // A line leads to one message, at most.
        let mut later = None;
        let routes = self.routes.lock();
        for route in routes.of(gsi) {
            let result = match route.target {
                Target::Pic(pin) => self.set_pic_pin(source, pin, level),
                Target::Ioapic(pin) => self.set_ioapic_pin(source, pin, level, &mut later),
                Target::Msi { address, data } if level => {
                    trace!(kvm_msi_set_irq(address, data.into()));
                    let message = self.msi(address, data);
                    if self.is_quick(None, &message) {
                        LineStatus::from_takers(self.deliver(None, &message))
                    } else {
                        later = Some(message);
                        LineStatus::Ignored
                    }
                }
                Target::Msi { .. } => LineStatus::Ignored,
            };
            status = status.and(result);
        }
        drop(routes);
        match later {
            Some(message) => status.and(LineStatus::from_takers(self.deliver(None, &message))),
            None => status,
        }
    }

    fn set_pic_pin(&self, source: Source, pin: u8, level: bool) -> LineStatus {
        let mut chips = self.chips.lock();
        let Some(held) = chips.pic_levels.get_mut(usize::from(pin)) else {
            return LineStatus::Ignored;
        };
        let up = hold(held, source, level);
        let status = chips.pic.set_irq(pin, up);
        if kvm_pic_set_irq::is_on() {
            let (master, slave) = chips.pic.state();
            let chip = if pin < 8 { master } else { slave };
            let coalesced = status == LineStatus::Coalesced;
            kvm_pic_set_irq::emit(pin >> 3, pin & 7, chip.elcr, chip.imr, coalesced);
        }
        self.update_pic_output(&chips.pic);
        status
    }

    /// A message that is not for now is left in `later`, and does not count.
    fn set_ioapic_pin(
        &self,
        source: Source,
        pin: u8,
        level: bool,
        later: &mut Option<Message>,
    ) -> LineStatus {
        let mut chips = self.chips.lock();
        let Some(held) = chips.ioapic_levels.get_mut(usize::from(pin)) else {
            return LineStatus::Ignored;
        };
        let up = hold(held, source, level);
        let line_status = source == Source::User;
        let status = chips.ioapic.set_line(pin, up, line_status, |message| {
            self.deliver_from_ioapic(message, |message| *later = Some(*message))
        });
        trace!(kvm_ioapic_set_irq(
            chips.ioapic.entry(pin).map_or(0, |entry| entry.0),
            pin.into(),
            status == LineStatus::Coalesced
        ));
        if later.is_some() {
            return LineStatus::Ignored;
        }
        status
    }

    /// Hands on what the IOAPIC sends. A message that takes too long for its lock goes to `keep`, and
    /// is taken to be delivered.
    fn deliver_from_ioapic(&self, message: &Message, keep: impl FnOnce(&Message)) -> Option<u32> {
        match message.delivery {
            // It comes through LINT0, or not at all.
            Delivery::ExtInt => None,
            _ if self.is_quick(None, message) => self.deliver(None, message),
            _ => {
                keep(message);
                Some(1)
            }
        }
    }

    /// Delivers what had to wait for the lock of the IOAPIC.
    fn deliver_all(&self, outbox: &Outbox) {
        for message in outbox.messages() {
            self.deliver(None, message);
        }
    }

    /// Takes over what the PICs say, and gets the bootstrap processor to look at it.
    #[inline]
    fn update_pic_output(&self, pic: &DualPic) {
        let output = pic.pending();
        if output == self.pic_output.swap(output, Ordering::AcqRel) || !output {
            return;
        }
        if let Some(apic) = self.apics().find(|apic| apic.lapic.takes_extint()) {
            apic.runner.kick();
        }
    }

    /// Whether the PICs have an interrupt.
    #[inline]
    pub(crate) fn has_pic_output(&self) -> bool {
        self.pic_output.load(Ordering::Relaxed)
    }

    /// The processor acknowledges the PICs' interrupt, and gets its vector.
    pub(crate) fn acknowledge_pic(&self) -> Option<u8> {
        let mut chips = self.chips.lock();
        if !chips.pic.pending() {
            self.pic_output.store(false, Ordering::Relaxed);
            return None;
        }
        let vector = chips.pic.acknowledge();
        self.update_pic_output(&chips.pic);
        let ended = chips.pic.take_ended();
        drop(chips);
        self.notify_pic(ended);
        Some(vector)
    }

    /// Sends what the IOAPIC held back in an interrupt storm.
    pub(crate) fn reinject(&self) {
        let mut outbox = Outbox::default();
        self.chips
            .lock()
            .ioapic
            .reinject(|message| self.deliver_from_ioapic(message, |message| outbox.add(message)));
        self.deliver_all(&outbox);
    }

    /// Puts another routing table in force.
    pub(crate) fn set_routes(&self, mut routes: Routes) {
        core::mem::swap(&mut *self.routes.lock(), &mut routes);
    }

    /// Calls `f` with the PICs.
    pub(crate) fn with_pic<R>(&self, f: impl FnOnce(&mut DualPic) -> R) -> R {
        let mut chips = self.chips.lock();
        let result = f(&mut chips.pic);
        self.update_pic_output(&chips.pic);
        let ended = chips.pic.take_ended();
        drop(chips);
        if ended != 0 {
            self.notify_pic(ended);
        }
        result
    }

    /// Reads registers of the IOAPIC.
    pub(crate) fn read_ioapic(&self, offset: u64, data: &mut [u8]) {
        self.chips.lock().ioapic.read_bytes(offset, data);
    }

    /// Writes registers of the IOAPIC. Only in a small VM with interrupts off.
    pub(crate) fn write_ioapic(&self, offset: u64, data: &[u8]) {
        let mut outbox = Outbox::default();
        let mut chips = self.chips.lock();
        let written = chips.ioapic.write_bytes(offset, data);
        if self.update_watched(&chips.ioapic) {
            // Before an interrupt whose end is to be seen.
            if self.is_small() {
                self.tell_of_watched();
            } else {
                drop(chips);
                self.tell_of_watched();
                chips = self.chips.lock();
            }
        }
        if let Written::Entry {
            pin, pending: true, ..
        } = written
        {
            chips.ioapic.resend(pin, |message| {
                self.deliver_from_ioapic(message, |message| outbox.add(message))
            });
        }
        drop(chips);
        self.deliver_all(&outbox);
    }

    /// The state of the IOAPIC.
    pub(crate) fn ioapic_state(&self) -> ioapic::State {
        self.chips.lock().ioapic.state()
    }

    /// Sets the state of the IOAPIC.
    pub(crate) fn set_ioapic_state(&self, state: ioapic::State) {
        let mut outbox = Outbox::default();
        let mut chips = self.chips.lock();
        chips.ioapic.set_state(state, |message| {
            self.deliver_from_ioapic(message, |message| outbox.add(message))
        });
        let changed = self.update_watched(&chips.ioapic);
        drop(chips);
        if changed {
            self.tell_of_watched();
        }
        self.deliver_all(&outbox);
    }

    /// Whether `gpa` is in the registers of the IOAPIC. Returns the offset.
    #[inline]
    pub(crate) fn ioapic_offset(&self, gpa: u64) -> Option<u64> {
        let offset = gpa.wrapping_sub(ioapic::DEFAULT_BASE);
        (offset < ioapic::LENGTH && self.has_chips()).then_some(offset)
    }
}

/// Notes that `source` holds a pin up or lets go. Returns whether anybody holds it.
fn hold(held: &mut u8, source: Source, level: bool) -> bool {
    if level {
        *held |= source as u8;
    } else {
        *held &= !(source as u8);
    }
    *held != 0
}
