//! What the server says of itself.

use serde::{Deserialize, Serialize};

use crate::units::{ByteSize, Span};

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
    /// [`super::PROTOCOL_VERSION`].
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
    /// Cells and file operations waiting in one session.
    pub max_queue: usize,
    /// The longest timeout a cell may ask for.
    pub max_timeout: Span,
    /// The longest time without work that a session may ask for; zero: no limit.
    pub max_idle_ttl: Span,
    /// The largest cap a cell may ask for, per stream.
    pub max_output: ByteSize,
    /// What one display or value may hold beside its text.
    pub max_media: ByteSize,
    /// Bytes of one `file.read`.
    pub max_read: ByteSize,
    /// The most memory that a session may ask for.
    pub memory: ByteSize,
    /// The most CPUs that a session may ask for.
    pub cpus: f64,
    /// Processes and threads inside one sandbox.
    pub processes: u32,
    /// Size of `/workspace` and of `/tmp`, each.
    pub disk: ByteSize,
}
