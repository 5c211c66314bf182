"""What a user of the runsc engine notices of control groups version 2; runs in the machine of scripts/test-cgroup2.

Prints a line per check, and `result: passed` or `result: failed` last.
"""

import json
import os
import pathlib
import queue
import subprocess
import threading
import time

ROOT = pathlib.Path("/sys/fs/cgroup")
USER = 1000
MEMORY = 256 << 20
# The machine is emulated: everything takes ten times as long.
PATIENCE = 300
HOGS = {"python": "kept = []\nwhile True: kept.append(bytearray(b'x') * (4 << 20))",
        "nodejs": "const kept = []; for (;;) kept.push(Buffer.alloc(4 << 20, 1))"}
SPIN = """
import os, time
until = time.monotonic() + 10
children = []
for _ in range(2):
    child = os.fork()
    if not child:
        while time.monotonic() < until: pass
        os._exit(0)
    children.append(child)
for child in children: os.waitpid(child, 0)
"""
# From the kernel's command line.
OPTIONS = dict(word.split("=", 1) for word in pathlib.Path("/proc/cmdline").read_text().split() if "=" in word)
failed = []


def check(what, ok, found=""):
    print(f"  {'ok    ' if ok else 'FAILED'} {time.monotonic():4.0f} s  {what}: {found}", flush=True)
    if not ok:
        failed.append(what)


def eventually(probe, seconds=60):
    """The probe's answer once it is true, or its last."""
    until = time.monotonic() + seconds
    while not (found := probe()) and time.monotonic() < until:
        time.sleep(0.1)
    return found


def groups(pattern="cellblock-*"):
    """Groups of ours, wherever they are."""
    return sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob(pattern) if path.is_dir())


def give_store(user):
    """A store for an ordinary user with the files of root's; a store belongs to one user."""
    store = f"/store/{user}"
    subprocess.run(["cp", "-al", "/store/0", store], check=True)
    for folder, _, files in os.walk(store):
        for path in [folder, *(os.path.join(folder, file) for file in files if "/rootfs" not in folder)]:
            os.chown(path, user, user)


def subgroups(group):
    return [path.name for path in group.iterdir() if path.is_dir()]


def sandbox_group():
    """The one sandbox's group."""
    found = groups("cellblock-*/*")
    return ROOT / found[0] if len(found) == 1 else None


def processes():
    """Command lines of runsc's processes by their ids."""
    found = {}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_text().split("\0")
        except OSError:
            continue
        if pathlib.PurePath(command[0]).name.startswith("runsc"):
            found[int(folder.name)] = " ".join(command)
    return found


def delegate(name, owner):
    """A group that its owner may divide, as systemd with Delegate=yes makes them."""
    (ROOT / "cgroup.subtree_control").write_text("+memory +cpu +pids")
    group = ROOT / name
    group.mkdir(exist_ok=True)
    for file in [group, *(group / file for file in ("cgroup.procs", "cgroup.threads", "cgroup.subtree_control"))]:
        os.chown(file, owner, owner)
    return group


class Sidecar:
    """A `cellblock serve` on its standard input and output."""

    def __init__(self, user=0, group=None, shell="exec"):
        state = pathlib.Path(f"/tmp/{user}")
        state.mkdir(exist_ok=True)
        os.chown(state, user, user)
        join = f"echo $$ >{group}/cgroup.procs && " if group else ""
        become = f"setpriv --reuid {user} --regid {user} --clear-groups" if user else ""
        command = f"{join}{shell} {become} /program/cellblock serve"
        environment = {
            "PATH": os.environ["PATH"], "CELLBLOCK_ENGINE": "runsc", "CELLBLOCK_STATE_DIR": str(state), "CELLBLOCK_IMAGE_STORE": f"/store/{user}",
            "CELLBLOCK_MEMORY": str(MEMORY), "CELLBLOCK_START_TIMEOUT": "5m", "CELLBLOCK_GRACE": "1m",
            "CELLBLOCK_TIMEOUT": "5m", "CELLBLOCK_LOG_LEVEL": OPTIONS.get("log", "warn"),
            "CELLBLOCK_PLATFORM": OPTIONS.get("platform", "auto"),
        }
        self.process = subprocess.Popen(["sh", "-c", command], env=environment, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, start_new_session=True)
        self.answers = queue.Queue()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            message = json.loads(line)
            if "id" in message:
                self.answers.put(message)
        self.answers.put({"error": "the supervisor has ended"})

    def call(self, method, **parameters):
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            answer = self.answers.get(timeout=PATIENCE)
        except (OSError, queue.Empty) as error:
            answer = {"error": repr(error)}
        if "error" in answer:
            raise SystemExit(f"{method}: {answer['error']}")
        return answer["result"]

    def session(self, runtime):
        return self.call("session.create", runtime=runtime)["session_id"]

    def cell(self, session, code):
        return self.call("cell.execute", session_id=session, code=code)

    def text(self, session, code):
        return self.cell(session, code)["stdout"]["text"].strip()

    def end(self):
        self.process.stdin.close()
        self.process.wait(PATIENCE)

    def kill(self):
        self.process.kill()  # The shell has become the supervisor.
        self.process.wait(PATIENCE)


def guard(sidecar, expected):
    engine = sidecar.call("server.info")["engine"]
    check(f"server.info: memory_guard {expected}", engine["memory_guard"] == expected, engine["memory_guard"])
    return engine


def posture(sidecar, session, expected):
    found = sidecar.call("session.posture", session_id=session)
    found = (found["strong"], found["outside"]["sentry"], found["outside"]["memory_guard"])
    check("session.posture: strong, a Sentry, the same guard", found == (True, True, expected), found)


def hog(sidecar, session, runtime):
    """A cell that takes all memory is told as such, and the next one works."""
    result = sidecar.cell(session, HOGS[runtime])
    found = (result["status"], result["ended_by"], result["state"])
    check(f"a {runtime} hog ends by oom", found == ("killed", "oom", "lost"), found)
    result = sidecar.cell(session, "6 * 7")
    found = (result["status"], result["generation"], result["result"])
    check("the next cell works", result["status"] == "ok" and "42" in json.dumps(result["result"]), found)


def mem_total(sidecar, session):
    text = sidecar.text(session, "print(open('/proc/meminfo').readline())")
    return int(text.split()[1]) << 10


def limits(sidecar, session):
    """The group's files, and that the quota holds."""
    group = eventually(sandbox_group)
    check("the sandbox has a group", group is not None, groups("cellblock-*/*"))
    if group is None:
        return
    found = {name: (group / name).read_text().strip() for name in ("memory.max", "cpu.max", "pids.max")}
    check("memory.max is the session's", found["memory.max"] == str(MEMORY), found["memory.max"])
    check("pids.max is set", found["pids.max"].isdigit(), found["pids.max"])
    members = {int(pid) for pid in (group / "cgroup.procs").read_text().split()}
    outside = {pid: command[:60] for pid, command in processes().items()
               if command.startswith(("runsc-sandbox", "runsc-gofer")) and pid not in members}
    check("Sentry and gofer are in it", len(members) > 1 and not outside, f"{len(members)} processes {outside or ''}")

    def used():
        lines = (line.split() for line in (group / "cpu.stat").read_text().splitlines())
        return {key: int(value) for key, value in lines}

    cell = threading.Thread(target=sidecar.cell, args=(session, SPIN))
    idle = used()["nr_throttled"]
    cell.start()
    eventually(lambda: used()["nr_throttled"] > idle + 5)
    before, started = used(), time.monotonic()
    time.sleep(3)
    after, ended = used(), time.monotonic()
    cell.join()
    cpus = (after["usage_usec"] - before["usage_usec"]) / 1e6 / (ended - started)
    throttled = after["nr_throttled"] - before["nr_throttled"]
    # The quota is the upper bound; the lower one, that they did spin, is low for an emulator that is itself starved.
    check("two spinning processes get one CPU", 0.5 < cpus < 1.2 and throttled > 0,
          f"{cpus:.2f} CPUs, throttled in {throttled} periods")


def walls(expected, **where):
    """Everything a session promises, under the guard that is expected."""
    sidecar = Sidecar(**where)
    engine = guard(sidecar, expected)
    session = sidecar.session("python")
    posture(sidecar, session, expected)
    total = mem_total(sidecar, session)
    if expected == "cgroup":
        # Without root runsc tells the guest of all of the machine's memory.
        check("MemTotal inside is the limit, without root the machine's",
              (total == MEMORY) is not engine["rootless"], f"{total >> 20} MiB")
        limits(sidecar, session)
    else:
        check("no group is made", groups() == [], groups())
    hog(sidecar, session, "python")
    if expected == "cgroup":
        sidecar.call("session.close", session_id=session)
        hog(sidecar, sidecar.session("nodejs"), "nodejs")
    sidecar.end()
    gone("after the end")


def gone(when):
    empty = eventually(lambda: not processes() and not groups())
    check(f"nothing is left {when}", empty, [*groups(), *processes().values()])


def killed(group=None, next_group=None, **where):
    """A supervisor is killed; the next one removes what it left."""
    sidecar = Sidecar(group=group, **where)
    sidecar.session("python")
    left = groups()
    check("there is a group", len(left) == 1, left)
    sidecar.kill()
    eventually(lambda: not processes())
    check("no process outlives kill -9", not processes(), list(processes().values()))
    sidecar = Sidecar(group=next_group, **where)
    guard(sidecar, "cgroup")
    found = groups()
    check("the next start removes the dead one's groups", left[0] not in found and len(found) == 1, found)
    sidecar.end()
    gone("after that one's end")


def root():
    walls("cgroup")
    killed()


def delegated():
    group = delegate("user1000", USER)
    walls("cgroup", user=USER, group=group)
    check("the delegated group is as it was", subgroups(group) == [], subgroups(group))
    # The dead one's group keeps its controllers, so only a group within can take the next one.
    killed(user=USER, group=group, next_group=group / "supervisor")


def crowded():
    group = delegate("crowded", USER)
    with subprocess.Popen(["sh", "-c", f"echo $$ >{group}/cgroup.procs && exec sleep 10000"]) as other:
        eventually(lambda: str(other.pid) in (group / "cgroup.procs").read_text().split())
        walls("watchdog", user=USER, group=group)
        check("the delegated group is as it was", subgroups(group) == [], subgroups(group))
        other.kill()


def unmarked():
    group = delegate("unmarked", USER)
    systemd = pathlib.Path("/run/systemd/system")
    systemd.mkdir(parents=True)
    for mark, expected in ("", "watchdog"), ("1", "cgroup"):
        if mark:
            os.setxattr(group, "user.delegate", mark.encode())
        sidecar = Sidecar(user=USER, group=group)
        guard(sidecar, expected)
        sidecar.end()
        check("the group is as it was", subgroups(group) == [], subgroups(group))
    systemd.rmdir()


def undelegated():
    walls("watchdog", user=USER)


def container():
    group = delegate("container", 0)
    mount = "umount /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup"
    walls("watchdog", group=group, shell=f"exec unshare --cgroup --mount sh -c '{mount} && exec \"$@\"' -")


SCENARIOS = {
    root: "root",
    delegated: "uid 1000, in a group delegated to it",
    crowded: "uid 1000, in a delegated group with other processes",
    unmarked: "uid 1000, in a group of systemd's, without Delegate=yes and with it",
    undelegated: "uid 1000, without delegation",
    container: "root in a cgroup namespace, its processes in the namespace's root group",
}


def main():
    give_store(USER)
    wanted = OPTIONS.get("only", "")
    version = subprocess.run(["uname", "-r"], capture_output=True, text=True).stdout.strip()
    print(f"kernel {version}, {os.cpu_count()} CPUs, {(ROOT / 'cgroup.controllers').read_text().strip()}", flush=True)
    for scenario, title in SCENARIOS.items():
        if wanted and scenario.__name__ not in wanted.split(","):
            continue
        print(f"{title} ({scenario.__name__}):", flush=True)
        try:
            scenario()
        except (SystemExit, Exception) as error:
            check(scenario.__name__, False, repr(error))
    print(f"result: {'failed' if failed else 'passed'}", flush=True)


main()
