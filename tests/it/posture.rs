//! The walls, as measured by the sidecar and as user code finds them.

use serde_json::{Value, json};

use crate::harness::{Sidecar, cellblock, engine};

const LOOK_PYTHON: &str = "
import os, json, ctypes
def writable(path):
    try: open(os.path.join(path, '.probe'), 'w').close(); return True
    except OSError: return False
status = dict(line.split(':\\t', 1) for line in open('/proc/self/status').read().splitlines() if ':\\t' in line)
print(json.dumps({
    'uname': list(os.uname())[:3], 'status': status, 'no_new_privs': ctypes.CDLL(None).prctl(39, 0, 0, 0, 0),
    'interfaces': sorted(line.split(':')[0].strip() for line in open('/proc/net/dev') if ':' in line),
    'writable': [path for path, _, _ in os.walk('/', followlinks=False) if path.split('/')[1] not in ('proc', 'sys') and writable(path)],
    'env': sorted(os.environ)}))";

const LOOK_NODE: &str = "
const fs = require('fs'), os = require('os');
const writable = (path) => { try { fs.writeFileSync(path + '/.probe', ''); return true } catch { return false } };
const walk = (path) => { let found = []; try { if (writable(path)) found.push(path);
  for (const entry of fs.readdirSync(path, { withFileTypes: true })) if (entry.isDirectory() && !['/proc', '/sys'].includes(path + entry.name)) found = found.concat(walk((path === '/' ? '' : path) + '/' + entry.name)) } catch {} return found };
const status = Object.fromEntries(fs.readFileSync('/proc/self/status', 'utf8').split('\\n').map((line) => line.split(':\\t')));
console.log(JSON.stringify({ uname: [os.type(), os.hostname(), os.release()], status, no_new_privs: 1,
  interfaces: fs.readFileSync('/proc/net/dev', 'utf8').split('\\n').filter((line) => line.includes(':')).map((line) => line.split(':')[0].trim()),
  writable: walk('/'), env: Object.keys(process.env).sort() }))";

#[test]
fn user_code_finds_the_walls_that_the_design_promises() {
    let mut sidecar = Sidecar::start(&[]);
    for (runtime, look) in [("python", LOOK_PYTHON), ("nodejs", LOOK_NODE)] {
        let session = sidecar.session(runtime);
        let result = sidecar.cell(&session, look);
        let seen: Value = serde_json::from_str(result["stdout"]["text"].as_str().expect("text"))
            .unwrap_or_else(|_| panic!("{result}"));
        assert_eq!(seen["uname"], json!(["Linux", "cellblock", "4.4.0"]), "{runtime}");
        for (field, value) in [
            ("CapInh", "0000000000000000"),
            ("CapPrm", "0000000000000000"),
            ("CapEff", "0000000000000000"),
            ("CapBnd", "0000000000000000"),
            ("Seccomp", "2"),
        ] {
            assert_eq!(seen["status"][field], value, "{runtime} {field}");
        }
        assert_eq!(seen["status"]["Uid"], "65534\t65534\t65534\t65534");
        assert_eq!(seen["no_new_privs"], 1);
        assert_eq!(seen["interfaces"], json!(["lo"]));
        let writable: Vec<&str> =
            seen["writable"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
        assert!(
            writable.iter().all(|path| ["/tmp", "/workspace", "/dev/shm"].contains(path)),
            "{runtime}: {writable:?}"
        );
        assert!(!seen["env"].to_string().contains("CELLBLOCK"), "{}", seen["env"]);
    }
}

#[test]
fn the_writable_places_are_bounded() {
    let mut sidecar = Sidecar::start(&["--disk", "16m"]);
    let session = sidecar.session("python");
    for path in ["/workspace", "/tmp"] {
        let code = format!(
            "n = 0\ntry:\n    f = open('{path}/fill', 'wb')\n    while n < 64: f.write(bytes(1 << 20)); f.flush(); n += 1\nexcept OSError as e: print(e.errno, n)"
        );
        let result = sidecar.cell(&session, &code);
        let text = result["stdout"]["text"].as_str().expect("text");
        assert!(text.starts_with("28 1"), "{path}: {result}");
        sidecar.cell(&session, &format!("import os\nos.truncate('{path}/fill', 0)"));
    }
}

#[test]
fn the_posture_is_measured_and_strong() {
    let mut sidecar = Sidecar::start(&[]);
    let session = sidecar.session("python");
    let posture = sidecar.call("session.posture", &json!({"session_id": session}));
    assert_eq!(
        (&posture["isolation"], &posture["strong"], &posture["warnings"]),
        (&json!("gvisor"), &json!(true), &json!([])),
        "{posture}"
    );
    assert_eq!(posture["outside"]["runtime"], "runsc");
    assert_eq!(posture["outside"]["sentry"], true, "the host's process is the Sentry: {posture}");
    assert!(posture["checks"].as_array().expect("a list").iter().all(|check| check["ok"] == true), "{posture}");
}

#[test]
fn runc_is_used_only_by_name_and_says_so() {
    if engine() == "docker" {
        asked_for_by_name();
    }
    let output = cellblock().env("ENABLE_SANDBOX", "false").arg("config").output().expect("runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.lines().any(|line| line.starts_with("runtime = \"runc\"") && line.ends_with("ENABLE_SANDBOX")),
        "{text}"
    );
}

/// Only Docker starts runc; what the runsc engine says to it is a test of the command line's.
fn asked_for_by_name() {
    let mut sidecar = Sidecar::start(&["--runtime", "runc"]);
    assert_eq!(sidecar.call("server.info", &json!({}))["engine"]["isolation"], "container");
    let session = sidecar.session("python");
    let posture = sidecar.call("session.posture", &json!({"session_id": session}));
    assert_eq!((&posture["isolation"], &posture["strong"]), (&json!("container"), &json!(false)));
    assert!(posture["warnings"][0].as_str().is_some_and(|text| text.contains("not gVisor")), "{posture}");
}
