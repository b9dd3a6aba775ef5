// SPDX-License-Identifier: GPL-2.0

//! From interrupt lines (GSIs) to what they lead to (api.rst, 4.52 KVM_SET_GSI_ROUTING).

use core::ops::Range;

use kernel::prelude::*;

/// Pins of the two PICs.
pub(crate) const PIC_PINS: u32 = 16;
/// Pins of the IOAPIC.
pub(crate) const IOAPIC_PINS: u32 = 24;
/// Entries a table can have (KVM_CAP_IRQ_ROUTING).
pub(crate) const MAX_ROUTES: usize = 4096;

/// Where a line leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    /// A pin of the dual PIC.
    Pic(u8),
    /// A pin of the IOAPIC.
    Ioapic(u8),
    /// A message.
    Msi { address: u64, data: u32 },
}

/// One entry of a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Route {
    pub(crate) gsi: u32,
    pub(crate) target: Target,
}

/// A routing table.
pub(crate) struct Routes {
    /// Sorted by line.
    routes: KVVec<Route>,
    /// The first line that leads to each pin of the chips, or [`NO_LINE`].
    lines: [u32; (PIC_PINS + IOAPIC_PINS) as usize],
}

const NO_LINE: u32 = u32::MAX;

impl Routes {
    /// No line leads anywhere.
    pub(crate) const fn empty() -> Self {
        Self::with(KVVec::new())
    }

    const fn with(routes: KVVec<Route>) -> Self {
        Self {
            routes,
            lines: [NO_LINE; (PIC_PINS + IOAPIC_PINS) as usize],
        }
    }

    /// Whose routes are complete.
    fn finished(mut self) -> Self {
        for route in self.routes.iter().rev() {
            let line = route.target.pin().and_then(|pin| self.lines.get_mut(pin));
            if let Some(line) = line {
                *line = route.gsi;
            }
        }
        self
    }

    /// What KVM_CREATE_IRQCHIP sets up: line n is pin n of both chips.
    ///
    /// # Errors
    ///
    /// ENOMEM.
    pub(crate) fn identity() -> Result<Self> {
        let mut routes = KVVec::with_capacity(
            (PIC_PINS + IOAPIC_PINS) as usize,
            GFP_KERNEL_ACCOUNT, //
        )?;
        for gsi in 0..IOAPIC_PINS {
            let pin = gsi as u8;
            if gsi < PIC_PINS {
                let target = Target::Pic(pin);
                routes.push(Route { gsi, target }, GFP_KERNEL_ACCOUNT)?;
            }
            let target = Target::Ioapic(pin);
            routes.push(Route { gsi, target }, GFP_KERNEL_ACCOUNT)?;
        }
        Ok(Self::with(routes).finished())
    }

    /// A table of a VMM's.
    ///
    /// # Errors
    ///
    /// EINVAL where a line leads to one chip twice, or to a chip and a message; ENOMEM.
    pub(crate) fn new(routes: &[Route]) -> Result<Self> {
        let mut sorted = Self::with(KVVec::with_capacity(routes.len(), GFP_KERNEL_ACCOUNT)?);
        for route in routes {
            let mut others = sorted.of(route.gsi).iter();
            if !others.all(|other| route.target.may_join(&other.target)) {
                return Err(EINVAL);
            }
            let place = sorted
                .routes
                .partition_point(|other| other.gsi <= route.gsi);
            sorted
                .routes
                .insert_within_capacity(place, *route)
                .map_err(|_| ENOMEM)?;
        }
        Ok(sorted.finished())
    }

    /// Where line `gsi` leads: nowhere, to one place, or to two.
    #[inline]
    pub(crate) fn of(&self, gsi: u32) -> &[Route] {
        let rest = self.from(gsi);
        let len = rest.iter().take_while(|route| route.gsi == gsi).count();
        rest.get(..len).unwrap_or(&[])
    }

    /// The routes of line `gsi` and those above it.
    fn from(&self, gsi: u32) -> &[Route] {
        let start = self.routes.partition_point(|route| route.gsi < gsi);
        self.routes.get(start..).unwrap_or(&[])
    }

    /// The messages that `lines` send, as address and data: for a split interrupt controller, line n
    /// is pin n of the VMM's IOAPIC.
    pub(crate) fn messages(&self, lines: Range<u32>) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.from(lines.start)
            .iter()
            .take_while(move |route| route.gsi < lines.end)
            .filter_map(|route| match route.target {
                Target::Msi { address, data } => Some((address, data)),
                _ => None,
            })
    }

    /// The first line that leads to a pin, if one does.
    pub(crate) fn gsi_of(&self, target: Target) -> Option<u32> {
        let line = self.lines.get(target.pin()?)?;
        (*line != NO_LINE).then_some(*line)
    }
}

impl Target {
    /// Which chip it is, the PICs being two; `None` for a message.
    fn chip(&self) -> Option<u8> {
        match self {
            Self::Pic(pin) => Some(pin / 8),
            Self::Ioapic(_) => Some(2),
            Self::Msi { .. } => None,
        }
    }

    /// The number of its pin: those of the PICs are the first. `None` for a message.
    fn pin(&self) -> Option<usize> {
        match self {
            Self::Pic(pin) => (u32::from(*pin) < PIC_PINS).then_some(usize::from(*pin)),
            Self::Ioapic(pin) => Some(PIC_PINS as usize + usize::from(*pin)),
            Self::Msi { .. } => None,
        }
    }

    /// Whether one line may lead to both.
    fn may_join(&self, other: &Self) -> bool {
        match (self.chip(), other.chip()) {
            (Some(one), Some(another)) => one != another,
            _ => false,
        }
    }
}
