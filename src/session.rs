//! Sessions: the registry of all, and the handle that the front doors use.
//!
//! One actor per session (`actor.rs`) owns its sandbox; a handle only sends it commands and waits. Dropping a waiting
//! call is harmless. Nothing here knows JSON-RPC or which engine runs.

mod actor;
mod artifacts;
mod cell;
pub mod files;
mod handle;
mod holder;
mod queue;
mod registry;
mod remembered;
mod run;
mod running;
mod sandbox;
pub mod state;

use std::{collections::BTreeMap, time::Duration};

use tokio::sync::mpsc;

use crate::{
    engine::Resources,
    kernel::wire::StreamName,
    protocol::{SessionLimits, Value},
    runtime::Runtime,
};

pub use handle::{Pending, Session};
pub use holder::Hold;
pub use registry::Registry;
pub use run::OneShot;

/// Limits that hold for every session.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Sessions open at once.
    pub max_sessions: usize,
    /// Cells and file operations waiting in one session.
    pub max_queue: usize,
    /// From an interrupt until the sandbox is killed.
    pub grace: Duration,
    /// Until a sandbox must be up and its kernel ready.
    pub start_timeout: Duration,
    /// What one display or value may hold beside its text, bytes.
    pub max_media: usize,
    /// What each sandbox may use; a session's own memory and CPUs take the place of these.
    pub resources: Resources,
}

/// A session to open.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Its language.
    pub runtime: Runtime,
    /// Its sandbox's limits, and defaults of its cells.
    pub limits: SessionLimits,
    /// Environment variables, in every sandbox that it gets.
    pub env: BTreeMap<String, String>,
    /// A label for people.
    pub name: Option<String>,
    /// Whether it may outlive whoever opened it.
    pub detach: bool,
}

impl Opening {
    /// Without anything special.
    pub fn new(runtime: Runtime, limits: SessionLimits) -> Self {
        Self { runtime, limits, env: BTreeMap::new(), name: None, detach: false }
    }
}

/// A cell to run.
#[derive(Debug)]
pub struct Cell {
    /// Its source.
    pub code: String,
    /// How long it may run.
    pub timeout: Duration,
    /// Cap of each output stream, bytes.
    pub max_output: usize,
    /// What its standard input holds.
    pub stdin: Option<String>,
    /// Whether the files that it creates or changes are looked for.
    pub artifacts: bool,
    /// Names it among the session's cells: a second one with this name gets the first one's result.
    pub key: Option<String>,
    /// Gets what it says while it runs; a full channel slows the cell down.
    pub live: Option<mpsc::Sender<Said>>,
}

impl Cell {
    /// Without anything special.
    pub fn new(code: String, timeout: Duration, max_output: usize) -> Self {
        Self { code, timeout, max_output, stdin: None, artifacts: false, key: None, live: None }
    }
}

/// What a cell says while it runs.
#[derive(Debug)]
pub enum Said {
    /// The kernel gets it, under this id.
    Started(String),
    /// It or a child of it wrote: every byte, before the cap.
    Output(StreamName, Vec<u8>),
    /// It displayed something, within the result's limits.
    Display(Value),
}
