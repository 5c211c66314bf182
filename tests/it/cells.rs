//! What a notebook's user expects of cells, in both languages.

use serde_json::{Value, json};

use crate::harness::Sidecar;

fn text(result: &Value) -> &str {
    result["result"]["data"]["text/plain"].as_str().unwrap_or_else(|| panic!("no value: {result}"))
}

#[test]
fn python_keeps_variables_functions_and_modules() {
    let mut sidecar = Sidecar::start(&[]);
    let session = sidecar.session("python");
    assert_eq!(sidecar.cell(&session, "import math\nx = 20\ndef double(n): return 2 * n")["result"], Value::Null);
    assert_eq!(text(&sidecar.cell(&session, "double(x) + math.floor(2.9)")), "42");
    assert_eq!(text(&sidecar.cell(&session, "_ + 1")), "43");
    assert_eq!(text(&sidecar.cell(&session, "__name__")), "'__main__'");
}

#[test]
fn node_keeps_const_let_class_and_functions() {
    let mut sidecar = Sidecar::start(&[]);
    let session = sidecar.session("nodejs");
    sidecar.cell(
        &session,
        "const x = 20; let y = 2; class A { n() { return x } }; function f() { return new A().n() + y }",
    );
    assert_eq!(text(&sidecar.cell(&session, "y = 22; f()")), "42");
    assert_eq!(text(&sidecar.cell(&session, "[] instanceof Array && new Error() instanceof Error")), "true");
    assert_eq!(text(&sidecar.cell(&session, "Promise.resolve({a: [1, 2]})")), "{ a: [ 1, 2 ] }");
    assert_eq!(text(&sidecar.cell(&session, "typeof require('axios').get")), "'function'");
}

#[test]
fn errors_show_the_cells_own_lines_and_nothing_of_the_kernel() {
    let mut sidecar = Sidecar::start(&[]);
    let python = sidecar.session("python");
    sidecar.cell(&python, "def f(n):\n    raise ValueError(f'bad {n}')");
    let result = sidecar.cell(&python, "f(7)");
    assert_eq!((result["status"].as_str(), result["state"].as_str()), (Some("error"), Some("preserved")));
    assert_eq!(result["error"]["name"], "ValueError");
    assert_eq!(result["error"]["message"], "bad 7");
    let traceback = result["error"]["traceback"].to_string();
    assert!(
        traceback.contains("<cell 1>")
            && traceback.contains("raise ValueError(f'bad {n}')")
            && !traceback.contains("<kernel>"),
        "{traceback}"
    );
    let chained = sidecar.cell(&python, "try:\n    f(1)\nexcept ValueError as e:\n    raise KeyError('k') from e");
    let traceback = chained["error"]["traceback"].to_string();
    assert!(
        traceback.contains("bad 1") && traceback.contains("direct cause") && !traceback.contains("<kernel>"),
        "{traceback}"
    );
    let syntax = sidecar.cell(&python, "1 +* 2");
    assert_eq!(syntax["error"]["name"], "SyntaxError");

    let node = sidecar.session("nodejs");
    sidecar.cell(&node, "function f(n) {\n  throw new TypeError(`bad ${n}`)\n}");
    let result = sidecar.cell(&node, "f(7)");
    assert_eq!(result["error"]["name"], "TypeError");
    let traceback = result["error"]["traceback"].to_string();
    assert!(
        traceback.contains("<cell 1>:2:9") && !traceback.contains("<kernel>") && !traceback.contains("node:"),
        "{traceback}"
    );
    for (code, message) in [
        ("throw null", "null"),
        ("throw new Proxy({}, {})", "{}"),
        ("const x = 1; const x = 2", "already been declared"),
    ] {
        let result = sidecar.cell(&node, code);
        assert!(result["error"]["message"].as_str().is_some_and(|text| text.contains(message)), "{result}");
    }
}

#[test]
fn output_of_the_language_of_descriptors_and_of_children_comes_before_the_result() {
    let mut sidecar = Sidecar::start(&[]);
    let python = sidecar.session("python");
    let code = "import os, subprocess, sys\nprint('a')\nos.write(1, b'b\\n')\nsubprocess.run(['sh', '-c', 'echo c; echo d >&2'])\nprint('e', file=sys.stderr)\nsys.stdout.write('f')";
    let result = sidecar.cell(&python, code);
    assert_eq!(result["stdout"], json!({"text": "a\nb\nc\nf", "bytes": 7, "dropped": 0, "truncated": false}));
    assert_eq!(result["stderr"]["text"], "d\ne\n");
    assert_eq!(sidecar.cell(&python, "os.write(1, b'\\xff\\xfe ok')")["stdout"]["text"], "\u{FFFD}\u{FFFD} ok");

    let node = sidecar.session("nodejs");
    let code = "console.log('a'); require('fs').writeSync(1, 'b\\n'); require('child_process').execSync('echo c; echo d >&2', {stdio: 'inherit'}); console.error('e'); process.stdout.write('f'); undefined";
    let result = sidecar.cell(&node, code);
    assert_eq!(result["stdout"]["text"], "a\nb\nc\nf");
    assert_eq!(result["stderr"]["text"], "d\ne\n");
}

#[test]
fn what_a_program_prints_cannot_forge_the_protocol() {
    let mut sidecar = Sidecar::start(&[]);
    for (runtime, print) in [("python", "print"), ("nodejs", "console.log")] {
        let session = sidecar.session(runtime);
        let forged = r#"{"type":"done","cell":"c1","status":"ok","interrupted":false,"cpu_ms":0}"#;
        let result = sidecar.cell(&session, &format!("{print}('{forged}'); 5"));
        assert_eq!(text(&result), "5");
        assert_eq!(result["stdout"]["text"], format!("{forged}\n"));
    }
}

#[test]
fn a_flood_keeps_head_and_tail_and_counts_the_rest() {
    let mut sidecar = Sidecar::start(&[]);
    for (runtime, code) in [
        ("python", "for i in range(100000): print(f'line {i}')"),
        ("nodejs", "for (let i = 0; i < 100000; i++) console.log(`line ${i}`)"),
    ] {
        let session = sidecar.session(runtime);
        let result = sidecar.call("cell.execute", &json!({"session_id": session, "code": code, "max_output": "1k"}));
        let stdout = &result["stdout"];
        let text = stdout["text"].as_str().expect("text");
        assert!(text.starts_with("line 0\nline 1\n") && text.ends_with("line 99999\n"), "{text}");
        assert_eq!(
            (stdout["bytes"].as_u64(), stdout["dropped"].as_u64()),
            (Some(1_088_890), Some(1_087_866)),
            "{runtime}"
        );
        assert!(text.contains("[1087866 bytes dropped]"));
    }
}

#[test]
fn a_value_is_capped_like_output() {
    let mut sidecar = Sidecar::start(&[]);
    let session = sidecar.session("python");
    let result = sidecar.cell(&session, "'é' * 10**7");
    assert!(result["result"]["dropped"].as_u64() > Some(19_000_000), "{}", result["result"]["dropped"]);
    assert!(text(&result).len() < 300_000);
    let result = sidecar.cell(&session, "class R:\n    def __repr__(self): raise RuntimeError('no')\nR()");
    assert_eq!(result["error"]["name"], "RuntimeError");
}

#[test]
fn there_is_no_input_and_no_network() {
    let mut sidecar = Sidecar::start(&[]);
    let session = sidecar.session("python");
    assert_eq!(sidecar.cell(&session, "input()")["error"]["name"], "EOFError");
    let code = "import socket\ntry:\n    socket.create_connection(('192.0.2.1', 80), timeout=5)\nexcept OSError as error:\n    print(type(error).__name__)";
    assert_ne!(sidecar.cell(&session, code)["stdout"]["text"], "");
}

#[test]
fn data_work_runs_with_threads_processes_and_plots() {
    let mut sidecar = Sidecar::start(&["--memory", "1g"]);
    let session = sidecar.session("python");
    let code = "
import threading, subprocess, concurrent.futures as cf, multiprocessing as mp
import numpy as np, pandas as pd, matplotlib.pyplot as plt
from sklearn.linear_model import LinearRegression
frame = pd.DataFrame({'g': list('aab'), 'x': [1., 2., 3.]})
fit = LinearRegression().fit(frame[['x']], frame['x'] * 2)
plt.plot(frame['x']); plt.savefig('/workspace/p.png')
with cf.ThreadPoolExecutor(4) as pool: squares = list(pool.map(lambda n: n * n, range(4)))
with mp.get_context('fork').Pool(2) as pool: lengths = pool.map(len, ['a', 'bb'])
(frame.groupby('g')['x'].sum().tolist(), round(float(fit.coef_[0]), 6), squares, lengths, open('/workspace/p.png', 'rb').read(4))";
    let result = sidecar.timed(&session, code, "60s");
    assert_eq!(text(&result), "([3.0, 3.0], 2.0, [0, 1, 4, 9], [1, 2], b'\\x89PNG')", "{result}");
}
