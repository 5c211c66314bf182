"""The Python kernel of cellblock: keeps one session's namespace and runs its cells.

It speaks the kernel protocol (second half of protocol.md) on private copies of descriptors 0 and 1; descriptors 1 and
2 of user code are pipes that a pump thread reads while a cell runs. It knows nothing of clients, limits or containers.
Its source is sent to a stock interpreter (3.9 or newer), so it imports little and only from the standard library.
What user code may replace (builtins, sys.stdout, json, os) is referred to by private names taken at the start.
"""

import base64
import builtins
import fcntl
import json
import linecache
import os
import resource
import select
import signal
import sys
import termios
import threading
import time
import traceback
import types
import warnings

PROTOCOL = 1
CHUNK = 65536
SMALL_CHUNK = 8192
# Out of the way of user code that closes or counts low descriptors.
FIRST_PRIVATE_FD = 200
PROBE = ("/proc/version", "/proc/self/status", "/proc/self/mounts", "/proc/net/dev")

_read, _write, _exit, _getpid = os.read, os.write, os._exit, os.getpid
_dumps, _loads, _ioctl, _compile, _exec, _eval = json.dumps, json.loads, fcntl.ioctl, compile, exec, eval
_clock = time.process_time
_print_exception = traceback.TracebackException


class Channel:
    """The private ends of the protocol."""

    def __init__(self):
        self.commands = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, FIRST_PRIVATE_FD)
        self.messages = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, FIRST_PRIVATE_FD)
        self.pid = _getpid()
        self.pending = b""

    def send(self, message):
        """Writes one message; a kernel that cannot is of no use to anyone."""
        # ensure_ascii leaves lone surrogates as escapes that no strict parser takes.
        line = memoryview(_dumps(message, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        try:
            while line:
                line = line[_write(self.messages, line):]
        except OSError:
            _exit(1)

    def receive(self):
        """The next command; the end of input is the end of the kernel."""
        while b"\n" not in self.pending:
            try:
                chunk = _read(self.commands, 1 << 20)
            except OSError:
                _exit(1)
            if not chunk:
                _exit(0)
            self.pending += chunk
        line, _, self.pending = self.pending.partition(b"\n")
        return _loads(line)


class Capture:
    """Reads what user code and its children write to descriptors 1 and 2."""

    def __init__(self, channel):
        self.channel = channel
        self.cell = None
        self.lock = threading.Lock()
        self.ends = {}
        for fd, name in ((1, "stdout"), (2, "stderr")):
            reading, writing = os.pipe()
            private = fcntl.fcntl(reading, fcntl.F_DUPFD_CLOEXEC, FIRST_PRIVATE_FD)
            os.dup2(writing, fd)
            os.close(reading)
            os.close(writing)
            self.ends[private] = name
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        self.running = threading.Event()

    def start(self, cell):
        """From here on the pipes are read, on behalf of this cell."""
        self.cell = cell
        self.running.set()

    def finish(self):
        """Sends what the pipes hold at this moment, and leaves them alone until the next cell."""
        self.running.clear()
        with self.lock:
            for fd in self.ends:
                held = int.from_bytes(_ioctl(fd, termios.FIONREAD, b"\0\0\0\0"), sys.byteorder)
                while held > 0:
                    held -= self.forward(fd, min(held, CHUNK))
            self.cell = None

    def forward(self, fd, size):
        """Sends one chunk; the lock is held."""
        chunk = _read(fd, size)
        message = {"type": "stream", "cell": self.cell, "name": self.ends[fd]}
        try:
            message["text"] = chunk.decode("utf-8")
        except UnicodeDecodeError:
            message["data"] = base64.b64encode(chunk).decode("ascii")
        self.channel.send(message)
        return len(chunk)

    def pump(self):
        """The thread that keeps the pipes from filling while a cell runs."""
        poll = select.poll()
        for fd in self.ends:
            poll.register(fd, select.POLLIN)
        # Asks for nothing: only a hang-up is reported, when the supervisor is gone in the middle of a cell.
        poll.register(self.channel.commands, 0)
        while True:
            self.running.wait()
            for fd, event in poll.poll(1000):
                if fd == self.channel.commands:
                    # Between cells the main thread sees the end of input by itself.
                    if event & (select.POLLHUP | select.POLLERR):
                        _exit(0)
                    continue
                with self.lock:
                    # Looked at again under the lock: the cell may have ended, or its end has read the pipe.
                    if self.cell is None or not self.running.is_set() or not select.select([fd], [], [], 0)[0]:
                        continue
                    size = self.forward(fd, CHUNK)
                if size < SMALL_CHUNK:
                    # Lets a loop of short prints fill the pipe: a message for each line would cost more than the line.
                    time.sleep(0.003)


class Interrupts:
    """SIGINT stops user code, and nothing else."""

    def __init__(self):
        self.armed = False
        self.fired = False

    def install(self):
        """Puts our handler back: the last cell may have put its own."""
        if signal.getsignal(signal.SIGINT) != self.handle:
            signal.signal(signal.SIGINT, self.handle)

    def handle(self, number, frame):
        """The handler of SIGINT."""
        if self.armed:
            self.fired = True
            raise KeyboardInterrupt


class Kernel:
    """The session: a namespace, the cells so far, and the loop."""

    def __init__(self):
        self.channel = Channel()
        self.capture = Capture(self.channel)
        self.interrupts = Interrupts()
        # A real __main__: pickle, dataclasses and multiprocessing look there for what cells define.
        self.main = types.ModuleType("__main__")
        self.main.__builtins__ = builtins
        sys.modules["__main__"] = self.main
        self.namespace = self.main.__dict__
        sys.stdout = open(1, "w", encoding="utf-8", errors="replace", buffering=1, closefd=False)
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)
        sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr
        sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)
        sys.argv = [""]
        sys.path.insert(0, "/workspace")
        sys.displayhook = lambda value: None
        os.register_at_fork(after_in_child=self.forked)
        # The other thread is our pump, which a child neither has nor needs.
        warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)

    def forked(self):
        """A child of fork is never a second kernel and holds none of its descriptors."""
        for fd in (self.channel.commands, self.channel.messages, *self.capture.ends):
            try:
                os.close(fd)
            except OSError:
                pass  # Already closed by user code.

    def run(self):
        """Greets the supervisor and serves it until the end of input."""
        self.interrupts.install()
        threading.Thread(target=self.capture.pump, daemon=True).start()
        probe = {path: read_text(path) for path in PROBE}
        version = "%d.%d.%d" % sys.version_info[:3]
        self.channel.send({"type": "ready", "protocol": PROTOCOL, "kernel": "python", "version": version, "probe": probe})
        while True:
            command = self.channel.receive()
            if command["type"] == "execute":
                self.execute(command)
            elif command["type"] == "ping":
                self.channel.send({"type": "pong", "id": command["id"]})

    def execute(self, command):
        """Runs one cell and accounts for it."""
        cell, limit, before = command["cell"], command["max_value"], _clock()
        self.interrupts.fired = False
        self.interrupts.install()
        self.capture.start(cell)
        done = {"type": "done", "cell": cell, "status": "ok", "result": None, "error": None, "exit_code": None}
        try:
            try:
                self.interrupts.armed = True
                value = self.evaluate(command["code"], "<cell %d>" % command["count"])
                if value is not None:
                    self.namespace["_"] = value
                    text, dropped = clip(repr(value), limit)
                    done["result"] = {"data": {"text/plain": text}, "dropped": dropped}
            except BaseException as error:
                self.interrupts.armed = False
                self.fail(done, error, limit)
            finally:
                self.interrupts.armed = False
        except KeyboardInterrupt as error:
            # A second signal landed inside the handling of the first, before it was disarmed.
            self.interrupts.armed = False
            self.fail(done, error, limit)
        if _getpid() != self.channel.pid:
            flush()
            _exit(0)
        flush()
        self.capture.finish()
        done["interrupted"] = self.interrupts.fired
        done["cpu_ms"] = round((_clock() - before) * 1e3, 3)
        done["memory_peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self.channel.send(done)

    def evaluate(self, code, name):
        """Executes the cell's statements; the value of a last expression, else None."""
        linecache.cache[name] = (len(code), None, code.splitlines(True), name)
        tree = _compile(code, name, "exec", 0x400)  # PyCF_ONLY_AST without importing ast
        last = None
        if tree.body and type(tree.body[-1]).__name__ == "Expr":
            last = tree.body.pop()
        if tree.body:
            _exec(_compile(tree, name, "exec"), self.namespace)
        if last is None:
            return None
        tree = _compile("0", name, "eval", 0x400)
        tree.body = last.value
        return _eval(_compile(tree, name, "eval"), self.namespace)

    def fail(self, done, error, limit):
        """Turns what ended the cell into the message's status and error."""
        if isinstance(error, SystemExit):
            done["exit_code"] = exit_code(error)
            if done["exit_code"] == 0:
                return
        done["status"] = "error"
        done["result"] = None
        name = type(error).__name__
        try:
            message = str(error)
        except BaseException as inner:
            message = "<str() of the exception raised %s>" % type(inner).__name__
        try:
            text = "".join(rendered(error)).rstrip("\n")
        except BaseException as inner:
            text = "%s: %s (rendering its traceback raised %s)" % (name, message, type(inner).__name__)
        done["error"] = {"name": name, "message": clip(message, limit)[0], "traceback": clip(text, limit)[0].split("\n")}


def rendered(error):
    """The lines of a traceback without the kernel's own frames, those of chained exceptions included."""
    summary = _print_exception(type(error), error, error.__traceback__)
    pending, seen = [summary], set()
    while pending:
        one = pending.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        one.stack[:] = [frame for frame in one.stack if frame.filename != "<kernel>"]
        pending += [one.__cause__, one.__context__, *(getattr(one, "exceptions", None) or ())]
    return summary.format()


def exit_code(error):
    """What `python FILE` would exit with."""
    code = error.code
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    try:
        sys.stderr.write("%s\n" % (code,))
    except Exception:
        pass  # User code may have replaced or closed it; the exit code stands.
    return 1


def flush():
    """Brings what Python itself buffers to the pipes; user code may have broken either stream."""
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        try:
            stream.flush()
        except BaseException:
            pass  # Closed, replaced by something else, or raising: then nothing of it can be brought.


def clip(text, limit):
    """The text in at most `limit` bytes of UTF-8, head and tail, and how many bytes were left out."""
    size = len(text)
    if size * 4 <= limit:
        return text, 0
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return text, 0
    head = data[:(limit + 1) // 2].decode("utf-8", "ignore")
    tail = data[len(data) - limit // 2:].decode("utf-8", "ignore")
    dropped = len(data) - len(head.encode("utf-8")) - len(tail.encode("utf-8"))
    return "%s\n... [%d bytes dropped] ...\n%s" % (head, dropped, tail), dropped


def read_text(path):
    """A file's text, or None where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(CHUNK)
    except OSError:
        return None


Kernel().run()
