//! What a client sees of a cell while it runs, and of what it displays.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::Sidecar;

/// Everything that comes until the answer to `id`, and the answer.
#[track_caller]
fn until_answer(sidecar: &mut Sidecar, id: u64) -> (Vec<Value>, Value) {
    let mut notifications = Vec::new();
    loop {
        let message = sidecar.read();
        if message["id"] == id {
            return (notifications, message);
        }
        notifications.push(message);
    }
}

#[track_caller]
fn stream(sidecar: &mut Sidecar, params: &Value) -> (Vec<Value>, Value) {
    let id = sidecar.send("cell.execute", params);
    let (notifications, answer) = until_answer(sidecar, id);
    for (at, notification) in notifications.iter().enumerate() {
        let params = &notification["params"];
        assert_eq!(params["seq"], at + 1, "numbered from 1 without gaps: {notification}");
        assert_eq!(params["cell_id"], answer["result"]["cell_id"], "{notification}");
    }
    (notifications, answer["result"].clone())
}

fn text(notifications: &[Value], name: &str) -> String {
    let own = notifications.iter().filter(|it| it["method"] == "cell.output" && it["params"]["name"] == name);
    own.filter_map(|it| it["params"]["text"].as_str()).collect()
}

#[test]
fn output_comes_while_the_cell_runs_and_all_of_it_before_the_answer() {
    let mut sidecar = Sidecar::start(&[]);
    for (runtime, code) in [
        ("python", "import time, sys\nprint('one')\ntime.sleep(1)\nprint('two', file=sys.stderr)\nprint('three')"),
        (
            "nodejs",
            "console.log('one'); await new Promise((done) => setTimeout(done, 1000)); console.error('two'); console.log('three')",
        ),
    ] {
        let session = sidecar.session(runtime);
        let id = sidecar.send("cell.execute", &json!({"session_id": session, "code": code, "stream": true}));
        let first = sidecar.read();
        let seen = Instant::now();
        assert_eq!((&first["method"], &first["params"]["text"]), (&json!("cell.output"), &json!("one\n")), "{first}");
        let (mut notifications, answer) = until_answer(&mut sidecar, id);
        assert!(seen.elapsed() > Duration::from_millis(500), "the first line came with the answer, not before it");
        notifications.insert(0, first);
        assert_eq!(text(&notifications, "stdout"), "one\nthree\n");
        assert_eq!(text(&notifications, "stderr"), "two\n");
        assert_eq!(answer["result"]["stdout"]["text"], "one\nthree\n", "{answer}");
    }
}

#[test]
fn the_stream_ends_at_the_cap_and_never_splits_a_character() {
    let mut sidecar = Sidecar::start(&[]);
    let session = sidecar.session("python");
    let code = "import os, time\nfor byte in '€uro'.encode():\n    os.write(1, bytes([byte])); time.sleep(0.02)\nos.write(1, b'\\xff')";
    let (notifications, result) = stream(&mut sidecar, &json!({"session_id": session, "code": code, "stream": true}));
    assert_eq!(text(&notifications, "stdout"), "€uro\u{FFFD}");
    assert_eq!(result["stdout"]["text"], "€uro\u{FFFD}");

    let params = json!({"session_id": session, "code": "for n in range(100000): print('é', n)", "stream": true, "max_output": "1k"});
    let (notifications, result) = stream(&mut sidecar, &params);
    let streamed = text(&notifications, "stdout");
    assert!(streamed.len() <= 1024 && streamed.len() >= 1021, "{}", streamed.len());
    assert!(streamed.starts_with("é 0\né 1\n") && !streamed.contains('\u{FFFD}'));
    let kept = result["stdout"]["text"].as_str().expect("text");
    assert!(kept.ends_with("é 99999\n"), "the result alone has the tail: {kept}");
    assert_eq!(result["stdout"]["truncated"], true);
}

#[test]
fn without_asking_nothing_is_streamed_and_a_batch_streams_before_its_answer() {
    let mut sidecar = Sidecar::start(&[]);
    let (one, two) = (sidecar.session("python"), sidecar.session("python"));
    let id = sidecar.send("cell.execute", &json!({"session_id": one, "code": "print(1)"}));
    assert_eq!(sidecar.read()["id"], id);
    let entry = |id: &str, session: &str, code: &str| json!({"jsonrpc": "2.0", "id": id, "method": "cell.execute", "params": {"session_id": session, "code": code, "stream": true}});
    // The second one's output must not wait for the first one's end.
    let wait = "import time\nwhile time.time() < START + 2: time.sleep(0.1)";
    for session in [&one, &two] {
        sidecar.cell(session, "import time; START = time.time()");
    }
    sidecar.write(format!("{}\n", json!([entry("a", &one, wait), entry("b", &two, "print('b')")])).as_bytes());
    let first = sidecar.read();
    assert_eq!(first["params"]["text"], "b\n", "{first}");
    let batch = sidecar.read();
    assert_eq!(batch.as_array().map(Vec::len), Some(2), "{batch}");
}

#[test]
fn a_client_that_does_not_read_slows_its_own_cell_and_can_still_stop_it() {
    use std::{
        io::{BufRead as _, BufReader, Write as _},
        os::unix::net::UnixStream,
    };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("socket");
    let sidecar = Sidecar::start(&["--socket", path.to_str().expect("plain"), "--grace", "30s"]);
    crate::harness::eventually("the socket", || path.exists());
    let connect = || BufReader::new(UnixStream::connect(&path).expect("connects"));
    let ask = |client: &mut BufReader<UnixStream>, id: u64, method: &str, params: Value| {
        let request = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        client.get_mut().write_all(format!("{request}\n").as_bytes()).expect("written");
    };
    let read = |client: &mut BufReader<UnixStream>| -> Value {
        let mut line = String::new();
        client.read_line(&mut line).expect("a line");
        serde_json::from_str(&line).expect("JSON")
    };
    let (mut slow, mut quick) = (connect(), connect());
    ask(&mut slow, 1, "session.create", json!({}));
    let session = read(&mut slow)["result"]["session_id"].clone();
    ask(&mut quick, 1, "session.create", json!({}));
    let other = read(&mut quick)["result"]["session_id"].clone();

    let flood = "kept = 7\nn = 0\nwhile True:\n    print('x' * 1000)\n    n += 1";
    let params = json!({"session_id": session, "code": flood, "stream": true, "max_output": "16m", "timeout": "3s"});
    ask(&mut slow, 2, "cell.execute", params);
    std::thread::sleep(Duration::from_millis(1500));
    let begin = Instant::now();
    ask(&mut quick, 2, "cell.execute", json!({"session_id": other, "code": "6 * 7"}));
    assert_eq!(read(&mut quick)["result"]["result"]["data"]["text/plain"], "42");
    assert!(begin.elapsed() < Duration::from_secs(10), "somebody else's cell waited: {:?}", begin.elapsed());
    std::thread::sleep(Duration::from_secs(4));
    assert!(peak_mb(&sidecar) < 64, "{} MB for a client that does not read", peak_mb(&sidecar));

    let answer = loop {
        let message = read(&mut slow);
        if message["id"] == 2 {
            break message["result"].clone();
        }
    };
    let ending = (&answer["status"], &answer["ended_by"], &answer["state"]);
    assert_eq!(
        ending,
        (&json!("timeout"), &json!("interrupt"), &json!("preserved")),
        "its reader did not cost it its state"
    );
    ask(&mut slow, 3, "cell.execute", json!({"session_id": session, "code": "kept"}));
    assert_eq!(read(&mut slow)["result"]["result"]["data"]["text/plain"], "7");
    drop((slow, quick));
    crate::harness::terminate(sidecar);
}

#[test]
fn displays_come_in_order_in_the_stream_and_in_the_result() {
    let mut sidecar = Sidecar::start(&[]);
    let session = sidecar.session("python");
    let code = "print('before')\ndisplay({'a': 1})\nprint('after')\ndisplay('two')";
    let (notifications, result) = stream(&mut sidecar, &json!({"session_id": session, "code": code, "stream": true}));
    let order: Vec<_> = notifications.iter().map(|it| it["method"].as_str().unwrap_or_default()).collect();
    assert_eq!(order, ["cell.output", "cell.display", "cell.output", "cell.display"], "{notifications:?}");
    assert_eq!(notifications[1]["params"]["data"]["text/plain"], "{'a': 1}");
    assert_eq!(result["displays"][0]["data"]["text/plain"], "{'a': 1}");
    assert_eq!(result["displays"].as_array().map(Vec::len), Some(2));
    assert_eq!(result["displays_dropped"], 0);
}

#[test]
fn displays_are_capped_in_number_and_in_bytes_and_the_rest_is_counted() {
    let mut sidecar = Sidecar::start(&["--max-media", "1m"]);
    let session = sidecar.session("python");
    let result = sidecar.cell(&session, "for n in range(300): display(n)");
    assert_eq!(result["displays"].as_array().map(Vec::len), Some(256));
    assert_eq!(result["displays_dropped"], 44);

    let code = "class Big:\n    def __init__(self, n): self.n = n\n    def _repr_mimebundle_(self, include=None, exclude=None): return {'text/html': 'x' * self.n}\ndisplay(Big(2 << 20))\nfor _ in range(20): display(Big(1000 << 10))";
    let result = sidecar.cell(&session, code);
    let displays = result["displays"].as_array().expect("displays");
    assert!(displays[0]["data"].get("text/html").is_none(), "over `max_media` a representation is left out whole");
    assert_eq!(displays[0]["dropped"], 2 << 20);
    assert_eq!((displays.len(), &result["displays_dropped"]), (17, &json!(4)), "at most 16m in all");
}

#[test]
fn standard_input_is_what_the_call_brings() {
    let mut sidecar = Sidecar::start(&[]);
    let session = sidecar.session("python");
    let params = json!({"session_id": session, "code": "print(input(), input())", "stdin": "a\nb\n"});
    assert_eq!(sidecar.call("cell.execute", &params)["stdout"]["text"], "a b\n");
    assert_eq!(sidecar.cell(&session, "input()")["error"]["name"], "EOFError");
}

/// 256 MB in a debug build beside others' tests; a gigabyte takes four times as long and no more memory.
#[test]
fn a_flood_of_output_does_not_fill_the_memory() {
    let mut sidecar = Sidecar::start(&[]);
    let session = sidecar.session("python");
    let code = "import os\nblock = b'x' * 65536\nfor _ in range(4096): os.write(1, block)";
    let params = json!({"session_id": session, "code": code, "timeout": "5m", "stream": true});
    let id = sidecar.send("cell.execute", &params);
    let result = sidecar.answer(id)["result"].clone();
    assert_eq!(result["stdout"]["bytes"], 256 << 20, "{}", result["error"]);
    let peak = peak_mb(&sidecar);
    assert!(peak < 64, "256 MB of output took {peak} MB");
}

fn peak_mb(sidecar: &Sidecar) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", sidecar.pid())).expect("it lives");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    peak.trim().trim_end_matches(" kB").parse::<u64>().expect("kB") >> 10
}
