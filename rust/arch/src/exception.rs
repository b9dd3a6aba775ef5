// SPDX-License-Identifier: GPL-2.0

//! Exceptions: their vectors, and what becomes of one raised while another is delivered
//! (SDM vol. 3, 6.15).

/// An exception the architecture defines, by its vector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Exception {
    /// #DE, divide error.
    DivideError = 0,
    /// #DB, debug.
    Debug = 1,
    /// Non-maskable interrupt.
    Nmi = 2,
    /// #BP, breakpoint: INT3.
    Breakpoint = 3,
    /// #OF, overflow: INTO.
    Overflow = 4,
    /// #BR, BOUND range exceeded.
    BoundRange = 5,
    /// #UD, invalid opcode.
    InvalidOpcode = 6,
    /// #NM, device not available.
    DeviceNotAvailable = 7,
    /// #DF, double fault.
    DoubleFault = 8,
    /// Coprocessor segment overrun, of the 80387 only.
    CoprocessorOverrun = 9,
    /// #TS, invalid TSS.
    InvalidTss = 10,
    /// #NP, segment not present.
    SegmentNotPresent = 11,
    /// #SS, stack-segment fault.
    StackFault = 12,
    /// #GP, general protection.
    GeneralProtection = 13,
    /// #PF, page fault.
    PageFault = 14,
    /// #MF, x87 floating-point error.
    X87 = 16,
    /// #AC, alignment check.
    AlignmentCheck = 17,
    /// #MC, machine check.
    MachineCheck = 18,
    /// #XM, SIMD floating-point.
    Simd = 19,
    /// #VE, virtualization.
    Virtualization = 20,
    /// #CP, control protection.
    ControlProtection = 21,
}

/// How an exception combines with one that is being delivered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Is delivered after the other.
    Benign,
    /// Two of these make a double fault.
    Contributory,
    /// With another of these, or a contributory one, it makes a double fault.
    PageFault,
}

/// What follows when an exception is raised during the delivery of another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The second is delivered.
    Serial,
    /// #DF is delivered, with error code 0.
    DoubleFault,
    /// The processor shuts down.
    TripleFault,
}

impl Exception {
    /// The exception with vector `vector`, if one is defined.
    pub const fn from_vector(vector: u8) -> Option<Self> {
        Some(match vector {
            0 => Self::DivideError,
            1 => Self::Debug,
            2 => Self::Nmi,
            3 => Self::Breakpoint,
            4 => Self::Overflow,
            5 => Self::BoundRange,
            6 => Self::InvalidOpcode,
            7 => Self::DeviceNotAvailable,
            8 => Self::DoubleFault,
            9 => Self::CoprocessorOverrun,
            10 => Self::InvalidTss,
            11 => Self::SegmentNotPresent,
            12 => Self::StackFault,
            13 => Self::GeneralProtection,
            14 => Self::PageFault,
            16 => Self::X87,
            17 => Self::AlignmentCheck,
            18 => Self::MachineCheck,
            19 => Self::Simd,
            20 => Self::Virtualization,
            21 => Self::ControlProtection,
            _ => return None,
        })
    }

    /// The vector.
    pub const fn vector(self) -> u8 {
        self as u8
    }

    /// Whether delivery pushes an error code in protected mode (SDM vol. 3, table 6-1). In real
    /// mode none does.
    pub const fn has_error_code(self) -> bool {
        matches!(
            self,
            Self::DoubleFault
                | Self::InvalidTss
                | Self::SegmentNotPresent
                | Self::StackFault
                | Self::GeneralProtection
                | Self::PageFault
                | Self::AlignmentCheck
                | Self::ControlProtection
        )
    }

    /// Its class (SDM vol. 3, table 6-4).
    pub const fn class(self) -> Class {
        match self {
            Self::DivideError
            | Self::InvalidTss
            | Self::SegmentNotPresent
            | Self::StackFault
            | Self::GeneralProtection
            | Self::ControlProtection => Class::Contributory,
            Self::PageFault | Self::Virtualization => Class::PageFault,
            _ => Class::Benign,
        }
    }

    /// What follows when `second` is raised while this exception is delivered (SDM vol. 3, table
    /// 6-5).
    pub const fn followed_by(self, second: Self) -> Outcome {
        match (self, self.class(), second.class()) {
            (Self::DoubleFault, _, Class::Contributory | Class::PageFault) => Outcome::TripleFault,
            (_, Class::Contributory, Class::Contributory)
            | (_, Class::PageFault, Class::Contributory | Class::PageFault) => Outcome::DoubleFault,
            _ => Outcome::Serial,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Exception as E;
    use super::*;

    #[test]
    fn vectors_go_round() {
        for vector in 0..=255 {
            match E::from_vector(vector) {
                Some(exception) => assert_eq!(exception.vector(), vector),
                None => assert!(vector == 15 || vector > 21, "vector {vector}"),
            }
        }
    }

    #[test]
    fn error_codes() {
        let with: std::vec::Vec<u8> = (0..=255)
            .filter(|vector| E::from_vector(*vector).is_some_and(E::has_error_code))
            .collect();
        assert_eq!(with, [8, 10, 11, 12, 13, 14, 17, 21]);
    }

    #[test]
    fn table_6_5() {
        for (first, second, outcome) in [
            (E::InvalidOpcode, E::Debug, Outcome::Serial),
            (E::InvalidOpcode, E::GeneralProtection, Outcome::Serial),
            (E::InvalidOpcode, E::PageFault, Outcome::Serial),
            (E::GeneralProtection, E::InvalidOpcode, Outcome::Serial),
            (
                E::GeneralProtection,
                E::SegmentNotPresent,
                Outcome::DoubleFault,
            ),
            (E::DivideError, E::ControlProtection, Outcome::DoubleFault),
            (E::GeneralProtection, E::PageFault, Outcome::Serial),
            (E::PageFault, E::Nmi, Outcome::Serial),
            (E::PageFault, E::GeneralProtection, Outcome::DoubleFault),
            (E::PageFault, E::PageFault, Outcome::DoubleFault),
            (E::Virtualization, E::StackFault, Outcome::DoubleFault),
            (E::DoubleFault, E::Debug, Outcome::Serial),
            (E::DoubleFault, E::InvalidTss, Outcome::TripleFault),
            (E::DoubleFault, E::PageFault, Outcome::TripleFault),
        ] {
            assert_eq!(
                first.followed_by(second),
                outcome,
                "{first:?} then {second:?}"
            );
        }
    }
}
