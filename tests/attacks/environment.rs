//! The environment: what leaks in from the sidecar, and what one cell plants for the next interpreter to find.

use std::time::Duration;

use serde_json::json;

use crate::{
    arena::{Arena, word},
    case::{Case, Wall, hidden, node, play, python},
};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        hidden("the sidecar's variables", "found(n for n, v in os.environ.items() if HOST['token'] in v or n == HOST['variable'])").on_host(),
        hidden("the sidecar's variables in /proc", "found(p for p in glob.glob('/proc/*/environ') if HOST['token'] in content(p))").on_host(),
        hidden("variables of cellblock itself", "found(n for n in os.environ if n.startswith(('CELLBLOCK', 'ENABLE_', 'DOCKER', 'RUST', 'CARGO')))")
            .stands_because("the container without walls is not started with the sidecar's variables"),
        hidden("variables that look like secrets", "import re\nfound(n for n in os.environ if re.search('SECRET|TOKEN|PASSWORD|CREDENTIAL|API_?KEY|AWS_|AZURE_|GOOGLE_', n))"),
        hidden("variables that start code", "found(n for n in os.environ if n in ('LD_PRELOAD', 'LD_LIBRARY_PATH', 'LD_AUDIT', 'PYTHONSTARTUP', 'PYTHONPATH', 'PYTHONHOME', 'PYTHONINSPECT', 'NODE_OPTIONS', 'BASH_ENV', 'ENV', 'PERL5OPT', 'GCONV_PATH'))"),
        node("the sidecar's variables from Node", Wall::Hidden, "nothing", "found(Object.entries(process.env).filter(([n, v]) => v.includes(HOST.token) || n === HOST.variable).map(([n]) => n))").on_host(),
        node("variables that start code, from Node", Wall::Hidden, "nothing", "found(['NODE_OPTIONS', 'NODE_REPL_EXTERNAL_MODULE', 'LD_PRELOAD', 'BASH_ENV'].filter((name) => name in process.env))"),
        python("PATH has only folders that are not ours to write", Wall::Refused, "nothing", "found(d for d in os.environ['PATH'].split(':') if os.access(d or '.', os.W_OK))"),
        play("LD_PRELOAD for the next interpreter", Wall::Hidden, |arena| {
            planted(arena, "os.environ['LD_PRELOAD'] = '/workspace/attack.so'; open('/workspace/attack.so', 'wb').write(b'x')")
        })
        .dirty(),
        play("PYTHONSTARTUP for the next interpreter", Wall::Hidden, |arena| {
            planted(arena, "open('/workspace/start.py', 'w').write('planted = 1'); os.environ['PYTHONSTARTUP'] = '/workspace/start.py'")
        })
        .dirty(),
        play("sitecustomize for the next interpreter", Wall::Hidden, |arena| {
            planted(arena, "[open('/workspace/%s.py' % m, 'w').write('import builtins; builtins.planted = 1') for m in ('sitecustomize', 'usercustomize', 'json', 'base64')]")
        })
        .dirty(),
        play("modules that shadow the kernel's own", Wall::Contained, |arena| {
            // In the same interpreter, whose kernel must not import them anew.
            let code = "[open('/workspace/%s.py' % m, 'w').write('raise SystemExit(\"shadowed\")') for m in ('json', 'traceback', 'base64', 'linecache', 'ast', 'select')]\nimport sys\nfor m in ('json', 'traceback', 'linecache'): sys.modules.pop(m, None)\n1";
            arena.attack(code, Duration::from_secs(10))?;
            let failing = arena.attack("1 / 0", Duration::from_secs(10))?;
            let working = arena.attack("6 * 7", Duration::from_secs(10))?;
            let seen = (failing["error"]["name"].as_str(), word(&working));
            if seen == (Some("ZeroDivisionError"), "42".into()) { Ok("the kernel does not notice".into()) } else { Err(format!("{seen:?}")) }
        })
        .dirty(),
        play("builtins replaced under the kernel's feet", Wall::Contained, |arena| {
            let code = "import builtins, os, sys\nbuiltins.len = builtins.repr = builtins.isinstance = builtins.type = lambda *a: 'forged'\nos.write = os.read = lambda *a: 0\nsys.stdout = sys.stderr = None\n1";
            let first = arena.attack(code, Duration::from_secs(5))?;
            let next = arena.attack("6 * 7", Duration::from_secs(5));
            arena.all_is_well()?;
            // The interpreter is the attacker's own; what counts is an answer to each call.
            Ok(format!("{}; then {}", first["status"], next.map_or_else(|error| error, |result| word(&result))))
        })
        .dirty(),
        play("NODE_OPTIONS and BASH_ENV for the next Node", Wall::Hidden, |arena| {
            let client = arena.client()?;
            let session = client.call("session.create", &json!({"runtime": "nodejs"}))?["session_id"].clone();
            let mut cell = |code: &str| client.call("cell.execute", &json!({"session_id": session, "code": code}));
            cell("require('fs').writeFileSync('/workspace/a.js', 'globalThis.planted = 1'); process.env.NODE_OPTIONS = '--require /workspace/a.js'; process.env.BASH_ENV = '/workspace/a.js'; 1")?;
            let after = client.call("session.restart", &json!({"session_id": session}));
            let found = client.call("cell.execute", &json!({"session_id": session, "code": "[process.env.NODE_OPTIONS, process.env.BASH_ENV, globalThis.planted, require('fs').existsSync('/workspace/a.js')].join()"}));
            client.call("session.close", &json!({"session_id": session}))?;
            after?;
            let found = word(&found?);
            if found == ",,,false" { Ok("nothing".into()) } else { Err(found) }
        }),
    ]
}

/// Plants something, lets the interpreter die, and looks whether the next one has found it.
fn planted(arena: &mut Arena, plant: &str) -> Result<String, String> {
    let died = arena.attack(&format!("{plant}\nos._exit(1)"), Duration::from_secs(10))?;
    if died["state"] != "lost" {
        return Err(format!("the interpreter did not die: {died}"));
    }
    let look = "import os, glob, builtins\n', '.join(glob.glob('/workspace/*') + [n for n in ('LD_PRELOAD', 'PYTHONSTARTUP') if n in os.environ] + [n for n in ('planted',) if hasattr(builtins, n) or n in globals()]) or 'nothing'";
    let found = word(&arena.attack(look, Duration::from_secs(10))?);
    if found == "nothing" { Ok(found) } else { Err(found) }
}
