//! One running cell: its output, its account, and the result that they make.

use std::time::Instant;

use super::{
    actor::Queued,
    state::{Ending, Finish, Ladder},
};
use crate::{
    engine::Exit,
    kernel::wire::{Done, DoneStatus, StreamName},
    output::CappedOutput,
    protocol::{CellError, CellResult},
};

/// A cell that the kernel has.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) queued: Queued,
    pub(super) id: String,
    pub(super) count: u64,
    pub(super) ladder: Ladder,
    pub(super) started: Instant,
    stdout: CappedOutput,
    stderr: CappedOutput,
    done: Option<Done>,
    /// Why the sandbox ended, when it did.
    pub(super) lost: Option<CellError>,
    pub(super) exit_code: Option<i32>,
}

impl Running {
    pub(super) fn new(queued: Queued, count: u64) -> Self {
        let cap = queued.cell.max_output;
        Self {
            queued,
            id: format!("c{count}"),
            count,
            ladder: Ladder::default(),
            started: Instant::now(),
            stdout: CappedOutput::new(cap),
            stderr: CappedOutput::new(cap),
            done: None,
            lost: None,
            exit_code: None,
        }
    }

    pub(super) fn output(&mut self, name: StreamName, bytes: &[u8]) {
        match name {
            StreamName::Stdout => self.stdout.push(bytes),
            StreamName::Stderr => self.stderr.push(bytes),
        }
    }

    /// Keeps the kernel's account and says what the ladder needs of it.
    pub(super) fn done(&mut self, done: Done) -> Finish {
        let finish = Finish {
            error: done.status == DoneStatus::Error,
            interrupted: done.interrupted,
            exit: done.exit_code.is_some(),
        };
        self.exit_code = done.exit_code;
        self.done = Some(done);
        finish
    }

    /// Says how the sandbox ended under this cell.
    pub(super) fn gone(&mut self, exit: Exit, broken: Option<&str>) {
        self.exit_code = exit.code;
        let (name, message) = match (exit, broken) {
            (Exit { oom: true, .. }, _) => {
                ("OutOfMemory", "the sandbox went over its memory limit and was ended".to_owned())
            }
            (_, Some(reason)) => {
                ("ProtocolViolation", format!("the sandbox was ended because its kernel sent {reason}"))
            }
            (Exit { code: Some(code), .. }, _) if code > 128 => {
                ("KernelDied", format!("the kernel's process was ended by signal {}", code - 128))
            }
            (Exit { code: Some(code), .. }, _) => {
                ("KernelDied", format!("the kernel's process ended with exit code {code}"))
            }
            (Exit { code: None, .. }, _) => (
                "KernelDied",
                "the connection to the kernel's process ended: the process closed it or was replaced, or the engine went away; its sandbox was ended".to_owned(),
            ),
        };
        self.lost = Some(CellError { name: name.to_owned(), message, traceback: Vec::new() });
    }

    /// Answers the request; a client that is gone gets nothing.
    pub(super) fn answer(self, ending: Ending, generation: u64) {
        let done = self.done;
        let result = CellResult {
            cell_id: self.id,
            execution_count: self.count,
            status: ending.status,
            stdout: self.stdout.finish(),
            stderr: self.stderr.finish(),
            cpu_ms: done.as_ref().map(|done| done.cpu_ms),
            memory_peak: done.as_ref().and_then(|done| done.memory_peak),
            exit_code: self.exit_code,
            duration_ms: self.started.elapsed().as_secs_f64() * 1e3,
            state: ending.state,
            generation,
            ended_by: ending.ended_by,
            error: self.lost.or_else(|| done.as_ref().and_then(|done| done.error.clone())),
            result: done.and_then(|done| done.result),
        };
        let _ = self.queued.reply.send(Ok(result));
    }
}
