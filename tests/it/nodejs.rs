//! What a notebook user of the Node.js runtime counts on.

use serde_json::{Value, json};

use crate::harness::Sidecar;

#[track_caller]
fn value(sidecar: &mut Sidecar, session: &str, code: &str) -> String {
    let result = sidecar.cell(session, code);
    result["result"]["data"]["text/plain"].as_str().unwrap_or_else(|| panic!("no value: {result}")).to_owned()
}

#[track_caller]
fn traceback(result: &Value) -> String {
    let lines = result["error"]["traceback"].as_array().unwrap_or_else(|| panic!("no error: {result}"));
    lines.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n")
}

#[test]
fn any_name_may_be_declared_again_in_any_way() {
    let mut sidecar = Sidecar::start(&[]);
    let session = sidecar.session("nodejs");
    for (code, shown) in [
        ("const x = 1; class A { v() { return 1 } }; x", "1"),
        ("const x = 2; class A { v() { return 2 } }; x + new A().v()", "4"),
        ("function x() { return 7 }; x()", "7"),
        ("let { x, y: [z] } = { x: 3, y: [4] }; x + z", "7"),
        ("let x; typeof x", "'undefined'"),
        ("const crypto = require('crypto'); typeof crypto.createHash", "'function'"),
    ] {
        assert_eq!(value(&mut sidecar, &session, code), shown, "{code}");
    }
}

#[test]
fn awaits_and_imports_at_the_top_leave_their_names_behind() {
    let mut sidecar = Sidecar::start(&[]);
    let session = sidecar.session("nodejs");
    let code = "const sleep = n => new Promise(r => setTimeout(r, n))
await sleep(10); const { a } = await Promise.resolve({ a: 5 })
function twice() { return 2 * a + late }
class B {}
for (var i = 0; i < 3; i++) await i
const late = 1
twice()";
    assert_eq!(value(&mut sidecar, &session, code), "11");
    assert_eq!(value(&mut sidecar, &session, "[a, i, B.name, twice()]"), "[ 5, 3, 'B', 11 ]");
    let code = "import axios, { AxiosError as Failed } from 'axios'
import * as path from 'node:path'
[typeof axios.get, typeof Failed, path.join('a', 'b')]";
    assert_eq!(value(&mut sidecar, &session, code), "[ 'function', 'function', 'a/b' ]");
    assert_eq!(value(&mut sidecar, &session, "(await import('axios')).default === axios"), "true");
    let code = "require('fs').writeFileSync('/workspace/m.mjs', 'export default 5'); (await import('./m.mjs')).default";
    assert_eq!(value(&mut sidecar, &session, code), "5");
}

#[test]
fn plain_values_are_json_too_and_objects_may_show_themselves() {
    let mut sidecar = Sidecar::start(&[]);
    let session = sidecar.session("nodejs");
    let data = sidecar.cell(&session, "{a: [1, 'é'], b: null}")["result"]["data"].clone();
    assert_eq!(
        data,
        json!({"text/plain": "{ a: [ 1, 'é' ], b: null }", "application/json": r#"{"a":[1,"é"],"b":null}"#})
    );
    let data = sidecar.cell(&session, "({a: new Date(0)})")["result"]["data"].clone();
    assert_eq!(data, json!({"text/plain": "{ a: 1970-01-01T00:00:00.000Z }"}));
    let code = "({async [Symbol.for('Jupyter.display')]() { return {'text/plain': 'T', 'text/html': '<b>T</b>'} }})";
    let data = sidecar.cell(&session, code)["result"]["data"].clone();
    assert_eq!(data, json!({"text/plain": "T", "text/html": "<b>T</b>"}));
}

#[test]
fn tracebacks_show_source_lines_of_every_cell_they_pass() {
    let mut sidecar = Sidecar::start(&[]);
    let session = sidecar.session("nodejs");
    sidecar.cell(&session, "const fail = async (n) => {\n  await null\n  throw new TypeError(`bad ${n}`)\n}");
    let result = sidecar.cell(&session, "1\nawait fail(7)");
    assert_eq!(
        traceback(&result),
        "TypeError: bad 7\n    at fail (<cell 1>:3:9)\n        throw new TypeError(`bad ${n}`)\n    at async <cell 2>:2:1\n        await fail(7)"
    );
    let result = sidecar.cell(&session, "let ok = 1\nlet a b");
    let text = traceback(&result);
    assert!(text.starts_with("<cell 3>:2\nlet a b\n") && text.contains("SyntaxError"), "{text}");
    let result = sidecar.cell(&session, "%pip install pandas");
    assert!(result["error"]["message"].as_str().is_some_and(|text| text.contains("come with the image")), "{result}");
}

#[test]
fn what_nobody_catches_ends_the_cell_that_caused_it_and_no_other() {
    let mut sidecar = Sidecar::start(&[]);
    let session = sidecar.session("nodejs");
    for code in [
        "Promise.reject(new Error('lost')); 5",
        "setTimeout(() => { throw new Error('lost') }, 10); await new Promise(() => {})",
        "process.nextTick(() => { throw new Error('lost') }); 5",
    ] {
        let result = sidecar.cell(&session, code);
        assert_eq!((&result["error"]["message"], &result["state"]), (&json!("lost"), &json!("preserved")), "{code}");
    }
    sidecar.cell(&session, "setTimeout(() => { throw new Error('late') }, 10); 1");
    let result = sidecar.cell(&session, "await new Promise(r => setTimeout(r, 300)); 2");
    assert_eq!(result["result"]["data"]["text/plain"], "2");
    assert!(result["stderr"]["text"].as_str().is_some_and(|text| text.contains("Uncaught Error: late")), "{result}");
}

#[test]
fn every_kind_of_endless_work_is_interrupted_and_keeps_the_state() {
    let mut sidecar = Sidecar::start(&["--grace", "20s"]);
    let session = sidecar.session("nodejs");
    sidecar.cell(&session, "const kept = 7");
    for code in [
        "setTimeout(() => { for (;;); }, 1); await new Promise(() => {})",
        "(function f() { Promise.resolve().then(f) })()",
        "(function f() { process.nextTick(f) })()",
        "for (;;) { await new Promise(setImmediate); console.log('storm') }",
        "await require('fs').promises.readFile('/etc/passwd'); for (;;);",
        "({ get [Symbol.for('nodejs.util.inspect.custom')]() { for (;;); } })",
        "process.removeAllListeners(); for (;;) try { for (;;); } catch {} finally { for (;;); }",
        "require('child_process').execSync('sleep 100')",
        "for (;;) console.log('flood')",
    ] {
        let result = sidecar.timed(&session, code, "700ms");
        assert_eq!((&result["status"], &result["state"]), (&json!("timeout"), &json!("preserved")), "{code}: {result}");
        let next = sidecar.cell(&session, "console.log('still here'); kept");
        let found = (&next["stdout"]["text"], &next["result"]["data"]["text/plain"]);
        assert_eq!(found, (&json!("still here\n"), &json!("7")), "{code}: {next}");
    }
}

#[test]
fn process_exit_is_final_for_the_cell_only() {
    let mut sidecar = Sidecar::start(&[]);
    let session = sidecar.session("nodejs");
    for code in [
        "const kept = 7; try { process.exit(3) } catch { console.log('caught') } finally { console.log('finally') }",
        "setTimeout(() => process.exit(3), 5); await new Promise(() => {})",
        "await require('timers/promises').setTimeout(5); process.exit(3)",
    ] {
        let result = sidecar.cell(&session, code);
        assert_eq!((&result["exit_code"], &result["stdout"]["text"]), (&json!(3), &json!("")), "{code}: {result}");
        assert_eq!(value(&mut sidecar, &session, "kept"), "7");
    }
}

#[test]
fn a_cell_finds_what_earlier_cells_broke_mended() {
    let mut sidecar = Sidecar::start(&[]);
    let session = sidecar.session("nodejs");
    sidecar.cell(
        &session,
        "JSON.stringify = Promise.prototype.then = Buffer.from = null; process.stdout.end(); console = null",
    );
    let result = sidecar.cell(&session, "console.log('here'); await 1; 2");
    assert_eq!((&result["stdout"]["text"], &result["result"]["data"]["text/plain"]), (&json!("here\n"), &json!("2")));
}

#[test]
fn output_between_cells_comes_with_the_next_and_is_bounded() {
    let mut sidecar = Sidecar::start(&[]);
    let session = sidecar.session("nodejs");
    sidecar.cell(&session, "setTimeout(() => { for (let i = 0; i < 1e5; i++) console.log('background') }, 20); 1");
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let result = sidecar.cell(&session, "2");
    assert_eq!(result["stdout"]["bytes"], 65536);
    assert!(result["stderr"]["text"].as_str().is_some_and(|text| text.contains("between cells dropped")), "{result}");
}
