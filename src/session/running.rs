//! How the actor runs one cell: handed to the kernel, watched, brought down the ladder, accounted for.

use std::{pin::Pin, sync::Arc};

use tokio::{
    sync::mpsc,
    time::{Instant, Sleep, sleep_until},
};

use super::{
    Said,
    actor::{Actor, After},
    artifacts::Snapshot,
    cell::Running,
    files::{self, Trouble},
    queue::Queued,
    sandbox::Live,
    state::{Cause, Ending, Event as LadderEvent, Step},
};
use crate::{
    engine::{Control, EngineError, Exit},
    error::Error,
    kernel::{Event, Execute, wire::Capability},
    protocol::{SessionStatus, State},
};

/// The smallest bound of a cell's value and error texts, however small its output cap is.
const MIN_VALUE: usize = 4 << 10;
/// The largest: escaped to JSON, the texts of one message must stay within a kernel's line.
const MAX_VALUE: usize = 256 << 10;

/// What is on its way while a cell runs.
struct Watch {
    /// The timeout, then the end of the current rung's grace.
    timer: Pin<Box<Sleep>>,
    stopping: bool,
    signal: Option<tokio::task::JoinHandle<Result<(), EngineError>>>,
    /// What its reader has no room for yet.
    unsent: Option<Said>,
}

impl Actor {
    /// Runs a cell to its end and answers for it.
    pub(super) async fn execute(&mut self, mut live: Live, queued: Queued) -> After {
        let wanted = [(queued.cell.stdin.is_some(), Capability::Stdin), (queued.cell.artifacts, Capability::Files)];
        if let Some((_, missing)) = wanted.into_iter().find(|&(wanted, it)| wanted && !live.kernel.can(it)) {
            queued.refuse(&self.unsupported(missing));
            return After::Keep(Box::new(live));
        }
        self.count += 1;
        self.cells += 1;
        let mut running = Running::new(queued, self.cells, self.count);
        self.publish(SessionStatus::Running);
        if running.queued.cell.artifacts {
            match self.between(files::list_all(&mut live.kernel), Some(&mut running)).await {
                Ok(list) => running.before = Some(Snapshot::new(list)),
                Err(Trouble::Refused(error)) => {
                    running.queued.refuse(&error);
                    return After::Keep(Box::new(live));
                }
                Err(Trouble::Lost(reason)) => {
                    tracing::info!(session = %self.id, reason, "the sandbox ended before the cell");
                    running.queued.refuse(&Error::FileLost(reason));
                    return self.replace(live.control);
                }
            }
            running.started = std::time::Instant::now();
        }
        let mut ending = self.watch(&mut live, &mut running).await;
        running.stopped();
        if ending.state == State::Preserved
            && let Some(before) = running.before.take()
        {
            match self.between(files::list_all(&mut live.kernel), Some(&mut running)).await {
                Ok(now) => running.changes = Some(before.changes(now)),
                // The cell is over all the same; that its files cannot be listed is no failure of its own.
                Err(Trouble::Refused(error)) => tracing::debug!(session = %self.id, %error, "no artifacts"),
                Err(Trouble::Lost(reason)) => {
                    tracing::info!(session = %self.id, reason, "the sandbox ended after the cell");
                    ending.state = State::Lost;
                }
            }
        }
        let after = match ending.state {
            State::Preserved => After::Keep(Box::new(live)),
            State::Lost => self.replace(live.control),
        };
        let (queued, result) = running.finish(ending, self.generation);
        self.deliver(queued, result);
        after
    }

    /// Hands the cell over and follows it down the ladder.
    async fn watch(&mut self, live: &mut Live, running: &mut Running) -> Ending {
        let cell = &running.queued.cell;
        let deadline = Instant::now() + cell.timeout;
        let mut watch = Watch { timer: Box::pin(sleep_until(deadline)), stopping: false, signal: None, unsent: None };
        if cell.live.is_some() {
            watch.unsent = Some(Said::Started(running.id.clone()));
        }
        // A failed write means a dead kernel, which its reader tells in more detail.
        let _ = live
            .kernel
            .execute(Execute {
                cell: &running.id,
                count: running.count,
                code: &cell.code,
                max_value: cell.max_output.clamp(MIN_VALUE, MAX_VALUE),
                max_media: self.policy.max_media,
                stdin: cell.stdin.as_deref(),
            })
            .await;
        loop {
            let event = tokio::select! {
                command = self.commands.recv() => match self.accept_or_close(command, Some(&mut *running)) {
                    Some(cause) => LadderEvent::Stop(cause),
                    None => continue,
                },
                () = watch.timer.as_mut() => {
                    watch.timer.as_mut().reset(Instant::now() + self.policy.grace);
                    if watch.stopping { LadderEvent::GraceOver } else { LadderEvent::Stop(Cause::Timeout) }
                }
                delivered = joined(&mut watch.signal) => {
                    if let Err(error) = delivered {
                        tracing::warn!(session = %self.id, %error, "cannot interrupt the cell");
                    }
                    LadderEvent::Signalled
                }
                () = forward(&mut running.queued.cell.live, &mut watch.unsent) => continue,
                // Not read while something waits for a slow reader: that slows this cell down and nobody else.
                event = live.kernel.next(), if watch.unsent.is_none() => match heard(event, running, &mut watch, &*live.control).await {
                    Some(event) => event,
                    None => continue,
                },
            };
            match running.ladder.on(event) {
                Step::Wait => {}
                Step::Signal => {
                    watch.stopping = true;
                    watch.timer.as_mut().reset(Instant::now() + self.policy.grace);
                    watch.do_not_wait(running);
                    let control = Arc::clone(&live.control);
                    watch.signal = Some(tokio::spawn(async move { control.interrupt().await }));
                }
                Step::Ping => {
                    watch.timer.as_mut().reset(Instant::now() + self.policy.grace);
                    let _ = live.kernel.ping(&running.id).await;
                }
                Step::Kill(ending) | Step::End(ending) => return ending,
            }
        }
    }
}

/// Takes what the kernel did to the cell's account; the ladder's event when it is one.
async fn heard(event: Event, running: &mut Running, watch: &mut Watch, control: &dyn Control) -> Option<LadderEvent> {
    match event {
        Event::Output(name, bytes) => {
            running.output(name, &bytes);
            if running.queued.cell.live.is_some() {
                watch.unsent = Some(Said::Output(name, bytes));
                watch.do_not_wait(running);
            }
            None
        }
        Event::Display(value) => {
            let live = running.queued.cell.live.is_some();
            let kept = running.display(value).filter(|_| live).cloned();
            watch.unsent = kept.map(Said::Display);
            watch.do_not_wait(running);
            None
        }
        Event::Done(done) => Some(LadderEvent::Done(running.done(*done))),
        Event::Pong(id) if id == running.id => Some(LadderEvent::Pong),
        Event::Pong(_) => None,
        Event::Broken(reason) => {
            running.gone(Exit { code: None, oom: false }, Some(reason));
            Some(LadderEvent::Gone { oom: false, exited: false })
        }
        Event::Gone => {
            let exit = control.exit().await;
            running.gone(exit, None);
            Some(LadderEvent::Gone { oom: exit.oom, exited: exit.code.is_some() })
        }
    }
}

impl Watch {
    /// A cell that is being stopped does not wait for its reader: a reader without room gets nothing more of it, or its
    /// kernel could not answer within the grace.
    fn do_not_wait(&mut self, running: &mut Running) {
        if self.stopping
            && let (Some(live), Some(said)) = (&running.queued.cell.live, self.unsent.take())
            && live.try_send(said).is_err()
        {
            running.queued.cell.live = None;
        }
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

/// Hands what waits to its reader, for ever when there is nothing. Cancel-safe: it stays until it is handed over.
async fn forward(live: &mut Option<mpsc::Sender<Said>>, unsent: &mut Option<Said>) {
    let (Some(sender), true) = (live.as_ref(), unsent.is_some()) else { return std::future::pending().await };
    if let Ok(permit) = sender.reserve().await {
        if let Some(said) = unsent.take() {
            permit.send(said);
        }
        return;
    }
    // A reader that went away misses the rest and nothing else happens.
    (*live, *unsent) = (None, None);
}
