//! Cells: how they are asked for, what they say while they run, and their result.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    kernel::wire::StreamName,
    output::OutputText,
    units::{ByteSize, Span},
};

/// Parameters of `cell.execute`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecuteParams {
    /// The session to run in.
    pub session_id: String,
    /// The cell's source.
    pub code: String,
    /// How long it may run; the session's default when absent.
    #[serde(default)]
    pub timeout: Option<Span>,
    /// Cap of each output stream; the session's default when absent.
    #[serde(default)]
    pub max_output: Option<ByteSize>,
    /// Whether output and displays are sent while it runs.
    #[serde(default)]
    pub stream: bool,
    /// What its standard input holds; empty when absent.
    #[serde(default)]
    pub stdin: Option<String>,
    /// Whether the result names the files that it created or changed.
    #[serde(default)]
    pub artifacts: bool,
    /// A repeated request with the same key gets the first one's result.
    #[serde(default)]
    pub idempotency_key: Option<String>,
}

/// Parameters of `cell.wait`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WaitParams {
    /// The session it runs in.
    pub session_id: String,
    /// The running cell, or the one that ended last.
    pub cell_id: String,
}

/// Result of `cell.interrupt`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Interrupted {
    /// Whether a cell was running.
    pub interrupted: bool,
}

/// Notification `cell.output`.
#[derive(Clone, Debug, Serialize)]
pub struct CellOutput<'a> {
    /// The cell's session.
    pub session_id: &'a str,
    /// The cell's id within its session.
    pub cell_id: &'a str,
    /// Number among the cell's notifications, from 1.
    pub seq: u64,
    /// Which descriptor it was written to.
    pub name: StreamName,
    /// Whole characters; invalid UTF-8 shows as U+FFFD.
    pub text: &'a str,
}

/// Notification `cell.display`.
#[derive(Clone, Debug, Serialize)]
pub struct CellDisplay<'a> {
    /// The cell's session.
    pub session_id: &'a str,
    /// The cell's id within its session.
    pub cell_id: &'a str,
    /// Number among the cell's notifications, from 1.
    pub seq: u64,
    /// What was displayed: `data` and `dropped`.
    #[serde(flatten)]
    pub value: &'a Value,
}

/// Result of `cell.execute` and `cell.wait`.
#[derive(Clone, Debug, Serialize)]
pub struct CellResult {
    /// The cell's id within its session.
    pub cell_id: String,
    /// The how-manieth cell of this generation it is; from 1.
    pub execution_count: u64,
    /// How it went.
    pub status: CellStatus,
    /// What was written to descriptor 1.
    pub stdout: OutputText,
    /// What was written to descriptor 2.
    pub stderr: OutputText,
    /// The last expression's value.
    pub result: Option<Value>,
    /// What it displayed, in order.
    pub displays: Vec<Value>,
    /// Displays that the limits left out.
    pub displays_dropped: u64,
    /// The exception, or why the sandbox ended.
    pub error: Option<CellError>,
    /// The code with which the program ended itself or its sandbox.
    pub exit_code: Option<i32>,
    /// The files that it created or changed, by path; only when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifacts: Option<Vec<Artifact>>,
    /// Whether `/workspace` holds more files than are looked at, so that `artifacts` may lack some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifacts_truncated: Option<bool>,
    /// From the moment the kernel got the cell until its answer, milliseconds.
    pub duration_ms: f64,
    /// CPU time that the kernel reports; null when it did not live to tell.
    pub cpu_ms: Option<f64>,
    /// Highest resident size of the kernel process since its start, bytes; null when unknown.
    pub memory_peak: Option<u64>,
    /// Whether the session's variables are still there.
    pub state: State,
    /// The session's generation after this cell.
    pub generation: u64,
    /// What ended the cell.
    pub ended_by: EndedBy,
}

/// A file that a cell created or changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Artifact {
    /// Relative to `/workspace`.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Guessed from the path's ending.
    pub mime_type: String,
    /// The content in base64; only of `run`, whose sandbox is gone by then, and within its limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
}

/// How a cell went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CellStatus {
    /// It ran to its end.
    Ok,
    /// An exception ended it.
    Error,
    /// Its timeout ended it.
    Timeout,
    /// `cell.interrupt` or `$/cancelRequest` ended it.
    Interrupted,
    /// Its sandbox ended.
    Killed,
}

/// Whether variables survived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// They are there for the next cell.
    Preserved,
    /// The next cell starts with none.
    Lost,
}

/// What ended a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndedBy {
    /// Its own end or exception.
    Completed,
    /// An interrupt that it obeyed.
    Interrupt,
    /// The supervisor ended the sandbox.
    Kill,
    /// The memory limit.
    Oom,
    /// The program ended itself or its sandbox.
    Exit,
}

/// A value as a MIME bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Value {
    /// One text for each MIME type: base64 for binary types, JSON text for JSON types.
    pub data: BTreeMap<String, String>,
    /// Bytes that the size limits left out.
    #[serde(default)]
    pub dropped: u64,
}

/// An exception as the language names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellError {
    /// Its class.
    pub name: String,
    /// Its message.
    pub message: String,
    /// Rendered lines, the cell's own frames only.
    pub traceback: Vec<String>,
}
