//! The one task that owns a session's sandbox.
//!
//! ```text
//! Starting --ready--> Idle --execute--> Running --ended, state preserved--> Idle
//!    ^                 | kernel gone        | ended, state lost
//!    +-----------------+--------------------+            any --close--> Closed
//! ```
//! Everything that can happen to a session comes through this task's two sources, its commands and its kernel; nobody
//! else touches the sandbox. Whoever waits is answered: the cells still queued at the end with "not started".

use std::{collections::VecDeque, sync::Arc};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};

use super::{
    Cell, Policy,
    cell::Running,
    sandbox::{self, Live},
    state::{Cause, Event as LadderEvent, Step},
};
use crate::{
    engine::{Control, Engine, EngineError},
    error::Error,
    kernel::{Event, wire::StreamName},
    posture::Posture,
    protocol::{CellResult, SessionStatus, State},
    runtime::Runtime,
};

/// The smallest bound of a cell's value and error texts, however small its output cap is.
const MIN_VALUE: usize = 4 << 10;
/// The largest: escaped to JSON, the texts of one message must stay within a kernel's line.
const MAX_VALUE: usize = 256 << 10;

/// What a handle asks of the actor.
#[derive(Debug)]
pub(super) enum Command {
    /// Run a cell after those before it.
    Execute(Queued),
    /// Stop the cell with this ticket, or take it out of the queue.
    Cancel(u64),
    /// Stop the running cell.
    Interrupt(oneshot::Sender<bool>),
    /// Answer when the sandbox is up.
    Ready(oneshot::Sender<Result<Arc<Posture>, Error>>),
    /// Replace the sandbox; answer when the new one is up.
    Restart(oneshot::Sender<Result<Arc<Posture>, Error>>),
    /// End; answer when the sandbox is gone.
    Close(Option<oneshot::Sender<()>>),
}

/// A cell and whom to answer.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) ticket: u64,
    pub(super) cell: Cell,
    pub(super) reply: oneshot::Sender<Result<CellResult, Error>>,
}

/// What readers outside see.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) status: SessionStatus,
    pub(super) generation: u64,
    pub(super) queued: usize,
    pub(super) count: u64,
    pub(super) version: Option<String>,
    /// Why the first sandbox did not start, which ended the session.
    pub(super) failure: Option<EngineError>,
}

impl Default for Published {
    fn default() -> Self {
        Self { status: SessionStatus::Starting, generation: 1, queued: 0, count: 0, version: None, failure: None }
    }
}

/// The task's own state.
#[derive(Debug)]
pub(super) struct Actor {
    id: String,
    runtime: Runtime,
    engine: Arc<dyn Engine>,
    policy: Policy,
    commands: mpsc::Receiver<Command>,
    publish: watch::Sender<Published>,
    queue: VecDeque<Queued>,
    waiting: Vec<oneshot::Sender<Result<Arc<Posture>, Error>>>,
    restart: bool,
    /// Set once the session must end; holds those who wait for it.
    closing: Option<Vec<oneshot::Sender<()>>>,
    generation: u64,
    count: u64,
}

/// Whether the sandbox can go on.
enum After {
    Keep(Box<Live>),
    Replace,
}

impl Actor {
    pub(super) fn new(
        id: String,
        runtime: Runtime,
        engine: Arc<dyn Engine>,
        policy: Policy,
        commands: mpsc::Receiver<Command>,
        publish: watch::Sender<Published>,
    ) -> Self {
        Self {
            id,
            runtime,
            engine,
            policy,
            commands,
            publish,
            queue: VecDeque::new(),
            waiting: Vec::new(),
            restart: false,
            closing: None,
            generation: 1,
            count: 0,
        }
    }

    /// Lives until the session is closed or its first sandbox cannot be started.
    pub(super) async fn run(mut self) {
        tracing::debug!(session = %self.id, runtime = %self.runtime.name, "session opened");
        let mut live = None;
        let mut first = true;
        while self.closing.is_none() {
            live = match live.take() {
                Some(sandbox) => match self.serve(sandbox).await {
                    After::Keep(sandbox) => Some(*sandbox),
                    After::Replace => None,
                },
                None => match self.start().await {
                    Some(Ok(sandbox)) => Some(sandbox),
                    Some(Err(error)) => {
                        tracing::warn!(session = %self.id, %error, "the sandbox did not start");
                        self.fail(&error);
                        if first {
                            self.publish.send_modify(|published| published.failure = Some(error));
                            self.closing = Some(Vec::new());
                        } else {
                            // A later cell tries again; the session and its id stay.
                            self.publish(SessionStatus::Idle);
                            self.take_command().await;
                        }
                        None
                    }
                    None => None,
                },
            };
            first &= live.is_none();
        }
        if let Some(sandbox) = live {
            sandbox.control.destroy().await;
        }
        self.commands.close();
        while let Some(command) = self.commands.recv().await {
            self.accept(command, None);
        }
        // Who asked after the first start had failed is told the same as who asked before.
        let failure = self.publish.borrow().failure.clone();
        if let Some(failure) = failure {
            self.fail(&failure);
        }
        for queued in self.queue.drain(..) {
            let _ = queued.reply.send(Err(Error::Closed));
        }
        self.publish(SessionStatus::Closed);
        tracing::debug!(session = %self.id, "session closed");
        for reply in self.closing.into_iter().flatten() {
            let _ = reply.send(());
        }
    }

    /// Starts a sandbox while taking commands; `None` when the session is closed meanwhile.
    async fn start(&mut self) -> Option<Result<Live, EngineError>> {
        self.publish(SessionStatus::Starting);
        self.restart = false;
        let (engine, runtime, policy) = (Arc::clone(&self.engine), self.runtime.clone(), self.policy);
        // A task of its own: what it started is removed even when nobody waits for it any more.
        let mut starting = tokio::spawn(async move { sandbox::start(&*engine, &runtime, &policy).await });
        loop {
            tokio::select! {
                started = &mut starting => {
                    let started = started.unwrap_or_else(|error| Err(EngineError::Start { message: error.to_string() }));
                    if let Ok(live) = &started {
                        let version = live.version.clone();
                        self.publish.send_modify(|published| published.version = Some(version));
                        for reply in self.waiting.drain(..) {
                            let _ = reply.send(Ok(Arc::clone(&live.posture)));
                        }
                    }
                    return Some(started);
                }
                () = self.take_command() => if self.closing.is_some() {
                    if let Ok(Ok(live)) = starting.await {
                        live.control.destroy().await;
                    }
                    return None;
                }
            }
        }
    }

    /// Runs the next cell, or waits for something to do.
    async fn serve(&mut self, mut live: Live) -> After {
        for reply in self.waiting.drain(..) {
            let _ = reply.send(Ok(Arc::clone(&live.posture)));
        }
        if self.restart {
            return self.replace(&*live.control).await;
        }
        if let Some(queued) = self.queue.pop_front() {
            return self.execute(live, queued).await;
        }
        self.publish(SessionStatus::Idle);
        tokio::select! {
            () = self.take_command() => {}
            // An idle kernel has nothing to say: whatever comes, it is dead or hostile.
            event = live.kernel.next() => {
                tracing::info!(session = %self.id, ?event, "the kernel ended between cells");
                return self.replace(&*live.control).await;
            }
        }
        After::Keep(Box::new(live))
    }

    async fn replace(&mut self, control: &dyn Control) -> After {
        control.destroy().await;
        self.generation += 1;
        self.count = 0;
        After::Replace
    }

    async fn execute(&mut self, mut live: Live, queued: Queued) -> After {
        self.count += 1;
        let mut running = Running::new(queued, self.count);
        let mut deadline = Instant::now() + running.queued.cell.timeout;
        self.publish(SessionStatus::Running);
        let max_value = running.queued.cell.max_output.clamp(MIN_VALUE, MAX_VALUE);
        // A failed write means a dead kernel, which its reader tells in more detail.
        let _ = live.kernel.execute(&running.id, running.count, &running.queued.cell.code, max_value).await;
        let mut timed_out = false;
        let mut signal: Option<tokio::task::JoinHandle<Result<(), EngineError>>> = None;
        let mut unsent: Option<(StreamName, Vec<u8>)> = None;
        let ending = loop {
            let event = tokio::select! {
                command = self.commands.recv() => match self.accept(command.unwrap_or(Command::Close(None)), Some(running.queued.ticket)) {
                    Some(cause) => LadderEvent::Stop(cause),
                    None => continue,
                },
                () = sleep_until(deadline) => {
                    deadline = Instant::now() + self.policy.grace;
                    if std::mem::replace(&mut timed_out, true) { LadderEvent::GraceOver } else { LadderEvent::Stop(Cause::Timeout) }
                }
                delivered = joined(&mut signal) => {
                    if let Err(error) = delivered {
                        tracing::warn!(session = %self.id, %error, "cannot interrupt the cell");
                    }
                    LadderEvent::Signalled
                }
                () = forward(running.queued.cell.live.as_ref(), &mut unsent) => continue,
                // Not read while a chunk waits for a slow reader: that slows this cell down and nobody else.
                event = live.kernel.next(), if unsent.is_none() => match event {
                    Event::Output(name, bytes) => {
                        running.output(name, &bytes);
                        unsent = running.queued.cell.live.is_some().then_some((name, bytes));
                        continue;
                    }
                    Event::Done(done) => LadderEvent::Done(running.done(*done)),
                    Event::Pong(id) if id == running.id => LadderEvent::Pong,
                    Event::Pong(_) => continue,
                    Event::Broken(reason) => {
                        let exit = crate::engine::Exit { code: None, oom: false };
                        running.gone(exit, Some(reason));
                        LadderEvent::Gone { oom: false, exited: false }
                    }
                    Event::Gone => {
                        let exit = live.control.exit().await;
                        running.gone(exit, None);
                        LadderEvent::Gone { oom: exit.oom, exited: exit.code.is_some() }
                    }
                },
            };
            match running.ladder.on(event) {
                Step::Wait => {}
                Step::Signal => {
                    timed_out = true;
                    deadline = Instant::now() + self.policy.grace;
                    let control = Arc::clone(&live.control);
                    signal = Some(tokio::spawn(async move { control.interrupt().await }));
                }
                Step::Ping => {
                    deadline = Instant::now() + self.policy.grace;
                    let _ = live.kernel.ping(&running.id.clone()).await;
                }
                Step::Kill(ending) | Step::End(ending) => break ending,
            }
        };
        if ending.state == State::Preserved {
            running.answer(ending, self.generation);
            return After::Keep(Box::new(live));
        }
        let after = self.replace(&*live.control).await;
        running.answer(ending, self.generation);
        after
    }

    /// Takes one command while no cell runs.
    async fn take_command(&mut self) {
        let command = self.commands.recv().await.unwrap_or(Command::Close(None));
        self.accept(command, None);
    }

    /// Takes a command; the cause when it stops the running cell, whose ticket is `running`.
    fn accept(&mut self, command: Command, running: Option<u64>) -> Option<Cause> {
        let mut stop = None;
        match command {
            Command::Execute(queued) if self.queue.len() < self.policy.max_queue => {
                self.queue.push_back(queued);
            }
            Command::Execute(queued) => {
                let _ = queued.reply.send(Err(Error::QueueFull { position: self.queue.len() }));
            }
            Command::Cancel(ticket) if running == Some(ticket) => stop = Some(Cause::Interrupt),
            Command::Cancel(ticket) => {
                if let Some(at) = self.queue.iter().position(|queued| queued.ticket == ticket) {
                    let queued = self.queue.remove(at).expect("just found");
                    let _ = queued.reply.send(Err(Error::Cancelled));
                }
            }
            Command::Interrupt(reply) => {
                let _ = reply.send(running.is_some());
                stop = running.map(|_| Cause::Interrupt);
            }
            Command::Ready(reply) => self.waiting.push(reply),
            Command::Restart(reply) => {
                self.waiting.push(reply);
                self.restart = true;
                stop = running.map(|_| Cause::Close);
            }
            Command::Close(reply) => {
                self.closing.get_or_insert_default().extend(reply);
                stop = running.map(|_| Cause::Close);
            }
        }
        let queued = self.queue.len();
        self.publish.send_modify(|published| published.queued = queued);
        stop
    }

    /// Tells everyone who waits for a sandbox that there is none.
    fn fail(&mut self, error: &EngineError) {
        for reply in self.waiting.drain(..) {
            let _ = reply.send(Err(error.clone().into()));
        }
        for queued in self.queue.drain(..) {
            let _ = queued.reply.send(Err(error.clone().into()));
        }
    }

    fn publish(&self, status: SessionStatus) {
        let (generation, queued, count) = (self.generation, self.queue.len(), self.count);
        self.publish.send_modify(|published| {
            published.status = status;
            published.generation = generation;
            published.queued = queued;
            published.count = count;
        });
    }
}

/// Waits for a task, for ever when there is none.
async fn joined(task: &mut Option<tokio::task::JoinHandle<Result<(), EngineError>>>) -> Result<(), String> {
    let Some(handle) = task else {
        return std::future::pending().await;
    };
    let result = handle.await;
    *task = None;
    match result {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// Hands the waiting chunk to its reader, for ever when there is none. Cancel-safe: the chunk stays until it is handed over.
async fn forward(live: Option<&mpsc::Sender<(StreamName, Vec<u8>)>>, unsent: &mut Option<(StreamName, Vec<u8>)>) {
    let (Some(live), true) = (live, unsent.is_some()) else { return std::future::pending().await };
    let permit = live.reserve().await;
    let chunk = unsent.take();
    // A reader that went away misses the chunk and nothing else happens.
    if let (Ok(permit), Some(chunk)) = (permit, chunk) {
        permit.send(chunk);
    }
}
