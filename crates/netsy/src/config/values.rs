//! Readers for single values of the cluster file: durations, sizes.

use std::time::Duration;

/// No duration of a configuration is longer: a point in time that far ahead can still be computed with.
const DURATION_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

/// A duration with its unit: `500ms`, `5s`, `3m`, `24h`, or several of them (`1m30s`).
pub fn duration(text: &str) -> Result<Duration, String> {
    let bad =
        || format!("{text:?} is not a duration: write a number with a unit, like \"500ms\", \"5s\", \"3m\" or \"24h\"");
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(bad());
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let millis = match &rest[..letters] {
            "ms" => Some(number),
            "s" => number.checked_mul(1000),
            "m" => number.checked_mul(60_000),
            "h" => number.checked_mul(3_600_000),
            _ => None,
        };
        total = millis.and_then(|ms| total.checked_add(Duration::from_millis(ms))).ok_or_else(bad)?;
        rest = &rest[letters..];
    }
    if total > DURATION_MAX {
        return Err(format!("{text:?} is too long: at most {:?}, 100 years", show_duration(DURATION_MAX)));
    }
    Ok(total)
}

/// As [`duration`] reads it.
pub fn show_duration(d: Duration) -> String {
    let ms = d.as_millis();
    match ms {
        0 => "0s".into(),
        _ if ms.is_multiple_of(3_600_000) => format!("{}h", ms / 3_600_000),
        _ if ms.is_multiple_of(60_000) => format!("{}m", ms / 60_000),
        _ if ms.is_multiple_of(1000) => format!("{}s", ms / 1000),
        _ => format!("{ms}ms"),
    }
}

/// A size: `1572864`, `64 KiB`, `1.5 MiB`, `8 GiB`.
pub fn bytes(text: &str) -> Result<u64, String> {
    let bad = || {
        format!("{text:?} is not a size: write bytes as a number, or a text like \"64 KiB\", \"1.5 MiB\", \"8 GiB\"")
    };
    let text_trimmed = text.trim();
    let split = text_trimmed.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text_trimmed.len());
    let factor: u64 = match text_trimmed[split..].trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err(bad()),
    };
    let number = &text_trimmed[..split];
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor).ok_or_else(bad);
    }
    let fraction: f64 = number.parse().map_err(|_| bad())?;
    let value = fraction * factor as f64;
    if !(0.0..9e18).contains(&value) {
        return Err(bad());
    }
    Ok(value as u64)
}

/// As [`bytes`] reads it, in the largest unit that is exact.
pub fn show_bytes(n: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if n > 0 && n.is_multiple_of(1 << shift) {
            return format!("{} {unit}", n >> shift);
        }
        if n >= 1 << shift && n.is_multiple_of(1 << (shift - 1)) {
            return format!("{:.1} {unit}", n as f64 / (1u64 << shift) as f64);
        }
    }
    n.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in [("500ms", 500), ("5s", 5000), ("1m30s", 90_000), ("24h", 86_400_000), ("0s", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in
            ["", "5", "s", "5 s", "5d", "-5s", "1.5s", "99999999999999999999h", "18446744073709551615h", "876001h"]
        {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert_eq!(show_duration(Duration::from_millis(90_000)), "90s");
        assert_eq!(show_duration(Duration::from_millis(180_000)), "3m");
    }

    #[test]
    fn sizes() {
        for (text, n) in [("1.5 MiB", 1_572_864), ("8 GiB", 8 << 30), ("10", 10), ("64KiB", 65_536)] {
            assert_eq!(bytes(text), Ok(n), "{text}");
        }
        for bad in ["", "MiB", "5 MB", "-1", "1..5 MiB", "99999999999 TiB"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
        assert_eq!(show_bytes(1_572_864), "1.5 MiB");
        for n in [u64::MAX, 1 << 63, 3 << 39] {
            assert_eq!(bytes(&show_bytes(n)), Ok(n), "{n}");
        }
        assert_eq!(show_bytes(8 << 30), "8 GiB");
    }
}
