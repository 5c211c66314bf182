//! The JSON-RPC surface as types: parameters and results of `protocol.md`, no logic.
//!
//! Inbound types refuse unknown fields, so that a misspelt option is an error and not a silent default.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    output::OutputText,
    units::{ByteSize, Span},
};

/// The version of the JSON-RPC surface; independent of the crate's.
pub const PROTOCOL_VERSION: u32 = 1;

/// Parameters of `session.create`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateParams {
    /// A runtime's name or alias; the server's default when absent.
    pub runtime: Option<String>,
    /// Default timeout of the session's cells.
    pub timeout: Option<Span>,
    /// Default cap of each output stream of the session's cells.
    pub max_output: Option<ByteSize>,
}

/// Parameters of every method that names a session and nothing else.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionParams {
    /// The id that `session.create` returned.
    pub session_id: String,
}

/// Parameters of `cell.execute`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecuteParams {
    /// The session to run in.
    pub session_id: String,
    /// The cell's source.
    pub code: String,
    /// How long it may run; the session's default when absent.
    pub timeout: Option<Span>,
    /// Cap of each output stream; the session's default when absent.
    pub max_output: Option<ByteSize>,
}

/// Parameters of a method that takes none.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoParams {}

/// Result of `initialize` and `server.info`.
#[derive(Clone, Debug, Serialize)]
pub struct ServerInfo {
    /// Always `cellblock`.
    pub name: &'static str,
    /// The crate's version.
    pub version: &'static str,
    /// [`PROTOCOL_VERSION`].
    pub protocol: u32,
    /// What starts the sandboxes.
    pub engine: EngineInfo,
    /// What can be run.
    pub runtimes: Vec<RuntimeInfo>,
    /// The server's limits.
    pub limits: ServerLimits,
    /// Open sessions of all connections.
    pub sessions: usize,
}

/// The engine as clients see it.
#[derive(Clone, Debug, Serialize)]
pub struct EngineInfo {
    /// `docker` or `runsc`.
    pub name: String,
    /// The engine's own version.
    pub version: String,
    /// The OCI runtime that it uses.
    pub runtime: String,
    /// `gvisor`, or `container` when the operator asked for a weaker runtime.
    pub isolation: Isolation,
    /// gVisor's platform; null where the engine does not know it.
    pub platform: Option<String>,
    /// Whether sandboxes are started without root's rights; null where the engine does not know.
    pub rootless: Option<bool>,
    /// What holds sandboxes to their memory.
    pub memory_guard: MemoryGuard,
}

/// What holds a sandbox to its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryGuard {
    /// A control group of the machine's kernel; CPUs and processes are held by it too.
    Cgroup,
    /// The supervisor looks at what is used; nothing holds a sandbox to its CPUs.
    Watchdog,
}

/// Which kernel stands between user code and the machine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// gVisor's.
    Gvisor,
    /// The machine's own: namespaces only.
    Container,
}

/// One runtime of `server.info`.
#[derive(Clone, Debug, Serialize)]
pub struct RuntimeInfo {
    /// Its name.
    pub name: String,
    /// Other names for it.
    pub aliases: Vec<String>,
    /// The image it runs in.
    pub image: String,
}

/// The limits of `server.info`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ServerLimits {
    /// Bytes of one request line.
    pub max_line: ByteSize,
    /// Sessions open at once.
    pub max_sessions: usize,
    /// Cells waiting in one session.
    pub max_queue: usize,
    /// The longest timeout a cell may ask for.
    pub max_timeout: Span,
    /// The largest cap a cell may ask for, per stream.
    pub max_output: ByteSize,
    /// Memory of one sandbox.
    pub memory: ByteSize,
    /// CPUs of one sandbox.
    pub cpus: f64,
    /// Processes and threads inside one sandbox.
    pub processes: u32,
    /// Size of `/workspace` and of `/tmp`, each.
    pub disk: ByteSize,
}

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionStatus {
    /// Its sandbox is being started.
    Starting,
    /// Ready for a cell.
    Idle,
    /// A cell runs.
    Running,
    /// It is closed.
    Closed,
}

/// Result of `session.create`, `session.get`, `session.restart`, and an element of `session.list`.
#[derive(Clone, Debug, Serialize)]
pub struct SessionInfo {
    /// 128 random bits, in hex.
    pub session_id: String,
    /// The runtime's name.
    pub runtime: String,
    /// The interpreter's version; null until a sandbox has been up.
    pub runtime_version: Option<String>,
    /// Goes up each time the container is replaced; from 1.
    pub generation: u64,
    /// Where it stands.
    pub status: SessionStatus,
    /// Cells waiting behind the running one.
    pub queued: usize,
    /// Cells executed so far.
    pub execution_count: u64,
    /// Defaults of its cells.
    pub limits: SessionLimits,
}

/// Defaults of a session's cells.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct SessionLimits {
    /// How long a cell may run.
    pub timeout: Span,
    /// Cap of each output stream.
    pub max_output: ByteSize,
}

/// Result of `session.list`.
#[derive(Clone, Debug, Serialize)]
pub struct SessionList {
    /// The connection's sessions, oldest first.
    pub sessions: Vec<SessionInfo>,
}

/// Result of `session.close` and `shutdown`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Closed {
    /// Always true: the sandbox is gone.
    pub closed: bool,
}

/// Result of `cell.interrupt`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Interrupted {
    /// Whether a cell was running.
    pub interrupted: bool,
}

/// Result of `cell.execute`.
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
    /// The exception, or why the sandbox ended.
    pub error: Option<CellError>,
    /// The code with which the program ended itself or its sandbox.
    pub exit_code: Option<i32>,
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
    /// One text for each MIME type.
    pub data: BTreeMap<String, String>,
    /// Bytes that the size limit left out.
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
