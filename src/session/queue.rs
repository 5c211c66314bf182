//! What waits for a session's sandbox: cells and file operations, in the order in which they came.

use std::collections::VecDeque;

use tokio::sync::oneshot;

use super::{
    Cell,
    files::{FileAnswer, FileOp},
};
use crate::{error::Error, protocol::CellResult};

/// Somebody who waits for a cell's result.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) ticket: u64,
    pub(super) reply: oneshot::Sender<Result<CellResult, Error>>,
}

/// A cell and whom to answer.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) cell: Cell,
    /// Who asked for it, and may stop it.
    pub(super) waiter: Waiter,
    /// Who asked for the same cell again, or attached to it.
    pub(super) also: Vec<Waiter>,
}

/// A file operation and whom to answer.
#[derive(Debug)]
pub(super) struct FileJob {
    pub(super) ticket: u64,
    pub(super) op: FileOp,
    pub(super) reply: oneshot::Sender<Result<FileAnswer, Error>>,
}

/// One thing to do.
#[derive(Debug)]
pub(super) enum Job {
    Cell(Box<Queued>),
    File(FileJob),
}

/// The jobs that wait.
#[derive(Debug, Default)]
pub(super) struct Queue(VecDeque<Job>);

impl Waiter {
    pub(super) fn answer(self, answer: Result<CellResult, Error>) {
        // A client that is gone gets nothing.
        let _ = self.reply.send(answer);
    }
}

impl Queued {
    /// Answers everyone who waits.
    pub(super) fn refuse(self, error: &Error) {
        for waiter in self.also {
            waiter.answer(Err(error.clone()));
        }
        self.waiter.answer(Err(error.clone()));
    }

    /// Takes a request for a cell with the same key: it waits with this one, or is told that it is another.
    pub(super) fn join(&mut self, other: Queued) {
        let (mine, theirs) = (&self.cell, &other.cell);
        if (&mine.code, &mine.stdin, mine.artifacts) == (&theirs.code, &theirs.stdin, theirs.artifacts) {
            self.also.push(other.waiter);
        } else {
            other.refuse_key();
        }
    }

    pub(super) fn refuse_key(self) {
        let error = Error::KeyReused(self.cell.key.clone().unwrap_or_default());
        self.refuse(&error);
    }

    /// Takes a waiter with this ticket out, who is answered "cancelled"; the cell goes on.
    pub(super) fn leave(&mut self, ticket: u64) -> bool {
        let at = self.also.iter().position(|waiter| waiter.ticket == ticket);
        if let Some(at) = at {
            self.also.swap_remove(at).answer(Err(Error::Cancelled));
        }
        at.is_some()
    }
}

impl Job {
    pub(super) fn refuse(self, error: &Error) {
        match self {
            Self::Cell(queued) => queued.refuse(error),
            Self::File(job) => {
                let _ = job.reply.send(Err(error.clone()));
            }
        }
    }

    fn ticket(&self) -> u64 {
        match self {
            Self::Cell(queued) => queued.waiter.ticket,
            Self::File(job) => job.ticket,
        }
    }
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Puts a job at the end, or answers that there is no room.
    pub(super) fn push(&mut self, job: Job, max: usize) {
        if self.0.len() < max {
            self.0.push_back(job);
        } else {
            job.refuse(&Error::QueueFull { position: self.0.len() });
        }
    }

    pub(super) fn pop(&mut self) -> Option<Job> {
        self.0.pop_front()
    }

    /// The waiting cell with this key.
    pub(super) fn with_key(&mut self, key: &str) -> Option<&mut Queued> {
        self.0.iter_mut().find_map(|job| match job {
            Job::Cell(queued) if queued.cell.key.as_deref() == Some(key) => Some(&mut **queued),
            _ => None,
        })
    }

    /// Takes out what has this ticket, which is answered "cancelled".
    pub(super) fn cancel(&mut self, ticket: u64) {
        if let Some(at) = self.0.iter().position(|job| job.ticket() == ticket) {
            if let Some(job) = self.0.remove(at) {
                job.refuse(&Error::Cancelled);
            }
            return;
        }
        for job in &mut self.0 {
            if let Job::Cell(queued) = job
                && queued.leave(ticket)
            {
                return;
            }
        }
    }

    /// Answers everything that waits with the same error.
    pub(super) fn refuse_all(&mut self, error: &Error) {
        for job in self.0.drain(..) {
            job.refuse(error);
        }
    }
}
