//! Sessions: how they are asked for, how they stand, and how they end.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{CellResult, NewFile};
use crate::units::{ByteSize, Span};

/// Parameters of `session.create`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CreateParams {
    /// A runtime's name or alias; the server's default when absent.
    pub runtime: Option<String>,
    /// Default timeout of the session's cells.
    pub timeout: Option<Span>,
    /// Default cap of each output stream of the session's cells.
    pub max_output: Option<ByteSize>,
    /// How long it may be without work before it is closed; zero: for ever.
    pub idle_ttl: Option<Span>,
    /// Memory of its sandbox.
    pub memory: Option<ByteSize>,
    /// CPUs of its sandbox.
    pub cpus: Option<f64>,
    /// Environment variables of its kernel and everything that it starts.
    pub env: BTreeMap<String, String>,
    /// Files that are there before the first cell.
    pub files: Vec<NewFile>,
    /// A label for people; not unique.
    pub name: Option<String>,
    /// Whether it outlives its connection.
    pub detach: bool,
}

/// Parameters of every method that names a session and nothing else.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionParams {
    /// The id that `session.create` returned.
    pub session_id: String,
}

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionStatus {
    /// Its sandbox is being started.
    Starting,
    /// Ready for a cell.
    Idle,
    /// A cell or a file operation runs.
    Running,
    /// It is closed.
    Closed,
}

/// Result of `session.create`, `session.get`, `session.restart`, and an element of `session.list`.
#[derive(Clone, Debug, Serialize)]
pub struct SessionInfo {
    /// 128 random bits, in hex.
    pub session_id: String,
    /// The label that its maker gave it.
    pub name: Option<String>,
    /// The runtime's name.
    pub runtime: String,
    /// The interpreter's version; null until a sandbox has been up.
    pub runtime_version: Option<String>,
    /// Goes up each time the container is replaced; from 1.
    pub generation: u64,
    /// Where it stands.
    pub status: SessionStatus,
    /// Cells and file operations waiting behind the running one.
    pub queued: usize,
    /// Cells executed so far in this generation.
    pub execution_count: u64,
    /// Whether it outlives its connection.
    pub detach: bool,
    /// Its sandbox's, and defaults of its cells.
    pub limits: SessionLimits,
}

/// A session's sandbox, and defaults of its cells.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct SessionLimits {
    /// How long a cell may run.
    pub timeout: Span,
    /// Cap of each output stream.
    pub max_output: ByteSize,
    /// How long the session may be without work before it is closed; zero: for ever.
    pub idle_ttl: Span,
    /// Memory of its sandbox.
    pub memory: ByteSize,
    /// CPUs of its sandbox.
    pub cpus: f64,
}

/// Result of `session.list`.
#[derive(Clone, Debug, Serialize)]
pub struct SessionList {
    /// The connection's sessions, oldest first.
    pub sessions: Vec<SessionInfo>,
}

/// Result of `session.attach`.
#[derive(Clone, Debug, Serialize)]
pub struct Attached {
    /// How it stands.
    #[serde(flatten)]
    pub session: SessionInfo,
    /// The cell that runs; `cell.wait` answers with its result.
    pub running: Option<RunningCell>,
    /// The result of the cell that ended last, of whichever connection.
    pub last: Option<CellResult>,
}

/// A cell that runs.
#[derive(Clone, Debug, Serialize)]
pub struct RunningCell {
    /// Its id within the session.
    pub cell_id: String,
    /// The how-manieth cell of this generation it is; from 1.
    pub execution_count: u64,
}

/// Result of `session.close` and `shutdown`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Closed {
    /// Always true: the sandbox is gone.
    pub closed: bool,
}

/// Why a session is no longer the connection's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CloseReason {
    /// It had no work for its `idle_ttl`.
    Idle,
    /// `session.close`.
    Closed,
    /// The server or the connection ends.
    Shutdown,
    /// Another connection attached it; the session goes on there.
    AttachedElsewhere,
}

/// Notification `session.closed`.
#[derive(Clone, Debug, Serialize)]
pub struct SessionClosed<'a> {
    /// Which.
    pub session_id: &'a str,
    /// Why.
    pub reason: CloseReason,
}
