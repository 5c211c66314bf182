//! `make bench`: round trips and starts beside the engine's own floors, in one run.
//!
//! Ratios are what counts: these machines are noisy, but the rows of one run share the noise.

use std::{
    io::{BufRead as _, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

const ROUND_TRIPS: usize = 1000;
const STARTS: usize = 10;

/// A line-echo program: what any kernel in Python can at best be.
const ECHO: &str =
    "import os\nwhile True:\n    line = os.read(0, 65536)\n    if not line: break\n    os.write(1, line)";

struct Peer {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Peer {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let stdin = child.stdin.take().expect("piped");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, stdin, stdout }
    }

    fn ask(&mut self, line: &str) -> String {
        writeln!(self.stdin, "{line}").expect("written");
        let mut answer = String::new();
        // The end of a session is told before the request that ends it is answered.
        while answer.is_empty() || answer.contains("\"method\":\"session.closed\"") {
            answer.clear();
            assert!(self.stdout.read_line(&mut answer).expect("answered") > 0, "it ended");
        }
        answer
    }

    fn finish(self) {
        let Self { mut child, stdin, .. } = self;
        drop(stdin);
        child.wait().expect("it ends");
    }
}

/// Median and 99th percentile.
fn measure(times: usize, mut action: impl FnMut()) -> (Duration, Duration) {
    let mut durations: Vec<_> = (0..times)
        .map(|_| {
            let start = Instant::now();
            action();
            start.elapsed()
        })
        .collect();
    durations.sort();
    (durations[times / 2], durations[times * 99 / 100])
}

fn docker_echo() -> Command {
    let mut command = Command::new("docker");
    command.args([
        "run",
        "--rm",
        "-i",
        "--runtime=runsc",
        "--network=none",
        "--read-only",
        "--cap-drop=ALL",
        "--security-opt",
        "seccomp=unconfined",
    ]);
    command.args(["--cpus=1", "--memory=512m", "-u", "65534:65534", "cellblock/python", "python3", "-S", "-c", ECHO]);
    command
}

fn request(method: &str, params: &Value) -> String {
    json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string()
}

fn main() {
    let mut out = std::io::stdout();
    writeln!(out, "| what | p50 ms | p99 ms | p50 to its floor |\n|---|---|---|---|").expect("printed");
    let mut row = |name: &str, (p50, p99): (Duration, Duration), floor: Duration| {
        let ratio = p50.as_secs_f64() / floor.as_secs_f64();
        writeln!(out, "| {name} | {:.3} | {:.3} | {ratio:.2} |", p50.as_secs_f64() * 1e3, p99.as_secs_f64() * 1e3)
            .expect("printed");
    };
    let mut echo = Peer::start(&mut docker_echo());
    echo.ask("warm up");
    let state = std::env::temp_dir().join(format!("cellblock-bench-{}", std::process::id()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_cellblock"));
    let mut sidecar = Peer::start(command.args(["serve", "--log-level", "error", "--state-dir"]).arg(&state));
    let open = |sidecar: &mut Peer, runtime: &str| {
        let answer: Value =
            serde_json::from_str(&sidecar.ask(&request("session.create", &json!({"runtime": runtime})))).expect("JSON");
        answer["result"]["session_id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    };
    let cell = |session: &str, code: &str| request("cell.execute", &json!({"session_id": session, "code": code}));
    let (python, node) = (open(&mut sidecar, "python"), open(&mut sidecar, "nodejs"));
    let (python, node) = (cell(&python, "1 + 1"), cell(&node, "1 + 1"));
    for line in [&python, &node] {
        (0..20).for_each(|_| drop(sidecar.ask(line)));
    }
    let floor = measure(ROUND_TRIPS, || drop(echo.ask("1 + 1")));
    row("line echo through `docker run -i` (floor)", floor, floor.0);
    row("trivial cell, Python", measure(ROUND_TRIPS, || drop(sidecar.ask(&python))), floor.0);
    row("trivial cell, Node.js", measure(ROUND_TRIPS, || drop(sidecar.ask(&node))), floor.0);
    echo.finish();
    let floor = measure(STARTS, || {
        let mut echo = Peer::start(&mut docker_echo());
        echo.ask("up");
        echo.child.kill().expect("alive");
        echo.child.wait().expect("ends");
    });
    row("`docker run -i` to the first echoed line (floor)", floor, floor.0);
    for runtime in ["python", "nodejs"] {
        let mut opened = Vec::new();
        let times = measure(STARTS, || opened.push(open(&mut sidecar, runtime)));
        row(&format!("session.create, {runtime}"), times, floor.0);
        for session in opened {
            sidecar.ask(&request("session.close", &json!({"session_id": session})));
        }
    }
    sidecar.finish();
    let _ = std::fs::remove_dir_all(state);
}
