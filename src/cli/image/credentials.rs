//! Who we are to a registry: a password on standard input, or what `docker login` has left.

use std::{
    io::{BufRead as _, ErrorKind},
    path::PathBuf,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::image::Login;

/// Docker's name for its own registry in its configuration.
const HUB: &str = "https://index.docker.io/v1/";

/// Credentials that cannot be read. The texts never quote one.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum CredentialsError {
    #[error("cannot read the password from standard input: {0}")]
    Stdin(std::io::Error),
    #[error("there is no password on standard input")]
    Empty,
    #[error("cannot read `{path}`: {1}", path = .0.display())]
    File(PathBuf, std::io::Error),
    #[error("`{}` is not a configuration of Docker's: the entry of `{registry}` in `auths` is not what `docker login` writes", path.display())]
    Entry { path: PathBuf, registry: String },
    #[error("`{path}` is not a configuration of Docker's: {1}", path = .0.display())]
    Json(PathBuf, serde_json::Error),
}

/// One line of standard input.
pub(super) fn from_stdin() -> Result<String, CredentialsError> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).map_err(CredentialsError::Stdin)?;
    let password = line.trim_end_matches(['\r', '\n']);
    if password.is_empty() { Err(CredentialsError::Empty) } else { Ok(password.to_owned()) }
}

/// The entry of a registry in Docker's configuration file; credential helpers are not asked.
pub(super) fn from_docker(registry: &str) -> Result<Login, CredentialsError> {
    let folder = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let Some(folder) = folder.or_else(|| Some(std::env::home_dir()?.join(".docker"))) else {
        return Ok(Login::Anonymous);
    };
    let path = folder.join("config.json");
    let text = match std::fs::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Login::Anonymous),
        text => text.map_err(|error| CredentialsError::File(path.clone(), error))?,
    };
    let config: serde_json::Value =
        serde_json::from_slice(&text).map_err(|error| CredentialsError::Json(path.clone(), error))?;
    entry(&config, registry).ok_or(CredentialsError::Entry { path, registry: registry.to_owned() })
}

/// The login in a configuration; none for an entry that cannot be read.
fn entry(config: &serde_json::Value, registry: &str) -> Option<Login> {
    let key = if registry == "docker.io" { HUB } else { registry };
    let address = format!("https://{registry}");
    let auth = [key, address.as_str()].iter().find_map(|key| config["auths"][key]["auth"].as_str());
    // An empty entry stands for a helper's.
    let Some(auth) = auth.filter(|auth| !auth.is_empty()) else { return Some(Login::Anonymous) };
    let text = String::from_utf8(STANDARD.decode(auth).ok()?).ok()?;
    let (username, password) = text.split_once(':')?;
    Some(Login::Password { username: username.to_owned(), password: password.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_logins_are_found_by_registry() {
        let config = serde_json::json!({"auths": {
            "https://index.docker.io/v1/": {"auth": STANDARD.encode("me:pa:ss")},
            "127.0.0.1:5000": {"auth": STANDARD.encode("you:word")},
            "helped.example": {}, "broken.example": {"auth": "%"}}});
        let found = |registry| match entry(&config, registry) {
            Some(Login::Password { username, password }) => Some((username, password)),
            Some(Login::Anonymous) => None,
            None => Some(("broken".to_owned(), String::new())),
        };
        let pair = |one: &str, other: &str| Some((one.to_owned(), other.to_owned()));
        assert_eq!(found("docker.io"), pair("me", "pa:ss"));
        assert_eq!(found("127.0.0.1:5000"), pair("you", "word"));
        assert_eq!(found("127.0.0.1:5001"), None);
        assert_eq!(found("helped.example"), None);
        assert_eq!(found("broken.example"), pair("broken", ""));
    }
}
