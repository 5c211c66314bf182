//! A sidecar as a subprocess, driven over its standard input and output.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// How long any single answer may take before the test fails with the request.
const PATIENCE: Duration = Duration::from_secs(90);

/// A running `cellblock serve`; dropping it closes its input and waits until it has left nothing behind.
pub(crate) struct Sidecar {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<Value>,
    early: HashMap<String, Value>,
    next_id: u64,
    state_dir: Option<tempfile::TempDir>,
}

/// The engine that this run of the suite is about: `docker`, or `runsc` (the default), as `TEST_ENGINE` says.
pub(crate) fn engine() -> String {
    let engine = std::env::var("TEST_ENGINE").unwrap_or_else(|_| "runsc".to_owned());
    assert!(["docker", "runsc"].contains(&engine.as_str()), "TEST_ENGINE is `{engine}`; it must be docker or runsc");
    engine
}

/// The binary under test, with the engine under test.
pub(crate) fn cellblock() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cellblock"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CELLBLOCK_") || name == "ENABLE_SANDBOX") {
        command.env_remove(name);
    }
    command.env("CELLBLOCK_ENGINE", engine());
    command
}

/// What stands for the sandboxes of this state directory's supervisors: Docker's containers, or runsc's folders.
pub(crate) fn sandboxes(state: &Path) -> Vec<String> {
    if engine() == "runsc" {
        return folders(state)
            .iter()
            .flat_map(|instance| folders(instance))
            .map(|path| path.display().to_string())
            .collect();
    }
    let scope = std::fs::read_to_string(state.join("scope")).unwrap_or_default();
    let output =
        Command::new("docker").args(["ps", "-aq", "--filter", &format!("label=cellblock.scope={scope}")]).output();
    let output = output.expect("the docker client is there (scripts/setup installs it)");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// The processes of runsc's sandboxes of this state directory, as (id, command line).
pub(crate) fn processes(state: &Path) -> Vec<(u32, String)> {
    let all = std::fs::read_dir("/proc").expect("mounted").flatten();
    let all = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let named = all.filter_map(|pid: u32| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        Some((pid, String::from_utf8_lossy(&command).replace('\0', " ")))
    });
    named
        .filter(|(pid, command)| {
            *pid != std::process::id() && command.contains("runsc") && command.contains(&*state.to_string_lossy())
        })
        .collect()
}

fn folders(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.is_dir()).collect()
}

/// Waits until `done` holds.
#[track_caller]
pub(crate) fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not happen in {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl Sidecar {
    /// With a state directory of its own.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let state = tempfile::tempdir().expect("a folder");
        let mut sidecar = Self::with_state(state.path(), arguments);
        sidecar.state_dir = Some(state);
        sidecar
    }

    /// With a state directory that others share.
    pub(crate) fn with_state(state: &Path, arguments: &[&str]) -> Self {
        Self::with_command(cellblock(), state, arguments)
    }

    /// Started some other way.
    pub(crate) fn with_command(mut command: Command, state: &Path, arguments: &[&str]) -> Self {
        command.arg("serve").arg("--state-dir").arg(state).args(["--log-level", "warn"]).args(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the binary starts");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let value = serde_json::from_str(&line)
                    .unwrap_or_else(|error| panic!("stdout carries only JSON: {error}: {line}"));
                if sender.send(value).is_err() {
                    break;
                }
            }
        });
        let stdin = child.stdin.take();
        Self { child, stdin, lines, early: HashMap::new(), next_id: 0, state_dir: None }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends raw bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().expect("open");
        stdin.write_all(bytes).and_then(|()| stdin.flush()).expect("the sidecar reads");
    }

    /// The next message, whatever it answers.
    #[track_caller]
    pub(crate) fn read(&mut self) -> Value {
        self.lines.recv_timeout(PATIENCE).expect("an answer in time (is the stack there? `scripts/setup` installs it)")
    }

    /// Sends a request and returns its id.
    pub(crate) fn send(&mut self, method: &str, params: &Value) -> u64 {
        self.next_id += 1;
        let request = json!({"jsonrpc": "2.0", "id": self.next_id, "method": method, "params": params});
        self.write(format!("{request}\n").as_bytes());
        self.next_id
    }

    /// The whole answer to a request.
    #[track_caller]
    pub(crate) fn answer(&mut self, id: u64) -> Value {
        loop {
            if let Some(answer) = self.early.remove(&id.to_string()) {
                return answer;
            }
            let answer = self.read();
            self.early.insert(answer["id"].to_string(), answer);
        }
    }

    /// A request's result; fails on an error.
    #[track_caller]
    pub(crate) fn call(&mut self, method: &str, params: &Value) -> Value {
        let id = self.send(method, params);
        let answer = self.answer(id);
        assert!(
            answer.get("error").is_none(),
            "{method} {params}: {answer}\n(`scripts/setup` installs what is missing)"
        );
        answer["result"].clone()
    }

    /// A request's error; fails on a result.
    #[track_caller]
    pub(crate) fn fail(&mut self, method: &str, params: &Value) -> Value {
        let id = self.send(method, params);
        let answer = self.answer(id);
        assert!(answer.get("error").is_some(), "{method} {params}: {answer}");
        answer["error"].clone()
    }

    /// Opens a session and returns its id.
    #[track_caller]
    pub(crate) fn session(&mut self, runtime: &str) -> String {
        let session = self.call("session.create", &json!({"runtime": runtime}));
        session["session_id"].as_str().expect("an id").to_owned()
    }

    /// Runs a cell.
    #[track_caller]
    pub(crate) fn cell(&mut self, session: &str, code: &str) -> Value {
        self.call("cell.execute", &json!({"session_id": session, "code": code}))
    }

    /// Runs a cell with a timeout.
    #[track_caller]
    pub(crate) fn timed(&mut self, session: &str, code: &str, timeout: &str) -> Value {
        self.call("cell.execute", &json!({"session_id": session, "code": code, "timeout": timeout}))
    }

    /// Closes standard input and returns what is still answered, and the exit status.
    pub(crate) fn finish(mut self) -> (Vec<Value>, std::process::ExitStatus) {
        drop(self.stdin.take());
        let rest = std::iter::from_fn(|| self.lines.recv_timeout(PATIENCE).ok()).collect();
        (rest, self.child.wait().expect("it ends"))
    }

    /// Ends it as the machine would, without any last word.
    pub(crate) fn kill_9(mut self) {
        self.child.kill().expect("it lives");
        self.child.wait().expect("it ends");
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

/// A file in a fresh folder, which lives as long as the first part.
pub(crate) fn file(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(name);
    std::fs::write(&path, text).expect("a file");
    (folder, path)
}

/// Ends a sidecar that serves a socket: it does not end with its input.
pub(crate) fn terminate(sidecar: Sidecar) {
    Command::new("kill").arg(sidecar.pid().to_string()).status().expect("kill");
    drop(sidecar);
}
