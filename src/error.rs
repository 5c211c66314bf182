//! Everything that can keep a request from being carried out, and its one map to JSON-RPC.
//!
//! Code that fails is a result, not an error: nothing here is about user code.

use jsonrpsee::types::ErrorObjectOwned;
use serde::Serialize;

use crate::{engine::EngineError, kernel::wire::FileErrorCode, runtime::UnknownRuntime, units::Span};

/// Whether the code of a failed request ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It did not: the request can be repeated.
    NotStarted,
    /// It did, to its end.
    Completed,
    /// It may have.
    Unknown,
}

/// Why a request was not carried out.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The parameters do not fit the method.
    #[error("invalid params: {0}")]
    Params(String),
    /// A runtime that nobody knows.
    #[error(transparent)]
    Runtime(#[from] UnknownRuntime),
    /// No such session, or one of another connection.
    #[error("there is no session `{0}` on this connection")]
    NoSession(String),
    /// The session had no work for too long.
    #[error("the session `{id}` expired: it had no work for {ttl}")]
    Expired {
        /// Its id.
        id: String,
        /// Its `idle_ttl`.
        ttl: Span,
    },
    /// The connection ends while its cell goes on in a detached session.
    #[error("the connection ends; the cell goes on, and `session.attach` brings its result")]
    Detached,
    /// No such cell, or one whose result is kept no more.
    #[error("there is no cell `{0}` that runs or ended last in this session")]
    NoCell(String),
    /// The session's kernel cannot do it.
    #[error("the kernel of runtime `{runtime}` has no `{feature}`")]
    Unsupported {
        /// What was asked for.
        feature: &'static str,
        /// Whose kernel it is.
        runtime: String,
    },
    /// The key belongs to another cell.
    #[error("the idempotency key `{}` was used for another cell of this session; use a new one", .0.escape_debug())]
    KeyReused(String),
    /// A file operation that could not be done.
    #[error("{message}")]
    File {
        /// The kind.
        reason: FileErrorCode,
        /// What and which file.
        message: String,
        /// Whether it changed anything.
        outcome: Outcome,
    },
    /// The sandbox ended, or did not answer, during a file operation.
    #[error("the sandbox ended during the file operation: {0}")]
    FileLost(&'static str),
    /// The session was closed while the request waited.
    #[error("the session was closed before the request was started")]
    Closed,
    /// The session's actor ended without an answer.
    #[error("the session ended while the request was being carried out")]
    Abandoned,
    /// The server is going down.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// All sessions are taken.
    #[error("all {limit} sessions are in use; close one, or raise `max_sessions`")]
    TooManySessions {
        /// The server's limit.
        limit: usize,
    },
    /// The session's queue is full.
    #[error(
        "{position} cells or file operations are already waiting in this session; send the next one when one has been answered"
    )]
    QueueFull {
        /// Where the cell would have stood.
        position: usize,
    },
    /// `$/cancelRequest` came before the code started.
    #[error("the request was cancelled before it started")]
    Cancelled,
    /// The sandbox could not be started.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// The machine-readable part of an error's answer (`error.data`).
#[derive(Clone, Debug, Serialize)]
pub struct ErrorData {
    /// A stable name of the error.
    pub kind: &'static str,
    /// Whether the code ran.
    pub outcome: Outcome,
    /// Whether the same request can succeed later.
    pub retryable: bool,
    /// Cells that wait before a new one, with `queue_full`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<usize>,
    /// What is wrong with the file, with `file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<FileErrorCode>,
}

impl Error {
    /// The JSON-RPC code and `data` of this error; `protocol.md` lists them.
    pub fn wire(&self) -> (i32, ErrorData) {
        let data = |kind, outcome, retryable| ErrorData { kind, outcome, retryable, position: None, reason: None };
        match self {
            Self::Params(_) => (-32602, data("invalid_params", Outcome::NotStarted, false)),
            Self::Runtime(_) => (-32602, data("unknown_runtime", Outcome::NotStarted, false)),
            Self::NoSession(_) => (1001, data("no_session", Outcome::NotStarted, false)),
            Self::Closed => (1002, data("session_closed", Outcome::NotStarted, false)),
            Self::Abandoned => (1003, data("session_ended", Outcome::Unknown, false)),
            Self::ShuttingDown => (1004, data("shutting_down", Outcome::NotStarted, true)),
            Self::TooManySessions { .. } => (1005, data("too_many_sessions", Outcome::NotStarted, true)),
            Self::QueueFull { position } => {
                (1006, ErrorData { position: Some(*position), ..data("queue_full", Outcome::NotStarted, true) })
            }
            Self::Expired { .. } => (1007, data("session_expired", Outcome::NotStarted, false)),
            Self::Detached => (1008, data("detached", Outcome::Unknown, false)),
            Self::Unsupported { .. } => (1009, data("unsupported", Outcome::NotStarted, false)),
            Self::KeyReused(_) => (1015, data("key_reused", Outcome::NotStarted, false)),
            Self::NoCell(_) => (1016, data("no_cell", Outcome::NotStarted, false)),
            Self::File { reason, outcome, .. } => {
                (1020, ErrorData { reason: Some(*reason), ..data("file", *outcome, false) })
            }
            Self::FileLost(_) => (1021, data("file_lost", Outcome::Unknown, true)),
            Self::Cancelled => (-32800, data("cancelled", Outcome::NotStarted, true)),
            Self::Engine(error) => match error {
                EngineError::Unreachable { .. } => (1010, data("engine_unreachable", Outcome::NotStarted, true)),
                EngineError::NoRuntime { .. } => (1011, data("no_oci_runtime", Outcome::NotStarted, false)),
                EngineError::NoPlatform { .. } => (1018, data("no_platform", Outcome::NotStarted, false)),
                EngineError::Unsupported(_) => (1017, data("unsupported_setting", Outcome::NotStarted, false)),
                EngineError::NoImage { .. } | EngineError::NoStoredImage { .. } => {
                    (1012, data("no_image", Outcome::NotStarted, false))
                }
                EngineError::Start { .. } => (1013, data("start_failed", Outcome::NotStarted, true)),
                EngineError::Posture { .. } => (1014, data("weak_posture", Outcome::NotStarted, false)),
            },
        }
    }
}

impl From<Error> for ErrorObjectOwned {
    fn from(error: Error) -> Self {
        let (code, data) = error.wire();
        Self::owned(code, error.to_string(), Some(data))
    }
}
