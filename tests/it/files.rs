//! Files under `/workspace`: in, out, and named by the cells that made them.

use serde_json::{Value, json};

use crate::harness::Sidecar;

fn at(session: &str, more: &Value) -> Value {
    let mut params = json!({"session_id": session});
    params.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
    params
}

#[test]
fn files_are_written_read_listed_and_deleted() {
    let mut sidecar = Sidecar::start(&[]);
    for runtime in ["python", "nodejs"] {
        let session = sidecar.session(runtime);
        let mut call = |method: &str, more: Value| sidecar.call(method, &at(&session, &more));
        assert_eq!(
            call("file.write", json!({"path": "data/a.txt", "text": "héllo"})),
            json!({"path": "data/a.txt", "size": 6})
        );
        assert_eq!(call("file.write", json!({"path": "/workspace/b.bin", "base64": "/wAB"}))["size"], 3);
        let read = call("file.read", json!({"path": "data/a.txt"}));
        assert_eq!(
            read,
            json!({"path": "data/a.txt", "offset": 0, "bytes": 6, "size": 6, "eof": true, "text": "héllo"})
        );
        assert_eq!(call("file.read", json!({"path": "b.bin"}))["base64"], "/wAB");
        let part = call("file.read", json!({"path": "data/a.txt", "offset": 3, "length": 2}));
        assert_eq!((&part["text"], &part["eof"]), (&json!("ll"), &json!(false)), "{part}");
        let part = call("file.read", json!({"path": "data/a.txt", "length": 2}));
        assert_eq!((&part["text"], &part["bytes"]), (&json!("h"), &json!(1)), "a character is not split");
        assert_eq!(call("file.write", json!({"path": "data/a.txt", "text": "J", "truncate": false}))["size"], 6);
        assert_eq!(call("file.read", json!({"path": "data/a.txt"}))["text"], "Jéllo");
        assert_eq!(call("file.write", json!({"path": "data/a.txt", "text": "!", "offset": 3}))["size"], 4);

        let list = call("file.list", json!({"recursive": true}));
        let entries: Vec<_> = list["entries"]
            .as_array()
            .expect("entries")
            .iter()
            .map(|entry| {
                (
                    entry["path"].as_str().unwrap_or_default(),
                    entry["type"].as_str().unwrap_or_default(),
                    entry["size"].as_u64(),
                )
            })
            .filter(|entry| entry.1 == "file")
            .collect();
        assert_eq!(entries, [("b.bin", "file", Some(3)), ("data/a.txt", "file", Some(4))], "{runtime}");
        assert_eq!(call("file.list", json!({"max": 1}))["truncated"], true);
        assert_eq!(call("file.list", json!({"path": "data"}))["entries"][0]["path"], "data/a.txt");
        let reading = if runtime == "python" {
            "open('/workspace/data/a.txt').read()"
        } else {
            "require('fs').readFileSync('/workspace/data/a.txt', 'utf8')"
        };
        assert_eq!(call("cell.execute", json!({"code": reading}))["result"]["data"]["text/plain"], "'Jé!'");
        assert_eq!(call("file.delete", json!({"path": "data", "recursive": true}))["deleted"], true);
        assert_eq!(call("file.list", json!({"recursive": true}))["entries"].as_array().map(Vec::len), Some(1));
    }
}

#[test]
fn errors_name_the_file_and_say_what_is_wrong() {
    let mut sidecar = Sidecar::start(&["--disk", "16m"]);
    for (runtime, prepare) in [
        (
            "python",
            "import os\nos.mkdir('/workspace/d'); open('/workspace/d/x', 'w').close(); os.symlink('/etc/passwd', '/workspace/link'); os.mkfifo('/workspace/fifo')",
        ),
        (
            "nodejs",
            "const fs = require('fs'); fs.mkdirSync('/workspace/d'); fs.writeFileSync('/workspace/d/x', ''); fs.symlinkSync('/etc/passwd', '/workspace/link'); require('child_process').execSync('mkfifo /workspace/fifo')",
        ),
    ] {
        let session = sidecar.session(runtime);
        sidecar.cell(&session, prepare);
        for (method, more, reason) in [
            ("file.read", json!({"path": "no\u{1b}[31m"}), "not_found"),
            ("file.read", json!({"path": "d"}), "is_directory"),
            ("file.read", json!({"path": "link"}), "outside"),
            ("file.read", json!({"path": "fifo"}), "not_a_file"),
            ("file.write", json!({"path": "d", "text": ""}), "is_directory"),
            ("file.delete", json!({"path": "d"}), "not_empty"),
        ] {
            let error = sidecar.fail(method, &at(&session, &more));
            let data = &error["data"];
            assert_eq!(
                (&error["code"], &data["kind"], &data["reason"]),
                (&json!(1020), &json!("file"), &json!(reason)),
                "{runtime} {method}: {error}"
            );
            assert_eq!(data["outcome"], "not_started", "{error}");
            assert!(!error["message"].as_str().unwrap_or_default().contains('\u{1b}'), "{error}");
        }
        assert_eq!(
            sidecar.call("file.delete", &at(&session, &json!({"path": "link"})))["deleted"],
            true,
            "the link, not what it points to"
        );
    }
    let session = sidecar.session("python");
    for path in ["", "../x", "/etc/passwd", "a//b", "a/", "a\u{0}b", &"x".repeat(5000)] {
        let error = sidecar.fail("file.read", &at(&session, &json!({"path": path})));
        assert_eq!(error["code"], -32602, "{error}");
    }
    let error = sidecar.fail("file.write", &at(&session, &json!({"path": "a", "text": "", "base64": ""})));
    assert_eq!(error["code"], -32602, "{error}");
    sidecar.call("file.write", &at(&session, &json!({"path": "most", "base64": base64_of(10 << 20)})));
    let error = sidecar.fail("file.write", &at(&session, &json!({"path": "more", "base64": base64_of(8 << 20)})));
    assert_eq!(
        (&error["data"]["reason"], &error["data"]["outcome"]),
        (&json!("no_space"), &json!("unknown")),
        "{error}"
    );
    assert_eq!(sidecar.cell(&session, "1 + 1")["result"]["data"]["text/plain"], "2", "the session goes on");
}

fn base64_of(zeros: usize) -> String {
    "A".repeat(zeros / 3 * 4)
}

#[test]
fn a_hundred_megabytes_pass_both_ways_without_growth() {
    let mut sidecar = Sidecar::start(&["--disk", "200m", "--memory", "1g"]);
    let session = sidecar.session("python");
    let (piece, pieces) = (6_000_000, 17);
    for n in 0..pieces {
        let more = json!({"path": "big", "base64": base64_of(piece), "offset": n * piece});
        assert_eq!(sidecar.call("file.write", &at(&session, &more))["size"], (n + 1) * piece);
    }
    let mut offset = 0;
    loop {
        let part =
            sidecar.call("file.read", &at(&session, &json!({"path": "big", "offset": offset, "encoding": "base64"})));
        offset += part["bytes"].as_u64().expect("a number");
        if part["eof"] == true {
            break;
        }
    }
    assert_eq!(offset, (piece * pieces) as u64);
    let status = std::fs::read_to_string(format!("/proc/{}/status", sidecar.pid())).expect("it lives");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let peak = peak.trim().trim_end_matches(" kB").parse::<u64>().expect("kB") >> 10;
    // One request's line, its decoded content and its answer's; not the file.
    assert!(peak < 96, "100 MB of a file took {peak} MB");
}

#[test]
fn files_are_there_before_the_first_cell_and_operations_keep_the_order_of_the_cells() {
    let mut sidecar = Sidecar::start(&[]);
    let files = json!([{"path": "in/a.csv", "text": "1,2"}, {"path": "b.bin", "base64": "/w=="}]);
    let session =
        sidecar.call("session.create", &json!({"files": files}))["session_id"].as_str().expect("an id").to_owned();
    let sleep = sidecar.send(
        "cell.execute",
        &at(
            &session,
            &json!({"code": "import time; time.sleep(1); open('late', 'w').write('x'); open('in/a.csv').read()"}),
        ),
    );
    let read = sidecar.send("file.read", &at(&session, &json!({"path": "late"})));
    assert_eq!(sidecar.answer(read)["result"]["text"], "x", "it waited for the cell");
    assert_eq!(sidecar.answer(sleep)["result"]["result"]["data"]["text/plain"], "'1,2'");
    let error = sidecar.fail("session.create", &json!({"files": [{"path": "../x", "text": ""}]}));
    assert_eq!(error["code"], -32602, "{error}");
}

#[test]
fn artifacts_are_the_files_that_the_cell_created_or_changed() {
    let mut sidecar = Sidecar::start(&[]);
    for (runtime, code) in [
        (
            "python",
            "open('new.csv', 'w').write('a,b'); open('old.txt', 'a').write('!'); import os; os.mkdir('d'); open('d/p.PNG', 'w').close()",
        ),
        (
            "nodejs",
            "const fs = require('fs'); fs.writeFileSync('new.csv', 'a,b'); fs.appendFileSync('old.txt', '!'); fs.mkdirSync('d'); fs.writeFileSync('d/p.PNG', '')",
        ),
    ] {
        let session = sidecar.session(runtime);
        for path in ["old.txt", "same.txt"] {
            sidecar.call("file.write", &at(&session, &json!({"path": path, "text": "x"})));
        }
        let result = sidecar.call("cell.execute", &at(&session, &json!({"code": code, "artifacts": true})));
        assert_eq!(
            result["artifacts"],
            json!([
                {"path": "d/p.PNG", "size": 0, "mime_type": "image/png"},
                {"path": "new.csv", "size": 3, "mime_type": "text/csv"},
                {"path": "old.txt", "size": 2, "mime_type": "text/plain"},
            ]),
            "{runtime}"
        );
        assert_eq!(result["artifacts_truncated"], false);
        let result = sidecar.call("cell.execute", &at(&session, &json!({"code": "1"})));
        assert!(result.get("artifacts").is_none(), "only when asked for: {result}");
    }
}
