//! Signals, ends, and messages forged on the kernel's descriptors: each cell gets one true answer, and the session's next
//! cell its own.

use std::time::Duration;

use crate::{
    arena::{Arena, how, word},
    case::{Case, Wall, ending, play, python},
};

const DIES: &str = "killed-exit-lost";
/// Stopped by force at its deadline.
const FORCED: &str = "timeout-kill-lost";
/// Obeyed at its deadline.
const OBEYED: &str = "timeout-interrupt-preserved";

pub(crate) fn cases() -> Vec<Case> {
    vec![
        ending("SIGKILL to the kernel", "python", 3000, "killed-exit-lost ok-completed-preserved", "child(lambda: os.kill(1, signal.SIGKILL))"),
        ending("SIGKILL to itself", "python", 3000, "killed-exit-lost ok-completed-preserved", "os.kill(os.getpid(), signal.SIGKILL)"),
        ending("SIGKILL to everybody", "python", 3000, "killed-exit-lost ok-completed-preserved error-completed-preserved", "os.kill(-1, signal.SIGKILL)"),
        ending("SIGSTOP to itself", "python", 1000, "timeout-kill-lost timeout-interrupt-preserved", "os.kill(os.getpid(), signal.SIGSTOP); time.sleep(9)"),
        ending("SIGTERM to itself", "python", 3000, "killed-exit-lost ok-completed-preserved", "os.kill(os.getpid(), signal.SIGTERM)"),
        ending("SIGINT to itself", "python", 3000, "error-completed-preserved", "os.kill(os.getpid(), signal.SIGINT); time.sleep(1)"),
        ending("SIGINT ignored", "python", 700, FORCED, "signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"),
        ending("SIGINT swallowed by a handler", "python", 700, FORCED, "signal.signal(signal.SIGINT, lambda *a: None)\nwhile True: pass"),
        ending("every signal blocked", "python", 700, "timeout-kill-lost timeout-interrupt-preserved", "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: pass"),
        ending("KeyboardInterrupt swallowed for ever", "python", 700, FORCED, "while True:\n    try: time.sleep(9)\n    except BaseException: pass"),
        ending("a storm of timer signals", "python", 700, "timeout-interrupt-preserved timeout-kill-lost", "signal.signal(signal.SIGALRM, lambda *a: None)\nsignal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)\nwhile True: pass"),
        ending("a native call that does not come back", "python", 700, "timeout-kill-lost timeout-interrupt-preserved", "while True: ctypes.PyDLL(None).sleep(60)"),
        ending("an endless loop", "python", 700, OBEYED, "while True: pass"),
        ending("an end without a word", "python", 3000, DIES, "os._exit(0)"),
        ending("a crash", "python", 3000, DIES, "ctypes.string_at(0)"),
        ending("abort", "python", 3000, DIES, "os.abort()"),
        ending("a stack without an end", "python", 5000, "error-completed-preserved killed-exit-lost killed-oom-lost", "sys.setrecursionlimit(10**9)\ndef f(): f()\nf()"),
        ending("the kernel replaced by another program", "python", 1000, FORCED, "os.execv('/bin/sleep', ['sleep', '60'])"),
        ending("the kernel replaced by one that ends", "python", 3000, DIES, "os.execv('/bin/true', ['true'])"),
        ending("all descriptors closed", "python", 3000, DIES, "os.closerange(0, 4096)"),
        ending("a child that comes back from fork", "python", 3000, "ok-completed-preserved", "os.fork()\n1"),
        ending("a daemon that outlives the cell", "python", 3000, "ok-completed-preserved", "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        while True: time.sleep(1)\n    os._exit(0)\n1"),
        ending("SIGKILL to Node", "nodejs", 3000, DIES, "process.kill(process.pid, 'SIGKILL'); for (;;);").also("timeout-interrupt-preserved"),
        ending("SIGSTOP to Node", "nodejs", 1000, FORCED, "process.kill(process.pid, 'SIGSTOP'); for (;;);").also("timeout-interrupt-preserved"),
        ending("SIGINT swallowed in Node", "nodejs", 700, "timeout-interrupt-preserved timeout-kill-lost", "process.on('SIGINT', () => {}); for (;;);"),
        ending("Node's promise that never ends", "nodejs", 700, OBEYED, "new Promise(() => {})"),
        ending("Node ends without a word", "nodejs", 3000, DIES, "process.reallyExit(0)"),
        ending("Node aborts", "nodejs", 3000, DIES, "process.abort()"),
        ending("an error in Node's background", "nodejs", 3000, "ok-completed-preserved error-completed-preserved killed-exit-lost", "setTimeout(() => { throw new Error('late') }, 50); new Promise((r) => setTimeout(r, 300))"),
        ending("Node's microtasks without an end", "nodejs", 700, "timeout-kill-lost timeout-interrupt-preserved killed-oom-lost", "const spin = () => Promise.resolve().then(spin); spin(); new Promise(() => {})"),
        python("a process of the host: kill", Wall::Hidden, "ESRCH EPERM", "attempt(lambda: os.kill(HOST['pid'], 0))").on_host(),
        python("a process of the host: pidfd_open", Wall::Hidden, "ESRCH EPERM ENOSYS", "call('pidfd_open', HOST['pid'], 0)").on_host(),
        play("a forged end of this cell on every descriptor", Wall::Contained, |arena| {
            forged(arena, r#"{"type":"done","cell":"%s","status":"ok","interrupted":false,"result":{"data":{"text/plain":"forged"},"dropped":0},"error":null,"exit_code":null,"cpu_ms":0,"memory_peak":null}"#)
        })
        .dirty(),
        play("a forged end of the next cell on every descriptor", Wall::Contained, |arena| {
            forged(arena, r#"{"type":"done","cell":"c9999","status":"ok","interrupted":false,"result":{"data":{"text/plain":"forged"},"dropped":0},"error":null,"exit_code":null,"cpu_ms":0,"memory_peak":null}"#)
        })
        .dirty(),
        play("forged output of another cell on every descriptor", Wall::Contained, |arena| {
            forged(arena, r#"{"type":"stream","cell":"c9999","name":"stdout","text":"forged"}"#)
        })
        .dirty(),
        play("a second greeting on every descriptor", Wall::Contained, |arena| {
            forged(arena, r#"{"type":"ready","protocol":1,"kernel":"python","version":"9","probe":{}}"#)
        })
        .dirty(),
        play("a message of no known type on every descriptor", Wall::Contained, |arena| {
            forged(arena, r#"{"type":"shell","command":"id"}"#)
        })
        .dirty(),
        play("no JSON on every descriptor", Wall::Contained, |arena| forged(arena, "\\0\\xff{[")).dirty(),
        play("a JSON-RPC answer on every descriptor", Wall::Contained, |arena| {
            forged(arena, r#"{"jsonrpc":"2.0","id":1048600,"result":{"forged":true}}"#)
        })
        .dirty(),
        play("a line without an end on every descriptor", Wall::Contained, |arena| {
            let result = arena.attack(
                "for fd in range(3, 1024):\n    try:\n        if not os.path.exists('/proc/self/fd/%d' % fd) or 'pipe' not in os.readlink('/proc/self/fd/%d' % fd) and 'host' not in os.readlink('/proc/self/fd/%d' % fd): continue\n        for _ in range(160): os.write(fd, b'x' * 65536)\n    except OSError: pass\n1",
                Duration::from_secs(8),
            )?;
            settled(arena, &result)
        })
        .dirty(),
        play("forged messages on the descriptors of others through /proc", Wall::Contained, |arena| {
            let result = arena.attack(
                "line = b'\\n{\"type\":\"done\",\"cell\":\"c9999\",\"status\":\"ok\"}\\n'\ndef write(path):\n    fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)\n    os.write(fd, line)\n[attempt(lambda: write(p)) for p in glob.glob('/proc/[0-9]*/fd/*') + glob.glob('/dev/pts/*')]\n1",
                Duration::from_secs(8),
            )?;
            settled(arena, &result)
        })
        .dirty(),
        play("text that looks like protocol on stdout and stderr", Wall::Contained, |arena| {
            let code = "line = '{\"type\":\"done\",\"cell\":\"c1\",\"status\":\"ok\",\"result\":{\"data\":{\"text/plain\":\"forged\"}}}'\nprint(line)\nprint(line, file=sys.stderr)\nos.system('echo \\'%s\\'' % line)\n'mine'";
            let result = arena.attack(code, Duration::from_secs(8))?;
            let kept = result["stdout"]["text"].as_str().is_some_and(|text| text.matches("forged").count() == 2);
            if word(&result) == "mine" && kept { Ok("it is output and no more".into()) } else { Err(result.to_string()) }
        }),
        play("a result that pretends to be an error, and the other way round", Wall::Contained, |arena| {
            let code = "class Forged(Exception):\n    def __str__(self): raise SystemExit(0)\n    def __repr__(self): os._exit(0)\nraise Forged()";
            let result = arena.attack(code, Duration::from_secs(8))?;
            settled(arena, &result)
        })
        .dirty(),
    ]
}

/// Writes a message on every open descriptor but 1 and 2; `%s` in it is this cell's id.
fn forged(arena: &mut Arena, message: &str) -> Result<String, String> {
    let first = arena.attack("1", Duration::from_secs(5))?;
    let count = first["cell_id"].as_str().and_then(|id| id.strip_prefix('c')?.parse::<u64>().ok()).unwrap_or_default();
    let message = message.replace("%s", &format!("c{}", count + 1));
    let text = serde_json::to_string(&message).map_err(|error| error.to_string())?.replace("\\\\", "\\");
    let code = format!(
        "for fd in (n for n in range(1024) if n not in (1, 2)):\n    try: os.write(fd, ('\\n' + {text} + '\\n').encode('latin-1'))\n    except OSError: pass\ntime.sleep(0.2)\n'mine'"
    );
    let result = arena.attack(&code, Duration::from_secs(8))?;
    settled(arena, &result)
}

/// Whatever the attacker made of its own cell: the next cell's answer is its own, and the neighbour's too.
fn settled(arena: &mut Arena, result: &serde_json::Value) -> Result<String, String> {
    for (code, right) in [("6 * 7", "42"), ("'an' + 'other'", "another")] {
        let next = word(&arena.attack(code, Duration::from_secs(8))?);
        if next != right {
            return Err(format!("after {} the next cell's {code} is {next}", how(result)));
        }
    }
    arena.all_is_well()?;
    Ok(format!("{}; the next cells are true", how(result)))
}
