//! Every way a cell can end: its status, the truth about the state, and what the next cell finds.

use serde_json::{Value, json};

use crate::harness::Sidecar;

#[track_caller]
fn ended(result: &Value, status: &str, ended_by: &str, state: &str, generation: u64) {
    let found = (&result["status"], &result["ended_by"], &result["state"], &result["generation"]);
    assert_eq!(found, (&json!(status), &json!(ended_by), &json!(state), &json!(generation)), "{result}");
}

#[test]
fn an_endless_loop_is_interrupted_and_its_variables_are_kept() {
    // A busy machine may need long to obey; the ladder's next rung is another test's.
    let mut sidecar = Sidecar::start(&["--grace", "20s"]);
    for (runtime, before, endless) in [
        ("python", "kept = 7", ["while True: pass", "while True: print('x' * 1000)", "import time; time.sleep(100)"]),
        ("nodejs", "const kept = 7", ["for (;;);", "for (;;) console.log('x'.repeat(1000))", "new Promise(() => {})"]),
    ] {
        let session = sidecar.session(runtime);
        sidecar.cell(&session, before);
        for code in endless {
            ended(&sidecar.timed(&session, code, "500ms"), "timeout", "interrupt", "preserved", 1);
            assert_eq!(sidecar.cell(&session, "kept")["result"]["data"]["text/plain"], "7", "{runtime}: {code}");
        }
    }
}

#[test]
fn code_that_ignores_the_interrupt_is_killed_and_the_next_cell_starts_afresh() {
    let mut sidecar = Sidecar::start(&["--grace", "500ms"]);
    let session = sidecar.session("python");
    sidecar.cell(&session, "kept = 7");
    let code = "import time\nwhile True:\n    try: time.sleep(9)\n    except BaseException: pass";
    ended(&sidecar.timed(&session, code, "500ms"), "timeout", "kill", "lost", 2);
    let next = sidecar.cell(&session, "kept");
    assert_eq!(next["error"]["name"], "NameError");
    ended(&next, "error", "completed", "preserved", 2);
}

#[test]
fn an_interrupt_that_is_ignored_ends_in_a_kill() {
    let mut sidecar = Sidecar::start(&["--grace", "500ms"]);
    let session = sidecar.session("python");
    let code = "import time\nwhile True:\n    try: time.sleep(9)\n    except BaseException: pass";
    let running = sidecar.send("cell.execute", &json!({"session_id": session, "code": code}));
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(sidecar.call("cell.interrupt", &json!({"session_id": session}))["interrupted"], true);
    ended(&sidecar.answer(running)["result"], "interrupted", "kill", "lost", 2);
}

#[test]
fn a_kernel_that_breaks_the_protocol_is_ended() {
    let mut sidecar = Sidecar::start(&[]);
    let session = sidecar.session("python");
    // Its private descriptors are out of the way, not out of reach: the whole sandbox is the user's.
    let code = "import os, time\nfor fd in range(3, 1024):\n    try: os.write(fd, b'no message\\n')\n    except OSError: pass\ntime.sleep(60)";
    let result = sidecar.cell(&session, code);
    ended(&result, "killed", "kill", "lost", 2);
    assert_eq!(result["error"]["name"], "ProtocolViolation");
    ended(&sidecar.cell(&session, "1"), "ok", "completed", "preserved", 2);
}

#[test]
fn interrupt_and_cancel_stop_the_running_cell_only() {
    let mut sidecar = Sidecar::start(&["--grace", "20s"]);
    let session = sidecar.session("python");
    assert_eq!(sidecar.call("cell.interrupt", &json!({"session_id": session}))["interrupted"], false);
    let endless = json!({"session_id": session, "code": "kept = 7\nwhile True: pass"});
    let running = sidecar.send("cell.execute", &endless);
    let waiting = sidecar.send("cell.execute", &json!({"session_id": session, "code": "kept"}));
    let cancelled = sidecar.send("cell.execute", &json!({"session_id": session, "code": "kept = 8"}));
    sidecar.write(
        format!("{}\n", json!({"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": cancelled}})).as_bytes(),
    );
    let error = sidecar.answer(cancelled)["error"].clone();
    assert_eq!((&error["code"], &error["data"]["outcome"]), (&json!(-32800), &json!("not_started")));
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(sidecar.call("cell.interrupt", &json!({"session_id": session}))["interrupted"], true);
    ended(&sidecar.answer(running)["result"], "interrupted", "interrupt", "preserved", 1);
    assert_eq!(sidecar.answer(waiting)["result"]["result"]["data"]["text/plain"], "7");

    let running = sidecar.send("cell.execute", &endless);
    std::thread::sleep(std::time::Duration::from_millis(300));
    sidecar.write(
        format!("{}\n", json!({"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": running}})).as_bytes(),
    );
    ended(&sidecar.answer(running)["result"], "interrupted", "interrupt", "preserved", 1);
}

#[test]
fn a_program_that_ends_itself_is_told_from_one_that_ends_its_sandbox() {
    let mut sidecar = Sidecar::start(&["--grace", "500ms"]);
    let python = sidecar.session("python");
    ended(&sidecar.cell(&python, "import sys; sys.exit()"), "ok", "exit", "preserved", 1);
    let result = sidecar.cell(&python, "sys.exit(3)");
    ended(&result, "error", "exit", "preserved", 1);
    assert_eq!(result["exit_code"], 3);
    for (code, exit_code, generation) in
        [("import os; os._exit(7)", 7, 2), ("import ctypes; ctypes.string_at(0)", 139, 3)]
    {
        let result = sidecar.cell(&python, code);
        ended(&result, "killed", "exit", "lost", generation);
        assert_eq!(result["exit_code"], exit_code);
    }
    let result = sidecar.timed(&python, "import os; os.execv('/bin/sleep', ['sleep', '100'])", "1s");
    ended(&result, "timeout", "kill", "lost", 4);
    let result = sidecar.timed(&python, "import os; os.closerange(0, 4096)", "5s");
    ended(&result, "killed", "exit", "lost", 5);
    ended(&sidecar.cell(&python, "1"), "ok", "completed", "preserved", 5);

    let node = sidecar.session("nodejs");
    let result = sidecar.cell(&node, "const kept = 7; process.exit(3)");
    ended(&result, "error", "exit", "preserved", 1);
    assert_eq!(result["exit_code"], 3);
    assert_eq!(sidecar.cell(&node, "kept")["result"]["data"]["text/plain"], "7");
    let result = sidecar.cell(&node, "process.abort()");
    ended(&result, "killed", "exit", "lost", 2);
    assert_eq!(result["exit_code"], 134);
}

#[test]
fn running_out_of_memory_is_reported_as_that() {
    let mut sidecar = Sidecar::start(&["--memory", "256m"]);
    for (runtime, hog) in
        [("python", "hog = bytearray(10**9)"), ("nodejs", "const hog = []; for (;;) hog.push(Buffer.alloc(1e7, 1))")]
    {
        let session = sidecar.session(runtime);
        let result = sidecar.timed(&session, hog, "60s");
        ended(&result, "killed", "oom", "lost", 2);
        assert_eq!(result["error"]["name"], "OutOfMemory");
        ended(&sidecar.cell(&session, "1"), "ok", "completed", "preserved", 2);
    }
}

#[test]
fn a_grandchild_that_prints_for_ever_holds_no_cell_open() {
    let mut sidecar = Sidecar::start(&[]);
    let session = sidecar.session("python");
    let code = "import subprocess\nbackground = subprocess.Popen(['sh', '-c', 'setsid yes &'])\nbackground.wait()";
    ended(&sidecar.cell(&session, code), "ok", "completed", "preserved", 1);
    ended(&sidecar.timed(&session, "1 + 1", "10s"), "ok", "completed", "preserved", 1);
}

#[test]
fn a_fork_that_comes_back_from_the_cell_is_no_second_kernel() {
    let mut sidecar = Sidecar::start(&[]);
    let session = sidecar.session("python");
    let result = sidecar
        .cell(&session, "import os\npid = os.fork()\nif pid: os.waitpid(pid, 0)\nprint('parent' if pid else 'child')");
    let mut lines: Vec<_> = result["stdout"]["text"].as_str().expect("text").lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["child", "parent"]);
    ended(&sidecar.cell(&session, "pid > 0"), "ok", "completed", "preserved", 1);
}

#[test]
fn a_restart_gives_a_fresh_sandbox_under_the_same_id() {
    let mut sidecar = Sidecar::start(&[]);
    let session = sidecar.session("python");
    sidecar.cell(&session, "kept = 7");
    let running = sidecar.send("cell.execute", &json!({"session_id": session, "code": "while True: pass"}));
    std::thread::sleep(std::time::Duration::from_millis(300));
    let restarted = sidecar.call("session.restart", &json!({"session_id": session}));
    assert_eq!((&restarted["generation"], &restarted["session_id"]), (&json!(2), &json!(session)));
    ended(&sidecar.answer(running)["result"], "killed", "kill", "lost", 2);
    assert_eq!(sidecar.cell(&session, "kept")["error"]["name"], "NameError");
    assert_eq!(sidecar.call("session.close", &json!({"session_id": session}))["closed"], true);
    assert_eq!(
        sidecar.fail("cell.execute", &json!({"session_id": session, "code": "1"}))["data"]["kind"],
        "no_session"
    );
}
