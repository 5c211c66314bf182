//! One call in a fresh sandbox.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Artifact, CellError, CellStatus, EndedBy, NewFile, Value};
use crate::{
    output::OutputText,
    units::{ByteSize, Span},
};

/// Parameters of `run`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunParams {
    /// The program.
    pub code: String,
    /// A runtime's name or alias; the server's default when absent.
    #[serde(default)]
    pub runtime: Option<String>,
    /// What `main` is called with; none when absent.
    #[serde(default)]
    pub arguments: serde_json::Map<String, serde_json::Value>,
    /// Files that are there before it runs.
    #[serde(default)]
    pub files: Vec<NewFile>,
    /// Environment variables.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// What the program's standard input holds while its code is run, before `main` is called; empty when absent.
    #[serde(default)]
    pub stdin: Option<String>,
    /// How long it may run, `main` included; the server's default when absent.
    #[serde(default)]
    pub timeout: Option<Span>,
    /// Cap of each output stream; the server's default when absent.
    #[serde(default)]
    pub max_output: Option<ByteSize>,
    /// Memory of its sandbox.
    #[serde(default)]
    pub memory: Option<ByteSize>,
    /// CPUs of its sandbox.
    #[serde(default)]
    pub cpus: Option<f64>,
    /// Whether the files that it created or changed are returned, by name.
    #[serde(default)]
    pub artifacts: bool,
}

/// Result of `run`.
#[derive(Clone, Debug, Serialize)]
pub struct RunResult {
    /// How it went.
    pub status: CellStatus,
    /// Whether the code defined a `main` that was called.
    pub called: bool,
    /// What `main` returned; absent when it was not called, failed, or returned nothing that JSON knows (`undefined`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Box<RawValue>>,
    /// What was written to descriptor 1, by the code and by `main`.
    pub stdout: OutputText,
    /// What was written to descriptor 2.
    pub stderr: OutputText,
    /// The value of the code's last expression.
    pub result: Option<Value>,
    /// What was displayed, in order.
    pub displays: Vec<Value>,
    /// Displays that the limits left out.
    pub displays_dropped: u64,
    /// The exception, or why the sandbox ended.
    pub error: Option<CellError>,
    /// The code with which the program ended itself or its sandbox.
    pub exit_code: Option<i32>,
    /// The files that it created or changed, by path, with their content; only when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifacts: Option<Vec<Artifact>>,
    /// Whether `/workspace` holds more files than are looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifacts_truncated: Option<bool>,
    /// Of the code and of `main`, milliseconds; not of the sandbox's start.
    pub duration_ms: f64,
    /// CPU time of both; null when the kernel did not live to tell.
    pub cpu_ms: Option<f64>,
    /// Highest resident size of the kernel process, bytes; null when unknown.
    pub memory_peak: Option<u64>,
    /// What ended it.
    pub ended_by: EndedBy,
}
