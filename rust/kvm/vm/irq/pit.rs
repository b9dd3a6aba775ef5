// SPDX-License-Identifier: GPL-2.0

//! The timer chip, an i8254, and its interrupt on line 0.

use arch::pit::{
    self,
    Pit as Chip,
    Reinjection, //
};
use kernel::{
    new_spinlock_irq,
    prelude::*,
    sync::{
        Arc,
        SpinLockIrq, //
    },
};

use super::irqchip::{
    AckNotifier,
    Irqchip,
    Source, //
};
use crate::host::{
    clock,
    timer::{
        self,
        Timer, //
    },
    work::{
        Job,
        Work, //
    },
};

/// The shortest period granted, in nanoseconds: as for the APIC's timer.
const MIN_PERIOD: u64 = arch::apic::MIN_PERIOD;
/// The line of the timer.
const GSI: u32 = 0;

/// What is behind the ports.
struct State {
    chip: Chip,
    reinjection: Reinjection,
}

/// Channel 0 and the line it drives.
#[pin_data]
pub(crate) struct Channel0 {
    line: Line,
    /// Raises the line where that takes long.
    #[pin]
    slowly: Work<Line>,
    #[pin]
    state: SpinLockIrq<State>,
}

/// The timer chip of a VM.
#[pin_data(PinnedDrop)]
pub(crate) struct Pit {
    #[pin]
    timer: Timer<Arc<Channel0>>,
    channel0: Arc<Channel0>,
    has_speaker: bool,
}

/// Where the channel's output leads.
struct Line(Arc<Irqchip>);

impl Line {
    /// A rising edge.
    fn pulse(&self) {
        self.0.set_gsi(Source::Pit, GSI, true);
        self.0.set_gsi(Source::Pit, GSI, false);
    }
}

impl Job for Line {
    fn run(&self) {
        self.pulse();
    }
}

impl Channel0 {
    /// A rising edge on the line, in any context.
    fn pulse(&self) {
        if self.line.0.is_quick_line(GSI) {
            self.line.pulse();
        } else {
            self.slowly.schedule();
        }
    }
}

impl timer::Target for Channel0 {
    const TAKES_NO_LOCK: bool = false;

    fn expired(&self, now: u64) -> Option<u64> {
        let mut state = self.state.lock();
        let due = state.reinjection.tick();
        let next = state.chip.next_interrupt(now, MIN_PERIOD);
        drop(state);
        if due {
            self.pulse();
        }
        next
    }
}

impl AckNotifier for Channel0 {
    fn acknowledged(&self, gsi: u32) {
        if gsi != GSI {
            return;
        }
        let again = self.state.lock().reinjection.end();
        if again {
            self.pulse();
        }
    }
}

impl Pit {
    /// A timer chip as after power-up; `has_speaker` if port 0x61 is its, too.
    pub(crate) fn new(irqchip: Arc<Irqchip>, has_speaker: bool) -> Result<Arc<Self>> {
        let (line, slow_line) = (Line(irqchip.clone()), Line(irqchip.clone()));
        let channel0 = Arc::pin_init(
            try_pin_init!(Channel0 {
                line: line,
                slowly <- Work::new(Ok(slow_line)),
                state <- new_spinlock_irq!(State {
                    chip: Chip::new(),
                    reinjection: Reinjection::new(),
                }),
            }? Error),
            GFP_KERNEL_ACCOUNT,
        )?;
        let target = channel0.clone();
        let pit = Arc::pin_init(
            try_pin_init!(Self {
                timer <- Timer::new(target),
                channel0: channel0,
                has_speaker: has_speaker,
            }? Error),
            GFP_KERNEL_ACCOUNT,
        )?;
        irqchip.add_notifier(pit.channel0.clone())?;
        Ok(pit)
    }

    /// Whether `port` is this chip's.
    #[inline]
    pub(crate) fn owns(&self, port: u16) -> bool {
        matches!(port, pit::CHANNEL_0..=pit::CONTROL) || (port == pit::SPEAKER && self.has_speaker)
    }

    /// Reads a port.
    pub(crate) fn read(&self, port: u16) -> u8 {
        let now = clock::monotonic();
        let mut state = self.channel0.state.lock();
        state.chip.read(port, now).unwrap_or(0xff)
    }

    /// Writes a port.
    pub(crate) fn write(&self, port: u16, value: u8) {
        let now = clock::monotonic();
        let mut state = self.channel0.state.lock();
        state.chip.write(port, value, now);
        drop(state);
        if port == pit::CHANNEL_0 || port == pit::CONTROL {
            self.restart(now);
        }
    }

    /// Starts the timer for what channel 0 does from `now` on.
    fn restart(&self, now: u64) {
        let mut state = self.channel0.state.lock();
        state.reinjection.reset();
        let next = state.chip.next_interrupt(now, MIN_PERIOD);
        drop(state);
        match next {
            Some(next) => self.timer.start(next),
            None => {
                self.timer.cancel();
            }
        }
    }

    /// The state of the chip.
    pub(crate) fn save(&self) -> pit::State {
        self.channel0.state.lock().chip.save()
    }

    /// Sets the state of the chip; its counts start anew.
    pub(crate) fn restore(&self, state: &pit::State) {
        let now = clock::monotonic();
        self.channel0.state.lock().chip.restore(state, now);
        self.restart(now);
    }

    /// Makes up for missed ticks, or does not (api.rst, 4.67 KVM_REINJECT_CONTROL).
    pub(crate) fn set_reinject(&self, reinject: bool) {
        self.channel0.state.lock().reinjection.set_enabled(reinject);
    }
}

#[pinned_drop]
impl PinnedDrop for Pit {
    fn drop(self: Pin<&mut Self>) {
        // The two would keep each other alive.
        let notifier: Arc<dyn AckNotifier> = self.channel0.clone();
        self.channel0.line.0.remove_notifier(&notifier);
    }
}
