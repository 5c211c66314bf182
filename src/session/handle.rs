//! The handle of one session: commands in, answers out.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{
    Cell, Opening,
    actor::{Closing, Command, Published},
    files::{FileAnswer, FileOp},
    holder::{Hold, Holder},
    queue::{FileJob, Queued, Waiter},
};
use crate::{
    error::Error,
    posture::Posture,
    protocol::{CellResult, CloseReason, RunningCell, SessionInfo, SessionLimits, SessionStatus},
};

/// Commands that may wait for an actor; it takes them as they come, so this fills only under a flood.
pub(super) const COMMANDS: usize = 256;

/// A handle of one session; clones are the same session.
#[derive(Clone, Debug)]
pub struct Session(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: String,
    /// Sessions are listed in the order of their making.
    number: u64,
    commands: mpsc::Sender<Command>,
    published: watch::Receiver<Published>,
    limits: SessionLimits,
    runtime: String,
    name: Option<String>,
    detach: bool,
    holder: Holder,
}

/// A request that was handed over: its answer, and the way to stop it.
#[derive(Debug)]
pub struct Pending<T> {
    answer: oneshot::Receiver<Result<T, Error>>,
    commands: mpsc::Sender<Command>,
    ticket: u64,
}

impl Session {
    pub(super) fn new(
        id: String,
        number: u64,
        opening: &Opening,
        commands: mpsc::Sender<Command>,
        published: watch::Receiver<Published>,
    ) -> Self {
        Self(Arc::new(Inner {
            id,
            number,
            commands,
            published,
            limits: opening.limits,
            runtime: opening.runtime.name.clone(),
            name: opening.name.clone(),
            detach: opening.detach,
            holder: Holder::default(),
        }))
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// Where it stands in the order of all sessions.
    pub fn number(&self) -> u64 {
        self.0.number
    }

    /// Its sandbox's limits, and defaults of its cells.
    pub fn limits(&self) -> SessionLimits {
        self.0.limits
    }

    /// Whether it may outlive whoever opened it.
    pub fn detach(&self) -> bool {
        self.0.detach
    }

    /// Takes it over: whoever held it is told so.
    pub fn hold(&self) -> Hold {
        self.0.holder.take()
    }

    /// Whether the holder with this number still has it.
    pub fn is_held_by(&self, number: u64) -> bool {
        self.0.holder.is_held_by(number)
    }

    pub(super) fn end(&self, reason: CloseReason) {
        self.0.holder.end(reason);
    }

    /// How it stands.
    pub fn info(&self) -> SessionInfo {
        let inner = &self.0;
        let published = inner.published.borrow();
        let status = if inner.commands.is_closed() { SessionStatus::Closed } else { published.status };
        SessionInfo {
            session_id: inner.id.clone(),
            name: inner.name.clone(),
            runtime: inner.runtime.clone(),
            runtime_version: published.version.clone(),
            generation: published.generation,
            status,
            queued: published.queued,
            execution_count: published.count,
            detach: inner.detach,
            limits: inner.limits,
        }
    }

    /// Waits until its sandbox is up, and returns the measured posture.
    ///
    /// # Errors
    /// When the sandbox cannot be started.
    pub async fn ready(&self) -> Result<Arc<Posture>, Error> {
        self.ask(Command::Ready).await?
    }

    /// Hands a cell over. Not async, so that cells run in the order of the calls.
    ///
    /// # Errors
    /// When the session is closed or flooded.
    pub fn execute(&self, cell: Cell) -> Result<Pending<CellResult>, Error> {
        self.hand_over(|ticket, reply| {
            Command::Execute(Queued { cell, waiter: Waiter { ticket, reply }, also: Vec::new() })
        })
    }

    /// Hands a file operation over; it takes its turn among the cells.
    ///
    /// # Errors
    /// When the session is closed or flooded.
    pub fn file(&self, op: FileOp) -> Result<Pending<FileAnswer>, Error> {
        self.hand_over(|ticket, reply| Command::File(FileJob { ticket, op, reply }))
    }

    /// Waits for the result of the running cell, or of the one that ended last in a session that may be detached.
    ///
    /// # Errors
    /// When the session is closed or flooded; the answer may be [`Error::NoCell`].
    pub fn wait(&self, cell: String) -> Result<Pending<CellResult>, Error> {
        self.hand_over(|ticket, reply| Command::Wait(cell, Waiter { ticket, reply }))
    }

    /// The running cell, and the last result of a session that may be detached.
    ///
    /// # Errors
    /// When the session is closed.
    pub async fn attach(&self) -> Result<(Option<RunningCell>, Option<CellResult>), Error> {
        self.ask(Command::Attach).await
    }

    /// Stops the running cell; false when none runs.
    ///
    /// # Errors
    /// When the session is closed.
    pub async fn interrupt(&self) -> Result<bool, Error> {
        self.ask(Command::Interrupt).await
    }

    /// Replaces the sandbox by a fresh one and waits until it is up.
    ///
    /// # Errors
    /// When the session is closed or the new sandbox cannot be started.
    pub async fn restart(&self) -> Result<Arc<Posture>, Error> {
        self.ask(Command::Restart).await?
    }

    /// Closes it and waits until its sandbox is gone; fine when it is closed already.
    pub async fn close(&self, reason: CloseReason) {
        let _ = self.ask(|reply| Command::Close(Closing { reason, waiters: vec![reply] })).await;
    }

    /// Lets it be closed while nobody waits.
    pub(super) fn close_behind(&self) {
        let command = Command::Close(Closing { reason: CloseReason::Closed, waiters: Vec::new() });
        if let Err(mpsc::error::TrySendError::Full(command)) = self.0.commands.try_send(command) {
            let commands = self.0.commands.clone();
            tokio::spawn(async move { commands.send(command).await });
        }
    }

    pub(super) fn commands(&self) -> &mpsc::Sender<Command> {
        &self.0.commands
    }

    fn hand_over<T>(
        &self,
        command: impl FnOnce(u64, oneshot::Sender<Result<T, Error>>) -> Command,
    ) -> Result<Pending<T>, Error> {
        static TICKETS: AtomicU64 = AtomicU64::new(0);
        let ticket = TICKETS.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        self.0.commands.try_send(command(ticket, reply)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Error::QueueFull { position: COMMANDS },
            mpsc::error::TrySendError::Closed(_) => self.closed(),
        })?;
        Ok(Pending { answer, commands: self.0.commands.clone(), ticket })
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.0.commands.send(command(reply)).await.map_err(|_| self.closed())?;
        answer.await.map_err(|_| self.closed())
    }

    /// Why there is nobody to ask: the session was closed, or its sandbox never came up.
    fn closed(&self) -> Error {
        self.0.published.borrow().failure.clone().unwrap_or(Error::Closed)
    }
}

impl<T> Pending<T> {
    /// The answer.
    ///
    /// # Errors
    /// When the request was not carried out, or nobody knows.
    pub async fn answer(&mut self) -> Result<T, Error> {
        (&mut self.answer).await.unwrap_or(Err(Error::Abandoned))
    }

    /// Stops the cell if it runs, and takes the request out of the queue if it waits; `answer` comes all the same.
    pub async fn cancel(&self) {
        let _ = self.commands.send(Command::Cancel(self.ticket)).await;
    }

    /// The answer, hastened once `cancelled` is.
    ///
    /// # Errors
    /// As `answer`.
    pub async fn answer_or_cancel(mut self, cancelled: &CancellationToken) -> Result<T, Error> {
        tokio::select! {
            answer = self.answer() => answer,
            () = cancelled.cancelled() => {
                self.cancel().await;
                self.answer().await
            }
        }
    }
}
