//! The settings: parsed once into valid values, each with the place that it came from.
//!
//! Precedence: flags, then environment (`CELLBLOCK_*`), then the TOML file, then the defaults below.
//! A leaf: the layers come from `cli`, which alone reads the environment.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf};

use figment::{
    Figment, Metadata, Profile, Provider,
    value::{Dict, Map},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    engine::{Resources, choice::Choice, runsc::Platform},
    protocol::{ServerLimits, SessionLimits},
    session::{Policy, files::MAX_READ},
    units::{ByteSize, Span},
};

/// The largest `max_media`.
const MAX_MEDIA: ByteSize = ByteSize(4 << 20);

/// Every setting. Field names are the keys of the TOML file; `--max-line` and `CELLBLOCK_MAX_LINE` set `max_line`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Unix socket to listen on; standard input and output when absent.
    pub socket: Option<PathBuf>,
    /// The socket's mode, octal.
    pub socket_mode: FileMode,
    /// Who starts the sandboxes.
    pub engine: Choice,
    /// The Docker daemon's socket.
    pub docker_socket: PathBuf,
    /// The OCI runtime as Docker knows it; `runc` for the weaker isolation.
    pub runtime: String,
    /// The runsc program of the runsc engine: a path, or a name to be found in PATH.
    pub runsc: PathBuf,
    /// gVisor's platform for the runsc engine.
    pub platform: Platform,
    /// `default`, or a file with another seccomp profile.
    pub seccomp: String,
    /// Where supervisors of this machine keep the locks that show that they live.
    pub state_dir: PathBuf,
    /// Where unpacked images are kept.
    pub image_store: PathBuf,
    /// Other images for the runtimes, by name.
    pub images: BTreeMap<String, String>,
    /// `error`, `warn`, `info`, `debug`, `trace`, or a tracing filter.
    pub log_level: String,
    /// How log lines look.
    pub log_format: LogFormat,
    /// The longest request line.
    pub max_line: ByteSize,
    /// Sessions open at once.
    pub max_sessions: usize,
    /// Cells waiting in one session.
    pub max_queue: usize,
    /// How long a cell may run when its session and its call say nothing.
    pub timeout: Span,
    /// The longest timeout that may be asked for.
    pub max_timeout: Span,
    /// Cap of each output stream of a cell when its session and its call say nothing.
    pub max_output: ByteSize,
    /// The largest cap that may be asked for.
    pub max_output_limit: ByteSize,
    /// What one display or value of a cell may hold beside its text.
    pub max_media: ByteSize,
    /// How long a session may be without work before it is closed when its maker says nothing; zero: for ever.
    pub idle_ttl: Span,
    /// The longest time without work that may be asked for; zero: no limit.
    pub max_idle_ttl: Span,
    /// From an interrupt until the sandbox is killed.
    pub grace: Span,
    /// Until a sandbox must be ready.
    pub start_timeout: Span,
    /// How long requests in flight may take after the end of input.
    pub drain_timeout: Span,
    /// Memory of one sandbox when its session says nothing.
    pub memory: ByteSize,
    /// The most memory that a session may ask for; `memory` when absent.
    pub max_memory: Option<ByteSize>,
    /// CPUs of one sandbox when its session says nothing.
    pub cpus: f64,
    /// The most CPUs that a session may ask for; `cpus` when absent.
    pub max_cpus: Option<f64>,
    /// Processes and threads inside one sandbox.
    pub processes: u32,
    /// Size of `/workspace` and of `/tmp`, each.
    pub disk: ByteSize,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines: one object a line.
    Json,
}

/// A file's permission bits, written in octal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMode(pub u32);

/// Settings that cannot be used; the message quotes the value and says where it stands.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

/// One source of settings.
#[derive(Debug)]
pub struct Layer {
    /// Its name in errors and in `cellblock config`.
    pub name: String,
    /// The keys that it sets.
    pub values: Dict,
}

/// Settings and where each came from.
#[derive(Debug)]
pub struct Settings {
    /// The values.
    pub config: Config,
    figment: Figment,
}

impl Config {
    fn defaults(state_dir: PathBuf, image_store: PathBuf) -> Self {
        Self {
            socket: None,
            socket_mode: FileMode(0o600),
            engine: Choice::Auto,
            docker_socket: "/var/run/docker.sock".into(),
            runtime: "runsc".to_owned(),
            runsc: "runsc".into(),
            platform: Platform::Auto,
            seccomp: "default".to_owned(),
            state_dir,
            image_store,
            images: BTreeMap::new(),
            log_level: "info".to_owned(),
            log_format: LogFormat::Text,
            max_line: ByteSize(16 << 20),
            max_sessions: 64,
            max_queue: 16,
            timeout: seconds(30),
            max_timeout: seconds(3600),
            max_output: ByteSize(1 << 20),
            max_output_limit: ByteSize(16 << 20),
            max_media: ByteSize(4 << 20),
            idle_ttl: seconds(3600),
            max_idle_ttl: seconds(24 * 3600),
            grace: seconds(2),
            start_timeout: seconds(60),
            drain_timeout: seconds(10),
            memory: ByteSize(512 << 20),
            max_memory: None,
            cpus: 1.0,
            max_cpus: None,
            processes: 256,
            disk: ByteSize(128 << 20),
        }
    }

    /// The limits that clients see.
    pub fn server_limits(&self) -> ServerLimits {
        ServerLimits {
            max_line: self.max_line,
            max_sessions: self.max_sessions,
            max_queue: self.max_queue,
            max_timeout: self.max_timeout,
            max_idle_ttl: self.max_idle_ttl,
            max_output: self.max_output_limit,
            max_media: self.max_media,
            max_read: ByteSize(MAX_READ as u64),
            memory: self.max_memory.unwrap_or(self.memory),
            cpus: self.max_cpus.unwrap_or(self.cpus),
            processes: self.processes,
            disk: self.disk,
        }
    }

    /// The limits of a session whose maker says nothing.
    pub fn session_limits(&self) -> SessionLimits {
        SessionLimits {
            timeout: self.timeout,
            max_output: self.max_output,
            idle_ttl: self.idle_ttl,
            memory: self.memory,
            cpus: self.cpus,
        }
    }

    /// The limits that sessions keep.
    pub fn policy(&self) -> Policy {
        Policy {
            max_sessions: self.max_sessions,
            max_queue: self.max_queue,
            grace: self.grace.0,
            start_timeout: self.start_timeout.0,
            max_media: usize::try_from(self.max_media.0).unwrap_or(usize::MAX),
            resources: Resources { memory: self.memory, cpus: self.cpus, processes: self.processes, disk: self.disk },
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key: &str, value: &dyn std::fmt::Display, right: &str| {
            Err(ConfigError(format!("`{key}` is `{value}`; {right}")))
        };
        if !(0.01..=1024.0).contains(&self.cpus) {
            return wrong("cpus", &self.cpus, "it must be from 0.01 to 1024");
        }
        if self.memory < ByteSize(64 << 20) {
            return wrong("memory", &self.memory, "a sandbox needs at least 64m");
        }
        if self.max_memory.is_some_and(|max| max < self.memory) {
            return wrong("max_memory", &self.max_memory.unwrap_or(self.memory), "it must be at least `memory`");
        }
        if self.max_cpus.is_some_and(|max| !(self.cpus..=1024.0).contains(&max)) {
            return wrong("max_cpus", &self.max_cpus.unwrap_or(self.cpus), "it must be from `cpus` to 1024");
        }
        if self.max_media > MAX_MEDIA {
            return wrong(
                "max_media",
                &self.max_media,
                "it must be at most 4m, which fits a kernel's line with its escapes",
            );
        }
        if !self.max_idle_ttl.0.is_zero() && (self.idle_ttl.0.is_zero() || self.idle_ttl > self.max_idle_ttl) {
            return wrong(
                "idle_ttl",
                &self.idle_ttl,
                &format!("it must be over 0s and at most `max_idle_ttl` ({}), unless that is 0s", self.max_idle_ttl),
            );
        }
        if self.max_line < ByteSize(1 << 10) || self.max_line > ByteSize(1 << 30) {
            return wrong("max_line", &self.max_line, "it must be from 1k to 1g");
        }
        if self.processes < 16 {
            return wrong("processes", &self.processes, "a kernel and its threads need at least 16");
        }
        if self.max_sessions == 0 {
            return wrong("max_sessions", &self.max_sessions, "it must be at least 1");
        }
        if self.timeout.0.is_zero() || self.timeout > self.max_timeout {
            return wrong(
                "timeout",
                &self.timeout,
                &format!("it must be over 0s and at most `max_timeout` ({})", self.max_timeout),
            );
        }
        if self.max_output > self.max_output_limit {
            return wrong(
                "max_output",
                &self.max_output,
                &format!("it must be at most `max_output_limit` ({})", self.max_output_limit),
            );
        }
        Ok(())
    }
}

impl Settings {
    /// Joins the layers, the weakest first, over the defaults.
    ///
    /// # Errors
    /// For an unknown key or a value that does not fit; the text names both and the layer.
    pub fn resolve(state_dir: PathBuf, image_store: PathBuf, layers: Vec<Layer>) -> Result<Self, ConfigError> {
        let defaults = figment::providers::Serialized::defaults(Config::defaults(state_dir, image_store));
        let mut figment = Figment::from(Layer {
            name: "default".to_owned(),
            values: defaults.data().map_err(explain)?.remove(&Profile::Default).unwrap_or_default(),
        });
        for layer in layers {
            figment = figment.merge(layer);
        }
        let config: Config = figment.extract().map_err(explain)?;
        config.check()?;
        Ok(Self { config, figment })
    }

    /// The effective settings as TOML, each with the place that it came from.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        let values = serde_json::to_value(&self.config).unwrap_or_default();
        for (key, value) in values.as_object().into_iter().flatten() {
            let source = self.figment.find_metadata(key).map_or("default", |metadata| &metadata.name);
            let line = match value {
                serde_json::Value::Null => format!("# {key} is not set"),
                serde_json::Value::Object(map) => {
                    let entries: Vec<_> = map.iter().map(|(key, value)| format!("{key} = {value}")).collect();
                    format!("{key} = {{ {} }}", entries.join(", "))
                }
                value => format!("{key} = {value}"),
            };
            let _ = writeln!(text, "{line:<44} # {source}");
        }
        text
    }
}

fn seconds(seconds: u64) -> Span {
    Span(std::time::Duration::from_secs(seconds))
}

fn explain(error: figment::Error) -> ConfigError {
    let mut text = String::new();
    for one in error {
        let place = one.metadata.as_ref().map_or("the settings", |metadata| &metadata.name);
        let key = one.path.join(".");
        let separator = if text.is_empty() { "" } else { "\n" };
        let _ = match &one.kind {
            figment::error::Kind::UnknownField(key, known) => {
                write!(text, "{separator}there is no setting `{key}` ({place}); known: {}", known.join(", "))
            }
            kind => write!(text, "{separator}`{key}` ({place}): {kind}"),
        };
    }
    ConfigError(text)
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.values.clone())]))
    }
}

impl std::str::FromStr for FileMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mode = u32::from_str_radix(text.trim_start_matches("0o"), 8).ok().filter(|mode| *mode <= 0o777);
        mode.map(Self)
            .ok_or_else(|| format!("`{text}` is not a file mode; write it in octal, such as `0600` or `0660`"))
    }
}

impl Serialize for FileMode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{:04o}", self.0))
    }
}

impl<'de> Deserialize<'de> for FileMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a file mode as text, such as \"0600\"")]
        enum Written {
            Text(String),
            // `CELLBLOCK_SOCKET_MODE=660` arrives as a number; its digits are octal all the same.
            Number(u32),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Text(text) => text,
            Written::Number(number) => number.to_string(),
        };
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(layers: &[(&str, serde_json::Value)]) -> Result<Settings, ConfigError> {
        let layers = layers.iter().map(|(name, values)| Layer {
            name: (*name).to_owned(),
            values: figment::value::Value::serialize(values).expect("plain values").into_dict().expect("an object"),
        });
        Settings::resolve("/state".into(), "/images".into(), layers.collect())
    }

    #[test]
    fn later_layers_win_and_are_named() {
        let settings = resolve(&[
            ("cellblock.toml", serde_json::json!({"memory": "1g", "timeout": "5s"})),
            ("environment", serde_json::json!({"timeout": "7s", "socket_mode": 660})),
        ]);
        let settings = settings.expect("valid");
        assert_eq!(settings.config.timeout.to_string(), "7s");
        assert_eq!(settings.config.socket_mode, FileMode(0o660));
        let text = settings.describe();
        for (key, source) in [("timeout", "environment"), ("memory", "cellblock.toml"), ("cpus", "default")] {
            let line = text.lines().find(|line| line.starts_with(&format!("{key} ="))).unwrap_or_default();
            assert!(line.ends_with(source), "{line}");
        }
    }

    #[test]
    fn errors_quote_the_key_the_value_and_the_place() {
        for (values, parts) in [
            (serde_json::json!({"memroy": "1g"}), ["memroy", "cellblock.toml", "memory"]),
            (serde_json::json!({"memory": "much"}), ["`much`", "cellblock.toml", "256m"]),
            (serde_json::json!({"timeout": 30}), ["`30`", "cellblock.toml", "30s"]),
            (serde_json::json!({"socket_mode": "999"}), ["`999`", "cellblock.toml", "0600"]),
            (serde_json::json!({"cpus": 0}), ["cpus", "`0`", "0.01"]),
        ] {
            let error = resolve(&[("cellblock.toml", values)]).expect_err("invalid").to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
    }
}
