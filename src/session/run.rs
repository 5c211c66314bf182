//! One call in a sandbox that nobody used before and nobody will use again.
//!
//! The code is a cell; where it defines a `main`, a second cell, which the runtime's manifest writes, calls it. What
//! `main` returns comes as that cell's value and so cannot be forged by prints.

use std::{sync::Arc, time::Duration};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::{
    Cell, Opening, Registry, Session,
    files::{FileAnswer, FileOp, FilePath, MAX_READ},
};
use crate::{
    error::Error,
    protocol::{Artifact, CellError, CellResult, CellStatus, RunResult},
};

/// The largest artifact whose content is returned, bytes.
const MAX_ARTIFACT: u64 = 10 << 20;
/// The most bytes of content that are returned for all artifacts of a call.
const MAX_ARTIFACTS: u64 = 32 << 20;
/// The least time that is left for `main`, however long the code took.
const LEAST: Duration = Duration::from_millis(1);

/// A call.
#[derive(Debug)]
pub struct OneShot {
    /// Its sandbox.
    pub opening: Opening,
    /// The program.
    pub code: String,
    /// What `main` is called with.
    pub arguments: serde_json::Map<String, serde_json::Value>,
    /// Files that are there before it runs.
    pub files: Vec<(FilePath, Vec<u8>)>,
    /// What the standard input of the code holds.
    pub stdin: Option<String>,
    /// Whether the files that it created or changed are returned.
    pub artifacts: bool,
}

/// What the manifest's `call` gives.
#[derive(Deserialize)]
struct Returned {
    called: bool,
    /// `null` is a value, too.
    #[serde(default, deserialize_with = "some")]
    value: Option<Box<RawValue>>,
}

fn some<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::deserialize(deserializer).map(Some)
}

/// Closes the sandbox when the call is over or was dropped, while nobody waits.
struct Closing(Session);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close_behind();
    }
}

impl Registry {
    /// Carries a call out; its sandbox is removed behind the answer.
    ///
    /// # Errors
    /// When the code did not start.
    pub async fn run(self: &Arc<Self>, one: OneShot, cancelled: &CancellationToken) -> Result<RunResult, Error> {
        let OneShot { opening, code, arguments, files, stdin, artifacts } = one;
        let (limits, template) = (opening.limits, opening.runtime.call.clone());
        let session = self.open(opening)?;
        let _closing = Closing(session.clone());
        tokio::select! {
            ready = session.ready() => ready.map(|_| ())?,
            () = cancelled.cancelled() => return Err(Error::Cancelled),
        }
        session.put(files, cancelled).await?;
        let max_output = usize::try_from(limits.max_output.0).unwrap_or(usize::MAX);
        let cell = Cell { stdin, artifacts, ..Cell::new(code, limits.timeout.0, max_output) };
        let first = session.execute(cell)?.answer_or_cancel(cancelled).await?;
        let mut result = RunResult::from(first);
        if let (CellStatus::Ok, None, Some(template)) = (result.status, result.exit_code, template) {
            let code = call_main(&template, &arguments);
            let spent = Duration::from_secs_f64(result.duration_ms.max(0.0) / 1e3);
            let kept = result.stdout.kept().max(result.stderr.kept());
            let room = max_output.saturating_sub(usize::try_from(kept).unwrap_or(usize::MAX));
            let cell = Cell { artifacts, ..Cell::new(code, limits.timeout.0.saturating_sub(spent).max(LEAST), room) };
            let second = session.execute(cell)?.answer_or_cancel(cancelled).await?;
            result = result.then(second);
        }
        if let Some(files) = &mut result.artifacts {
            fetch(&session, files).await;
        }
        Ok(result)
    }
}

impl Session {
    /// Writes files, one after the other.
    ///
    /// # Errors
    /// When one cannot be written; those before it are.
    pub async fn put(&self, files: Vec<(FilePath, Vec<u8>)>, cancelled: &CancellationToken) -> Result<(), Error> {
        for (path, data) in files {
            let write = FileOp::Write { path, offset: 0, truncate: true, data };
            self.file(write)?.answer_or_cancel(cancelled).await?;
        }
        Ok(())
    }
}

/// The cell that calls `main`. A JSON string is a string literal in every language that we know.
fn call_main(template: &str, arguments: &serde_json::Map<String, serde_json::Value>) -> String {
    let text = serde_json::Value::Object(arguments.clone()).to_string();
    template.replace("{arguments}", &serde_json::Value::String(text).to_string())
}

/// Reads the contents of what was found, as far as the limits go.
async fn fetch(session: &Session, files: &mut [Artifact]) {
    let mut left = MAX_ARTIFACTS;
    for file in files.iter_mut().filter(|file| file.size <= MAX_ARTIFACT) {
        let Ok(path) = FilePath::parse(&file.path) else { continue };
        if file.size > left {
            continue;
        }
        let mut content = Vec::new();
        let whole = loop {
            let op = FileOp::Read { path: path.clone(), offset: content.len() as u64, length: MAX_READ };
            let Ok(mut reading) = session.file(op) else { break false };
            let Ok(FileAnswer::Read(data, size)) = reading.answer().await else { break false };
            content.extend_from_slice(&data);
            // A file that still grows is cut at the size that it was found with.
            if data.is_empty() || content.len() as u64 >= size.min(file.size) {
                break true;
            }
        };
        if whole {
            content.truncate(usize::try_from(file.size).unwrap_or(usize::MAX));
            left -= content.len() as u64;
            file.base64 = Some(BASE64_STANDARD.encode(content));
        }
    }
}

impl From<CellResult> for RunResult {
    fn from(cell: CellResult) -> Self {
        Self {
            status: cell.status,
            called: false,
            value: None,
            stdout: cell.stdout,
            stderr: cell.stderr,
            result: cell.result,
            displays: cell.displays,
            displays_dropped: cell.displays_dropped,
            error: cell.error,
            exit_code: cell.exit_code,
            artifacts: cell.artifacts,
            artifacts_truncated: cell.artifacts_truncated,
            duration_ms: cell.duration_ms,
            cpu_ms: cell.cpu_ms,
            memory_peak: cell.memory_peak,
            ended_by: cell.ended_by,
        }
    }
}

impl RunResult {
    /// The result of the code, and then of the call of `main`.
    fn then(mut self, mut call: CellResult) -> Self {
        let returned = call.result.take();
        self.called = true;
        if call.status == CellStatus::Ok && call.exit_code.is_none() {
            let json = returned.as_ref().and_then(|value| value.data.get("application/json"));
            if let Some(Ok(Returned { called, value })) = json.map(|json| serde_json::from_str(json)) {
                (self.called, self.value) = (called, value);
            } else {
                call.status = CellStatus::Error;
                call.error = Some(no_value(returned.is_some_and(|value| value.dropped > 0)));
            }
        }
        self.status = call.status;
        self.ended_by = call.ended_by;
        self.stdout = self.stdout.then(&call.stdout);
        self.stderr = self.stderr.then(&call.stderr);
        self.displays.extend(call.displays);
        self.displays_dropped += call.displays_dropped;
        self.error = call.error;
        self.exit_code = call.exit_code;
        self.duration_ms += call.duration_ms;
        self.cpu_ms = self.cpu_ms.zip(call.cpu_ms).map(|(one, two)| one + two);
        self.memory_peak = call.memory_peak;
        if let (Some(before), Some(now)) = (&mut self.artifacts, call.artifacts) {
            before.retain(|old| now.iter().all(|new| new.path != old.path));
            before.extend(now);
            before.sort_by(|one, two| one.path.cmp(&two.path));
        }
        self.artifacts_truncated = self.artifacts_truncated.zip(call.artifacts_truncated).map(|(one, two)| one | two);
        self
    }
}

fn no_value(too_large: bool) -> CellError {
    let (name, message) = if too_large {
        ("ValueTooLarge", "what main() returned is larger than `max_media`")
    } else {
        ("NoValue", "what main() returned did not come as JSON")
    };
    CellError { name: name.to_owned(), message: message.to_owned(), traceback: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_a_literal_whatever_they_hold() {
        let arguments = serde_json::json!({"a": "\"quoted\" {arguments} \u{1}\u{2028}\n"});
        let code = call_main("main({arguments})", arguments.as_object().expect("an object"));
        let literal = code.strip_prefix("main(").and_then(|code| code.strip_suffix(')')).expect("one literal");
        let text: String = serde_json::from_str(literal).expect("a JSON string");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).expect("JSON"), arguments);
        assert!(!code.contains('\n'));
    }
}
