//! Parts of a date in UTC.

use crate::go_text::civil;

const DAY: i64 = 86_400;

/// Finds the function that takes a part out of a Unix time in seconds.
pub(super) fn lookup(name: &str) -> Option<fn(i64) -> f64> {
    Some(match name {
        "days_in_month" => |s| {
            let (year, month, _) = date(s);
            days_in_month(year, month) as f64
        },
        "day_of_month" => |s| date(s).2 as f64,
        // The first of January 1970 was a Thursday.
        "day_of_week" => |s| (s.div_euclid(DAY) + 4).rem_euclid(7) as f64,
        "day_of_year" => |s| {
            let (year, month, day) = date(s);
            ((1..month).map(|m| days_in_month(year, m)).sum::<i64>() + day) as f64
        },
        "hour" => |s| (s.rem_euclid(DAY) / 3600) as f64,
        "minute" => |s| (s.rem_euclid(3600) / 60) as f64,
        "month" => |s| date(s).1 as f64,
        "year" => |s| date(s).0 as f64,
        _ => return None,
    })
}

fn date(seconds: i64) -> (i64, i64, i64) {
    civil(seconds.div_euclid(DAY))
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str, seconds: i64) -> f64 {
        lookup(name).map_or(f64::NAN, |f| f(seconds))
    }

    #[test]
    fn dates_come_apart() {
        // 2024-02-29T13:37:42Z, a Thursday.
        let t = 1_709_213_862;
        let parts = ["year", "month", "day_of_month", "day_of_week", "day_of_year", "days_in_month", "hour", "minute"];
        assert_eq!(parts.map(|name| part(name, t)), [2024.0, 2.0, 29.0, 4.0, 60.0, 29.0, 13.0, 37.0]);
        assert_eq!(parts.map(|name| part(name, -1)), [1969.0, 12.0, 31.0, 3.0, 365.0, 31.0, 23.0, 59.0]);
        // The ends of what a float may become do not overflow.
        assert!(part("year", i64::MIN).is_finite() && part("day_of_year", i64::MAX).is_finite());
    }
}
