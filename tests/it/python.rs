//! What a notebook's user expects of Python cells beyond values and output.

use serde_json::{Value, json};

use crate::harness::Sidecar;

fn text(result: &Value) -> &str {
    result["result"]["data"]["text/plain"].as_str().unwrap_or_else(|| panic!("no value: {result}"))
}

#[track_caller]
fn failed(result: &Value, name: &str, message: &str) {
    let error = &result["error"];
    assert_eq!(error["name"], name, "{result}");
    assert!(error["message"].as_str().is_some_and(|text| text.contains(message)), "{error}");
    assert!(!error.to_string().contains("<kernel>"), "{error}");
}

#[test]
fn cells_await_in_one_event_loop_that_lives_on() {
    let mut sidecar = Sidecar::start(&["--grace", "20s"]);
    let session = sidecar.session("python");
    let code =
        "import asyncio\nasync def double(n):\n    await asyncio.sleep(0.01)\n    return 2 * n\nawait double(21)";
    assert_eq!(text(&sidecar.cell(&session, code)), "42");
    let background = "async def count():\n    for n in range(3):\n        print(n); await asyncio.sleep(0.01)\ntask = asyncio.create_task(count())\nawait asyncio.sleep(0)";
    assert_eq!(sidecar.cell(&session, background)["stdout"]["text"], "0\n");
    assert_eq!(sidecar.cell(&session, "await task")["stdout"]["text"], "1\n2\n");
    assert_eq!(text(&sidecar.cell(&session, "asyncio.run(double(4))")), "8");
    let result = sidecar.timed(&session, "await asyncio.sleep(100)", "500ms");
    assert_eq!((&result["ended_by"], &result["state"]), (&json!("interrupt"), &json!("preserved")), "{result}");
    assert_eq!(text(&sidecar.cell(&session, "await double(1)")), "2");
    let result = sidecar.cell(&session, "async def fail():\n    raise ValueError('inside')\nawait fail()");
    failed(&result, "ValueError", "inside");
    assert!(!result["error"]["traceback"].to_string().contains("base_events"), "{result}");
}

#[test]
fn a_semicolon_suppresses_the_value() {
    let mut sidecar = Sidecar::start(&[]);
    let session = sidecar.session("python");
    assert_eq!(sidecar.cell(&session, "x = 7\nx ;  # quiet")["result"], Value::Null);
    assert_eq!(text(&sidecar.cell(&session, "'a;b'  # ; here")), "'a;b'");
    assert_eq!(text(&sidecar.cell(&session, "(_, x)")), "('a;b', 7)");
}

#[test]
fn tracebacks_and_warnings_show_the_lines_of_cells() {
    let mut sidecar = Sidecar::start(&[]);
    let session = sidecar.session("python");
    sidecar.cell(&session, "import warnings\ndef outer(call):\n    return call()");
    let result = sidecar.cell(&session, "outer(lambda: 1 / 0)");
    failed(&result, "ZeroDivisionError", "division by zero");
    let traceback = result["error"]["traceback"].to_string();
    assert!(traceback.contains("<cell 1>") && traceback.contains("return call()"), "{traceback}");
    let result = sidecar.cell(&session, "for n in range(3):\n    warnings.warn('careful')");
    let warning = "<cell 3>:2: UserWarning: careful\n  warnings.warn('careful')\n";
    assert_eq!(result["stderr"]["text"], warning);
    let result = sidecar.cell(&session, "for n in range(3):\n    warnings.warn('careful')");
    assert_eq!(result["stderr"]["text"], warning.replace("<cell 3>", "<cell 4>"));
    let result = sidecar.cell(&session, "def endless(): endless()\nendless()");
    failed(&result, "RecursionError", "recursion");
    assert!(result["error"]["traceback"].to_string().contains("more times"), "{result}");
    let result = sidecar.cell(&session, "raise ExceptionGroup('both', [ValueError(1), TypeError('second')])");
    assert!(result["error"]["traceback"].to_string().contains("TypeError: second"), "{result}");
    let result = sidecar.cell(&session, "x = 1\nif x\n    pass");
    failed(&result, "SyntaxError", "expected ':'");
    assert_eq!(result["error"]["traceback"][0], "  File \"<cell 7>\", line 2");
}

#[test]
fn what_only_ipython_understands_is_taken_or_explained() {
    let mut sidecar = Sidecar::start(&[]);
    let session = sidecar.session("python");
    assert_eq!(text(&sidecar.cell(&session, "%matplotlib inline\nx = 7\nx % 4")), "3");
    assert_eq!(text(&sidecar.cell(&session, "  y = 1\n  y + 1")), "2");
    for (code, advice) in [
        ("%pip install x", "packages come with the image"),
        ("x = 1\n!ls", "subprocess"),
        ("%%time\nx", "perf_counter"),
        ("?x", "help("),
    ] {
        failed(&sidecar.cell(&session, code), "SyntaxError", advice);
    }
    let result = sidecar.cell(&session, "from IPython.display import HTML, Markdown\nHTML('<b>bold</b>')");
    assert_eq!(result["result"]["data"]["text/html"], "<b>bold</b>", "{result}");
}

#[test]
fn values_come_in_every_form_that_they_have() {
    let mut sidecar = Sidecar::start(&["--memory", "1g"]);
    let session = sidecar.session("python");
    let code = "
class Rich:
    def _repr_html_(self): return '<b>rich</b>'
    def _repr_png_(self): return b'\\x89PNG'
    def _repr_json_(self): return {'a': [1]}, {'expanded': True}
    def _repr_latex_(self): return None
    def _repr_svg_(self): raise KeyError('broken')
    def __repr__(self): return 'Rich!'
Rich()";
    let result = sidecar.cell(&session, code);
    let expected = json!({"text/plain": "Rich!", "text/html": "<b>rich</b>", "image/png": "iVBORw==", "application/json": "{\"a\": [1]}"});
    assert_eq!(result["result"]["data"], expected);
    assert!(result["stderr"]["text"].as_str().is_some_and(|text| text.contains("KeyError: 'broken'")), "{result}");
    let result = sidecar.timed(&session, "import pandas as pd\npd.DataFrame({'column': [1, 2]})", "60s");
    let data = &result["result"]["data"];
    assert!(data["text/html"].as_str().is_some_and(|html| html.contains("<th>column</th>")), "{data}");
    assert!(text(&result).contains("column"), "{data}");
    let code = "import matplotlib.pyplot as plt\nfigure, axes = plt.subplots()\naxes.plot([-1, 1])\nfigure";
    let result = sidecar.timed(&session, code, "60s");
    assert!(
        result["result"]["data"]["image/png"].as_str().is_some_and(|png| png.starts_with("iVBORw0KGgo")),
        "{result}"
    );
}

#[test]
fn nobody_waits_for_a_terminal() {
    let mut sidecar = Sidecar::start(&[]);
    let session = sidecar.session("python");
    failed(
        &sidecar.cell(&session, "import sys, getpass\nassert sys.stdin.read() == ''\ninput('name? ')"),
        "EOFError",
        "",
    );
    failed(&sidecar.cell(&session, "getpass.getpass()"), "EOFError", "");
    failed(&sidecar.cell(&session, "breakpoint()"), "RuntimeError", "terminal");
    failed(&sidecar.cell(&session, "import pdb\npdb.set_trace()\nx = 1"), "BdbQuit", "no input");
    let result = sidecar.cell(&session, "import subprocess\nsubprocess.run(['cat']).returncode");
    assert_eq!(text(&result), "0");
}

#[test]
fn prints_and_descriptors_keep_their_order_in_a_flood() {
    let mut sidecar = Sidecar::start(&[]);
    let session = sidecar.session("python");
    let code = "import os, subprocess\nfor n in range(50):\n    print(n); os.write(1, b'x\\n')\nsubprocess.run(['echo', 'child'])\nfor n in range(50): print(n)";
    let result = sidecar.cell(&session, code);
    let lines: Vec<_> = (0..50).flat_map(|n| [n.to_string(), "x".into()]).chain(["child".into()]).collect();
    let lines: Vec<_> = lines.into_iter().chain((0..50).map(|n| n.to_string())).collect();
    let expected = lines.join("\n") + "\n";
    assert_eq!(result["stdout"]["text"], expected);
    let code = "import sys\nsaved = os.dup(1)\nfile = os.open('/tmp/f', os.O_RDWR | os.O_CREAT)\nprint('before', flush=True)\nos.dup2(file, 1)\nprint('inside', flush=True)\nos.dup2(saved, 1)\nprint('after')\nos.pread(file, 100, 0)";
    let result = sidecar.cell(&session, code);
    assert_eq!(result["stdout"]["text"], "before\nafter\n");
    assert_eq!(text(&result), "b'inside\\n'");
}

#[test]
fn handlers_of_signals_stop_cells_and_never_the_kernel() {
    let mut sidecar = Sidecar::start(&[]);
    let session = sidecar.session("python");
    let code = "import signal\ndef late(number, frame): raise TimeoutError('too late')\nsignal.signal(signal.SIGALRM, late)\nsignal.setitimer(signal.ITIMER_REAL, 0.1, 0.002)\nwhile True: print('x' * 50)";
    failed(&sidecar.cell(&session, code), "TimeoutError", "too late");
    for _ in 0..50 {
        sidecar.cell(&session, "1");
    }
    while sidecar.cell(&session, "signal.signal(signal.SIGALRM, signal.SIG_IGN)")["status"] != "ok" {}
    let result = sidecar.cell(&session, "7");
    assert_eq!((text(&result), &result["generation"]), ("7", &json!(1)));
}
