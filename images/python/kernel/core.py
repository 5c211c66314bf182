"""The Python kernel of cellblock: keeps one session's namespace and runs its cells.

It speaks the kernel protocol (second half of protocol.md) on private copies of descriptors 0 and 1. It knows nothing of
clients, limits or containers. Its source is sent to a stock interpreter (3.9 or newer); this part runs at once, the
others (`errors.py`, `rich.py`, `files.py`) are compiled into the same globals when they are first needed.

Time decides the shape: under gVisor a system call costs 5 to 25 us and waking a thread more, so a cell without output
makes four system calls and wakes nobody, and printing makes none of its own. Modules that are built into the
interpreter stand in for their wrappers (`_json` for json, `_thread` for threading), whose import takes longer than the
rest of the start. What user code may replace (builtins, sys.stdout, os) is referred to by private names taken here.
"""

import _collections
import _io
import _json
import _signal
import _thread
import _warnings
import builtins
import fcntl
import io
import os
import select
import sys
import time

# A copy: user code may replace any builtin.
__builtins__ = dict(vars(builtins))

PROTOCOL = 1
CAPABILITIES = ["display", "stdin", "configure", "files"]
WORKSPACE = "/workspace"
CHUNK = 65536
SMALL_CHUNK = 8192
# Out of the way of user code that closes or counts low descriptors.
FIRST_PRIVATE_FD = 200
PROBE = ("/proc/version", "/proc/self/status", "/proc/self/mounts", "/proc/net/dev")
# Prints of a cell that are sent at once; later ones wait up to the interval, in seconds, to share a message.
PROMPT_PRINTS = 4
INTERVAL = 0.015
MAX_WAITING = 2048
# Cells whose source lines tracebacks can show.
MAX_SOURCES = 4096
FIONREAD = 0x541B
ONLY_AST, TOP_LEVEL_AWAIT, FUTURE_FLAGS, CO_COROUTINE = 0x400, 0x2000, 0x1FE0000, 0x80
# Types whose only representation is their repr.
PLAIN = frozenset((int, str, float, bool, list, dict, tuple, set, frozenset, bytes, complex, range, type))

_read, _write, _exit, _getpid, _fstat, _dup2, _ioctl = (
    os.read, os.write, os._exit, os.getpid, os.fstat, os.dup2, fcntl.ioctl)
_compile, _exec, _eval, _import = compile, exec, eval, __import__
_set_handler, _get_handler = _signal.signal, _signal.getsignal
_get_ident, _sleep = _thread.get_ident, time.sleep
_gettrace, _settrace, _getprofile, _setprofile = sys.gettrace, sys.settrace, sys.getprofile, sys.setprofile


class Decoding:
    """What the C scanner asks of a json.JSONDecoder."""

    strict, object_hook, object_pairs_hook = True, None, None
    parse_float, parse_int, parse_constant = float, int, float


def unserializable(value):
    """The encoder's answer to what JSON has no form for."""
    raise TypeError("%s is not JSON" % type(value).__name__)


_loads = _json.make_scanner(Decoding)
# Not the ASCII one: it leaves lone surrogates as escapes that no strict parser takes.
_dumps = _json.make_encoder(None, unserializable, _json.encode_basestring, None, ":", ",", False, False, True)


def private(fd):
    """A copy of a descriptor where user code does not look."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_PRIVATE_FD)


class Channel:
    """The private ends of the protocol."""

    def __init__(self):
        self.commands, self.messages = private(0), private(1)
        self.pid = _getpid()
        self.pending = b""

    def send(self, *messages):
        """Writes messages with one system call; a kernel that cannot is of no use to anyone."""
        text = "".join(["".join(_dumps(message, 0)) + "\n" for message in messages])
        line = memoryview(text.encode("utf-8", "replace"))
        try:
            while line:
                line = line[_write(self.messages, line):]
        except OSError:
            _exit(1)

    def receive(self):
        """The next command; the end of input is the end of the kernel."""
        while b"\n" not in self.pending:
            try:
                chunk = _read(self.commands, CHUNK)
                # A longer line comes in one piece for each pipeful; joining them must not copy it for each again.
                if chunk and b"\n" not in chunk and len(chunk) >= SMALL_CHUNK:
                    chunks = [chunk]
                    while chunk and b"\n" not in chunk:
                        chunk = _read(self.commands, 1 << 20)
                        chunks.append(chunk)
                    chunk = chunk and b"".join(chunks)
            except OSError:
                _exit(1)
            if not chunk:
                _exit(0)
            self.pending += chunk
        line, _, self.pending = self.pending.partition(b"\n")
        return _loads(line.decode("utf-8"), 0)[0]


class Interrupts:
    """SIGINT stops user code and nothing else, and no handler of the user's runs inside the kernel.

    A handler may raise anything, and would from the middle of a message. So every one is wrapped, and what arrives while
    the kernel works or no cell runs waits for user code, each signal once.
    """

    def __init__(self):
        # Armed while a cell runs; held while the main thread does what must not stop half-way.
        self.armed = self.fired = False
        self.held, self.late = True, {}
        self.ours = self.guarded(self.interrupt)
        _signal.signal, _signal.getsignal = self.set_handler, self.get_handler

    def interrupt(self, number, frame):
        """What SIGINT does when user code has not decided otherwise."""
        raise KeyboardInterrupt

    def guarded(self, handler):
        """The handler, put off while it must not run."""

        def guard(number, frame):
            if number == _signal.SIGINT:
                if not self.armed:
                    return
                self.fired = True
            if self.held:
                self.late[number] = handler
            else:
                handler(number, frame)

        guard.handler = handler
        return guard

    def set_handler(self, number, handler):
        """Stands in for _signal.signal, which signal.signal calls."""
        previous = self.get_handler(number)
        _set_handler(number, self.guarded(handler) if callable(handler) else handler)
        return previous

    def get_handler(self, number):
        """Stands in for _signal.getsignal."""
        handler = _get_handler(number)
        return getattr(handler, "handler", handler)

    def start(self):
        """Puts our handler back before a cell: the last one may have put its own."""
        self.fired = False
        if _get_handler(_signal.SIGINT) is not self.ours:
            _set_handler(_signal.SIGINT, self.ours)

    def hold(self):
        """Puts signals off; false when they are already."""
        if self.held:
            return False
        self.held = True
        return True

    def release(self):
        """Lets signals through again, those put off first."""
        self.held = False
        while self.late:
            number, handler = self.late.popitem()
            if number != _signal.SIGINT or self.armed:
                handler(number, sys._getframe(1))


class Capture:
    """Everything that user code and its children write, in order.

    Descriptors 1 and 2 are pipes, which a pump thread reads while a cell runs: children and C libraries write there.
    What Python itself prints does not take that way, which costs three system calls and two thread switches a line, but
    waits in a queue that the printing thread sends, or the pump when printing is dense.
    Whoever puts the first line into an empty queue has sent what the pipes held, so the queue is older than they are.
    """

    def __init__(self, channel, interrupts):
        self.channel, self.interrupts = channel, interrupts
        self.cell = self.owner = None
        self.forked = self.parked = self.ticking = False
        self.lock, self.gate = _thread.allocate_lock(), _thread.allocate_lock()
        self.gate.acquire()
        self.main = _get_ident()
        self.queue, self.credit = _collections.deque(), 0
        self.ends, self.identity, self.kept = {}, {}, []
        self.poller = select.poll()
        for fd, name in ((1, "stdout"), (2, "stderr")):
            reading, writing = os.pipe()
            end = private(reading)
            _dup2(writing, fd)
            # Kept so that the pipe does not hang up when user code closes its end.
            self.kept.append(private(writing))
            os.close(reading)
            os.close(writing)
            self.ends[end] = name
            self.identity[fd] = identity(fd)
            self.poller.register(end, select.POLLIN)
        reading, writing = os.pipe()
        self.woken, self.wake = private(reading), private(writing)
        os.close(reading)
        os.close(writing)

    def fds(self):
        """The descriptors that a child must not keep."""
        return (self.channel.commands, self.channel.messages, self.woken, self.wake, *self.ends, *self.kept)

    def enter(self):
        """Takes the lock; false when this thread has it: a finaliser of the user's prints while we send."""
        me = _get_ident()
        if self.owner == me:
            return False
        self.lock.acquire()
        self.owner = me
        return True

    def leave(self):
        """Gives the lock back."""
        self.owner = None
        self.lock.release()

    def start(self, cell):
        """From here on the pipes are read, on behalf of this cell."""
        self.enter()
        self.cell, self.credit = cell, PROMPT_PRINTS
        if self.parked:
            self.parked = False
            self.gate.release()
        self.leave()

    def finish(self, done):
        """Sends what was printed and what the pipes hold at this moment, then `done`; the pipes rest from then on."""
        self.enter()
        try:
            self.ticking = False
            messages = self.taken() if self.queue else []
            if self.poller.poll(0):
                if messages:
                    self.channel.send(*messages)
                    messages = []
                self.drain()
            self.cell = None
            self.channel.send(*messages, done)
        finally:
            self.leave()

    def show(self, message):
        """Sends a message about the cell after everything that came before it; false when no cell runs."""
        held = _get_ident() == self.main and self.interrupts.hold()
        try:
            if not self.enter():
                return False
            try:
                if self.cell is None:
                    return False
                message["cell"] = self.cell
                self.send_queue()
                self.drain()
                self.channel.send(message)
                return True
            finally:
                self.leave()
        finally:
            if held:
                self.interrupts.release()

    def take(self, fd, name, data):
        """Takes what Python writes to a standard stream; false when it belongs into the descriptor."""
        if self.forked or self.cell is None:
            return False
        if self.owner == _get_ident():
            self.queue.append((name, bytes(data)))
            return True
        held = _get_ident() == self.main and self.interrupts.hold()
        try:
            self.enter()
            try:
                if self.cell is None:
                    return False
                if not self.queue:
                    # Redirections by descriptor are honoured, and what others wrote before comes before.
                    if identity(fd) not in (None, self.identity[fd]):
                        return False
                    self.drain()
                if len(data) >= SMALL_CHUNK:
                    self.send_queue()
                    for message in self.cut(name, data):
                        self.channel.send(message)
                    return True
                self.queue.append((name, bytes(data)))
                if self.credit > 0 or len(self.queue) >= MAX_WAITING:
                    self.credit -= 1
                    self.send_queue()
                elif not self.ticking:
                    self.ticking = True
                    _write(self.wake, b"\0")
                return True
            finally:
                self.leave()
        finally:
            if held:
                self.interrupts.release()

    def flush(self):
        """Sends the queue."""
        if not self.queue or self.forked or self.owner == _get_ident():
            return
        held = _get_ident() == self.main and self.interrupts.hold()
        try:
            self.enter()
            try:
                if self.cell is not None:
                    self.send_queue()
            finally:
                self.leave()
        finally:
            if held:
                self.interrupts.release()

    def taken(self):
        """The queue as messages, and an empty queue; the lock is held."""
        messages, name, parts = [], None, []
        # Others append meanwhile, without the lock.
        for _ in range(len(self.queue)):
            stream, data = self.queue.popleft()
            if stream != name:
                messages += self.cut(name, b"".join(parts))
                name, parts = stream, []
            parts.append(data)
        messages += self.cut(name, b"".join(parts))
        return messages

    def cut(self, name, data):
        """The data as messages of at most a chunk, cut between characters where there are any."""
        start, size = 0, len(data)
        while start < size:
            end = min(start + CHUNK, size)
            while start + CHUNK - 4 < end < size and data[end] & 0xC0 == 0x80:
                end -= 1
            yield self.message(name, data[start:end])
            start = end

    def send_queue(self):
        """Sends the queue; the lock is held."""
        if self.queue:
            self.channel.send(*self.taken())

    def drain(self):
        """Sends what the pipes hold at this moment; the lock is held."""
        for fd, _ in self.poller.poll(0):
            try:
                held = int.from_bytes(_ioctl(fd, FIONREAD, b"\0\0\0\0"), sys.byteorder)
                while held > 0:
                    held -= self.forward(fd, min(held, CHUNK))
            except OSError:
                pass  # User code has closed it; if the channel too, the next message ends the kernel.

    def forward(self, fd, size):
        """Sends one chunk of a pipe; the lock is held."""
        chunk = _read(fd, size)
        self.channel.send(self.message(self.ends[fd], chunk))
        return len(chunk)

    def message(self, name, chunk):
        """A chunk as a message."""
        try:
            return {"type": "stream", "cell": self.cell, "name": name, "text": str(chunk, "utf-8")}
        except UnicodeDecodeError:
            return {"type": "stream", "cell": self.cell, "name": name, "data": base64(chunk)}

    def pump(self):
        """The thread that keeps the pipes from filling while a cell runs, and sends what waits for its interval.

        It sleeps in poll between cells too. Data that comes then parks it until the next cell.
        """
        poll, timeout = select.poll(), None
        for fd in self.ends:
            poll.register(fd, select.POLLIN)
        poll.register(self.woken, select.POLLIN)
        # Asks for nothing: only a hang-up is reported, when the supervisor is gone in the middle of a cell.
        poll.register(self.channel.commands, 0)
        while True:
            ready = poll.poll(timeout)
            small = False
            for fd, event in ready:
                if fd == self.channel.commands:
                    _exit(0)
                elif fd == self.woken:
                    _read(fd, CHUNK)
                    timeout = INTERVAL * 1000
            if ready and ready[0][0] == self.woken and len(ready) == 1:
                continue
            self.enter()
            # Looked at again under the lock: the cell may have ended, or another thread has read the pipe.
            ready = self.poller.poll(0)
            if self.cell is None:
                self.parked = bool(ready)
            else:
                self.ticking = bool(self.queue)
                if self.ticking:
                    self.send_queue()
                elif self.credit < 1:
                    # Printing is not dense any more.
                    self.credit = 1
                for fd, _ in ready:
                    small |= self.forward(fd, CHUNK) < SMALL_CHUNK
            if not self.ticking:
                timeout = None
            parked = self.parked
            self.leave()
            if parked:
                self.gate.acquire()
            elif small:
                # Lets a loop of short writes fill the pipe: a message for each would cost more than the write.
                _sleep(0.003)


class Buffer(io.BufferedIOBase):
    """sys.stdout.buffer or sys.stderr.buffer. It holds nothing itself and has no lock: finalisers print at any point."""

    def __init__(self, capture, fd, name):
        self.capture, self.fd, self.stream = capture, fd, name
        self.name, self.mode, self.raw = "<%s>" % name, "wb", self

    def writable(self):
        return True

    def fileno(self):
        return self.fd

    def write(self, data):
        capture, size = self.capture, len(data)
        if capture.ticking and 0 < len(capture.queue) < MAX_WAITING and size < SMALL_CHUNK:
            # The way of dense printing: no lock and no system call, and an interrupt may come at any point.
            capture.queue.append((self.stream, bytes(data)))
        elif size and not capture.take(self.fd, self.stream, data):
            rest = memoryview(data)
            while rest:
                rest = rest[_write(self.fd, rest):]
        return size


class Stream(io.TextIOWrapper):
    """sys.stdout or sys.stderr: lines go into the queue, and flush() sends it."""

    def __init__(self, capture, fd, name, errors):
        super().__init__(Buffer(capture, fd, name), encoding="utf-8", errors=errors, line_buffering=True)
        self.mode = "w"

    def flush(self):
        super().flush()
        self.buffer.capture.flush()


class Hooks:
    """Finds modules that something is done to when user code imports them: see HOOKED."""

    def find_spec(self, name, path=None, target=None):
        if name not in HOOKED:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                if name not in SHIMS:
                    spec.loader = Hooked(spec.loader, HOOKED[name])
                return spec
        if name in SHIMS:
            load("rich")
            return shim_spec(name)
        return None


class Hooked:
    """A loader that calls a function with the loaded module."""

    def __init__(self, loader, hook):
        self.loader, self.hook = loader, hook

    def __getattr__(self, name):
        return getattr(self.loader, name)

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        self.hook(module)


class Kernel:
    """The session: a namespace, the cells so far, and the loop."""

    def __init__(self):
        self.channel, self.interrupts = Channel(), Interrupts()
        self.capture = Capture(self.channel, self.interrupts)
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self.null = private(null)
        os.close(null)
        _dup2(self.null, 0)
        # A real __main__: pickle, dataclasses and multiprocessing look there for what cells define.
        self.main = type(sys)("__main__")
        self.main.__builtins__ = builtins
        sys.modules["__main__"] = self.main
        self.namespace = self.main.__dict__
        self.namespace["display"] = display
        self.sources, self.flags, self.has_stdin, self.loop, self.used = {}, 0, False, None, None
        sys.stdout = sys.__stdout__ = Stream(self.capture, 1, "stdout", "replace")
        sys.stderr = sys.__stderr__ = Stream(self.capture, 2, "stderr", "backslashreplace")
        sys.argv = [""]
        self.path = list(sys.path)
        sys.path.insert(0, WORKSPACE)
        sys.displayhook = lambda value: None
        sys.breakpointhook = self.breakpoint
        sys.meta_path.insert(0, Hooks())
        for name in ("write", "writev", "system", "posix_spawn", "posix_spawnp", "execv", "execve", "_exit"):
            self.put_in_order(os, name)
        if "_posixsubprocess" in sys.modules:
            self.put_in_order(sys.modules["_posixsubprocess"], "fork_exec")
        os.register_at_fork(before=self.capture.flush, after_in_child=self.forked)
        # The other thread is our pump, which a child neither has nor needs.
        _warnings.filters.insert(0, ("ignore", ForkWarning(), DeprecationWarning, None, 0))

    def put_in_order(self, module, name):
        """Makes a function that writes to descriptors, or starts what does, send first what was printed before."""
        function, capture = getattr(module, name), self.capture

        def call(*args, **kwargs):
            if capture.queue:
                capture.flush()
            return function(*args, **kwargs)

        call.__name__, call.__qualname__, call.__doc__, call.__module__ = name, name, function.__doc__, module.__name__
        setattr(module, name, call)

    def forked(self):
        """A child of fork is never a second kernel and holds none of its descriptors."""
        capture = self.capture
        capture.forked, capture.ticking = True, False
        capture.queue.clear()
        for fd in (*capture.fds(), self.null):
            try:
                os.close(fd)
            except OSError:
                pass  # Already closed by user code.

    def breakpoint(self, *args, **kwargs):
        """breakpoint() in a cell; with standard input for the debugger to read it works."""
        if self.has_stdin:
            return sys.__breakpointhook__(*args, **kwargs)
        raise RuntimeError("breakpoint() needs someone at a terminal; print what you want to see, or give the "
                           "debugger's commands as the cell's standard input")

    def run(self):
        """Greets the supervisor and serves it until the end of input."""
        self.interrupts.start()
        version = "%d.%d.%d" % sys.version_info[:3]
        self.channel.send({"type": "ready", "protocol": PROTOCOL, "kernel": "python", "version": version,
                           "capabilities": CAPABILITIES, "probe": {path: read_text(path) for path in PROBE}})
        _thread.start_new_thread(self.capture.pump, ())
        # No part of the interpreter everywhere, and not needed before the first cell is done.
        import resource
        self.usage = resource.getrusage
        while True:
            command = self.channel.receive()
            kind = command["type"]
            if kind == "execute":
                self.execute(command)
            elif kind == "ping":
                self.channel.send({"type": "pong", "id": command["id"]})
            elif kind == "configure":
                os.environ.update(command["env"])
                if "TZ" in command["env"]:
                    time.tzset()
                self.channel.send({"type": "pong", "id": command["id"]})
            elif kind.startswith("file."):
                load("files")
                self.channel.send(answer_file(command))

    def execute(self, command):
        """Runs one cell and accounts for it."""
        self.limit = command["max_value"]
        self.media = command.get("max_media", self.limit)
        # A supervisor that does not say how large media may be has no use for them.
        self.displays, self.shown = "max_media" in command, []
        # Between cells only threads of the user's use the processor; without any, one call of the two can be saved.
        before = self.used if _thread._count() < 2 and self.used is not None else self.account()[0]
        self.interrupts.start()
        if command.get("stdin"):
            self.standard_input(command["stdin"])
        self.namespace.pop("__warningregistry__", None)
        done = {"type": "done", "cell": command["cell"], "status": "ok", "interrupted": False, "result": None,
                "error": None, "exit_code": None}
        self.capture.start(command["cell"])
        try:
            try:
                self.interrupts.armed = True
                self.interrupts.release()
                value = self.evaluate(command["code"], "<cell %d>" % command["count"])
                if value is not None:
                    done["result"] = self.result(value)
                if "matplotlib.pyplot" in sys.modules:
                    load("rich")
                    show_figures()
                self.interrupts.armed = False
                self.interrupts.hold()
            except BaseException as error:
                self.interrupts.armed = False
                self.interrupts.hold()
                self.fail(done, error)
        except BaseException as error:
            # A second signal landed inside the handling of the first, before they were put off.
            self.interrupts.armed = False
            self.interrupts.hold()
            self.fail(done, error)
        if _gettrace() is not None:
            _settrace(None)
        if _getprofile() is not None:
            _setprofile(None)
        flush()
        if _getpid() != self.channel.pid:
            _exit(0)
        if self.has_stdin:
            self.standard_input(None)
        self.used, peak = self.account()
        done["interrupted"] = self.interrupts.fired
        done["cpu_ms"] = round((self.used - before) * 1e3, 3)
        done["memory_peak"] = peak
        self.capture.finish(done)

    def account(self):
        """CPU seconds and the highest resident size in bytes of this process so far."""
        usage = self.usage(0)
        return usage[0] + usage[1], usage[2] * 1024

    def evaluate(self, code, name):
        """Executes the cell's statements; the value of a last expression, else None."""
        self.remember(name, code)
        flags = self.flags | TOP_LEVEL_AWAIT
        try:
            tree = _compile(code, name, "exec", flags | ONLY_AST, True)
        except SyntaxError as error:
            load("errors")
            code = without_magics(code, name, flags, error)
            tree = _compile(code, name, "exec", flags | ONLY_AST, True)
        last, parts = None, []
        if tree.body and type(tree.body[-1]).__name__ == "Expr":
            last = tree.body.pop()
        if tree.body:
            parts.append(_compile(tree, name, "exec", flags, True))
            self.flags |= parts[0].co_flags & FUTURE_FLAGS
        if last is not None:
            expression = _compile("0", name, "eval", ONLY_AST)
            expression.body = last.value
            parts.append(_compile(expression, name, "eval", self.flags | TOP_LEVEL_AWAIT, True))
        value = None
        if any([part.co_flags & CO_COROUTINE for part in parts]):
            load("errors")
            value = run_awaited(self, parts)
        else:
            for part in parts:
                value = _eval(part, self.namespace)
        if last is None or (";" in code and suppressed(code, last)):
            return None
        return value

    def remember(self, name, code):
        """Keeps a cell's source for tracebacks, warnings and inspect."""
        self.sources[name] = entry = (len(code), None, list(_io.StringIO(code, None)), name)
        cache = sys.modules.get("linecache")
        if cache is not None:
            cache.cache[name] = entry
        if len(self.sources) > MAX_SOURCES:
            oldest = next(iter(self.sources))
            del self.sources[oldest]
            if cache is not None:
                cache.cache.pop(oldest, None)

    def result(self, value):
        """The value as the message's result, kept under the names that notebooks use."""
        names = self.namespace
        names["___"], names["__"], names["_"] = names.get("__"), names.get("_"), value
        if type(value) in PLAIN:
            text, dropped = clip(repr(value), self.limit)
            return {"data": {"text/plain": text}, "dropped": dropped}
        load("rich")
        return bundle_of_result(value)

    def fail(self, done, error):
        """Turns what ended the cell into the message's status and error."""
        load("errors")
        fill_error(done, error, self.limit)
        if "matplotlib.pyplot" in sys.modules and not isinstance(error, KeyboardInterrupt):
            load("rich")
            try:
                show_figures()
            except BaseException:
                pass  # The cell has an error to show already.

    def standard_input(self, text):
        """Makes the text what descriptor 0 and sys.stdin read, None for nothing."""
        if text is None:
            fd = self.null
        else:
            fd = os.memfd_create("stdin")
            rest = memoryview(text.encode("utf-8", "replace"))
            while rest:
                rest = rest[_write(fd, rest):]
            os.lseek(fd, 0, 0)
        _dup2(fd, 0)
        if text is not None:
            os.close(fd)
        self.has_stdin = text is not None
        sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)


class ForkWarning:
    """Matches the warning about a fork beside other threads, as a compiled pattern would; re is slow to import."""

    def match(self, text):
        return "multi-threaded, use of fork" in text


def display(*objects, **options):
    """Shows objects in the order of the output, as IPython.display.display does."""
    load("rich")
    return show_objects(*objects, **options)


def load(part):
    """Compiles a part of the kernel that the first cells did not need."""
    source = PARTS.pop(part, None)
    if source is not None:
        _exec(_compile(source, "<kernel>", "exec"), globals())


def standard(name):
    """Imports a module of the standard library, not a file of that name in the workspace."""
    path, sys.path = sys.path, kernel.path
    try:
        return _import(name)
    finally:
        sys.path = path


def suppressed(code, last):
    """Whether a semicolon follows the last expression."""
    rest = code.encode("utf-8", "replace").split(b"\n")[last.end_lineno - 1:]
    rest[0] = rest[0][last.end_col_offset:]
    return any(b";" in line.partition(b"#")[0] for line in rest)


def seed_linecache(linecache):
    """Gives linecache the cells so far."""
    linecache.cache.update(kernel.sources)


def patch_subprocess(module):
    """Puts the output of children in order."""
    kernel.put_in_order(module, "fork_exec")


def patch_pyplot(pyplot):
    """Makes plt.show() display the open figures."""
    load("rich")
    pyplot.show = show_figures_now


def flush():
    """Brings what Python itself buffers to us; user code may have broken either stream."""
    for stream in {id(s): s for s in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)}.values():
        try:
            if type(stream) is Stream:
                io.TextIOWrapper.flush(stream)
            else:
                stream.flush()
        except BaseException:
            pass  # Closed, replaced by something else, or raising: then nothing of it can be brought.


def clip(text, limit):
    """The text in at most `limit` bytes of UTF-8, head and tail, and how many bytes were left out."""
    if len(text) * 4 <= limit:
        return text, 0
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return text, 0
    head = data[:(limit + 1) // 2].decode("utf-8", "ignore")
    tail = data[len(data) - limit // 2:].decode("utf-8", "ignore")
    dropped = len(data) - len(head.encode("utf-8")) - len(tail.encode("utf-8"))
    return "%s\n... [%d bytes dropped] ...\n%s" % (head, dropped, tail), dropped


def identity(fd):
    """What a descriptor refers to; None when it is closed."""
    try:
        status = _fstat(fd)
        return status.st_ino, status.st_dev
    except OSError:
        return None


def base64(data):
    """The bytes in base64."""
    import binascii
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def read_text(path):
    """A file's text, or None where it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        chunks = []
        while not chunks or chunks[-1] and sum(map(len, chunks)) < CHUNK:
            chunks.append(_read(fd, CHUNK))
        os.close(fd)
        return b"".join(chunks).decode("utf-8", "replace")
    except OSError:
        return None


SHIMS = ("IPython", "IPython.display", "IPython.core", "IPython.core.display", "IPython.core.getipython")
HOOKED = {"linecache": seed_linecache, "_posixsubprocess": patch_subprocess, "matplotlib.pyplot": patch_pyplot,
          **dict.fromkeys(SHIMS)}
kernel = Kernel()

kernel.run()
