// SPDX-License-Identifier: GPL-2.0

//! From interrupt lines (GSIs) to what they lead to (api.rst, 4.52 KVM_SET_GSI_ROUTING).

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

/// A routing table: sorted by line.
pub(crate) struct Routes(KVVec<Route>);

impl Routes {
    /// No line leads anywhere.
    pub(crate) const fn empty() -> Self {
        Self(KVVec::new())
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
        Ok(Self(routes))
    }

    /// A table of a VMM's.
    ///
    /// # Errors
    ///
    /// EINVAL where a line leads to one chip twice, or to a chip and a message; ENOMEM.
    pub(crate) fn new(routes: &[Route]) -> Result<Self> {
        let mut sorted = Self(KVVec::with_capacity(routes.len(), GFP_KERNEL_ACCOUNT)?);
        for route in routes {
            let mut others = sorted.of(route.gsi).iter();
            if !others.all(|other| route.target.may_join(&other.target)) {
                return Err(EINVAL);
            }
            let place = sorted.0.partition_point(|other| other.gsi <= route.gsi);
            sorted
                .0
                .insert_within_capacity(place, *route)
                .map_err(|_| ENOMEM)?;
        }
        Ok(sorted)
    }

    /// Where line `gsi` leads: nowhere, to one place, or to two.
    #[inline]
    pub(crate) fn of(&self, gsi: u32) -> &[Route] {
        let start = self.0.partition_point(|route| route.gsi < gsi);
        let rest = self.0.get(start..).unwrap_or(&[]);
        let len = rest.iter().take_while(|route| route.gsi == gsi).count();
        rest.get(..len).unwrap_or(&[])
    }

    /// The messages that the lines below `pins` send, as address and data: for a split interrupt
    /// controller, line n is pin n of the VMM's IOAPIC.
    pub(crate) fn messages(&self, pins: u32) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.0
            .iter()
            .take_while(move |route| route.gsi < pins)
            .filter_map(|route| match route.target {
                Target::Msi { address, data } => Some((address, data)),
                _ => None,
            })
    }

    /// The line that leads to a target, if one does.
    pub(crate) fn gsi_of(&self, target: Target) -> Option<u32> {
        self.0
            .iter()
            .find(|route| route.target == target)
            .map(|route| route.gsi)
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

    /// Whether one line may lead to both.
    fn may_join(&self, other: &Self) -> bool {
        match (self.chip(), other.chip()) {
            (Some(one), Some(another)) => one != another,
            _ => false,
        }
    }
}
