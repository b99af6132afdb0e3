//! Durations as people write them: `500ms`, `15s`, `2h`; a bare or fractional number is seconds.

use std::time::Duration;

const SECONDS_PER_DAY: u64 = 86_400;

/// Nobody means more: ten years. Far from where sums of times overflow, here or at a server.
const LONGEST: Duration = Duration::from_secs(3650 * SECONDS_PER_DAY);

/// Reads a duration.
pub fn parse(text: &str) -> Result<Duration, String> {
    let seconds = match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => humantime::parse_duration(text).ok(),
    };
    match seconds {
        Some(duration) if duration <= LONGEST => Ok(duration),
        Some(_) => Err(format!("use 0 to {} days", LONGEST.as_secs() / SECONDS_PER_DAY)),
        None => Err("use seconds (15, 0.5) or a number with a unit (500ms, 15s, 2h)".into()),
    }
}

/// Reads a duration where none at all makes no sense.
pub fn parse_some(text: &str) -> Result<Duration, String> {
    match parse(text)? {
        Duration::ZERO => Err("it must be more than 0".into()),
        duration => Ok(duration),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_and_bare_seconds_are_understood() {
        for (text, millis) in [
            ("500ms", 500),
            ("15s", 15_000),
            ("2h", 7_200_000),
            ("1", 1000),
            ("0.25", 250),
            ("0", 0),
            ("1m 30s", 90_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_nobody_means_is_refused_with_the_range() {
        assert_eq!(parse("3650d"), Ok(LONGEST));
        for text in ["3651d", "18446744073709551615s", "1e12"] {
            assert_eq!(parse(text), Err("use 0 to 3650 days".into()), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in ["", "-1", "soon", "5 parsecs", "NaN", "inf", "1e300"] {
            assert!(parse(text).unwrap_err().contains("500ms"), "{text}");
        }
    }
}
