//! The options that set settings, as one layer.

use std::path::PathBuf;

use clap::Args;
use figment::value::{Dict, Value};
use serde::Serialize;

use crate::{
    config::{FileMode, Layer, LogFormat},
    engine::{choice::Choice, runsc::Platform},
    units::{ByteSize, Span},
};

/// Options of every subcommand; the settings' own documentation is in `config.rs`.
#[derive(Debug, Args, Serialize)]
#[command(next_help_heading = "Settings")]
pub(super) struct Flags {
    /// Unix socket to listen on, instead of standard input and output
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The socket's mode [default: 0600]
    #[arg(long, global = true, value_name = "OCTAL")]
    socket_mode: Option<FileMode>,
    /// Who starts the sandboxes: `runsc` itself, `docker`, or `auto`: runsc where it is installed and the image store
    /// holds an image, else Docker [default: auto]
    #[arg(long, global = true)]
    engine: Option<Choice>,
    /// The Docker daemon's socket [default: /var/run/docker.sock]
    #[arg(long, global = true, value_name = "PATH")]
    docker_socket: Option<PathBuf>,
    /// OCI runtime as Docker knows it; `runc` asks for weaker isolation [default: runsc]
    #[arg(long, global = true, value_name = "NAME")]
    runtime: Option<String>,
    /// The runsc program of the runsc engine [default: runsc]
    #[arg(long, global = true, value_name = "PROGRAM")]
    runsc: Option<PathBuf>,
    /// gVisor's platform for the runsc engine; `auto` tries systrap, then ptrace [default: auto]
    #[arg(long, global = true)]
    platform: Option<Platform>,
    /// `default` or a seccomp profile's file [default: default]
    #[arg(long, global = true, value_name = "FILE")]
    seccomp: Option<String>,
    /// Where supervisors keep the locks that show that they live [default: /run/cellblock]
    #[arg(long, global = true, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Where unpacked images are kept [default: /var/lib/cellblock, and `~/.local/share/cellblock` for others than root]
    #[arg(long, visible_alias = "store", global = true, value_name = "DIR")]
    image_store: Option<PathBuf>,
    /// `error`, `warn`, `info`, `debug`, `trace` or a tracing filter [default: info]
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<String>,
    /// How log lines look on standard error [default: text]
    #[arg(long, global = true)]
    log_format: Option<LogFormat>,
    /// Longest request line [default: 16m]
    #[arg(long, global = true, value_name = "SIZE")]
    max_line: Option<ByteSize>,
    /// Sessions open at once [default: 64]
    #[arg(long, global = true, value_name = "N")]
    max_sessions: Option<usize>,
    /// Cells waiting in one session [default: 16]
    #[arg(long, global = true, value_name = "N")]
    max_queue: Option<usize>,
    /// How long a cell may run unless its call says otherwise [default: 30s]
    #[arg(long, global = true, value_name = "TIME")]
    timeout: Option<Span>,
    /// Longest timeout that may be asked for [default: 1h]
    #[arg(long, global = true, value_name = "TIME")]
    max_timeout: Option<Span>,
    /// Cap of each output stream of a cell unless its call says otherwise [default: 1m]
    #[arg(long, global = true, value_name = "SIZE")]
    max_output: Option<ByteSize>,
    /// Largest cap that may be asked for [default: 16m]
    #[arg(long, global = true, value_name = "SIZE")]
    max_output_limit: Option<ByteSize>,
    /// What one display or value may hold beside its text [default: 4m]
    #[arg(long, global = true, value_name = "SIZE")]
    max_media: Option<ByteSize>,
    /// How long a session may be without work before it is closed; `0s`: for ever [default: 1h]
    #[arg(long, global = true, value_name = "TIME")]
    idle_ttl: Option<Span>,
    /// Longest such time that may be asked for; `0s`: no limit [default: 1day]
    #[arg(long, global = true, value_name = "TIME")]
    max_idle_ttl: Option<Span>,
    /// From an interrupt until the sandbox is killed [default: 2s]
    #[arg(long, global = true, value_name = "TIME")]
    grace: Option<Span>,
    /// Until a sandbox must be ready [default: 1m]
    #[arg(long, global = true, value_name = "TIME")]
    start_timeout: Option<Span>,
    /// How long requests in flight may take after the end of input [default: 10s]
    #[arg(long, global = true, value_name = "TIME")]
    drain_timeout: Option<Span>,
    /// Memory of one sandbox, swap off [default: 512m]
    #[arg(long, global = true, value_name = "SIZE")]
    memory: Option<ByteSize>,
    /// Most memory that a session may ask for [default: --memory]
    #[arg(long, global = true, value_name = "SIZE")]
    max_memory: Option<ByteSize>,
    /// CPUs of one sandbox [default: 1.0]
    #[arg(long, global = true, value_name = "N")]
    cpus: Option<f64>,
    /// Most CPUs that a session may ask for [default: --cpus]
    #[arg(long, global = true, value_name = "N")]
    max_cpus: Option<f64>,
    /// Processes and threads inside one sandbox [default: 256]
    #[arg(long, global = true, value_name = "N")]
    processes: Option<u32>,
    /// Size of /workspace and of /tmp, each [default: 128m]
    #[arg(long, global = true, value_name = "SIZE")]
    disk: Option<ByteSize>,
}

impl Flags {
    /// One layer for each option that was given, named by it.
    pub(super) fn layers(&self) -> Vec<Layer> {
        let values = Value::serialize(self).ok().and_then(Value::into_dict).unwrap_or_default();
        let given = values.into_iter().filter(|(_, value)| !matches!(value, Value::Empty(..)));
        given
            .map(|(key, value)| Layer {
                name: format!("--{}", key.replace('_', "-")),
                values: Dict::from([(key, value)]),
            })
            .collect()
    }
}
