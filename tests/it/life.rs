//! How long a session lives, whose it is, and what it may use.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::harness::{Sidecar, eventually, sandboxes, terminate};

/// A server on a socket, and clients of it.
struct Server {
    sidecar: Option<Sidecar>,
    path: PathBuf,
    folder: tempfile::TempDir,
}

struct Client {
    stream: BufReader<UnixStream>,
    next_id: u64,
    /// Notifications that came while an answer was waited for.
    notifications: Vec<Value>,
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let mut all = vec!["--socket", path.to_str().expect("plain")];
        all.extend(arguments);
        let sidecar = Sidecar::with_state(folder.path(), &all);
        let server = Self { sidecar: Some(sidecar), path, folder };
        eventually("the socket", || server.path.exists());
        server
    }

    fn connect(&self) -> Client {
        let stream = UnixStream::connect(&self.path).expect("connects");
        stream.set_read_timeout(Some(Duration::from_secs(90))).expect("a timeout");
        Client { stream: BufReader::new(stream), next_id: 0, notifications: Vec::new() }
    }

    fn state(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        terminate(self.sidecar.take().expect("once"));
        if !std::thread::panicking() {
            assert_eq!(sandboxes(self.folder.path()), Vec::<String>::new(), "nothing outlives the server");
        }
    }
}

impl Client {
    fn send(&mut self, method: &str, params: &Value) -> u64 {
        self.next_id += 1;
        let request = json!({"jsonrpc": "2.0", "id": self.next_id, "method": method, "params": params});
        self.stream.get_mut().write_all(format!("{request}\n").as_bytes()).expect("written");
        self.next_id
    }

    fn read(&mut self) -> Value {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("a line in time");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    fn answer(&mut self, id: u64) -> Value {
        loop {
            let message = self.read();
            if message["id"] == id {
                return message;
            }
            self.notifications.push(message);
        }
    }

    #[track_caller]
    fn call(&mut self, method: &str, params: &Value) -> Value {
        let id = self.send(method, params);
        let answer = self.answer(id);
        assert!(answer.get("error").is_none(), "{method} {params}: {answer}");
        answer["result"].clone()
    }

    #[track_caller]
    fn fail(&mut self, method: &str, params: &Value) -> Value {
        let id = self.send(method, params);
        self.answer(id)["error"].clone()
    }

    fn create(&mut self, params: &Value) -> Value {
        self.call("session.create", params)["session_id"].clone()
    }

    /// The next `session.closed`.
    fn closed(&mut self) -> Value {
        let message = if self.notifications.is_empty() { self.read() } else { self.notifications.remove(0) };
        assert_eq!(message["method"], "session.closed", "{message}");
        message["params"].clone()
    }
}

#[test]
fn an_idle_session_expires_and_its_client_is_told() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let session = client.create(&json!({"idle_ttl": "1500ms"}));
    // A cell that runs, and one that waits, keep it alive far beyond its time.
    let params = json!({"session_id": session, "code": "import time; time.sleep(2); 'there'"});
    let ids = [client.send("cell.execute", &params), client.send("cell.execute", &params)];
    for id in ids {
        assert_eq!(client.answer(id)["result"]["result"]["data"]["text/plain"], "'there'");
    }
    let ended = Instant::now();
    assert_eq!(client.closed(), json!({"session_id": session, "reason": "idle"}));
    assert!(ended.elapsed() > Duration::from_millis(1300), "{:?}", ended.elapsed());
    assert_eq!(sandboxes(server.state()), Vec::<String>::new(), "its sandbox is gone by then");
    let error = client.fail("cell.execute", &json!({"session_id": session, "code": "1"}));
    assert_eq!((&error["code"], &error["data"]["kind"]), (&json!(1007), &json!("session_expired")), "{error}");
    assert!(error["message"].as_str().is_some_and(|text| text.contains("1s 500ms")), "{error}");
}

#[test]
fn the_reason_of_a_sessions_end_comes_before_the_answer_that_ends_it() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let session = client.create(&json!({}));
    client.call("session.close", &json!({"session_id": session}));
    assert_eq!(client.closed(), json!({"session_id": session, "reason": "closed"}));
    let session = client.create(&json!({}));
    client.call("shutdown", &json!({}));
    assert_eq!(client.closed(), json!({"session_id": session, "reason": "shutdown"}));
}

#[test]
fn a_detached_session_survives_its_connection_and_its_running_cell_goes_on() {
    let server = Server::start(&["--drain-timeout", "1s"]);
    let mut one = server.connect();
    let session = one.create(&json!({"detach": true, "idle_ttl": "1m"}));
    let doomed = one.create(&json!({}));
    one.call("cell.execute", &json!({"session_id": session, "code": "kept = 7"}));
    let late = one.send(
        "cell.execute",
        &json!({"session_id": session, "code": "import time; time.sleep(4); print('late'); kept * 6"}),
    );
    std::thread::sleep(Duration::from_millis(500));
    // It sends nothing more and still listens: its request is answered with the truth about the cell.
    one.stream.get_ref().shutdown(std::net::Shutdown::Write).expect("half closed");
    let answer = one.answer(late);
    assert_eq!(
        (&answer["error"]["code"], &answer["error"]["data"]["outcome"]),
        (&json!(1008), &json!("unknown")),
        "{answer}"
    );
    drop(one);

    let mut two = server.connect();
    assert_eq!(two.fail("session.get", &json!({"session_id": session}))["code"], 1001, "not before it is attached");
    for other in [&doomed, &json!("nobody")] {
        assert_eq!(two.fail("session.attach", &json!({"session_id": other}))["code"], 1001, "not made to be detached");
    }
    let attached = two.call("session.attach", &json!({"session_id": session}));
    assert_eq!(attached["running"]["cell_id"], "c2", "{attached}");
    assert_eq!(attached["last"]["cell_id"], "c1");
    let result = two.call("cell.wait", &json!({"session_id": session, "cell_id": "c2"}));
    assert_eq!((&result["stdout"]["text"], &result["result"]["data"]["text/plain"]), (&json!("late\n"), &json!("42")));
    let again = two.call("cell.wait", &json!({"session_id": session, "cell_id": "c2"}));
    assert_eq!(again, result, "it is kept");
    let error = two.fail("cell.wait", &json!({"session_id": session, "cell_id": "c1"}));
    assert_eq!(error["data"]["kind"], "no_cell", "{error}");
    let attached = two.call("session.attach", &json!({"session_id": session}));
    assert_eq!((&attached["running"], &attached["last"]), (&Value::Null, &result), "attaching one's own is a look");
    eventually("the other session's end with its connection", || two.call("server.info", &json!({}))["sessions"] == 1);
}

#[test]
fn attaching_takes_a_session_over_and_tells_its_former_holder() {
    let server = Server::start(&[]);
    let (mut one, mut two) = (server.connect(), server.connect());
    let session = one.create(&json!({"detach": true, "name": "mine"}));
    let params = json!({"session_id": session, "code": "1"});
    assert_eq!(two.call("session.attach", &json!({"session_id": session}))["name"], "mine");
    assert_eq!(one.closed(), json!({"session_id": session, "reason": "attached_elsewhere"}));
    assert_eq!(one.fail("cell.execute", &params)["code"], 1001);
    assert_eq!(one.call("session.list", &json!({}))["sessions"], json!([]));
    assert_eq!(two.call("cell.execute", &params)["status"], "ok");
    drop(two);
    one.call("session.attach", &json!({"session_id": session}));
    assert_eq!(one.call("cell.execute", &params)["execution_count"], 2, "and back");
}

#[test]
fn a_repeated_key_gets_the_first_result_and_nothing_runs_twice() {
    let mut sidecar = Sidecar::start(&["--grace", "500ms"]);
    let session = sidecar.session("python");
    sidecar.cell(&session, "n = 0");
    let keyed = |key: &str, code: &str| json!({"session_id": session, "code": code, "idempotency_key": key});
    let code = "import time; time.sleep(0.5); n += 1; n";
    let ids: Vec<_> = (0..3).map(|_| sidecar.send("cell.execute", &keyed("a", code))).collect();
    let mut answers: Vec<_> = ids.iter().map(|&id| sidecar.answer(id)["result"].clone()).collect();
    answers.push(sidecar.call("cell.execute", &keyed("a", code)));
    assert_eq!(answers[0]["result"]["data"]["text/plain"], "1");
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert_eq!(sidecar.call("cell.execute", &keyed("b", code))["result"]["data"]["text/plain"], "2");
    let error = sidecar.fail("cell.execute", &keyed("a", "n"));
    assert_eq!((&error["code"], &error["data"]["outcome"]), (&json!(1015), &json!("not_started")), "{error}");

    let lost = sidecar.call("cell.execute", &keyed("c", "import os; os._exit(1)"));
    assert_eq!((&lost["state"], &lost["generation"]), (&json!("lost"), &json!(2)));
    assert_eq!(sidecar.call("cell.execute", &keyed("c", "import os; os._exit(1)")), lost, "keys outlive the sandbox");
    assert_eq!(sidecar.cell(&session, "1")["generation"], 2, "it did not run again");

    // A key is bound to a cell that ran: one that never started can be asked for again.
    let running = sidecar.send("cell.execute", &json!({"session_id": session, "code": "import time; time.sleep(1)"}));
    let first = sidecar.send("cell.execute", &keyed("d", "'d'"));
    let cancel = json!({"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": first}});
    sidecar.write(format!("{cancel}\n").as_bytes());
    assert_eq!(sidecar.answer(first)["error"]["code"], -32800);
    assert_eq!(sidecar.call("cell.execute", &keyed("d", "'other'"))["result"]["data"]["text/plain"], "'other'");
    sidecar.answer(running);
}

#[test]
fn a_session_gets_what_it_asks_for_within_the_servers_limits() {
    let mut sidecar = Sidecar::start(&["--max-memory", "1g", "--max-idle-ttl", "2h"]);
    for (runtime, look) in [
        ("python", "import os; os.environ['WHO'] + os.popen('echo $WHO').read()"),
        ("nodejs", "process.env.WHO + require('child_process').execSync('echo $WHO')"),
    ] {
        let params = json!({"runtime": runtime, "env": {"WHO": "né"}, "memory": "700m", "cpus": 0.5, "name": "n", "idle_ttl": "1h"});
        let created = sidecar.call("session.create", &params);
        assert_eq!(created["limits"]["memory"], 700 << 20);
        assert_eq!((&created["limits"]["cpus"], &created["name"]), (&json!(0.5), &json!("n")));
        let session = created["session_id"].as_str().expect("an id").to_owned();
        assert_eq!(sidecar.cell(&session, look)["result"]["data"]["text/plain"], "'nénén\\n'".replace("nénén", "néné"));
        sidecar.call("session.restart", &json!({"session_id": session}));
        assert_eq!(sidecar.cell(&session, look)["status"], "ok", "a fresh sandbox has it, too");
        let hog = if runtime == "python" { "len(bytearray(560 << 20))" } else { "Buffer.alloc(560 << 20, 1).length" };
        assert_eq!(sidecar.timed(&session, hog, "60s")["status"], "ok", "more than the default 512m");
        sidecar.call("session.close", &json!({"session_id": session}));
    }
    for (params, quoted) in [
        (json!({"memory": "2g"}), "2g"),
        (json!({"memory": "1m"}), "1m"),
        (json!({"cpus": 2.0}), "2"),
        (json!({"idle_ttl": "3h"}), "3h"),
        (json!({"idle_ttl": "0s", "detach": true}), "0s"),
        (json!({"env": {"A=B": "1"}}), "A=B"),
        (json!({"name": ""}), "name"),
    ] {
        let error = sidecar.fail("session.create", &params);
        assert_eq!(error["code"], -32602, "{error}");
        assert!(error["message"].as_str().is_some_and(|text| text.contains(quoted)), "{error}");
    }
}
