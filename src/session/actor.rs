//! The one task that owns a session's sandbox.
//!
//! ```text
//! Starting --ready--> Idle --cell or file--> Running --ended, state preserved--> Idle
//!    ^                 | kernel gone            | ended, state lost
//!    +-----------------+------------------------+         any --close, idle for too long--> Closed
//! ```
//! Everything that can happen to a session comes through this task's two sources, its commands and its kernel; nobody
//! else touches the sandbox. Whoever waits is answered: what is still queued at the end with "not started".

use std::{pin::Pin, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, Sleep},
};
use tokio_util::task::TaskTracker;

use super::{
    Opening, Policy,
    cell::Running,
    files::Trouble,
    queue::{FileJob, Job, Queue, Queued, Waiter},
    remembered::{Known, Remembered},
    sandbox::{self, Live},
    state::Cause,
};
use crate::{
    engine::{Control, Engine, EngineError},
    error::Error,
    kernel::wire::Capability,
    posture::Posture,
    protocol::{CellResult, CloseReason, RunningCell, SessionStatus},
};

/// How long the kernel may take for what it is asked between cells.
const BETWEEN_TIMEOUT: Duration = Duration::from_secs(30);
/// A wait that never ends within a process's life.
const NEVER: Duration = Duration::from_secs(86400 * 365 * 30);

/// What a handle asks of the actor.
#[derive(Debug)]
pub(super) enum Command {
    /// Run a cell after what is before it.
    Execute(Queued),
    /// Do a file operation after what is before it.
    File(FileJob),
    /// Stop the cell with this ticket, or take what has it out of the queue.
    Cancel(u64),
    /// Stop the running cell.
    Interrupt(oneshot::Sender<bool>),
    /// Answer with the result of the cell with this id.
    Wait(String, Waiter),
    /// Answer with the running cell and the last result.
    Attach(oneshot::Sender<(Option<RunningCell>, Option<CellResult>)>),
    /// Answer when the sandbox is up.
    Ready(oneshot::Sender<Result<Arc<Posture>, Error>>),
    /// Replace the sandbox; answer when the new one is up.
    Restart(oneshot::Sender<Result<Arc<Posture>, Error>>),
    /// End.
    Close(Closing),
}

/// Why the session ends, and who is told when its sandbox is gone.
#[derive(Debug)]
pub(super) struct Closing {
    pub(super) reason: CloseReason,
    pub(super) waiters: Vec<oneshot::Sender<()>>,
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
    pub(super) failure: Option<Error>,
}

impl Default for Published {
    fn default() -> Self {
        Self { status: SessionStatus::Starting, generation: 1, queued: 0, count: 0, version: None, failure: None }
    }
}

/// The task's own state.
#[derive(Debug)]
pub(super) struct Actor {
    pub(super) id: String,
    pub(super) opening: Opening,
    engine: Arc<dyn Engine>,
    pub(super) policy: Policy,
    /// Removes sandboxes while nobody waits.
    teardown: TaskTracker,
    pub(super) commands: mpsc::Receiver<Command>,
    publish: watch::Sender<Published>,
    queue: Queue,
    waiting: Vec<oneshot::Sender<Result<Arc<Posture>, Error>>>,
    remembered: Remembered,
    restart: bool,
    /// Set once the session must end.
    closing: Option<Closing>,
    /// When there was work last, and when that is looked at next: armed anew only when it fires, not for each cell.
    worked: Instant,
    look: Pin<Box<Sleep>>,
    pub(super) generation: u64,
    /// Cells of this generation, and of all.
    pub(super) count: u64,
    pub(super) cells: u64,
}

/// Whether the sandbox can go on.
pub(super) enum After {
    Keep(Box<Live>),
    Replace,
}

impl Actor {
    pub(super) fn new(
        id: String,
        opening: Opening,
        engine: Arc<dyn Engine>,
        policy: Policy,
        teardown: TaskTracker,
        commands: mpsc::Receiver<Command>,
        publish: watch::Sender<Published>,
    ) -> Self {
        let ttl = opening.limits.idle_ttl.0;
        Self {
            id,
            opening,
            engine,
            policy,
            teardown,
            commands,
            publish,
            queue: Queue::default(),
            waiting: Vec::new(),
            remembered: Remembered::default(),
            restart: false,
            closing: None,
            worked: Instant::now(),
            look: Box::pin(tokio::time::sleep(if ttl.is_zero() { NEVER } else { ttl })),
            generation: 1,
            count: 0,
            cells: 0,
        }
    }

    /// Lives until the session is closed, has expired, or its first sandbox cannot be started.
    pub(super) async fn run(mut self) -> Closing {
        tracing::debug!(session = %self.id, runtime = %self.opening.runtime.name, "session opened");
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
                            self.closing = Some(Closing { reason: CloseReason::Closed, waiters: Vec::new() });
                        } else {
                            // A later cell tries again; the session and its id stay.
                            self.publish(SessionStatus::Idle);
                            tokio::select! {
                                                    command = self.commands.recv() => {
                                self.accept_or_close(command, None);
                            }
                                                    () = self.look.as_mut() => self.expire(),
                                                }
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
        self.queue.refuse_all(&Error::Closed);
        self.publish(SessionStatus::Closed);
        let closing = self.closing.unwrap_or(Closing { reason: CloseReason::Closed, waiters: Vec::new() });
        tracing::debug!(session = %self.id, reason = ?closing.reason, "session closed");
        closing
    }

    /// Starts a sandbox while taking commands; `None` when the session is closed meanwhile.
    async fn start(&mut self) -> Option<Result<Live, Error>> {
        self.publish(SessionStatus::Starting);
        self.restart = false;
        let (engine, opening, policy) = (Arc::clone(&self.engine), self.opening.clone(), self.policy);
        // A task of its own: what it started is removed even when nobody waits for it any more.
        let mut starting = tokio::spawn(async move { sandbox::start(&*engine, &opening, &policy).await });
        loop {
            tokio::select! {
                started = &mut starting => {
                    let started = started.unwrap_or_else(|error| Err(EngineError::Start { message: error.to_string() }.into()));
                    if let Ok(live) = &started {
                        let version = live.version.clone();
                        self.publish.send_modify(|published| published.version = Some(version));
                        self.publish(SessionStatus::Idle);
                        self.worked = Instant::now();
                        self.greet(live);
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

    /// Tells everyone who waits for a sandbox that there is one.
    fn greet(&mut self, live: &Live) {
        for reply in self.waiting.drain(..) {
            let _ = reply.send(Ok(Arc::clone(&live.posture)));
        }
    }

    /// Does the next thing, or waits for something to do.
    async fn serve(&mut self, mut live: Live) -> After {
        if self.restart {
            return self.replace(live.control);
        }
        self.greet(&live);
        if let Some(job) = self.queue.pop() {
            let after = match job {
                Job::Cell(queued) => self.execute(live, *queued).await,
                Job::File(job) => self.file(live, job).await,
            };
            self.worked = Instant::now();
            return after;
        }
        self.publish(SessionStatus::Idle);
        tokio::select! {
            command = self.commands.recv() => {
            self.accept_or_close(command, None);
        }
            // An idle kernel has nothing to say: whatever comes, it is dead or hostile.
            event = live.kernel.next() => {
                tracing::info!(session = %self.id, ?event, "the kernel ended between cells");
                return self.replace(live.control);
            }
            () = self.look.as_mut() => self.expire(),
        }
        After::Keep(Box::new(live))
    }

    /// Gives the sandbox up. It is removed while the next one starts: nobody waits for that.
    pub(super) fn replace(&mut self, control: Arc<dyn Control>) -> After {
        self.teardown.spawn(async move { control.destroy().await });
        self.generation += 1;
        self.count = 0;
        After::Replace
    }

    /// Ends the session if it has been without work for too long, or looks again when it may have been.
    fn expire(&mut self) {
        let ttl = self.opening.limits.idle_ttl.0;
        let due = if ttl.is_zero() { Instant::now() + NEVER } else { self.worked + ttl };
        if due <= Instant::now() {
            self.closing = Some(Closing { reason: CloseReason::Idle, waiters: Vec::new() });
        } else {
            self.look.as_mut().reset(due);
        }
    }

    async fn file(&mut self, mut live: Live, job: FileJob) -> After {
        if !live.kernel.can(Capability::Files) {
            Job::File(job).refuse(&self.unsupported(Capability::Files));
            return After::Keep(Box::new(live));
        }
        self.publish(SessionStatus::Running);
        let done = self.between(job.op.perform(&mut live.kernel), None).await;
        let (answer, after) = match done {
            Ok(answer) => (Ok(answer), After::Keep(Box::new(live))),
            Err(Trouble::Refused(error)) => (Err(error), After::Keep(Box::new(live))),
            Err(Trouble::Lost(reason)) => {
                tracing::info!(session = %self.id, reason, "the sandbox ended during a file operation");
                (Err(Error::FileLost(reason)), self.replace(live.control))
            }
        };
        let _ = job.reply.send(answer);
        after
    }

    /// Lets the kernel do something while no cell runs, and takes commands meanwhile. `running` is the cell for whose
    /// sake it is done.
    pub(super) async fn between<T>(
        &mut self,
        work: impl Future<Output = Result<T, Trouble>>,
        mut running: Option<&mut Running>,
    ) -> Result<T, Trouble> {
        let mut work = std::pin::pin!(tokio::time::timeout(BETWEEN_TIMEOUT, work));
        loop {
            tokio::select! {
                done = work.as_mut() => return done.unwrap_or(Err(Trouble::Lost("the kernel did not answer in time"))),
                command = self.commands.recv() => {
                    self.accept_or_close(command, running.as_deref_mut());
                    if self.closing.is_some() || self.restart {
                        return Err(Trouble::Lost("the session was closed or restarted"));
                    }
                }
            }
        }
    }

    pub(super) fn unsupported(&self, capability: Capability) -> Error {
        Error::Unsupported { feature: capability.name(), runtime: self.opening.runtime.name.clone() }
    }

    /// Keeps a cell's result for those who may ask again, and answers everyone who waits for it.
    pub(super) fn deliver(&mut self, queued: Queued, result: CellResult) {
        self.remembered.keep(&queued.cell, &result);
        if self.opening.detach {
            self.remembered.keep_last(&result);
        }
        for waiter in queued.also {
            waiter.answer(Ok(result.clone()));
        }
        queued.waiter.answer(Ok(result));
    }

    /// Takes one command while no cell runs.
    async fn take_command(&mut self) {
        let command = self.commands.recv().await;
        self.accept_or_close(command, None);
    }

    /// Takes a command; the end of all handles closes the session.
    pub(super) fn accept_or_close(&mut self, command: Option<Command>, running: Option<&mut Running>) -> Option<Cause> {
        let close = || Command::Close(Closing { reason: CloseReason::Closed, waiters: Vec::new() });
        self.accept(command.unwrap_or_else(close), running)
    }

    /// Takes a command; the cause when it stops the running cell.
    fn accept(&mut self, command: Command, mut running: Option<&mut Running>) -> Option<Cause> {
        let mut stop = None;
        match command {
            Command::Execute(queued) => self.enqueue(queued, running),
            Command::File(job) => self.queue.push(Job::File(job), self.policy.max_queue),
            Command::Cancel(ticket) => match running.as_mut() {
                Some(running) if running.queued.waiter.ticket == ticket => stop = Some(Cause::Interrupt),
                Some(running) => {
                    if !running.queued.leave(ticket) {
                        self.queue.cancel(ticket);
                    }
                }
                None => self.queue.cancel(ticket),
            },
            Command::Interrupt(reply) => {
                let _ = reply.send(running.is_some());
                stop = running.map(|_| Cause::Interrupt);
            }
            Command::Wait(id, waiter) => match (running, self.remembered.last()) {
                (Some(running), _) if running.id == id => running.queued.also.push(waiter),
                (_, Some(last)) if last.cell_id == id => waiter.answer(Ok(last.clone())),
                _ => waiter.answer(Err(Error::NoCell(id))),
            },
            Command::Attach(reply) => {
                self.worked = Instant::now();
                let running = running.map(|cell| RunningCell { cell_id: cell.id.clone(), execution_count: cell.count });
                let _ = reply.send((running, self.remembered.last().cloned()));
            }
            Command::Ready(reply) => self.waiting.push(reply),
            Command::Restart(reply) => {
                self.waiting.push(reply);
                self.restart = true;
                stop = running.map(|_| Cause::Close);
            }
            Command::Close(closing) => {
                match &mut self.closing {
                    Some(earlier) => earlier.waiters.extend(closing.waiters),
                    None => self.closing = Some(closing),
                }
                stop = running.map(|_| Cause::Close);
            }
        }
        let queued = self.queue.len();
        self.publish.send_modify(|published| published.queued = queued);
        stop
    }

    /// Puts a cell into the queue, unless one with its key was there before.
    fn enqueue(&mut self, mut queued: Queued, running: Option<&mut Running>) {
        if let Some(key) = &queued.cell.key {
            match self.remembered.find(&queued.cell) {
                Some(Known::Same(result)) => return queued.waiter.answer(Ok(result.clone())),
                Some(Known::Other) => return queued.refuse_key(),
                None => {}
            }
            let running =
                running.map(|running| &mut running.queued).filter(|running| running.cell.key.as_ref() == Some(key));
            if let Some(first) = running.or_else(|| self.queue.with_key(key)) {
                // It only waits: what the first one says while it runs is the first one's.
                queued.cell.live = None;
                return first.join(queued);
            }
        }
        self.queue.push(Job::Cell(Box::new(queued)), self.policy.max_queue);
    }

    /// Tells everyone who waits for a sandbox that there is none.
    fn fail(&mut self, error: &Error) {
        for reply in self.waiting.drain(..) {
            let _ = reply.send(Err(error.clone()));
        }
        self.queue.refuse_all(error);
    }

    pub(super) fn publish(&self, status: SessionStatus) {
        let (generation, queued, count) = (self.generation, self.queue.len(), self.count);
        self.publish.send_modify(|published| {
            published.status = status;
            published.generation = generation;
            published.queued = queued;
            published.count = count;
        });
    }
}
