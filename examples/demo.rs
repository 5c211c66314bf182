//! The main job on real input: a multi-cell analysis of the wine data set that scikit-learn ships, over stdio.
//!
//! Run by `make demo`. It drives the real `cellblock serve` as any client would and prints what goes both ways.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio},
};

use serde_json::{Value, json};

type Failure = Box<dyn std::error::Error>;

const LOAD: &str = "\
import pandas as pd
from sklearn.datasets import load_wine
wine = load_wine(as_frame=True)
df = wine.frame.assign(cultivar=wine.target.map(lambda n: wine.target_names[n]))
print(f'{len(df)} wines, {df.shape[1]} columns')";
const TABLE: &str = "df.groupby('cultivar')[['alcohol', 'color_intensity', 'proline']].agg(['mean', 'max']).round(2)";
const PLOT: &str = "\
import matplotlib.pyplot as plt, os
for name, group in df.groupby('cultivar'):
    plt.scatter(group['alcohol'], group['color_intensity'], label=name, s=12)
plt.xlabel('alcohol'); plt.ylabel('color intensity'); plt.legend()
plt.savefig('/workspace/wine.png')
f'/workspace/wine.png: {os.path.getsize(\"/workspace/wine.png\")} bytes'";

/// A `cellblock serve` that we started.
struct Client {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    next_id: u64,
}

fn main() -> ExitCode {
    match demo() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "demo: error: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Result<(), Failure> {
    let state = std::env::temp_dir().join(format!("cellblock-demo-{}", std::process::id()));
    let mut client = Client::start(&state)?;
    title("What serves: the engine runsc where it is installed, else Docker; ENGINE=docker shows the other")?;
    let info = client.call("server.info", &json!({}))?;
    let engine = info["engine"]["name"].as_str().ok_or("no engine")?.to_owned();
    title("A session: one gVisor container")?;
    let session = client.call("session.create", &json!({"runtime": "python", "timeout": "1m"}))?;
    let id = session["session_id"].as_str().ok_or("no session id")?.to_owned();
    title("What it is, measured before any code ran")?;
    let posture = client.call("session.posture", &json!({"session_id": id}))?;
    ensure(posture["strong"] == true, "the posture is strong")?;
    let container = posture["outside"]["container"].as_str().ok_or("no container")?.to_owned();

    let cell = |client: &mut Client, heading: &str, code: &str, more: Value| {
        title(heading)?;
        let mut params = json!({"session_id": id, "code": code});
        params.as_object_mut().ok_or("an object")?.extend(more.as_object().cloned().unwrap_or_default());
        client.call("cell.execute", &params)
    };
    ensure(cell(&mut client, "Load a real data set", LOAD, json!({}))?["status"] == "ok", "the data set is loaded")?;
    ensure(
        cell(&mut client, "Its variables live on: a table", TABLE, json!({}))?["status"] == "ok",
        "the table is made",
    )?;
    ensure(cell(&mut client, "A plot, written to a file", PLOT, json!({}))?["status"] == "ok", "the plot is written")?;
    let endless =
        cell(&mut client, "An endless cell, stopped by its timeout", "while True: pass", json!({"timeout": "1s"}))?;
    ensure(
        endless["status"] == "timeout" && endless["state"] == "preserved",
        "the endless cell was stopped and the state kept",
    )?;
    let still = cell(&mut client, "The data frame is still there", "df.shape", json!({}))?;
    ensure(still["result"]["data"]["text/plain"] == "(178, 15)", "the data frame is still there")?;
    let flood = cell(
        &mut client,
        "A flood of output, capped",
        "for n in range(10**6): print('line', n)",
        json!({"max_output": 200}),
    )?;
    ensure(flood["stdout"]["truncated"] == true, "the flood was capped")?;

    title("The end: nothing is left")?;
    ensure(!traces(&engine, &container)?.is_empty(), "the sandbox was there until now")?;
    let Client { mut child, stdin, stdout, .. } = client;
    drop((stdin, stdout));
    ensure(child.wait()?.success(), "the sidecar ended by itself at the end of its input")?;
    ensure(traces(&engine, &container)?.is_empty(), "its sandbox is gone")?;
    std::fs::remove_dir_all(state)?;
    let looked = if engine == "docker" { "`docker ps -a` shows no container" } else { "no process belongs to sandbox" };
    say(&format!("{looked} {}", &container[..12]))
}

/// What the host shows of a sandbox: the container, or the processes that name it.
fn traces(engine: &str, container: &str) -> Result<String, Failure> {
    if engine == "docker" {
        let filter = format!("id={container}");
        let output = Command::new("docker").args(["ps", "-aq", "--no-trunc", "--filter", &filter]).output()?;
        return Ok(String::from_utf8(output.stdout)?.trim().to_owned());
    }
    let mut found = String::new();
    for entry in std::fs::read_dir("/proc")? {
        // A process may end while it is being looked at.
        let command = std::fs::read(entry?.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains(container) {
            found.push_str(&command);
            found.push('\n');
        }
    }
    Ok(found)
}

impl Client {
    fn start(state: &std::path::Path) -> Result<Self, Failure> {
        // examples/demo stands beside the binary's folder.
        let binary: PathBuf = std::env::current_exe()?.ancestors().nth(2).ok_or("no target folder")?.join("cellblock");
        say(&format!("$ {} serve", binary.file_name().unwrap_or_default().display()))?;
        let mut command = Command::new(binary);
        command.args(["serve", "--log-level", "warn", "--memory", "1g", "--state-dir"]).arg(state);
        if let Ok(engine @ ("docker" | "runsc")) = std::env::var("ENGINE").as_deref() {
            command.args(["--engine", engine]);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdin = child.stdin.take().ok_or("no stdin")?;
        let stdout = BufReader::new(child.stdout.take().ok_or("no stdout")?);
        Ok(Self { child, stdin, stdout, next_id: 0 })
    }

    fn call(&mut self, method: &str, params: &Value) -> Result<Value, Failure> {
        self.next_id += 1;
        say(&format!("--> {method}"))?;
        show(params)?;
        let request = json!({"jsonrpc": "2.0", "id": self.next_id, "method": method, "params": params});
        writeln!(self.stdin, "{request}")?;
        let mut answer = Value::Null;
        // Notifications come between; this client has no use for them.
        while answer.get("id").is_none() {
            let mut line = String::new();
            self.stdout.read_line(&mut line)?;
            answer = serde_json::from_str(&line)?;
        }
        say("<--")?;
        if let Some(error) = answer.get("error") {
            show(error)?;
            return Err(error["message"].as_str().unwrap_or("an error").to_owned().into());
        }
        show(&answer["result"])?;
        Ok(answer["result"].take())
    }
}

/// Prints a value's fields a line each; texts as they are, and nothing that is empty.
fn show(value: &Value) -> Result<(), Failure> {
    let Some(fields) = value.as_object() else {
        return say(&format!("    {value}"));
    };
    for (key, value) in fields {
        match value {
            Value::Null => {}
            Value::String(text) if text.contains('\n') => {
                say(&format!("    {key}:\n      {}", text.replace('\n', "\n      ")))?;
            }
            Value::Object(inner) if inner.get("bytes") == Some(&json!(0)) => {}
            Value::Object(inner)
                if inner
                    .values()
                    .any(|value| value.is_object() || value.as_str().is_some_and(|text| text.contains('\n'))) =>
            {
                say(&format!("    {key}:"))?;
                show(value)?;
            }
            Value::Array(list) if list.iter().all(Value::is_object) => {
                say(&format!("    {key}:"))?;
                for item in list {
                    say(&format!("      {item}"))?;
                }
            }
            value => say(&format!("    {key}: {value}"))?,
        }
    }
    Ok(())
}

fn title(text: &str) -> Result<(), Failure> {
    say(&format!("\n== {text}"))
}

fn say(text: &str) -> Result<(), Failure> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

fn ensure(holds: bool, what: &str) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(format!("expected that {what}").into()) }
}
