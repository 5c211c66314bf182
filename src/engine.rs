//! The engine seam: what a session needs of whatever starts its sandbox.
//!
//! Nothing above this file knows which engine runs; nothing in it knows cells or clients.

pub mod choice;
pub mod docker;
mod hardening;
mod instance;
pub mod runsc;
pub mod seccomp;

use std::{fmt, sync::Arc, sync::Mutex};

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};

pub use instance::{Instance, InstanceError};

use crate::{posture::OutsideFacts, protocol::EngineInfo, runtime::Runtime, units::ByteSize};

/// What one sandbox may use.
#[derive(Clone, Copy, Debug)]
pub struct Resources {
    /// Memory, swap off.
    pub memory: ByteSize,
    /// CPUs, as a fraction of the machine's.
    pub cpus: f64,
    /// Processes and threads of the guest.
    pub processes: u32,
    /// Size of `/workspace` and of `/tmp`, each.
    pub disk: ByteSize,
}

/// Starts sandboxes.
#[async_trait]
pub trait Engine: fmt::Debug + Send + Sync {
    /// Starts one hardened sandbox with the runtime's command as process 1.
    async fn start(&self, runtime: &Runtime, resources: &Resources) -> Result<Sandbox, EngineError>;

    /// What the engine is.
    fn info(&self) -> EngineInfo;

    /// Removes what dead supervisors left behind; returns how many sandboxes that were.
    async fn reap(&self) -> Result<usize, EngineError>;
}

/// A running sandbox: two streams and a handle.
pub struct Sandbox {
    /// Process 1's standard input.
    pub stdin: Box<dyn AsyncWrite + Send + Unpin>,
    /// Process 1's standard output.
    pub stdout: Box<dyn AsyncRead + Send + Unpin>,
    /// What process 1 wrote to standard error.
    pub diagnostics: Diagnostics,
    /// Everything else.
    pub control: Arc<dyn Control>,
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox").field("control", &self.control).finish_non_exhaustive()
    }
}

/// The handle of one sandbox.
#[async_trait]
pub trait Control: fmt::Debug + Send + Sync {
    /// Sends SIGINT to process 1; returns when the sandbox has it.
    async fn interrupt(&self) -> Result<(), EngineError>;

    /// How process 1 ended; waits a short while for it and ends the sandbox when it has not.
    async fn exit(&self) -> Exit;

    /// Ends and removes the sandbox; does nothing the second time.
    async fn destroy(&self);

    /// What the host sees of the sandbox.
    async fn outside(&self) -> Result<OutsideFacts, EngineError>;
}

/// How a sandbox ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Process 1's code, 128 and the signal's number for a signal; `None` when it had to be ended.
    pub code: Option<i32>,
    /// Whether the memory limit did it.
    pub oom: bool,
}

/// The first bytes that process 1 wrote to standard error, for the error of a failed start.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics(Arc<Mutex<Vec<u8>>>);

/// Bytes of standard error kept for a failed start's error.
const MAX_DIAGNOSTICS: usize = 8 << 10;

impl Diagnostics {
    /// Keeps what still fits.
    pub fn push(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().expect("no holder panics");
        let room = MAX_DIAGNOSTICS - kept.len();
        kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// What was kept.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("no holder panics")).trim().to_owned()
    }
}

/// Why there is no sandbox. Every message says what to do next.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineError {
    /// The engine does not answer.
    #[error("{message}\nhint: {hint}")]
    Unreachable {
        /// What failed.
        message: String,
        /// What to do.
        hint: String,
    },
    /// The OCI runtime is not registered.
    #[error("Docker has no OCI runtime `{name}` (it has: {known})\nhint: `scripts/setup` installs and registers it")]
    NoRuntime {
        /// The name asked for.
        name: String,
        /// The registered ones.
        known: String,
    },
    /// The runtime's image is not there.
    #[error(
        "Docker has no image `{image}`\nhint: `scripts/setup` builds the project's images; others: `docker pull {image}`"
    )]
    NoImage {
        /// The image asked for.
        image: String,
    },
    /// The runtime's image is not in the image store.
    #[error("{message}")]
    NoStoredImage {
        /// The image asked for.
        image: String,
        /// What the store says, with what to do.
        message: String,
    },
    /// runsc starts no sandbox on this machine.
    #[error(
        "runsc starts no sandbox on this machine:\n{tried}\nhint: in a container it needs a seccomp profile that lets it make namespaces (`seccomp/README.md`); elsewhere see https://gvisor.dev/docs/architecture_guide/platforms/"
    )]
    NoPlatform {
        /// Each platform that was tried, and what it said.
        tried: String,
    },
    /// The engine cannot do what the settings ask.
    #[error("{0}")]
    Unsupported(String),
    /// The sandbox or its kernel did not come up.
    #[error("the sandbox did not start: {0}", message)]
    Start {
        /// Why, with the end of its standard error.
        message: String,
    },
    /// The sandbox is weaker than the policy.
    #[error(
        "the sandbox is weaker than the policy and was refused: {findings}\nhint: `scripts/setup` registers a runtime that fits; weaker isolation must be asked for by name (`--runtime runc`)"
    )]
    Posture {
        /// Each failed check.
        findings: String,
    },
}
