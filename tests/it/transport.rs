//! JSON-RPC 2.0 to the letter, and what a hostile or clumsy client gets.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::Shutdown,
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::harness::{Sidecar, cellblock, eventually};

/// The examples of the specification's section 7 with our methods, and the edges where others went wrong.
#[test]
fn the_specifications_examples() {
    let mut sidecar = Sidecar::start(&[]);
    for (sent, code, id) in [
        (r#"{"jsonrpc": "2.0", "method": "foobar", "id": "1"}"#, -32601, json!("1")),
        (r#"{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]"#, -32700, Value::Null),
        (r#"{"jsonrpc": "2.0", "method": 1, "params": "bar"}"#, -32600, Value::Null),
        (r#"[{"jsonrpc": "2.0", "method": "ping", "id": "1"},{"jsonrpc": "2.0", "method"]"#, -32700, Value::Null),
        ("[]", -32600, Value::Null),
        ("1", -32600, Value::Null),
        (r#"["2.0", 1, "ping"]"#, -32600, Value::Null),
        (r#"{"jsonrpc": "1.0", "method": "ping", "id": 4}"#, -32600, json!(4)),
        (r#"{"jsonrpc": "2.0", "method": "ping", "params": "bar", "id": 5}"#, -32600, json!(5)),
        (r#"{"jsonrpc": "2.0", "method": "ping", "params": {"x": 1}, "id": 6}"#, -32602, json!(6)),
        (r#"{"jsonrpc": "2.0", "method": "session.get", "params": [], "id": 7}"#, -32602, json!(7)),
        (r#"{"jsonrpc": "2.0", "method": "foobar", "id": -1}"#, -32601, json!(-1)),
        (r#"{"jsonrpc": "1.0", "method": "ping", "id": -3}"#, -32600, json!(-3)),
        (r#"{"jsonrpc": "2.0", "method": "ping", "id": true}"#, -32600, Value::Null),
        ("\u{1}garbage", -32700, Value::Null),
        (r#"{"jsonrpc": "2.0", "method": "ping", "id": 8, "id": 9}"#, -32600, json!(9)),
    ] {
        sidecar.write(format!("{sent}\n").as_bytes());
        let answer = sidecar.read();
        let answer = answer.as_array().map_or(&answer, |batch| &batch[0]);
        assert_eq!((&answer["error"]["code"], &answer["id"]), (&json!(code), &id), "{sent} -> {answer}");
    }
    for (sent, answer) in [
        (
            r#"{"jsonrpc": "2.0", "method": "ping", "id": null}"#,
            json!({"jsonrpc": "2.0", "id": null, "result": "pong"}),
        ),
        (
            r#"{"jsonrpc": "2.0", "method": "ping", "params": [], "id": "a"}"#,
            json!({"jsonrpc": "2.0", "id": "a", "result": "pong"}),
        ),
        (r#"{"jsonrpc": "2.0", "method": "ping", "id": -7}"#, json!({"jsonrpc": "2.0", "id": -7, "result": "pong"})),
        (
            r#"[{"jsonrpc": "2.0", "method": "ping", "id": 1.5}, {"jsonrpc": "2.0", "method": "ping", "id": -2}]"#,
            json!([{"jsonrpc": "2.0", "id": 1.5, "result": "pong"}, {"jsonrpc": "2.0", "id": -2, "result": "pong"}]),
        ),
    ] {
        sidecar.write(format!("{sent}\r\n\n").as_bytes());
        assert_eq!(sidecar.read(), answer);
    }
    // Notifications are not answered, alone or in a batch.
    sidecar.write(b"{\"jsonrpc\":\"2.0\",\"method\":\"ping\"}\n{\"jsonrpc\":\"2.0\",\"method\":\"foobar\"}\n[{\"jsonrpc\":\"2.0\",\"method\":\"ping\"}]\n");
    sidecar.write(b"[1,{\"jsonrpc\":\"2.0\",\"method\":\"ping\",\"id\":\"1\"},{\"jsonrpc\":\"2.0\",\"method\":\"ping\"},{\"foo\":\"boo\"},{\"jsonrpc\":\"2.0\",\"method\":\"foobar\",\"id\":\"5\"}]\n");
    let batch = sidecar.read();
    let codes: Vec<_> =
        batch.as_array().expect("a batch").iter().map(|answer| answer["error"]["code"].as_i64()).collect();
    assert_eq!(codes, [Some(-32600), None, Some(-32600), Some(-32601)], "{batch}");
}

#[test]
fn a_long_line_is_answered_and_the_connection_goes_on() {
    let mut sidecar = Sidecar::start(&["--max-line", "64k"]);
    for _ in 0..1600 {
        sidecar.write(&vec![b'x'; 65536]);
    }
    sidecar.write(b"\n");
    let answer = sidecar.read();
    assert_eq!((&answer["error"]["code"], &answer["id"]), (&json!(-32007), &Value::Null));
    assert_eq!(sidecar.call("ping", &json!({})), "pong");
    let status = std::fs::read_to_string(format!("/proc/{}/status", sidecar.pid())).expect("it lives");
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak").trim().trim_end_matches(" kB");
    assert!(peak.parse::<u64>().expect("kB") < 64 << 10, "100 MB of one line did not fill the memory: {peak} kB");
}

#[test]
fn errors_quote_what_is_wrong_and_say_whether_the_code_ran() {
    let mut sidecar = Sidecar::start(&[]);
    for (params, quoted) in [
        (json!({"runtime": "cobol"}), "`cobol`"),
        (json!({"timeout": "soon"}), "`soon`"),
        (json!({"timeout": "9h"}), "9h"),
        (json!({"max_output": "1t"}), "`1t`"),
        (json!({"color": "red"}), "`color`"),
    ] {
        let error = sidecar.fail("session.create", &params);
        assert!(error["message"].as_str().is_some_and(|text| text.contains(quoted)), "{error}");
        assert_eq!((&error["code"], &error["data"]["outcome"]), (&json!(-32602), &json!("not_started")));
    }
    let error = sidecar.fail("cell.execute", &json!({"session_id": "nobody", "code": "1"}));
    assert_eq!((&error["code"], &error["data"]["kind"]), (&json!(1001), &json!("no_session")));
}

#[test]
fn the_queue_is_bounded_and_says_where_one_stands() {
    let mut sidecar = Sidecar::start(&["--max-queue", "2"]);
    let session = sidecar.session("python");
    let params = json!({"session_id": session, "code": "import time; time.sleep(1)"});
    let ids: Vec<_> = (0..5).map(|_| sidecar.send("cell.execute", &params)).collect();
    let answers: Vec<_> = ids.iter().map(|&id| sidecar.answer(id)).collect();
    let full: Vec<_> = answers.iter().filter(|answer| answer["error"]["data"]["kind"] == "queue_full").collect();
    assert!(!full.is_empty() && full.iter().all(|answer| answer["error"]["data"]["position"] == 2), "{answers:?}");
    assert_eq!(answers.iter().filter(|answer| answer["result"]["status"] == "ok").count(), 5 - full.len());
}

#[test]
fn too_many_sessions_are_refused_and_a_closed_one_makes_room() {
    let mut sidecar = Sidecar::start(&["--max-sessions", "1"]);
    let session = sidecar.session("python");
    assert_eq!(sidecar.fail("session.create", &json!({}))["data"]["kind"], "too_many_sessions");
    sidecar.call("session.close", &json!({"session_id": session}));
    sidecar.session("python");
}

#[test]
fn a_client_that_does_not_read_is_not_read_from_and_a_signal_still_ends_the_server() {
    let state = tempfile::tempdir().expect("a folder");
    let mut command = cellblock();
    command.args(["serve", "--max-line", "64k", "--drain-timeout", "1s", "--state-dir"]).arg(state.path());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut server = command.spawn().expect("starts");
    let mut stdin = server.stdin.take().expect("piped");
    let flood = std::thread::spawn(move || {
        let ping = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}\n";
        // Over two pipes' worth and what may wait in between, by far.
        (0..100_000).all(|_| stdin.write_all(ping).is_ok())
    });
    std::thread::sleep(Duration::from_secs(2));
    assert!(!flood.is_finished(), "100,000 requests were read from a client that reads no answer");
    Command::new("kill").arg(server.id().to_string()).status().expect("kill");
    let began = Instant::now();
    server.wait().expect("ends");
    assert!(began.elapsed() < Duration::from_secs(45), "{:?}", began.elapsed());
    assert!(!flood.join().expect("no panic"), "the rest was not read");
}

/// A server on a socket in `folder`.
fn listen(folder: &Path) -> (std::process::Child, PathBuf) {
    let path = folder.join("cellblock.sock");
    let mut command = cellblock();
    command.args(["serve", "--log-level", "warn", "--socket-mode", "0620", "--socket"]).arg(&path);
    command.arg("--state-dir").arg(folder).stdin(Stdio::null()).stderr(Stdio::piped());
    (command.spawn().expect("starts"), path)
}

fn ask(stream: &mut BufReader<UnixStream>, method: &str, params: &Value) -> Value {
    send(stream, method, params);
    receive(stream)
}

fn send(stream: &mut BufReader<UnixStream>, method: &str, params: &Value) {
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    stream.get_mut().write_all(format!("{request}\n").as_bytes()).expect("written");
}

fn receive(stream: &mut BufReader<UnixStream>) -> Value {
    let mut line = String::new();
    stream.read_line(&mut line).expect("answered");
    serde_json::from_str(&line).expect("JSON")
}

#[test]
fn a_client_stops_its_own_requests_only_and_half_a_connection_is_still_answered() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut server, path) = listen(folder.path());
    eventually("the socket", || path.exists());
    let connect = || BufReader::new(UnixStream::connect(&path).expect("connects"));
    let (mut one, mut two) = (connect(), connect());
    let session = ask(&mut one, "session.create", &json!({}))["result"]["session_id"].clone();
    send(&mut one, "cell.execute", &json!({"session_id": session, "code": "import time; time.sleep(2); 6 * 7"}));
    std::thread::sleep(Duration::from_millis(300));
    two.get_mut()
        .write_all(b"{\"jsonrpc\": \"2.0\", \"method\": \"$/cancelRequest\", \"params\": {\"id\": 1}}\n")
        .expect("written");
    assert_eq!(ask(&mut two, "ping", &json!({}))["result"], "pong");
    one.get_mut().shutdown(Shutdown::Write).expect("half-closed");
    let result = receive(&mut one)["result"].clone();
    assert_eq!((&result["status"], &result["result"]["data"]["text/plain"]), (&json!("ok"), &json!("42")), "{result}");
    assert_eq!(receive(&mut one)["method"], "session.closed", "its session goes with it");
    assert_eq!(one.read_line(&mut String::new()).expect("the end"), 0);
    Command::new("kill").arg(server.id().to_string()).status().expect("kill");
    assert!(server.wait().expect("ends").success());
}

#[test]
fn a_socket_has_its_mode_serves_many_and_keeps_sessions_apart() {
    let folder = tempfile::tempdir().expect("a folder");
    let start = || listen(folder.path()).0;
    let (mut server, path) = listen(folder.path());
    eventually("the socket", || path.exists());
    assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o620);
    let connect = || BufReader::new(UnixStream::connect(&path).expect("connects"));
    let (mut one, mut two) = (connect(), connect());
    let session = ask(&mut one, "session.create", &json!({}))["result"]["session_id"].clone();
    assert_eq!(ask(&mut two, "session.get", &json!({"session_id": session}))["error"]["code"], 1001);
    assert_eq!(ask(&mut two, "session.list", &json!({}))["result"]["sessions"], json!([]));
    assert_eq!(
        ask(&mut one, "cell.execute", &json!({"session_id": session, "code": "6 * 7"}))["result"]["result"]["data"]["text/plain"],
        "42"
    );
    drop(one);
    eventually("the end of the lost client's session", || {
        ask(&mut two, "server.info", &json!({}))["result"]["sessions"] == 0
    });

    let second = start().wait_with_output().expect("ends");
    assert!(!second.status.success() && String::from_utf8_lossy(&second.stderr).contains("another process listens"));
    server.kill().expect("lives");
    server.wait().expect("ends");
    assert!(path.exists(), "kill -9 leaves the socket");
    let mut server = start();
    eventually("the stale socket is replaced", || UnixStream::connect(&path).is_ok());
    Command::new("kill").arg(server.id().to_string()).status().expect("kill");
    assert!(server.wait().expect("ends").success());
    assert!(!path.exists(), "a socket goes with its owner");
}
