//! Hostile code that speaks as its kernel, on the kernel's private descriptor: whatever it says is believed of its own
//! session at most, and is bounded.

use serde_json::{Value, json};

use crate::harness::Sidecar;

/// Writes a line where the Python kernel writes its messages.
const SAY: &str = "
import json, os, signal, time
def say(message):
    data = message if isinstance(message, bytes) else json.dumps(message).encode()
    data += b'\\n'
    while data: data = data[os.write(201, data):]
def done(cell, **fields):
    return {'type': 'done', 'cell': cell, 'status': 'ok', 'interrupted': False, 'result': None, 'error': None,
            'exit_code': None, 'cpu_ms': 0, 'memory_peak': None, **fields}
";

/// A session that must notice nothing, beside one that attacks.
struct Victim {
    sidecar: Sidecar,
    kept: String,
    attacker: String,
}

impl Victim {
    fn start() -> Self {
        let mut sidecar = Sidecar::start(&["--grace", "1s"]);
        let (kept, attacker) = (sidecar.session("python"), sidecar.session("python"));
        sidecar.cell(&kept, "kept = 7");
        Self { sidecar, kept, attacker }
    }

    /// Runs hostile code as the second cell of a sandbox that is fresh the first time, and after each loss.
    #[track_caller]
    fn attack(&mut self, code: &str) -> Value {
        let prepared = self.sidecar.cell(&self.attacker, SAY);
        assert_eq!((&prepared["status"], &prepared["execution_count"]), (&json!("ok"), &json!(1)), "{prepared}");
        let before: u64 = prepared["cell_id"].as_str().and_then(|id| id[1..].parse().ok()).expect("c and a number");
        let names = format!("BEFORE, THIS = 'c{before}', 'c{}'", before + 1);
        self.sidecar.timed(&self.attacker, &format!("{names}\n{code}"), "2s")
    }

    /// The other session has its variables, and the attacker's goes on, at the cost of one more sandbox at most.
    #[track_caller]
    fn unharmed(&mut self) {
        let result = self.sidecar.cell(&self.kept, "kept");
        assert_eq!((&result["result"]["data"]["text/plain"], &result["generation"]), (&json!("7"), &json!(1)));
        let first = self.sidecar.timed(&self.attacker, "1 + 1", "2s");
        let result = if first["state"] == "lost" { self.sidecar.cell(&self.attacker, "1 + 1") } else { first };
        assert_eq!(result["result"]["data"]["text/plain"], "2", "{result}");
    }
}

#[test]
fn what_is_no_message_of_the_running_cell_ends_the_sandbox() {
    let mut victim = Victim::start();
    for code in [
        "say(b'rubbish')",
        "say(b'x' * (9 << 20))",
        "say(b'[' * 100000)",
        "say({'type': 'ready', 'protocol': 1, 'kernel': 'python', 'version': '3', 'probe': {}})",
        "say(done(BEFORE))",
        "say({'type': 'stream', 'cell': 'c9', 'name': 'stdout', 'text': 'x'})",
        "say({'type': 'stream', 'cell': THIS, 'name': 'stdout', 'data': '?'})",
        "say(done(THIS, result={'data': {'text/plain': 'x' * (2 << 20)}}))",
        "say(done(THIS, result={'data': {str(n): '' for n in range(100000)}}))",
        "say(done(THIS, error={'name': 'E', 'message': '', 'traceback': ['x'] * 1000000}))",
        "say(done(THIS, cpu_ms=float('inf')))",
    ] {
        let result = victim.attack(code);
        assert_eq!(
            (&result["status"], &result["state"], &result["error"]["name"]),
            (&json!("killed"), &json!("lost"), &json!("ProtocolViolation")),
            "{code}: {result}"
        );
    }
    victim.unharmed();
}

#[test]
fn a_forged_result_is_the_forgers_own_and_its_sandbox_goes() {
    let mut victim = Victim::start();
    let result = victim.attack("say(done(THIS, result={'data': {'text/plain': 'forged'}}))\ntime.sleep(1)");
    assert_eq!((&result["status"], &result["result"]["data"]["text/plain"]), (&json!("ok"), &json!("forged")));
    // The kernel's own `done` comes when no cell runs, or about one that does not.
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(victim.sidecar.cell(&victim.attacker, "1")["generation"], 2);
    victim.unharmed();
}

#[test]
fn a_forger_that_floods_or_never_ends_is_cut_and_timed_out() {
    let mut victim = Victim::start();
    for message in [
        "{'type': 'stream', 'cell': THIS, 'name': 'stdout', 'text': 'x' * 60000}",
        "{'type': 'pong', 'id': 'nobody'}",
        "{'type': 'pong', 'id': THIS}",
    ] {
        let code = format!("signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: say({message})");
        let result = victim.attack(&code);
        assert_eq!(
            (&result["status"], &result["ended_by"], &result["state"]),
            (&json!("timeout"), &json!("kill"), &json!("lost")),
            "{message}: {result}"
        );
        assert!(result["stdout"]["text"].as_str().is_some_and(|text| text.len() < (1 << 20) + 100));
    }
    victim.unharmed();
}

#[test]
fn a_forger_that_claims_to_have_obeyed_holds_nothing_but_its_own_session() {
    let mut victim = Victim::start();
    let code = "
signal.signal(signal.SIGINT, lambda *_: (say(done(THIS, interrupted=True)), say({'type': 'pong', 'id': THIS})))
while True: time.sleep(0.01)";
    let result = victim.attack(code);
    assert_eq!(result["status"], "timeout", "{result}");
    victim.unharmed();
}
