//! Sessions: the registry of all, and the handle that the front doors use.
//!
//! One actor per session (`actor.rs`) owns its sandbox; a handle only sends it commands and waits. Dropping a waiting
//! call is harmless. Nothing here knows JSON-RPC or which engine runs.

mod actor;
mod cell;
mod sandbox;
pub mod state;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::TaskTracker;

use crate::{
    engine::{Engine, Resources},
    error::Error,
    kernel::wire::StreamName,
    posture::Posture,
    protocol::{CellResult, SessionInfo, SessionLimits, SessionStatus},
    runtime::Runtime,
};

/// Commands that may wait for an actor; it takes them as they come, so this fills only under a flood.
const COMMANDS: usize = 256;

/// Limits that hold for every session.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Sessions open at once.
    pub max_sessions: usize,
    /// Cells waiting in one session.
    pub max_queue: usize,
    /// From an interrupt until the sandbox is killed.
    pub grace: Duration,
    /// Until a sandbox must be up and its kernel ready.
    pub start_timeout: Duration,
    /// What each sandbox may use.
    pub resources: Resources,
}

/// All open sessions.
#[derive(Debug)]
pub struct Registry {
    engine: Arc<dyn Engine>,
    policy: Policy,
    sessions: Mutex<BTreeMap<String, Session>>,
    created: AtomicU64,
    tasks: TaskTracker,
}

/// A handle of one session; clones are the same session.
#[derive(Clone, Debug)]
pub struct Session {
    id: String,
    /// Sessions are listed in the order of their making.
    number: u64,
    commands: mpsc::Sender<actor::Command>,
    published: watch::Receiver<actor::Published>,
    limits: SessionLimits,
    runtime: String,
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
    /// Gets every byte of output as it comes, before the cap; a full channel slows the cell down.
    pub live: Option<mpsc::Sender<(StreamName, Vec<u8>)>>,
}

/// A cell that was handed over: its answer, and the way to stop it.
#[derive(Debug)]
pub struct Pending {
    answer: oneshot::Receiver<Result<CellResult, Error>>,
    commands: mpsc::Sender<actor::Command>,
    ticket: u64,
}

impl Registry {
    /// A registry that starts sandboxes with `engine`.
    pub fn new(engine: Arc<dyn Engine>, policy: Policy) -> Self {
        Self { engine, policy, sessions: Mutex::default(), created: AtomicU64::new(0), tasks: TaskTracker::new() }
    }

    /// The engine.
    pub fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    /// Open sessions.
    pub fn len(&self) -> usize {
        self.sessions.lock().expect("no holder panics").len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Opens a session; its place is taken at once, its sandbox starts behind the returned handle.
    ///
    /// # Errors
    /// When all places are taken.
    pub fn open(self: &Arc<Self>, runtime: Runtime, limits: SessionLimits) -> Result<Session, Error> {
        let mut sessions = self.sessions.lock().expect("no holder panics");
        if self.tasks.is_closed() {
            return Err(Error::ShuttingDown);
        }
        if sessions.len() >= self.policy.max_sessions {
            return Err(Error::TooManySessions { limit: self.policy.max_sessions });
        }
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let (publish, published) = watch::channel(actor::Published::default());
        let id = crate::random_id();
        let number = self.created.fetch_add(1, Ordering::Relaxed);
        let session = Session { id: id.clone(), number, commands, published, limits, runtime: runtime.name.clone() };
        sessions.insert(id.clone(), session.clone());
        let actor = actor::Actor::new(id.clone(), runtime, Arc::clone(&self.engine), self.policy, inbox, publish);
        let registry = Arc::clone(self);
        self.tasks.spawn(async move {
            actor.run().await;
            registry.sessions.lock().expect("no holder panics").remove(&id);
        });
        Ok(session)
    }

    /// Closes every session and waits until their sandboxes are gone; no new one can be opened.
    pub async fn close_all(&self) {
        let sessions: Vec<_> = {
            let sessions = self.sessions.lock().expect("no holder panics");
            self.tasks.close();
            sessions.values().cloned().collect()
        };
        for session in sessions {
            let _ = session.commands.send(actor::Command::Close(None)).await;
        }
        self.tasks.wait().await;
    }
}

impl Session {
    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where it stands in the order of all sessions.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Defaults of its cells.
    pub fn limits(&self) -> SessionLimits {
        self.limits
    }

    /// How it stands.
    pub fn info(&self) -> SessionInfo {
        let published = self.published.borrow();
        let status = if self.commands.is_closed() { SessionStatus::Closed } else { published.status };
        SessionInfo {
            session_id: self.id.clone(),
            runtime: self.runtime.clone(),
            runtime_version: published.version.clone(),
            generation: published.generation,
            status,
            queued: published.queued,
            execution_count: published.count,
            limits: self.limits,
        }
    }

    /// Waits until its sandbox is up, and returns the measured posture.
    ///
    /// # Errors
    /// When the sandbox cannot be started.
    pub async fn ready(&self) -> Result<Arc<Posture>, Error> {
        self.ask(actor::Command::Ready).await?
    }

    /// Hands a cell over. Not async, so that cells run in the order of the calls.
    ///
    /// # Errors
    /// When the session is closed or flooded.
    pub fn execute(&self, cell: Cell) -> Result<Pending, Error> {
        static TICKETS: AtomicU64 = AtomicU64::new(0);
        let ticket = TICKETS.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        self.commands.try_send(actor::Command::Execute(actor::Queued { ticket, cell, reply })).map_err(|error| {
            match error {
                mpsc::error::TrySendError::Full(_) => Error::QueueFull { position: COMMANDS },
                mpsc::error::TrySendError::Closed(_) => self.closed(),
            }
        })?;
        Ok(Pending { answer, commands: self.commands.clone(), ticket })
    }

    /// Stops the running cell; false when none runs.
    ///
    /// # Errors
    /// When the session is closed.
    pub async fn interrupt(&self) -> Result<bool, Error> {
        self.ask(actor::Command::Interrupt).await
    }

    /// Replaces the sandbox by a fresh one and waits until it is up.
    ///
    /// # Errors
    /// When the session is closed or the new sandbox cannot be started.
    pub async fn restart(&self) -> Result<Arc<Posture>, Error> {
        self.ask(actor::Command::Restart).await?
    }

    /// Closes it and waits until its sandbox is gone; fine when it is closed already.
    pub async fn close(&self) {
        let _ = self.ask(|reply| actor::Command::Close(Some(reply))).await;
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> actor::Command) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| self.closed())?;
        answer.await.map_err(|_| self.closed())
    }

    /// Why there is nobody to ask: the session was closed, or its sandbox never came up.
    fn closed(&self) -> Error {
        self.published.borrow().failure.clone().map_or(Error::Closed, Error::Engine)
    }
}

impl Pending {
    /// The cell's result.
    ///
    /// # Errors
    /// When the cell did not start, or nobody knows.
    pub async fn answer(&mut self) -> Result<CellResult, Error> {
        (&mut self.answer).await.unwrap_or(Err(Error::Abandoned))
    }

    /// Stops the cell if it runs, and takes it out of the queue if it waits; `answer` comes all the same.
    pub async fn cancel(&self) {
        let _ = self.commands.send(actor::Command::Cancel(self.ticket)).await;
    }
}
