//! One call in a fresh sandbox.

use serde_json::{Value, json};

use crate::harness::{Sidecar, eventually, sandboxes};

#[track_caller]
fn run(sidecar: &mut Sidecar, runtime: &str, code: &str, arguments: &Value) -> Value {
    sidecar.call("run", &json!({"runtime": runtime, "code": code, "arguments": arguments}))
}

#[test]
fn main_is_called_with_the_arguments_and_its_value_comes_back_out_of_band() {
    let mut sidecar = Sidecar::start(&[]);
    let arguments = json!({"name": "\"é\"\n\u{1F600}", "n": 3});
    for (runtime, code) in [
        (
            "python",
            "def main(name, n):\n    print('{\"called\": true, \"value\": \"forged\"}')\n    return {'names': [name] * n, 'none': None}",
        ),
        (
            "nodejs",
            "async function main({ name, n }) {\n  console.log('{\"called\": true, \"value\": \"forged\"}');\n  return { names: Array(n).fill(name), none: null };\n}",
        ),
    ] {
        let result = run(&mut sidecar, runtime, code, &arguments);
        let name = &arguments["name"];
        assert_eq!(result["value"], json!({"names": [name, name, name], "none": null}), "{runtime}: {result}");
        assert_eq!((&result["status"], &result["called"]), (&json!("ok"), &json!(true)));
        assert!(result["stdout"]["text"].as_str().is_some_and(|text| text.contains("forged")));
    }
    let result = run(&mut sidecar, "python", "def main(): return None", &json!({}));
    assert_eq!((result.get("value"), &result["called"]), (Some(&Value::Null), &json!(true)), "null is a value");
    let result = run(&mut sidecar, "python", "async def main(): return 'text'", &json!({}));
    assert_eq!(result["value"], "text");
    let result = run(&mut sidecar, "nodejs", "const main = () => {}", &json!({}));
    assert_eq!(
        (result.get("value"), &result["called"], &result["status"]),
        (None, &json!(true), &json!("ok")),
        "{result}"
    );
}

#[test]
fn code_without_a_main_is_just_run() {
    let mut sidecar = Sidecar::start(&[]);
    for (runtime, code) in [("python", "print('hi')\n6 * 7"), ("nodejs", "console.log('hi'); 6 * 7")] {
        let result = run(&mut sidecar, runtime, code, &json!({}));
        assert_eq!((&result["called"], result.get("value")), (&json!(false), None), "{result}");
        assert_eq!(
            (&result["stdout"]["text"], &result["result"]["data"]["text/plain"]),
            (&json!("hi\n"), &json!("42"))
        );
    }
}

#[test]
fn what_goes_wrong_is_told_with_the_codes_own_lines() {
    let mut sidecar = Sidecar::start(&["--grace", "10s"]);
    for (code, name) in [
        ("def main(): return {1, 2}", "TypeError"),
        ("def main(): return float('nan')", "ValueError"),
        ("def main(a): return a", "TypeError"),
        ("def main():\n    raise KeyError('mine')", "KeyError"),
        ("1 +", "SyntaxError"),
    ] {
        let result = run(&mut sidecar, "python", code, &json!({}));
        assert_eq!((&result["status"], &result["error"]["name"]), (&json!("error"), &json!(name)), "{code}: {result}");
        assert!(result.get("value").is_none(), "{result}");
    }
    let result = run(&mut sidecar, "python", "def main():\n    raise KeyError('mine')", &json!({}));
    assert!(result["error"]["traceback"].to_string().contains("<cell 1>"), "{result}");
    let params = json!({"code": "def main():\n    print('started')\n    while True: pass", "timeout": "1s"});
    let result = sidecar.call("run", &params);
    assert_eq!((&result["status"], &result["stdout"]["text"]), (&json!("timeout"), &json!("started\n")), "{result}");
    let params = json!({"code": "import os\nprint('out')\nos._exit(3)"});
    let result = sidecar.call("run", &params);
    assert_eq!(
        (&result["status"], &result["exit_code"], &result["called"]),
        (&json!("killed"), &json!(3), &json!(false))
    );
    let result = run(&mut sidecar, "python", "def main(): return 'x' * (5 << 20)", &json!({}));
    assert_eq!(result["error"]["name"], "ValueTooLarge", "{}", result["status"]);
    assert_eq!(sidecar.fail("run", &json!({"code": "1", "arguments": [1]}))["code"], -32602);
}

#[test]
fn files_environment_and_artifacts_go_with_the_call_and_nothing_stays() {
    let state = tempfile::tempdir().expect("a folder");
    let mut sidecar = Sidecar::with_state(state.path(), &[]);
    let params = json!({
        "code": "import os\ndef main(): open('out.csv', 'w').write(open('in.txt').read() + os.environ['SUFFIX']); return os.listdir('.')",
        "files": [{"path": "in.txt", "text": "in"}], "env": {"SUFFIX": "!"}, "artifacts": true,
    });
    let result = sidecar.call("run", &params);
    assert_eq!(
        result["artifacts"],
        json!([{"path": "out.csv", "size": 3, "mime_type": "text/csv", "base64": "aW4h"}]),
        "{result}"
    );
    let second = run(&mut sidecar, "python", "import os\ndef main(): return os.listdir('.')", &json!({}));
    assert_eq!(second["value"], json!([]), "never the same sandbox");
    eventually("the sandboxes' removal", || sandboxes(state.path()).is_empty());
    assert_eq!(sidecar.call("server.info", &json!({}))["sessions"], 0);

    let id = sidecar.send("run", &json!({"code": "while True: pass"}));
    std::thread::sleep(std::time::Duration::from_secs(2));
    sidecar.write(
        format!("{}\n", json!({"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": id}})).as_bytes(),
    );
    let answer = sidecar.answer(id);
    let cancelled = answer["result"]["status"] == "interrupted" || answer["error"]["code"] == -32800;
    assert!(cancelled, "{answer}");
}
