//! Dates of the proleptic Gregorian calendar, UTC. Pure: "now" is the caller's business.

use protocol::message::namespace::Time;

const SECS_PER_DAY: i64 = 86_400;

/// A day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    /// Year, 1970 or so.
    pub year: i32,
    /// Month, 1 to 12.
    pub month: u8,
    /// Day, 1 to 31.
    pub day: u8,
}

impl Date {
    /// The day a number of days after 1970-01-01.
    ///
    /// # Source
    /// The era arithmetic: 400 years have 146,097 days, and a year that starts in March ends
    /// with its leap day.
    pub fn from_days(days: i64) -> Date {
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096).div_euclid(365);
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * of_year + 2) / 153;
        let day = of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        Date {
            year: i32::try_from(year).unwrap_or(i32::MAX),
            month: u8::try_from(month).unwrap_or(1),
            day: u8::try_from(day).unwrap_or(1),
        }
    }

    /// Days from 1970-01-01 to this day.
    pub fn to_days(self) -> i64 {
        let year = i64::from(self.year) - i64::from(self.month <= 2);
        let era = year.div_euclid(400);
        let of_era = year.rem_euclid(400);
        let from_march = (i64::from(self.month) + 9) % 12;
        let of_year = (153 * from_march + 2) / 5 + i64::from(self.day) - 1;
        era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
    }

    /// The day `days` later, or earlier when negative.
    pub fn days_later(self, days: i64) -> Date {
        Date::from_days(self.to_days() + days)
    }

    /// The day of a time.
    pub fn of(time: Time) -> Date {
        Date::from_days(time.secs.div_euclid(SECS_PER_DAY))
    }
}

/// Writes a time as `2026-11-23 07:45`, UTC.
pub fn minute(time: Time) -> String {
    let Date { year, month, day } = Date::of(time);
    let of_day = time.secs.rem_euclid(SECS_PER_DAY);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}", of_day / 3600, of_day / 60 % 60)
}

/// Writes a time as `2026-11-23T07:45:12.000000001Z`.
pub fn rfc3339(time: Time) -> String {
    let Date { year, month, day } = Date::of(time);
    let of_day = time.secs.rem_euclid(SECS_PER_DAY);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09}Z", time.nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_dates_are_inverse_over_eight_centuries() {
        let mut last = Date::from_days(-146_098);
        for days in -146_097..146_097 {
            let date = Date::from_days(days);
            assert_eq!(date.to_days(), days);
            assert_ne!(date, last);
            last = date;
        }
    }

    #[test]
    fn known_times_are_written_as_people_write_them() {
        let time = |secs| Time { secs, nanos: 7 };
        assert_eq!(rfc3339(time(951_782_400)), "2000-02-29T00:00:00.000000007Z");
        assert_eq!(rfc3339(time(-1)), "1969-12-31T23:59:59.000000007Z");
        assert_eq!(minute(time(1_795_419_912)), "2026-11-23 07:45");
    }
}
