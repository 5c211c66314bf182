//! Image names as Docker reads them: `python:3.13-slim` is `docker.io/library/python:3.13-slim`.
//!
//! Pure. Parsed by hand because it stands on the way of every sandbox's start: the field's regular expression takes
//! milliseconds to compile, this takes none. A property test holds it to that expression's answers.

use std::{fmt, str::FromStr};

/// The registry of names that name none.
const HUB: &str = "docker.io";
/// The hub's older name.
const HUB_LEGACY: &str = "index.docker.io";
/// Where the hub keeps the images whose name has one part.
const OFFICIAL: &str = "library";
/// The longest canonical name in bytes: it is a file's name in the store.
const LONGEST: usize = 250;

/// The full name of an image.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    version: Version,
}

/// Which of a repository's images.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// A name that can move.
    Tag(String),
    /// `sha256:` and 64 hex digits of the manifest; a tag beside it says nothing more and is dropped.
    Digest(String),
}

/// A text that is not an image's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an image's name: {why}; write `python:3.13-slim` or `registry.example/team/image:tag`")]
pub struct ReferenceError {
    text: String,
    why: &'static str,
}

impl Reference {
    /// The registry's host and port; `docker.io` when none was named.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path within the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag or the digest.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// As people write it: without the hub's name and folder.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let Some(name) = full.strip_prefix(HUB).and_then(|rest| rest.strip_prefix('/')) else { return full };
        name.strip_prefix(OFFICIAL).and_then(|rest| rest.strip_prefix('/')).unwrap_or(name).to_owned()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        match &self.version {
            Version::Tag(tag) => write!(f, ":{tag}"),
            Version::Digest(digest) => write!(f, "@{digest}"),
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        parse(text).map_err(|why| ReferenceError { text: text.to_owned(), why })
    }
}

/// The 64 hex digits of a `sha256:` digest; none for anything else, so that they are safe as a file's name.
pub(super) fn sha256_hex(digest: &str) -> Option<&str> {
    let hex = digest.strip_prefix("sha256:")?;
    (hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))).then_some(hex)
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            sha256_hex(digest).ok_or("after `@` comes `sha256:` with 64 hex digits")?;
            (rest, Some(digest))
        }
        None => (text, None),
    };
    // A colon after the last slash is a tag's, one before it a port's.
    let name_end = rest.rfind('/').unwrap_or(0);
    let (name, tag) = match rest[name_end..].split_once(':') {
        Some((name, tag)) => (&rest[..name_end + name.len()], Some(tag)),
        None => (rest, None),
    };
    if let Some(tag) = tag
        && !is_tag(tag)
    {
        return Err("a tag is letters, digits, `_`, `.` and `-`, at most 128 and no `.` or `-` first");
    }
    let (registry, path) = match name.split_once('/') {
        Some((first, path)) if is_host(first) => (first, path),
        _ => (HUB, name),
    };
    if registry != HUB && !valid_host(registry) {
        return Err("the part before the first `/` is not a registry's host");
    }
    if !path.split('/').all(is_part) {
        return Err("its parts are lower-case letters and digits, joined by `.`, `_`, `__` or `-`");
    }
    let registry = if registry == HUB_LEGACY { HUB } else { registry };
    let repository =
        if registry == HUB && !path.contains('/') { format!("{OFFICIAL}/{path}") } else { path.to_owned() };
    let version = match digest {
        Some(digest) => Version::Digest(digest.to_owned()),
        None => Version::Tag(tag.unwrap_or("latest").to_owned()),
    };
    let reference = Reference { registry: registry.to_owned(), repository, version };
    if reference.to_string().len() > LONGEST {
        return Err("it is longer than 250 characters");
    }
    Ok(reference)
}

/// Whether the first part of a name is a registry and not a user of the hub.
fn is_host(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn valid_host(host: &str) -> bool {
    let (host, port) = host.split_once(':').map_or((host, None), |(host, port)| (host, Some(port)));
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    host.split('.').all(label)
        && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = tag.as_bytes();
    bytes.first().is_some_and(|first| word(*first))
        && bytes.len() <= 128
        && bytes.iter().all(|byte| word(*byte) || matches!(byte, b'.' | b'-'))
}

/// Runs of letters and digits with one separator between two of them.
fn is_part(part: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut rest = part.as_bytes();
    loop {
        let word = rest.iter().take_while(|byte| alphanumeric(**byte)).count();
        if word == 0 {
            return false;
        }
        rest = &rest[word..];
        if rest.is_empty() {
            return true;
        }
        let separator = rest.iter().take_while(|byte| !alphanumeric(**byte)).count();
        let (joined, after) = rest.split_at(separator);
        if !matches!(joined, b"." | b"_" | b"__") && !joined.iter().all(|byte| *byte == b'-') {
            return false;
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_mean_what_docker_means_by_them() {
        for (text, full, familiar) in [
            ("python:3.13-slim", "docker.io/library/python:3.13-slim", "python:3.13-slim"),
            ("cellblock/python", "docker.io/cellblock/python:latest", "cellblock/python:latest"),
            ("docker.io/cellblock/python:latest", "docker.io/cellblock/python:latest", "cellblock/python:latest"),
            ("index.docker.io/library/node", "docker.io/library/node:latest", "node:latest"),
            (
                "infiniflow/sandbox-base-python:latest",
                "docker.io/infiniflow/sandbox-base-python:latest",
                "infiniflow/sandbox-base-python:latest",
            ),
            ("localhost/a", "localhost/a:latest", "localhost/a:latest"),
            ("127.0.0.1:5000/a/b_c:v1", "127.0.0.1:5000/a/b_c:v1", "127.0.0.1:5000/a/b_c:v1"),
        ] {
            let reference: Reference = text.parse().expect(text);
            assert_eq!((reference.to_string().as_str(), reference.familiar().as_str()), (full, familiar));
            assert_eq!(reference.familiar().parse(), Ok(reference), "{text} reads back");
        }
        let digest = format!("sha256:{}", "0a".repeat(32));
        let pinned: Reference = format!("a:tag@{digest}").parse().expect("pinned");
        assert_eq!(pinned.to_string(), format!("docker.io/library/a@{digest}"));
    }

    #[test]
    fn what_is_no_name_is_refused_with_the_text() {
        let long = "a".repeat(300);
        for text in [
            "",
            "/",
            "a//b",
            "../../etc/passwd",
            "a/../b",
            "Python",
            "a:",
            "a:tag:tag",
            "a@sha256:12",
            "-a",
            "a-",
            "a___b",
            "a b",
            "a\0b",
            "a%2fb",
            "https://a.b/c",
            "a.b:port/c",
            long.as_str(),
        ] {
            let error = text.parse::<Reference>().expect_err(text).to_string();
            assert!(error.starts_with(&format!("`{text}`")), "{error}");
        }
    }

    proptest! {
        #[test]
        // Hosts with capitals or `_` are left out, where the crate is not of Docker's opinion.
        fn agrees_with_the_fields_own_expression(text in "([a-z0-9.:-]{0,8}/)?[a-z0-9._/-]{0,12}(:[a-zA-Z0-9._-]{0,5})?(@sha256:[0-9a-f]{64})?") {
            match (text.parse::<Reference>(), text.parse::<oci_client::Reference>()) {
                (Ok(ours), Ok(theirs)) => {
                    prop_assert_eq!(ours.registry(), theirs.registry());
                    prop_assert_eq!(ours.repository(), theirs.repository());
                    match ours.version() {
                        Version::Tag(tag) => prop_assert_eq!(Some(tag.as_str()), theirs.tag()),
                        Version::Digest(digest) => prop_assert_eq!(Some(digest.as_str()), theirs.digest()),
                    }
                }
                (Err(_), Err(_)) => {}
                (ours, theirs) => prop_assert!(false, "{text}: {ours:?} but {theirs:?}"),
            }
        }

        #[test]
        fn any_name_is_one_safe_file_name(text in "\\PC{0,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                let name = reference.to_string().replace('/', "+");
                prop_assert!(!name.starts_with('.') && !name.contains(['/', '\0']) && name.len() <= LONGEST);
            }
        }
    }
}
