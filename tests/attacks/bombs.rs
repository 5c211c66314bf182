//! Bombs: what uses up processes, memory, disk, descriptors, output or time. Each stops by itself at a multiple of the
//! limit, so that it harms nobody where there is none; meanwhile a neighbour's cells are timed.

use std::time::Duration;

use crate::{
    arena::how,
    case::{Case, Wall, bomb, play},
};

/// At the limit by its own answer, or ended there by force with a true answer.
const ENDS: &str =
    "bounded killed-oom-lost killed-exit-lost timeout-interrupt-preserved timeout-kill-lost error-completed-preserved";

pub(crate) fn cases() -> Vec<Case> {
    vec![
        bomb("fork", "python", 20, ENDS, FORK),
        bomb("threads", "python", 20, ENDS, THREADS),
        bomb("processes through a shell", "python", 20, ENDS, SHELL),
        bomb("memory in one piece", "python", 20, "killed-oom-lost error-completed-preserved", "hog = bytearray(2 * LIMITS['memory'])\nhog[::4096] = b'x' * len(hog[::4096])\n'unbounded'"),
        bomb("memory in small pieces", "python", 20, "killed-oom-lost error-completed-preserved", "hog = []\nwhile len(hog) < 2 * LIMITS['memory'] >> 16: hog.append(b'x' * (1 << 16) + bytes([len(hog) % 256]))\n'unbounded'"),
        bomb("memory in children", "python", 20, ENDS, CHILDREN),
        bomb("memory in an anonymous file", "python", 20, ENDS, "fd = os.memfd_create('hog')\nword = 'unbounded'\nfor _ in range(2 * LIMITS['memory'] >> 20):\n    if os.write(fd, b'x' * (1 << 20)) < 1 << 20: word = 'bounded'\nword"),
        bomb("memory in Node's buffers", "nodejs", 20, "killed-oom-lost killed-exit-lost error-completed-preserved", "const hog = []; while (hog.length * 1e7 < 2 * LIMITS.memory) hog.push(Buffer.alloc(1e7, 1)); 'unbounded'"),
        bomb("/workspace filled", "python", 20, ENDS, "fill('/workspace')"),
        bomb("/tmp filled", "python", 20, ENDS, "fill('/tmp')"),
        bomb("/dev/shm filled", "python", 20, ENDS, "fill('/dev/shm')"),
        bomb("files without end", "python", 3, ENDS, INODES)
            .stands_because("there is no limit but the memory's, which files reach after minutes"),
        bomb("folders in folders", "python", 20, "bounded", "os.chdir('/tmp')\nword = 'bounded'\ntry:\n    for _ in range(3000): os.mkdir('d'); os.chdir('d')\nexcept OSError: pass\nos.chdir('/workspace')\nword")
            .stands_because("it only shows that nobody else notices"),
        bomb("descriptors", "python", 20, "bounded", "all_files()\nheld = []\nword = 'unbounded'\ntry:\n    while len(held) < 4096: held.append(os.dup(0))\nexcept OSError as error: word = 'bounded' if error.errno == errno.EMFILE else str(error)\n[os.close(fd) for fd in held]\nword"),
        bomb("sockets", "python", 20, "bounded", "all_files()\nheld = []\nword = 'unbounded'\ntry:\n    while len(held) < 4096: held.append(socket.socket(socket.AF_UNIX))\nexcept OSError as error: word = 'bounded' if error.errno == errno.EMFILE else str(error)\n[s.close() for s in held]\nword"),
        bomb("output without end", "python", 2, "timeout-interrupt-preserved timeout-kill-lost", "while True: os.write(1, b'x' * 65536)")
            .stands_because("its wall is the sidecar's cap"),
        bomb("output of single bytes", "python", 2, "timeout-interrupt-preserved timeout-kill-lost", "while True: os.write(1, b'\\xff'); os.write(2, b'\\0')")
            .stands_because("its wall is the sidecar's cap"),
        bomb("output without end from Node", "nodejs", 2, "timeout-interrupt-preserved timeout-kill-lost", "for (;;) console.log('x'.repeat(65536))")
            .stands_because("its wall is the sidecar's cap"),
        play("a value of 64 MB", Wall::Bounded, |arena| {
            let code = "class Big:\n    def __repr__(self): return 'x' * (1 << 26)\nBig()";
            let result = arena.attack(code, Duration::from_secs(20))?;
            let dropped = result["result"]["dropped"].as_u64().unwrap_or_default();
            if dropped > 0 { Ok(format!("{dropped} bytes dropped")) } else { Err(how(&result)) }
        }),
        bomb("an error message of 64 MB", "python", 20, "error-completed-preserved", "raise ValueError('x' * (1 << 26))")
            .stands_because("its wall is the kernel's cap"),
        bomb("a loop on one CPU", "python", 3, "timeout-interrupt-preserved", "while True: pass")
            .stands_because("every engine stops at the timeout"),
        bomb("loops on more CPUs than there are", "python", 3, "timeout-interrupt-preserved timeout-kill-lost", "[threading.Thread(target=lambda: sum(range(10**12)), daemon=True).start() for _ in range(4)]\nfor _ in range(6):\n    if os.fork() == 0:\n        while True: pass\nwhile True: pass")
            .stands_because("every engine stops at the timeout"),
        bomb("a regular expression that explodes", "python", 2, "timeout-interrupt-preserved timeout-kill-lost", "import re\nre.match('(a+)+$', 'a' * 60 + 'b')")
            .stands_because("every engine stops at the timeout"),
        bomb("a loop in Node", "nodejs", 2, "timeout-interrupt-preserved", "for (;;);")
            .stands_because("every engine stops at the timeout"),
        bomb("workers in Node", "nodejs", 5, "bounded killed-exit-lost killed-oom-lost timeout-kill-lost timeout-interrupt-preserved", WORKERS),
    ]
}

/// Children that live until the end of the cell, up to four times the limit.
const FORK: &str = r"
pids, word = [], 'unbounded'
try:
    while len(pids) < 4 * LIMITS['processes']:
        pid = os.fork()
        if pid == 0:
            time.sleep(30)
            os._exit(0)
        pids.append(pid)
except OSError as error:
    word = 'bounded' if error.errno == errno.EAGAIN else str(error)
[os.kill(pid, 9) for pid in pids]
[os.waitpid(pid, 0) for pid in pids]
word";

const THREADS: &str = r"
stop, started, word = threading.Event(), [], 'unbounded'
try:
    while len(started) < 4 * LIMITS['processes']:
        started.append(threading.Thread(target=stop.wait, daemon=True))
        started[-1].start()
except RuntimeError:
    word = 'bounded'
stop.set()
word";

/// The classic, to a depth of ten.
const SHELL: &str = r"
script = 'bomb() { [ $1 -gt 10 ] || { bomb $(($1 + 1)) & bomb $(($1 + 1)) & wait; }; }; bomb 0; true'
run = subprocess.run(['sh', '-c', script], capture_output=True, text=True)
'bounded' if 'ork' in run.stderr or run.returncode else 'unbounded'";

const CHILDREN: &str = r"
share, ends = LIMITS['memory'] // 4, []
for _ in range(8):
    pid = os.fork()
    if pid == 0:
        hog = bytearray(share)
        hog[::4096] = b'x' * len(hog[::4096])
        time.sleep(3)
        os._exit(0)
    ends.append(pid)
'unbounded' if all(os.waitpid(pid, 0)[1] == 0 for pid in ends) else 'bounded'";

const INODES: &str = r"
word = 'unbounded'
os.makedirs('/tmp/many', exist_ok=True)
try:
    for n in range(10**7):
        os.close(os.open('/tmp/many/%d' % n, os.O_CREAT | os.O_WRONLY))
except OSError as error:
    word = 'bounded' if error.errno == errno.ENOSPC else str(error)
word";

const WORKERS: &str = r"
(async () => {
const started = [];
let word = 'unbounded';
try {
  for (let n = 0; n < LIMITS.processes; n++) {
    const one = new worker_threads.Worker('setInterval(() => {}, 1000)', { eval: true });
    started.push(one);
    await new Promise((done, fail) => { one.on('online', done); one.on('error', fail); });
  }
} catch { word = 'bounded'; }
started.forEach((one) => one.terminate());
return word;
})()";
