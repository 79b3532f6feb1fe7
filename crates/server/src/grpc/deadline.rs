//! How long a caller is willing to wait: the `grpc-timeout` header.

use super::status::Status;
use http::{HeaderMap, HeaderValue};
use std::time::Duration;

/// Parses `grpc-timeout`: at most eight digits and a unit. None: no deadline.
/// Error: an unreadable one, in grpc-go's words.
pub(crate) fn timeout_of(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let mut timeout = None;
    for value in headers.get_all("grpc-timeout") {
        let parsed = parse(value).map_err(|why| Status::internal(format!("malformed grpc-timeout: {why}")))?;
        timeout = Some(parsed);
    }
    Ok(timeout)
}

fn parse(value: &HeaderValue) -> Result<Duration, String> {
    let text = value.as_bytes();
    let quoted = || format!("{:?}", String::from_utf8_lossy(text));
    let (digits, unit) = match text {
        [] | [_] => return Err(format!("transport: timeout string is too short: {}", quoted())),
        [digits @ .., unit] if digits.len() <= 8 => (digits, unit),
        _ => return Err(format!("transport: timeout string is too long: {}", quoted())),
    };
    let nanoseconds: u64 = match unit {
        b'H' => 3_600_000_000_000,
        b'M' => 60_000_000_000,
        b'S' => 1_000_000_000,
        b'm' => 1_000_000,
        b'u' => 1_000,
        b'n' => 1,
        _ => return Err(format!("transport: timeout unit is not recognized: {}", quoted())),
    };
    let mut number = 0u64;
    for digit in digits {
        if !digit.is_ascii_digit() {
            let digits = String::from_utf8_lossy(digits);
            return Err(format!("strconv.ParseUint: parsing {digits:?}: invalid syntax"));
        }
        number = number * 10 + u64::from(digit - b'0');
    }
    // Eight digits of hours are more than fit, and longer than anybody waits.
    Ok(Duration::from_nanos(number.saturating_mul(nanoseconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &'static str) -> Result<Option<Duration>, String> {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", HeaderValue::from_static(text));
        timeout_of(&headers).map_err(|status| status.to_string())
    }

    #[test]
    fn units_and_limits() {
        assert_eq!(timeout_of(&HeaderMap::new()), Ok(None));
        assert_eq!(parse("10S"), Ok(Some(Duration::from_secs(10))));
        assert_eq!(parse("99999999H"), Ok(Some(Duration::from_nanos(u64::MAX))));
        assert_eq!(parse("99999999M"), Ok(Some(Duration::from_secs(99_999_999 * 60))));
        assert_eq!(parse("5m"), Ok(Some(Duration::from_millis(5))));
        assert_eq!(parse("7u"), Ok(Some(Duration::from_micros(7))));
        assert_eq!(parse("0n"), Ok(Some(Duration::ZERO)));
    }

    #[test]
    fn what_is_no_timeout_is_refused_as_grpc_go_does() {
        for (text, why) in [
            ("", "transport: timeout string is too short: \"\""),
            ("S", "transport: timeout string is too short: \"S\""),
            ("100000000S", "transport: timeout string is too long: \"100000000S\""),
            ("1x", "transport: timeout unit is not recognized: \"1x\""),
            ("-1S", "strconv.ParseUint: parsing \"-1\": invalid syntax"),
            ("1 S", "strconv.ParseUint: parsing \"1 \": invalid syntax"),
        ] {
            assert_eq!(parse(text), Err(format!("Internal: malformed grpc-timeout: {why}")));
        }
    }

    #[test]
    fn of_several_the_last_counts_and_all_are_read() {
        let mut headers = HeaderMap::new();
        headers.append("grpc-timeout", HeaderValue::from_static("1S"));
        headers.append("grpc-timeout", HeaderValue::from_static("2S"));
        assert_eq!(timeout_of(&headers), Ok(Some(Duration::from_secs(2))));
        headers.append("grpc-timeout", HeaderValue::from_static("soon"));
        headers.append("grpc-timeout", HeaderValue::from_static("3S"));
        assert!(timeout_of(&headers).is_err());
    }
}
