//! Durations and sizes as people write them: `"1m 30s"`, `"256m"`.
//!
//! A leaf: parses and prints, and knows nothing of what the values limit.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A duration written in humantime's grammar (`"500ms"`, `"30s"`, `"1m 30s"`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// A number of bytes: a plain integer, or digits with `k`, `m` or `g` (powers of 1024, as Docker reads them).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// A text that is not a duration or a size; its message quotes the text and shows the right form.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UnitError {
    /// Not a duration.
    #[error("`{0}` is not a duration; write a number with a unit, such as `500ms`, `30s` or `1m 30s`")]
    Span(String),
    /// Not a size.
    #[error("`{0}` is not a size; write bytes, or a number with `k`, `m` or `g`, such as `65536` or `256m`")]
    ByteSize(String),
}

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        humantime::parse_duration(text.trim()).map(Self).map_err(|_| UnitError::Span(text.to_owned()))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = || UnitError::ByteSize(text.to_owned());
        let lower = text.trim().to_ascii_lowercase();
        let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match &lower[digits.len()..] {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            _ => return Err(error()),
        };
        let number: u64 = digits.trim_end().parse().map_err(|_| error())?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(error)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(30, "g"), (20, "m"), (10, "k")] {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match NumberOrText::deserialize(deserializer)? {
            NumberOrText::Text(text) => text.parse().map_err(de::Error::custom),
            // A bare number has no unit, and guessing one is how a 30 ms timeout is born.
            NumberOrText::Number(number) => Err(de::Error::custom(UnitError::Span(number.to_string()))),
        }
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match NumberOrText::deserialize(deserializer)? {
            NumberOrText::Text(text) => text.parse().map_err(de::Error::custom),
            NumberOrText::Number(number) => {
                u64::try_from(number).map(Self).map_err(|_| de::Error::custom(UnitError::ByteSize(number.to_string())))
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a number or a text")]
enum NumberOrText {
    Number(i64),
    Text(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_docker_reads_them() {
        for (text, bytes) in
            [("0", 0), ("65536", 65536), ("256m", 256 << 20), ("1G", 1 << 30), ("2KiB", 2048), ("7 k", 7168)]
        {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "m", "-1", "1.5g", "12q", "99999999999g"] {
            let error = text.parse::<ByteSize>().expect_err(text).to_string();
            assert!(error.contains(&format!("`{text}`")) && error.contains("256m"), "{error}");
        }
    }

    #[test]
    fn a_printed_size_reads_back() {
        for bytes in [0, 1, 1023, 1024, 1536, 1 << 20, 3 << 30] {
            assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
        }
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!("1m 30s".parse(), Ok(Span(Duration::from_secs(90))));
        assert!(serde_json::from_str::<Span>("30").expect_err("no unit").to_string().contains("`30`"));
        assert!("soon".parse::<Span>().expect_err("no number").to_string().contains("`soon`"));
    }
}
