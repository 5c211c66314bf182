//! `protocol.md` against the real server: its examples are replayed, and the answers must have its shape.

use std::collections::HashMap;

use serde_json::Value;

use crate::harness::Sidecar;

const DOCUMENT: &str = include_str!("../../protocol.md");

/// Fields whose values differ from run to run; their types must agree all the same.
const VOLATILE: [&str; 7] =
    ["duration_ms", "cpu_ms", "memory_peak", "version", "container", "runtime_version", "found"];

#[test]
fn every_example_is_answered_as_the_document_says() {
    let mut sidecar = Sidecar::start(&[]);
    let mut sessions: HashMap<String, String> = HashMap::new();
    let mut replayed = 0;
    let mut lines = DOCUMENT.lines().filter(|line| line.starts_with("--> ") || line.starts_with("<-- ")).peekable();
    while let Some(line) = lines.next() {
        let mut sent =
            line.strip_prefix("--> ").unwrap_or_else(|| panic!("an answer without a request: {line}")).to_owned();
        for (written, real) in &sessions {
            sent = sent.replace(written, real);
        }
        sidecar.write(format!("{sent}\n").as_bytes());
        while let Some(line) = lines.next_if(|line| line.starts_with("<-- ")) {
            let written: Value = serde_json::from_str(&line[4..]).unwrap_or_else(|error| panic!("{error}: {line}"));
            let real = sidecar.read();
            if let (Some(written), Some(real)) =
                (written["result"]["session_id"].as_str(), real["result"]["session_id"].as_str())
            {
                sessions.insert(written.to_owned(), real.to_owned());
            }
            compare(&written, &real, "", &sessions, &sent);
            replayed += 1;
        }
    }
    assert!(replayed >= 15, "only {replayed} examples");
}

fn compare(written: &Value, real: &Value, key: &str, sessions: &HashMap<String, String>, sent: &str) {
    match (written, real) {
        (Value::Object(written), Value::Object(real)) => {
            let keys = |map: &serde_json::Map<String, Value>| map.keys().cloned().collect::<Vec<_>>();
            assert_eq!(keys(written), keys(real), "the fields of `{key}` in the answer to {sent}");
            // The document shows one engine; the other's values are its own.
            for (key, value) in written.iter().filter(|_| key != "engine") {
                compare(value, &real[key], key, sessions, sent);
            }
        }
        (Value::Array(written), Value::Array(real)) => {
            assert_eq!(written.len(), real.len(), "`{key}` in the answer to {sent}");
            for (written, real) in written.iter().zip(real) {
                compare(written, real, key, sessions, sent);
            }
        }
        (Value::Number(_), Value::Number(_)) | (Value::String(_), Value::String(_)) if VOLATILE.contains(&key) => {}
        (Value::String(written), Value::String(real)) => {
            let expected = sessions.iter().fold(written.clone(), |text, (written, real)| text.replace(written, real));
            assert_eq!(&expected, real, "`{key}` in the answer to {sent}");
        }
        _ => assert_eq!(written, real, "`{key}` in the answer to {sent}"),
    }
}

#[test]
fn every_method_has_a_section_with_an_example() {
    for method in [
        "initialize",
        "ping",
        "server.info",
        "shutdown",
        "session.create",
        "session.get",
        "session.list",
        "session.restart",
        "session.close",
        "session.posture",
        "cell.execute",
        "cell.interrupt",
    ] {
        assert!(DOCUMENT.contains(&format!("### `{method}`")), "no section for {method}");
        assert!(DOCUMENT.contains(&format!("\"method\":\"{method}\"")), "no example of {method}");
    }
}
