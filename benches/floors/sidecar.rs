//! `cellblock serve` as its clients see it.

use std::{path::Path, process::Command, time::Instant};

use serde_json::{Value, json};

use crate::{
    process::Process,
    table::{Measure, timed},
};

/// A server with a state folder of its own.
pub(crate) struct Sidecar {
    process: Process,
    state: tempfile::TempDir,
}

impl Sidecar {
    /// With these options of `cellblock serve`.
    pub(crate) fn start(options: &[&str]) -> Self {
        let state = tempfile::tempdir().expect("a folder");
        let mut command = Command::new(env!("CARGO_BIN_EXE_cellblock"));
        command.args(["serve", "--log-level", "error", "--state-dir"]).arg(state.path()).args(options);
        Self { process: Process::start(&mut command), state }
    }

    /// The label's value that its containers carry.
    pub(crate) fn scope(&self) -> String {
        std::fs::read_to_string(self.state.path().join("scope")).expect("it is up")
    }

    /// The state folder.
    pub(crate) fn state(&self) -> &Path {
        self.state.path()
    }

    fn ask(&mut self, line: &str) -> Value {
        let mut answer: Value = serde_json::from_str(&self.process.ask(line)).expect("JSON");
        // The end of a session is told before the request that ends it is answered.
        while answer.get("method").is_some() {
            answer = serde_json::from_str(&self.process.read()).expect("JSON");
        }
        assert!(answer["error"].is_null(), "{answer}");
        answer
    }

    /// Opens a session and returns its id.
    pub(crate) fn open(&mut self, runtime: &str) -> String {
        let answer = self.ask(&request("session.create", &json!({"runtime": runtime})));
        answer["result"]["session_id"].as_str().expect("an id").to_owned()
    }

    /// What names a session's processes on the host.
    pub(crate) fn container(&mut self, session: &str) -> String {
        let answer = self.ask(&request("session.posture", &json!({"session_id": session})));
        answer["result"]["outside"]["container"].as_str().expect("a name").to_owned()
    }
}

fn request(method: &str, params: &Value) -> String {
    json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string()
}

/// A trivial cell in an open session.
pub(crate) fn cells(runtime: &str, options: &[&str]) -> Measure {
    let mut sidecar = Sidecar::start(options);
    let session = sidecar.open(runtime);
    let cell = request("cell.execute", &json!({"session_id": session, "code": "1 + 1"}));
    timed(move || drop(sidecar.process.ask(&cell)))
}

/// `session.create`; the session's end is not counted.
pub(crate) fn opens(runtime: &'static str, options: &[&str]) -> Measure {
    let mut sidecar = Sidecar::start(options);
    Box::new(move |times| {
        let once = |_| {
            let start = Instant::now();
            let session = sidecar.open(runtime);
            let took = start.elapsed();
            sidecar.ask(&request("session.close", &json!({"session_id": session})));
            took
        };
        (0..times).map(once).collect()
    })
}
