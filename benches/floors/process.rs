//! A child process that answers each line with a line: `docker run -i`, and the base of `sidecar` and `runsc`.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use crate::{
    ECHO,
    table::{Measure, timed},
};

/// Ends, with its input closed, when dropped.
pub(crate) struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, stdin, stdout }
    }

    pub(crate) fn ask(&mut self, line: &str) -> String {
        // One write, as the engine does: a line in two parts finds the second time a reader that is still awake.
        self.stdin.as_mut().expect("open").write_all(format!("{line}\n").as_bytes()).expect("written");
        self.read()
    }

    /// The next line.
    pub(crate) fn read(&mut self) -> String {
        let mut answer = String::new();
        self.stdout.read_line(&mut answer).expect("answered");
        answer
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

fn docker_echo() -> Process {
    let mut command = Command::new("docker");
    command.args(["run", "--rm", "-i", "--runtime=runsc", "--network=none", "--read-only", "--cap-drop=ALL"]);
    command.args(["--security-opt", "seccomp=unconfined", "--cpus=1", "--memory=512m", "-u", "65534:65534"]);
    Process::start(command.args(["cellblock/python", "python3", "-S", "-c", ECHO]))
}

/// A line to the echo program and back.
pub(crate) fn docker_round_trips() -> Measure {
    round_trips(docker_echo())
}

/// From the command to the first echoed line; its end is not counted.
pub(crate) fn docker_starts() -> Measure {
    starts(docker_echo)
}

/// A line to a running echo program and back.
pub(crate) fn round_trips(mut echo: Process) -> Measure {
    timed(move || drop(echo.ask("1 + 1")))
}

/// From the start of an echo program to its first line.
pub(crate) fn starts(mut start_one: impl FnMut() -> Process + 'static) -> Measure {
    Box::new(move |times| {
        let once = |_| {
            let start = std::time::Instant::now();
            let mut echo = start_one();
            echo.ask("up");
            start.elapsed()
        };
        (0..times).map(once).collect()
    })
}
