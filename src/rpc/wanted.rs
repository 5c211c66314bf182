//! What a client asks for, held against what the server allows. Pure.

use std::collections::BTreeMap;

use base64::prelude::{BASE64_STANDARD, Engine as _};

use crate::{
    config::Config,
    error::Error,
    protocol::{NewFile, SessionLimits},
    session::files::FilePath,
    units::{ByteSize, Span},
};

/// Environment variables of one session.
const MAX_ENV: usize = 256;
/// Bytes of all names and values of one session's environment.
const MAX_ENV_BYTES: usize = 256 << 10;
/// Bytes of a label or a key.
const MAX_LABEL: usize = 256;

/// What may be asked for a session's limits.
#[derive(Debug, Default)]
pub(super) struct Limits {
    pub(super) timeout: Option<Span>,
    pub(super) max_output: Option<ByteSize>,
    pub(super) idle_ttl: Option<Span>,
    pub(super) memory: Option<ByteSize>,
    pub(super) cpus: Option<f64>,
}

fn wrong<T>(name: &str, value: impl std::fmt::Display, right: &str) -> Result<T, Error> {
    Err(Error::Params(format!("`{name}` is {value}; it must be {right}")))
}

/// A session's limits.
pub(super) fn limits(config: &Config, wanted: &Limits) -> Result<SessionLimits, Error> {
    let defaults = config.session_limits();
    Ok(SessionLimits {
        timeout: timeout(config, wanted.timeout.unwrap_or(defaults.timeout))?,
        max_output: max_output(config, wanted.max_output.unwrap_or(defaults.max_output))?,
        idle_ttl: idle_ttl(config, wanted.idle_ttl.unwrap_or(defaults.idle_ttl))?,
        memory: memory(config, wanted.memory.unwrap_or(defaults.memory))?,
        cpus: cpus(config, wanted.cpus.unwrap_or(defaults.cpus))?,
    })
}

/// A cell's timeout.
pub(super) fn timeout(config: &Config, timeout: Span) -> Result<Span, Error> {
    let max = config.max_timeout;
    if timeout.0.is_zero() || timeout > max {
        return wrong("timeout", timeout, &format!("over 0s and at most {max}"));
    }
    Ok(timeout)
}

/// The cap of a cell's streams.
pub(super) fn max_output(config: &Config, size: ByteSize) -> Result<ByteSize, Error> {
    let max = config.max_output_limit;
    if size > max { wrong("max_output", size, &format!("at most {max}")) } else { Ok(size) }
}

fn idle_ttl(config: &Config, ttl: Span) -> Result<Span, Error> {
    let max = config.max_idle_ttl;
    if !max.0.is_zero() && (ttl.0.is_zero() || ttl > max) {
        return wrong("idle_ttl", ttl, &format!("over 0s and at most {max}"));
    }
    Ok(ttl)
}

fn memory(config: &Config, memory: ByteSize) -> Result<ByteSize, Error> {
    let (min, max) = (ByteSize(64 << 20), config.max_memory.unwrap_or(config.memory));
    if memory < min || memory > max {
        return wrong("memory", memory, &format!("from {min} to {max}"));
    }
    Ok(memory)
}

fn cpus(config: &Config, cpus: f64) -> Result<f64, Error> {
    let max = config.max_cpus.unwrap_or(config.cpus);
    if !(0.01..=max).contains(&cpus) {
        return wrong("cpus", cpus, &format!("from 0.01 to {max}"));
    }
    Ok(cpus)
}

/// A label for people, or an idempotency key.
pub(super) fn label(name: &str, label: Option<String>) -> Result<Option<String>, Error> {
    if let Some(label) = label.as_ref().filter(|label| label.is_empty() || label.len() > MAX_LABEL) {
        return wrong(name, format!("{} bytes long", label.len()), &format!("from 1 to {MAX_LABEL}"));
    }
    Ok(label)
}

/// A session's environment.
pub(super) fn env(env: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Error> {
    let bytes: usize = env.iter().map(|(name, value)| name.len() + value.len()).sum();
    if env.len() > MAX_ENV || bytes > MAX_ENV_BYTES {
        let found = format!("{} variables of {bytes} bytes", env.len());
        return wrong("env", found, &format!("at most {MAX_ENV} of {MAX_ENV_BYTES} bytes"));
    }
    for (name, value) in &env {
        let start = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
        if !start || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            let shown: String = name.chars().take(100).collect();
            let right = "letters, digits and `_`, not a digit first";
            return wrong("env", format!("`{}`", shown.escape_debug()), right);
        }
        if value.contains('\0') {
            return wrong(&format!("env.{name}"), "a text with a NUL", "a text without one");
        }
    }
    Ok(env)
}

/// Content given as text or in base64.
pub(super) fn content(text: Option<String>, base64: Option<String>) -> Result<Vec<u8>, Error> {
    match (text, base64) {
        (Some(text), None) => Ok(text.into_bytes()),
        (None, Some(base64)) => {
            BASE64_STANDARD.decode(base64).map_err(|error| Error::Params(format!("`base64` is not base64: {error}")))
        }
        _ => Err(Error::Params("give exactly one of `text` and `base64`".to_owned())),
    }
}

/// Files to be written.
pub(super) fn files(files: Vec<NewFile>) -> Result<Vec<(FilePath, Vec<u8>)>, Error> {
    files.into_iter().map(|file| Ok((FilePath::parse(&file.path)?, content(file.text, file.base64)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environments_are_looked_over() {
        let one = |name: &str, value: &str| env(BTreeMap::from([(name.to_owned(), value.to_owned())]));
        assert!(one("_A1", "any = text\n").is_ok());
        for (name, value) in [("", ""), ("1A", ""), ("A=B", ""), ("A\0", ""), ("Ä", ""), ("A", "\0")] {
            assert!(one(name, value).is_err(), "{name:?}={value:?}");
        }
        assert!(one("A", &"x".repeat(300 << 10)).is_err());
    }
}
