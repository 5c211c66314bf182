"""The Python kernel of cellblock: keeps one session's namespace and runs its cells.

It speaks the kernel protocol (second half of protocol.md) on private copies of descriptors 0 and 1. It knows nothing of
clients, limits or containers. Its source is sent to a stock interpreter (3.9 or newer). This part loads
the others up to `session.py` into the same globals; `errors.py`, `rich.py` and `files.py` follow when they are first
needed. Each is compiled alone, because what the compiler needs grows with the source and stays in the process.

Time decides the shape: under gVisor a system call costs 5 to 25 us and waking a thread more, so a short cell without
output makes three system calls and wakes nobody, and dense printing makes none of its own. Modules that are built into
the interpreter stand in for their wrappers (`_json` for json, `_thread` for threading), whose import takes longer than
the rest of the start. What user code may replace (builtins, sys.stdout, os) is referred to by private names taken here.
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
# Seconds; a cell that took less is not worth the system call that accounts for it.
SHORT = 0.0005
FIONREAD = 0x541B
ONLY_AST, TOP_LEVEL_AWAIT, FUTURE_FLAGS, CO_COROUTINE = 0x400, 0x2000, 0x1FE0000, 0x80
# Types whose only representation is their repr.
PLAIN = frozenset((int, str, float, bool, list, dict, tuple, set, frozenset, bytes, complex, range, type))

_read, _write, _exit, _getpid, _fstat, _dup2, _ioctl = (
    os.read, os.write, os._exit, os.getpid, os.fstat, os.dup2, fcntl.ioctl)
_compile, _exec, _eval, _import = compile, exec, eval, __import__
_set_handler, _get_handler = _signal.signal, _signal.getsignal
_get_ident, _monotonic, _sleep = _thread.get_ident, time.monotonic, time.sleep
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


def load(part):
    """Compiles and runs a part of the kernel, once."""
    source = PARTS.pop(part, None)
    if source is not None:
        _exec(_compile(source, "<kernel>", "exec"), globals())


for name in ("interrupts", "capture", "imports", "session"):
    load(name)
kernel.run()
