//! One running cell: its output, its account, and the result that they make.

use std::time::Instant;

use super::{
    artifacts::{Changes, Snapshot},
    queue::Queued,
    state::{Ending, Finish, Ladder},
};
use crate::{
    engine::Exit,
    kernel::wire::{Done, DoneStatus, StreamName},
    output::CappedOutput,
    protocol::{CellError, CellResult, State, Value},
};

/// Displays in one result.
pub(super) const MAX_DISPLAYS: usize = 256;
/// Bytes of all displays in one result.
pub(super) const MAX_DISPLAY_BYTES: usize = 16 << 20;

/// A cell that the kernel has.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) queued: Queued,
    pub(super) id: String,
    pub(super) count: u64,
    pub(super) ladder: Ladder,
    pub(super) started: Instant,
    /// The files before it ran, when the changed ones are asked for.
    pub(super) before: Option<Snapshot>,
    pub(super) changes: Option<Changes>,
    stdout: CappedOutput,
    stderr: CappedOutput,
    displays: Vec<Value>,
    display_bytes: usize,
    displays_dropped: u64,
    done: Option<Done>,
    /// Wall time until the kernel's account, or until the sandbox was given up.
    duration: Option<std::time::Duration>,
    /// Why the sandbox ended, when it did.
    pub(super) lost: Option<CellError>,
    pub(super) exit_code: Option<i32>,
}

impl Running {
    /// The `number`th cell of its session and the `count`th of this generation.
    pub(super) fn new(queued: Queued, number: u64, count: u64) -> Self {
        let cap = queued.cell.max_output;
        Self {
            queued,
            id: format!("c{number}"),
            count,
            ladder: Ladder::default(),
            started: Instant::now(),
            before: None,
            changes: None,
            stdout: CappedOutput::new(cap),
            stderr: CappedOutput::new(cap),
            displays: Vec::new(),
            display_bytes: 0,
            displays_dropped: 0,
            done: None,
            duration: None,
            lost: None,
            exit_code: None,
        }
    }

    /// Keeps a display if the limits allow it.
    pub(super) fn display(&mut self, value: Value) -> Option<&Value> {
        let bytes: usize = value.data.iter().map(|(kind, text)| kind.len() + text.len()).sum();
        if self.displays.len() == MAX_DISPLAYS || self.display_bytes + bytes > MAX_DISPLAY_BYTES {
            self.displays_dropped += 1;
            return None;
        }
        self.display_bytes += bytes;
        self.displays.push(value);
        self.displays.last()
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

    /// The cell's own time is over; what is done after it does not count.
    pub(super) fn stopped(&mut self) {
        self.duration = Some(self.started.elapsed());
    }

    /// The result, and who waits for it.
    pub(super) fn finish(self, ending: Ending, generation: u64) -> (Queued, CellResult) {
        let done = self.done;
        // A lost sandbox has lost its files, too.
        let changes = self
            .queued
            .cell
            .artifacts
            .then(|| self.changes.filter(|_| ending.state == State::Preserved).unwrap_or_default());
        let (artifacts, artifacts_truncated) = changes.map(|changes| (changes.files, changes.truncated)).unzip();
        let result = CellResult {
            cell_id: self.id,
            execution_count: self.count,
            status: ending.status,
            stdout: self.stdout.finish(),
            stderr: self.stderr.finish(),
            displays: self.displays,
            displays_dropped: self.displays_dropped,
            cpu_ms: done.as_ref().map(|done| done.cpu_ms),
            memory_peak: done.as_ref().and_then(|done| done.memory_peak),
            exit_code: self.exit_code,
            artifacts,
            artifacts_truncated,
            duration_ms: self.duration.unwrap_or_else(|| self.started.elapsed()).as_secs_f64() * 1e3,
            state: ending.state,
            generation,
            ended_by: ending.ended_by,
            error: self.lost.or_else(|| done.as_ref().and_then(|done| done.error.clone())),
            result: done.and_then(|done| done.result),
        };
        (self.queued, result)
    }
}
