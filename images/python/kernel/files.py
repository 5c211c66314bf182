"""A part of the Python kernel: the file.* commands, on regular files and directories under the workspace.

User code owns everything there and may change it between two steps of ours; nothing here protects it from itself. What
is kept out is what would hang or end the kernel: FIFOs and devices, unbounded answers, and paths that lead elsewhere.
"""

MAX_DATA = 1 << 20
# An answer is one line of at most 8 MiB; JSON may double the length of a name.
MAX_ENTRIES_BYTES = 2 << 20
CODES = {
    "not_found": ("ENOENT",),
    "is_directory": ("EISDIR",),
    "not_a_file": ("ENOTDIR", "ENXIO", "ENODEV"),
    "no_space": ("ENOSPC", "EDQUOT"),
    "too_large": ("EFBIG", "EOVERFLOW"),
    "not_empty": ("ENOTEMPTY", "EEXIST"),
    "denied": ("EACCES", "EPERM", "EROFS"),
}


class Refused(Exception):
    """A file command that is not carried out: the code, and what is wrong."""


def answer_file(command):
    """Carries one command out; the message that answers it."""
    answer = {"type": "file", "id": command["id"]}
    try:
        answer.update(FILE_COMMANDS[command["type"]](command))
    except Refused as refused:
        answer["error"] = {"code": refused.args[0], "message": refused.args[1]}
    except OSError as error:
        import errno
        name = errno.errorcode.get(error.errno)
        code = next((code for code, names in CODES.items() if name in names), "io")
        message = "`%s`: %s" % (readable(command["path"]), os.strerror(error.errno or 5))
        answer["error"] = {"code": code, "message": message}
    except Exception as error:
        answer["error"] = {"code": "io", "message": "%s: %s" % (type(error).__name__, error)}
    return answer


def readable(path):
    """A path as valid Unicode."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def resolved(path, follow=True):
    """The real path of a file, which is below the real workspace or is it."""
    if "\0" in path:
        raise Refused("outside", "a path has no NUL")
    full = os.path.join(WORKSPACE, path).rstrip("/")
    if follow:
        real = os.path.realpath(full)
    else:
        parent, name = os.path.split(full)
        if name in ("", ".", ".."):
            parent, name = full, ""
        real = os.path.join(os.path.realpath(parent), name).rstrip("/")
    root = os.path.realpath(WORKSPACE)
    if real != root and not real.startswith(root.rstrip("/") + "/"):
        raise Refused("outside", "`%s` is not below /workspace" % readable(path))
    return real


def opened(path, flags):
    """A descriptor of a regular file; never waits for the other end of a FIFO."""
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    kind = _fstat(fd).st_mode & 0o170000
    if kind != 0o100000:
        os.close(fd)
        if kind == 0o040000:
            raise Refused("is_directory", "`%s` is a directory" % readable(path))
        raise Refused("not_a_file", "`%s` is no regular file" % readable(path))
    return fd


def read_file(command):
    """A range of a file."""
    fd = opened(resolved(command["path"]), os.O_RDONLY)
    try:
        offset, left = command.get("offset") or 0, min(command.get("length", MAX_DATA), MAX_DATA)
        chunks = []
        while left > 0:
            chunk = os.pread(fd, left, offset)
            if not chunk:
                break
            chunks.append(chunk)
            offset, left = offset + len(chunk), left - len(chunk)
        return {"data": base64(b"".join(chunks)), "size": _fstat(fd).st_size}
    finally:
        os.close(fd)


def write_file(command):
    """Writes a range of a file, and its missing directories."""
    import binascii
    data = memoryview(binascii.a2b_base64(command["data"]))
    if len(data) > MAX_DATA:
        raise Refused("too_large", "%d bytes at once; at most %d" % (len(data), MAX_DATA))
    path = resolved(command["path"])
    if path == os.path.realpath(WORKSPACE):
        raise Refused("is_directory", "`%s` is a directory" % readable(command["path"]))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    fd = opened(path, os.O_WRONLY | os.O_CREAT)
    try:
        offset = command.get("offset") or 0
        if command.get("truncate"):
            os.ftruncate(fd, offset)
        while data:
            written = os.pwrite(fd, data, offset)
            data, offset = data[written:], offset + written
        return {"size": _fstat(fd).st_size}
    finally:
        os.close(fd)


def list_files(command):
    """What is in a directory, sorted by path; a file lists itself."""
    import _heapq
    root, top = os.path.realpath(WORKSPACE), resolved(command["path"])
    left, recursive = max(command["max"], 0), command.get("recursive", False)
    # The smallest path is always taken first and a directory's content sorts after it: sorted without having it all.
    heap, entries, size = [], [], 0

    def push(directory):
        with os.scandir(directory) as found:
            for entry in found:
                _heapq.heappush(heap, os.path.relpath(entry.path, root))

    if os.lstat(top).st_mode & 0o170000 == 0o040000:
        push(top)
    else:
        heap.append(os.path.relpath(top, root))
    while heap and len(entries) < left and size < MAX_ENTRIES_BYTES:
        path = _heapq.heappop(heap)
        full = os.path.join(root, path)
        try:
            status = os.lstat(full)
        except FileNotFoundError:
            continue  # Removed meanwhile.
        kind = {0o100000: "file", 0o040000: "directory", 0o120000: "symlink"}.get(status.st_mode & 0o170000, "other")
        entries.append({"path": readable(path), "type": kind, "size": status.st_size,
                        "modified_ns": status.st_mtime_ns})
        size += len(path) + 100
        if recursive and kind == "directory":
            try:
                push(full)
            except OSError:
                pass  # Cannot be read or is gone: shown without its content.
    return {"entries": entries, "truncated": bool(heap)}


def delete_file(command):
    """Removes a file, a symlink itself, or a directory."""
    path = resolved(command["path"], follow=False)
    if path == os.path.realpath(WORKSPACE):
        raise Refused("denied", "/workspace itself stays")
    if os.lstat(path).st_mode & 0o170000 != 0o040000:
        os.unlink(path)
    elif command.get("recursive"):
        remove(path)
    else:
        os.rmdir(path)
    return {}


def remove(directory):
    """Removes a directory and what is in it, without following symlinks, however deep it is."""
    pending = [directory]
    while pending:
        below = []
        with os.scandir(pending[-1]) as found:
            for entry in found:
                if entry.is_dir(follow_symlinks=False):
                    below.append(entry.path)
                else:
                    os.unlink(entry.path)
        if below:
            pending += below
        else:
            os.rmdir(pending.pop())


FILE_COMMANDS = {"file.read": read_file, "file.write": write_file, "file.list": list_files, "file.delete": delete_file}
