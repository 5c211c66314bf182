//! No walls at all: the kernels in privileged containers that share every namespace with the host.
//!
//! Shows that the attacks work where nothing stops them. Speaks the kernel protocol (second half of protocol.md).

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use cellblock::runtime::Runtimes;
use serde_json::{Value, json};

use crate::host::{self, Host};

/// How long a container may take to start.
const START: Duration = Duration::from_secs(60);

/// The containers.
pub(crate) struct Naked {
    open: HashMap<String, Container>,
    /// What they share as /workspace, and Python's as /tmp too.
    shared: tempfile::TempDir,
    host: PathBuf,
    token: String,
    started: usize,
}

struct Container {
    name: String,
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<Value>,
    cells: u64,
}

impl Naked {
    pub(crate) fn new(host: &Host) -> Result<Self, String> {
        let shared = tempfile::tempdir().map_err(|error| error.to_string())?;
        let (folder, token) = (host.folder().to_owned(), host.token().to_owned());
        Ok(Self { open: HashMap::new(), shared, host: folder, token, started: 0 })
    }

    /// Starts a container with a kernel and returns its name.
    pub(crate) fn open(&mut self, runtime: &str) -> Result<String, String> {
        self.started += 1;
        let name = format!("cellblock-attacks-{}-{}", std::process::id(), self.started);
        let container =
            self.start(runtime, name.clone()).map_err(|error| format!("a container without walls: {error}"))?;
        self.open.insert(name.clone(), container);
        Ok(name)
    }

    fn start(&self, runtime: &str, name: String) -> Result<Container, String> {
        let runtimes = Runtimes::builtin();
        let runtime = runtimes.find(runtime).map_err(|error| error.to_string())?;
        let shared = self.shared.path().display();
        let mut docker = Command::new("docker");
        docker.args([
            "run",
            "--rm",
            "--interactive",
            "--name",
            &name,
            "--runtime",
            "runc",
            "--privileged",
            "--user",
            "0",
        ]);
        docker.args(["--network", "host", "--pid", "host", "--ipc", "host", "--uts", "host", "--cgroupns", "host"]);
        docker.args(["--volume", "/var/run/docker.sock:/var/run/docker.sock", "--workdir", "/workspace"]);
        docker.args(["--volume", &format!("{shared}:/workspace"), "--env", "HOME=/workspace"]);
        if runtime.name == "python" {
            docker.args(["--volume", &format!("{shared}:/tmp")]);
        }
        docker.args(["--volume", &format!("{0}:{0}", self.host.display())]);
        for variable in [host::VARIABLE, "PYTHONSTARTUP", "BASH_ENV"] {
            docker.args(["--env", &format!("{variable}={}", self.token)]);
        }
        docker.arg(&runtime.image).args(&runtime.command);
        let mut child =
            docker.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(|error| format!("docker: {error}"))?;
        let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("docker has no pipes".into());
        };
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let Ok(message) = serde_json::from_str(&line) else { continue };
                if sender.send(message).is_err() {
                    break;
                }
            }
        });
        let kernel = runtime.kernel.as_bytes();
        let header = format!("{}\n", kernel.len());
        stdin.write_all(header.as_bytes()).and_then(|()| stdin.write_all(kernel)).map_err(|error| error.to_string())?;
        let ready = lines.recv_timeout(START).map_err(|_| "no kernel")?;
        let container = Container { name, child, stdin, lines, cells: 0 };
        if ready["type"] == "ready" { Ok(container) } else { Err(format!("`{ready}` is not ready")) }
    }

    /// Runs a cell; the answer has the fields of a cell's result that cases look at.
    pub(crate) fn cell(&mut self, name: &str, code: &str, timeout: Duration) -> Result<Value, String> {
        let container = self.open.get_mut(name).ok_or("the container is gone")?;
        container.cells += 1;
        let execute = json!({
            "type": "execute", "cell": format!("c{}", container.cells), "count": container.cells, "code": code,
            "max_value": 65536, "max_media": 65536, "stdin": null,
        });
        let sent = writeln!(container.stdin, "{execute}").and_then(|()| container.stdin.flush());
        sent.map_err(|error| format!("the kernel does not read: {error}"))?;
        let deadline = std::time::Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            match container.lines.recv_timeout(left) {
                Ok(mut message) if message["type"] == "done" => {
                    message["state"] = "preserved".into();
                    message["ended_by"] = "completed".into();
                    return Ok(message);
                }
                Ok(_) => {}
                Err(_) => {
                    self.close(name);
                    return Ok(json!({"status": "timeout", "ended_by": "kill", "state": "lost"}));
                }
            }
        }
    }

    /// Removes a container.
    pub(crate) fn close(&mut self, name: &str) {
        self.open.remove(name);
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // By its name: ending the client alone would leave the container.
        let _ = Command::new("docker")
            .args(["rm", "--force", &self.name])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        let _ = self.child.wait();
    }
}
