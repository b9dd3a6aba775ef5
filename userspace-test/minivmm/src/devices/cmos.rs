// SPDX-License-Identifier: GPL-2.0

//! The MC146818 real-time clock and its CMOS RAM: the host's time of day in UTC, no interrupts.
//!
//! Writes to the clock and to its status registers are dropped: the guest cannot set the host's
//! time, and the clock never stops. Data sheet: Motorola MC146818; the register numbers above it
//! are those of the PC.

use std::time::{SystemTime, UNIX_EPOCH};

/// Selects a register; bit 7 masks NMIs and is not part of the number.
pub const INDEX: u16 = 0x70;
/// Reads or writes the selected register.
pub const DATA: u16 = 0x71;

const SECONDS: u8 = 0x00;
const MINUTES: u8 = 0x02;
const HOURS: u8 = 0x04;
const DAY_OF_WEEK: u8 = 0x06;
const DAY_OF_MONTH: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const STATUS_A: u8 = 0x0a;
const STATUS_B: u8 = 0x0b;
const STATUS_C: u8 = 0x0c;
const STATUS_D: u8 = 0x0d;
const BASE_MEMORY_LOW: u8 = 0x15;
const BASE_MEMORY_HIGH: u8 = 0x16;
/// Index of the register with the century; ACPI tells it the guest.
pub const CENTURY: u8 = 0x32;

/// Status A: 32.768 kHz time base, 1024 Hz rate, no update in progress.
const STATUS_A_VALUE: u8 = 0x26;
/// Status B: 24-hour mode, BCD, every interrupt off.
const STATUS_B_VALUE: u8 = 0x02;
/// Status D: RAM and time are valid.
const STATUS_D_VALUE: u8 = 0x80;
/// KiB of RAM below the EBDA.
const BASE_MEMORY_KIB: u16 = 639;
const REGISTERS: usize = 128;

/// The clock and its RAM.
pub struct Cmos {
    index: u8,
    ram: [u8; REGISTERS],
    now: fn() -> u64,
}

impl Cmos {
    /// A clock that follows the host's.
    pub fn new() -> Self {
        Self::with_clock(|| {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs())
        })
    }

    /// A clock that shows `now`, in seconds since 1970 UTC.
    fn with_clock(now: fn() -> u64) -> Self {
        let mut ram = [0; REGISTERS];
        let [low, high] = BASE_MEMORY_KIB.to_le_bytes();
        ram[usize::from(BASE_MEMORY_LOW)] = low;
        ram[usize::from(BASE_MEMORY_HIGH)] = high;
        Self { index: 0, ram, now }
    }

    /// Reads port [`INDEX`] or [`DATA`]. The index cannot be read back, as on most boards.
    pub fn read(&self, port: u16) -> u8 {
        if port != DATA {
            return 0xff;
        }
        let time = Utc::from_unix((self.now)());
        match self.index {
            SECONDS => bcd(time.second),
            MINUTES => bcd(time.minute),
            HOURS => bcd(time.hour),
            DAY_OF_WEEK => bcd(time.weekday),
            DAY_OF_MONTH => bcd(time.day),
            MONTH => bcd(time.month),
            YEAR => bcd((time.year % 100) as u8),
            CENTURY => bcd((time.year / 100) as u8),
            STATUS_A => STATUS_A_VALUE,
            STATUS_B => STATUS_B_VALUE,
            STATUS_C => 0,
            STATUS_D => STATUS_D_VALUE,
            index => self.ram[usize::from(index)],
        }
    }

    /// Writes port [`INDEX`] or [`DATA`].
    pub fn write(&mut self, port: u16, value: u8) {
        if port == INDEX {
            self.index = value & 0x7f;
        } else {
            self.ram[usize::from(self.index)] = value;
        }
    }
}

/// Two decimal digits, one in each half of a byte.
fn bcd(value: u8) -> u8 {
    ((value / 10) << 4) | (value % 10)
}

/// A date and time of the Gregorian calendar.
#[derive(PartialEq, Eq, Debug)]
struct Utc {
    year: u64,
    month: u8,
    day: u8,
    /// 1 is Sunday.
    weekday: u8,
    hour: u8,
    minute: u8,
    second: u8,
}

impl Utc {
    /// From seconds since 1970. Years are counted from March, so that the leap day is the last of
    /// its year and every month's first day is a linear function of its number.
    fn from_unix(seconds: u64) -> Self {
        const DAY: u64 = 24 * 60 * 60;
        const DAYS_IN_400_YEARS: u64 = 146_097;
        /// Days from 1 March of year 0 to 1 January 1970.
        const TO_1970: u64 = 719_468;

        let (days, time) = (seconds / DAY, seconds % DAY);
        let since_0 = days + TO_1970;
        let (era, day_of_era) = (since_0 / DAYS_IN_400_YEARS, since_0 % DAYS_IN_400_YEARS);
        let leap_days = day_of_era / 1460 - day_of_era / 36_524 + day_of_era / 146_096;
        let year_of_era = (day_of_era - leap_days) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = (month_from_march + 2) % 12 + 1;
        Self {
            year: era * 400 + year_of_era + u64::from(month <= 2),
            month: month as u8,
            day: (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u8,
            weekday: ((days + 4) % 7 + 1) as u8,
            hour: (time / 3600) as u8,
            minute: (time / 60 % 60) as u8,
            second: (time % 60) as u8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(seconds: u64) -> (u64, u8, u8, u8) {
        let utc = Utc::from_unix(seconds);
        (utc.year, utc.month, utc.day, utc.weekday)
    }

    fn register(cmos: &mut Cmos, index: u8) -> u8 {
        cmos.write(INDEX, index);
        cmos.read(DATA)
    }

    #[test]
    fn dates_known_from_elsewhere() {
        assert_eq!(date(0), (1970, 1, 1, 5));
        assert_eq!(date(951_782_400), (2000, 2, 29, 3));
        assert_eq!(date(951_868_800), (2000, 3, 1, 4));
        assert_eq!(date(1_735_603_200), (2024, 12, 31, 3));
        assert_eq!(date(4_107_542_400), (2100, 3, 1, 2));
    }

    #[test]
    fn days_follow_each_other_for_a_century() {
        let mut last = Utc::from_unix(0);
        for day in 1..40_000 {
            let next = Utc::from_unix(day * 86_400);
            let same_month = next.month == last.month && next.day == last.day + 1;
            let next_month = next.day == 1 && next.month == last.month % 12 + 1;
            assert!(same_month || next_month, "{last:?} then {next:?}");
            assert_eq!(next.weekday, last.weekday % 7 + 1);
            last = next;
        }
    }

    #[test]
    fn the_clock_is_in_bcd() {
        // 2024-12-31 23:59:58 UTC.
        let mut cmos = Cmos::with_clock(|| 1_735_689_598);
        let read = [SECONDS, MINUTES, HOURS, DAY_OF_MONTH, MONTH, YEAR, CENTURY]
            .map(|index| register(&mut cmos, index));
        assert_eq!(read, [0x58, 0x59, 0x23, 0x31, 0x12, 0x24, 0x20]);
    }

    #[test]
    fn the_clock_is_valid_and_never_updating() {
        let mut cmos = Cmos::new();
        assert_eq!(register(&mut cmos, STATUS_A) & 0x80, 0);
        assert_eq!(register(&mut cmos, STATUS_D), 0x80);
    }

    #[test]
    fn ram_keeps_and_the_clock_does_not() {
        let mut cmos = Cmos::with_clock(|| 0);
        for index in [0x40, YEAR] {
            cmos.write(INDEX, 0x80 | index);
            cmos.write(DATA, 0x55);
        }
        assert_eq!(register(&mut cmos, 0x40), 0x55);
        assert_eq!(register(&mut cmos, YEAR), 0x70);
    }

    #[test]
    fn base_memory_ends_at_the_ebda() {
        let mut cmos = Cmos::new();
        let kib = u16::from_le_bytes([
            register(&mut cmos, BASE_MEMORY_LOW),
            register(&mut cmos, BASE_MEMORY_HIGH),
        ]);
        assert_eq!(u64::from(kib) * 1024, crate::boot::layout::EBDA.0);
    }
}
