//! The cellblock under attack: one that the suite starts, or one that runs already.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{client::Client, host};

/// How long a sidecar may take until it listens.
const START: Duration = Duration::from_secs(30);
/// Small limits, so that bombs are over soon.
const LIMITS: [&str; 14] = [
    "--memory",
    "256m",
    "--disk",
    "32m",
    "--processes",
    "64",
    "--grace",
    "1s",
    "--max-line",
    "1m",
    "--max-queue",
    "4",
    "--drain-timeout",
    "1s",
];

/// A cellblock and our first connection to it.
pub(crate) struct Sidecar {
    client: Client,
    socket: Option<PathBuf>,
    own: Option<Own>,
}

/// What there is to see of a sidecar of our own.
struct Own {
    child: Child,
    folder: tempfile::TempDir,
}

impl Sidecar {
    /// Starts one with small limits, with a secret and hostile variables in its own environment.
    pub(crate) fn start(engine: &str, runtime: Option<&str>, token: &str) -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let socket = folder.path().join("socket");
        let mut command = Command::new(env!("CARGO_BIN_EXE_cellblock"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CELLBLOCK_") || name == "ENABLE_SANDBOX")
        {
            command.env_remove(name);
        }
        command.args(["serve", "--engine", engine, "--log-level", "error", "--socket"]).arg(&socket);
        command.arg("--state-dir").arg(folder.path().join("state")).args(LIMITS);
        command.args(runtime.map(|name| ["--runtime", name]).into_iter().flatten());
        command
            .env(host::VARIABLE, token)
            .env("PYTHONSTARTUP", token)
            .env("NODE_OPTIONS", token)
            .env("BASH_ENV", token);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().map_err(|error| error.to_string())?;
        let mut own = Own { child, folder };
        let deadline = Instant::now() + START;
        loop {
            if let Ok(client) = Client::connect(&socket) {
                return Ok(Self { client, socket: Some(socket), own: Some(own) });
            }
            if let Ok(Some(status)) = own.child.try_wait() {
                return Err(format!("cellblock ended with {status} (`scripts/setup` installs what is missing)"));
            }
            if Instant::now() > deadline {
                return Err(format!("cellblock does not listen after {START:?}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// One that listens on a socket.
    pub(crate) fn connect(socket: &Path) -> Result<Self, String> {
        let client = Client::connect(socket).map_err(|error| format!("{}: {error}", socket.display()))?;
        Ok(Self { client, socket: Some(socket.to_owned()), own: None })
    }

    /// One that a command starts.
    pub(crate) fn spawn(command: &[String]) -> Result<Self, String> {
        let client = Client::spawn(command).map_err(|error| format!("{}: {error}", command.join(" ")))?;
        Ok(Self { client, socket: None, own: None })
    }

    pub(crate) fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Another connection; over standard input and output there is none.
    pub(crate) fn another(&self) -> Result<Client, String> {
        let socket = self.socket.as_ref().ok_or("one connection is all there is over standard input and output")?;
        Client::connect(socket).map_err(|error| format!("a second connection: {error}"))
    }

    /// Where it listens; nowhere over standard input and output.
    pub(crate) fn socket(&self) -> Option<&Path> {
        self.socket.as_deref()
    }

    /// The process of our own sidecar, and where it keeps its state.
    pub(crate) fn own(&self) -> Option<(u32, PathBuf)> {
        self.own.as_ref().map(|own| (own.child.id(), own.folder.path().join("state")))
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // SIGTERM, so that it removes its sandboxes; without the process there is nothing to end.
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}
