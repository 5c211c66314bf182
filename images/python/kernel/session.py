"""A part of the Python kernel: the session, its cells, and the loop that serves the supervisor."""


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
        builtins.display = display
        self.sources, self.flags, self.has_stdin, self.loop = {}, 0, False, None
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
        self.account()
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
        # Between cells only threads of the user's use the processor.
        before, started = self.used if _thread._count() < 2 else self.account(), _monotonic()
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
        # Only C code can fork without a word to Python, and only through ctypes does a cell reach that.
        if self.capture.forked or "_ctypes" in sys.modules and _getpid() != self.channel.pid:
            _exit(0)
        if self.has_stdin:
            self.standard_input(None)
        elapsed = _monotonic() - started
        if elapsed < SHORT and _thread._count() < 2:
            # As good as the truth: the clocks of gVisor tick every 10 ms, and little memory is touched in that time.
            self.used += elapsed
        else:
            self.account()
        done["interrupted"] = self.interrupts.fired
        done["cpu_ms"] = max(round((self.used - before) * 1e3, 3), 0.0)
        done["memory_peak"] = self.peak
        self.capture.finish(done)

    def account(self):
        """Takes note of the CPU seconds and the highest resident size of this process so far; returns the seconds."""
        usage = self.usage(0)
        self.used, self.peak = usage[0] + usage[1], usage[2] * 1024
        return self.used

    def evaluate(self, code, name):
        """Executes the cell's statements; the value of a last expression, else None."""
        self.remember(name, code)
        flags, parts, last = self.flags | TOP_LEVEL_AWAIT, None, True
        # Most short cells are one expression; the way below, over Python's own syntax tree, takes three times as long.
        # A backslash might make both ways warn.
        if len(code) < 200 and not ("\n" in code or "=" in code or "\\" in code or ";" in code):
            try:
                parts = [_compile(code, name, "eval", flags, True)]
            except SyntaxError:
                pass
        if parts is None:
            parts, last = self.parse(code, name, flags)
        value = None
        if any([part.co_flags & CO_COROUTINE for part in parts]):
            load("errors")
            value = run_awaited(self, parts)
        else:
            for part in parts:
                value = _eval(part, self.namespace)
        return value if last else None

    def parse(self, code, name, flags):
        """The code objects of a cell, and whether the last is an expression whose value is asked for."""
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
        return parts, last is not None and not (";" in code and suppressed(code, last))

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


def suppressed(code, last):
    """Whether a semicolon follows the last expression."""
    rest = code.encode("utf-8", "replace").split(b"\n")[last.end_lineno - 1:]
    rest[0] = rest[0][last.end_col_offset:]
    return any(b";" in line.partition(b"#")[0] for line in rest)


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


kernel = Kernel()
