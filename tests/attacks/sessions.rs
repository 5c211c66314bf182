//! Other sessions: what one leaves, another must not find.

use std::time::Duration;

use serde_json::json;

use crate::{
    arena::{Arena, how, word},
    case::{Case, Wall, pair, play},
};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        pair("files in /workspace", "open('/workspace/left', 'w').write('x')\n'left'", "found(glob.glob('/workspace/left'))"),
        pair("files in /tmp", "open('/tmp/left-here', 'w').write('x')\n'left'", "found(glob.glob('/tmp/left-here'))"),
        pair("POSIX shared memory", "from multiprocessing import shared_memory\ntry:\n    left = shared_memory.SharedMemory('attack_left', True, 64)\nexcept FileExistsError:\n    pass\n'left'", "found(glob.glob('/dev/shm/attack_left'))"),
        pair("System V shared memory", "'left' if libc.shmget(0x5ec2e7, 64, 0o1666) >= 0 else 'none'", "found(['segment'] if libc.shmget(0x5ec2e7, 64, 0o666) >= 0 else [])"),
        pair("System V message queues", "'left' if libc.msgget(0x5ec2e7, 0o1666) >= 0 else 'none'", "found(['queue'] if libc.msgget(0x5ec2e7, 0o666) >= 0 else [])"),
        pair("System V semaphores", "'left' if libc.semget(0x5ec2e7, 1, 0o1666) >= 0 else 'none'", "found(['semaphore'] if libc.semget(0x5ec2e7, 1, 0o666) >= 0 else [])"),
        pair("abstract sockets", "server = socket.socket(socket.AF_UNIX)\nserver.bind('\\0attack-left')\nserver.listen()\n'left'", "found(['socket'] if reach('\\0attack-left', family=socket.AF_UNIX) == 'allowed' else [])"),
        pair("listening on the loopback", "tcp = socket.socket()\ntcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\ntcp.bind(('127.0.0.1', 45731))\ntcp.listen()\n'left'", "found(['port'] if reach(('127.0.0.1', 45731)) == 'allowed' else [])"),
        pair("processes", "background = subprocess.Popen(['sleep', '45731'])\n'left'", "found(p for p in os.listdir('/proc') if p.isdigit() and '45731' in content('/proc/%s/cmdline' % p))"),
        pair("named pipes", "os.path.exists('/tmp/left-pipe') or os.mkfifo('/tmp/left-pipe')\n'left'", "found(glob.glob('/tmp/left-pipe'))"),
        pair("memory files of others", "memory = os.memfd_create('attack-left')\n'left'", "found(p for p in glob.glob('/proc/[0-9]*/fd/*') if not p.startswith('/proc/%d/' % os.getpid()) and 'attack-left' in os.path.realpath(p))"),
        pair("file locks", "import fcntl\nlock = open('/workspace/lock', 'w')\nfcntl.flock(lock, fcntl.LOCK_EX)\n'left'", "import fcntl\nfound(['locked'] if attempt(lambda: fcntl.flock(open('/workspace/lock', 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB)) == 'EAGAIN' else [])"),
        pair("names in the interpreter", "left_behind = 'x'\nimport builtins\nbuiltins.left_behind = 'x'\n'left'", "found(['name'] if 'left_behind' in dir(__builtins__) + list(globals()) else [])")
            .stands_because("two interpreters share no names even without a wall"),
        play("random numbers are not the same in two sessions", Wall::Virtual, |arena| {
            let code = "import random, uuid\nstr([os.urandom(8).hex(), uuid.uuid4().hex, random.random()])";
            let (attacker, neighbour) = (arena.attacker()?, arena.neighbour()?);
            let mut draw = |session| arena.client()?.call("cell.execute", &json!({"session_id": session, "code": code}));
            let (one, other) = (word(&draw(attacker)?), word(&draw(neighbour)?));
            if one == other { Err(format!("both drew {one}")) } else { Ok("different".into()) }
        }),
        play("a session of another connection: a cell", Wall::Answered, |arena| foreign(arena, "cell.execute", json!({"code": "1"}))).over_socket(),
        play("a session of another connection: an interrupt", Wall::Answered, |arena| foreign(arena, "cell.interrupt", json!({}))).over_socket(),
        play("a session of another connection: a restart", Wall::Answered, |arena| foreign(arena, "session.restart", json!({}))).over_socket(),
        play("a session of another connection: its end", Wall::Answered, |arena| foreign(arena, "session.close", json!({}))).over_socket(),
        play("a session of another connection: its posture", Wall::Answered, |arena| foreign(arena, "session.posture", json!({}))).over_socket(),
        play("a session of another connection: the list", Wall::Answered, |arena| {
            let session = arena.attacker()?;
            let list = arena.sidecar()?.another()?.call("session.list", &json!({}))?;
            if list.to_string().contains(&session) { Err(list.to_string()) } else { Ok("not in the list".into()) }
        })
        .over_socket(),
        play("a restart leaves nothing behind", Wall::Hidden, |arena| {
            let code = "open('/workspace/before', 'w').close(); open('/tmp/before', 'w').close()\nleft = subprocess.Popen(['sleep', '45732'])\nos.environ['LD_PRELOAD'] = '/workspace/x.so'";
            arena.attack(code, Duration::from_secs(10))?;
            let session = arena.attacker()?;
            arena.client()?.call("session.restart", &json!({"session_id": session}))?;
            let look = "import glob, os\n', '.join(glob.glob('/workspace/*') + glob.glob('/tmp/before') + [p for p in glob.glob('/proc/[0-9]*') if '45732' in open(p + '/cmdline').read()] + [n for n in os.environ if n == 'LD_PRELOAD']) or 'nothing'";
            let found = word(&arena.attack(look, Duration::from_secs(10))?);
            if found == "nothing" { Ok(found) } else { Err(found) }
        })
        .dirty(),
        play("a closed session is gone for good", Wall::Answered, |arena| {
            let session = arena.attacker()?;
            arena.client()?.call("session.close", &json!({"session_id": session}))?;
            match arena.client()?.call("cell.execute", &json!({"session_id": session, "code": "1"})) {
                Ok(result) => Err(how(&result)),
                Err(error) if error.contains("no_session") => Ok("no_session".into()),
                Err(error) => Err(error),
            }
        })
        .dirty(),
    ]
}

/// Another connection uses our session's id; it must be told that there is none, and the session must not notice.
fn foreign(arena: &mut Arena, method: &str, mut params: serde_json::Value) -> Result<String, String> {
    let session = arena.attacker()?;
    let count = arena.attack("kept = 41", Duration::from_secs(10))?["generation"].clone();
    params["session_id"] = session.into();
    match arena.sidecar()?.another()?.call(method, &params) {
        Ok(result) => return Err(format!("{method} is answered: {result}")),
        Err(error) if error.contains("no_session") => {}
        Err(error) => return Err(error),
    }
    let after = arena.attack("kept + 1", Duration::from_secs(10))?;
    if word(&after) == "42" && after["generation"] == count { Ok("no_session".into()) } else { Err(after.to_string()) }
}
