//! `protocol.md` against the real server: its examples are replayed, and the answers must have its shape.

use std::collections::HashMap;

use serde_json::Value;

use crate::harness::Sidecar;

const DOCUMENT: &str = include_str!("../../protocol.md");

/// Fields whose values differ from run to run; their types must agree all the same.
const VOLATILE: [&str; 8] =
    ["duration_ms", "cpu_ms", "memory_peak", "version", "container", "runtime_version", "modified_ns", "found"];

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

/// The section of a method or notification, up to the next heading.
fn section(name: &str) -> &'static str {
    let start = DOCUMENT.find(&format!("### `{name}`")).unwrap_or_else(|| panic!("no section for {name}"));
    let rest = &DOCUMENT[start + 4..];
    &rest[..rest.find("\n##").unwrap_or(rest.len())]
}

/// The cells of the table's rows under this heading.
fn rows(text: &'static str, heading: &str) -> Vec<Vec<&'static str>> {
    let table = text.find(heading).unwrap_or_else(|| panic!("no table {heading}"));
    let rows = text[table..].lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

/// The fields that a type of parameters takes, in their order, as its refusal of others lists them.
fn fields<T: serde::de::DeserializeOwned>() -> Vec<String> {
    let refusal = serde_json::from_str::<T>(r#"{"no such field": 0}"#).err().expect("unknown fields are refused");
    let refusal = refusal.to_string();
    let known = refusal.split_once("expected").map_or("", |(_, known)| known);
    known.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_method_has_a_section_with_an_example_and_its_parameters() {
    use cellblock::protocol as p;
    for (method, fields) in [
        ("initialize", fields::<p::NoParams>()),
        ("ping", fields::<p::NoParams>()),
        ("server.info", fields::<p::NoParams>()),
        ("shutdown", fields::<p::NoParams>()),
        ("session.create", fields::<p::CreateParams>()),
        ("session.attach", fields::<p::SessionParams>()),
        ("session.get", fields::<p::SessionParams>()),
        ("session.list", fields::<p::NoParams>()),
        ("session.restart", fields::<p::SessionParams>()),
        ("session.close", fields::<p::SessionParams>()),
        ("session.posture", fields::<p::SessionParams>()),
        ("cell.execute", fields::<p::ExecuteParams>()),
        ("cell.wait", fields::<p::WaitParams>()),
        ("cell.interrupt", fields::<p::SessionParams>()),
        ("file.write", fields::<p::FileWriteParams>()),
        ("file.read", fields::<p::FileReadParams>()),
        ("file.list", fields::<p::FileListParams>()),
        ("file.delete", fields::<p::FileDeleteParams>()),
        ("run", fields::<p::RunParams>()),
    ] {
        let section = section(method);
        assert!(DOCUMENT.contains(&format!("\"method\":\"{method}\"")), "no example of {method}");
        let written: Vec<String> = if section.contains("| parameter |") {
            rows(section, "| parameter |").iter().map(|row| row[0].trim_matches('`').to_owned()).collect()
        } else if section.contains("No parameters.") {
            Vec::new()
        } else {
            assert!(section.contains("Parameter: `session_id`."), "{method} does not name its parameters");
            vec!["session_id".to_owned()]
        };
        assert_eq!(written, fields, "the parameters of {method}, in their order");
    }
    for notification in ["cell.output", "cell.display", "session.closed"] {
        assert!(
            DOCUMENT.contains(&format!("<-- {{\"jsonrpc\":\"2.0\",\"method\":\"{notification}\"")),
            "{notification}"
        );
    }
}

#[test]
fn every_ending_of_a_cell_is_proved_by_the_test_that_the_document_names() {
    let tests = include_str!("endings.rs");
    let rows = rows(DOCUMENT, "| what happens | `status`");
    for row in &rows {
        let [what, status, ended_by, state, test] = row[..] else { panic!("{row:?}") };
        let begin = tests.find(&format!("fn {}()", test.trim_matches('`'))).unwrap_or_else(|| panic!("no test {test}"));
        let body = &tests[begin..];
        let body = &body[..body.find("\n}").unwrap_or(body.len())];
        let asserted = [status, ended_by, state].map(|text| text.replace('`', "\"")).join(", ");
        assert!(body.contains(&asserted), "`{what}`: {test} does not assert {asserted}");
    }
    for word in ["ok", "error", "timeout", "interrupted", "killed"] {
        assert!(rows.iter().any(|row| row[1] == format!("`{word}`")), "no row for status {word}");
    }
    for word in ["completed", "interrupt", "kill", "oom", "exit"] {
        assert!(rows.iter().any(|row| row[2] == format!("`{word}`")), "no row for ended_by {word}");
    }
}
