//! The JSON-RPC surface as types: parameters, results and notifications of `protocol.md`, no logic.
//!
//! Inbound types refuse unknown fields, so that a misspelt option is an error and not a silent default; a test compares
//! their fields with the document's tables.

mod cell;
mod file;
mod run;
mod server;
mod session;

pub use cell::{
    Artifact, CellDisplay, CellError, CellOutput, CellResult, CellStatus, EndedBy, ExecuteParams, Interrupted, State,
    Value, WaitParams,
};
pub use file::{
    Encoding, Entry, EntryKind, FileContent, FileDeleteParams, FileDeleted, FileList, FileListParams, FileReadParams,
    FileWriteParams, FileWritten, NewFile,
};
pub use run::{RunParams, RunResult};
pub use server::{EngineInfo, Isolation, MemoryGuard, NoParams, RuntimeInfo, ServerInfo, ServerLimits};
pub use session::{
    Attached, CloseReason, Closed, CreateParams, RunningCell, SessionClosed, SessionInfo, SessionLimits, SessionList,
    SessionParams, SessionStatus,
};

/// The version of the JSON-RPC surface; independent of the crate's.
pub const PROTOCOL_VERSION: u32 = 1;
