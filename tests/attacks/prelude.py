"""What every Python attack starts from: raw system calls, and answers of one word.

An attack's last expression is its answer: `allowed`, the name of an errno, `nothing`, or what was found.
`HOST` holds what the suite knows of the machine outside (null when it is not on that machine), `LIMITS` the server's.
"""

import ctypes, errno, glob, json, os, platform, signal, socket, stat, struct, subprocess, sys, threading, time

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
# Name: number on x86_64, number on aarch64 (None: that machine has no such call).
CALLS = {
    "acct": (163, 89), "add_key": (248, 217), "adjtimex": (159, 171), "bpf": (321, 280), "capset": (126, 91),
    "chroot": (161, 51), "clock_adjtime": (305, 266), "clock_settime": (227, 112), "clone": (56, 220),
    "clone3": (435, 435), "delete_module": (176, 106), "fanotify_init": (300, 262), "finit_module": (313, 273),
    "fsopen": (430, 430), "init_module": (175, 105), "io_setup": (206, 0), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "io_uring_setup": (425, 425), "ioperm": (173, None), "iopl": (172, None),
    "kcmp": (312, 272), "kexec_file_load": (320, 294), "kexec_load": (246, 104), "keyctl": (250, 219),
    "memfd_secret": (447, 447), "migrate_pages": (256, 238), "mknodat": (259, 33), "mount": (165, 40),
    "mount_setattr": (442, 442), "move_mount": (429, 429), "move_pages": (279, 239),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "open_tree": (428, 428),
    "perf_event_open": (298, 241), "personality": (135, 92), "pidfd_getfd": (438, 438), "pidfd_open": (434, 434),
    "pivot_root": (155, 41), "process_madvise": (440, 440), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "ptrace": (101, 117), "quotactl": (179, 60), "reboot": (169, 142),
    "request_key": (249, 218), "seccomp": (317, 277), "setdomainname": (171, 162), "sethostname": (170, 161),
    "setns": (308, 268), "settimeofday": (164, 170), "swapoff": (168, 225), "swapon": (167, 224),
    "syslog": (103, 116), "umount2": (166, 39), "unshare": (272, 97), "userfaultfd": (323, 282), "vhangup": (153, 58),
}


def name_of(number):
    """The name of an errno."""
    return errno.errorcode.get(number, "errno %s" % number)


def call(name, *arguments):
    """One raw system call, as pointers and full-width integers."""
    number = CALLS[name][platform.machine() == "aarch64"]
    if number is None:
        return "ENOSYS"
    plain = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return "allowed" if libc.syscall(ctypes.c_long(number), *plain) >= 0 else name_of(ctypes.get_errno())


def room(size, *words):
    """A zeroed buffer that starts with these 64-bit words."""
    return ctypes.create_string_buffer(struct.pack("=%dQ" % len(words), *words).ljust(size, b"\0"), size)


def attempt(action):
    """What becomes of an action: `allowed`, or the name of what stopped it."""
    try:
        action()
    except OSError as error:
        if isinstance(error, socket.gaierror):
            return "no-name"
        if isinstance(error, TimeoutError):
            return "timeout"
        return type(error).__name__ if error.errno is None else name_of(error.errno)
    except Exception as error:
        return type(error).__name__
    return "allowed"


def virtual(word):
    """What gVisor's own kernel lets happen inside itself; the machine's kernel never hears of it."""
    return "virtual" if word == "allowed" and "Jan 10 15:06:54 PST 2016" in content("/proc/version") else word


def opened(path, flags=os.O_RDONLY):
    """Opens and closes, and reads or writes nothing."""
    return attempt(lambda: os.close(os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)))


def content(path):
    """A file's first text, or nothing."""
    try:
        with open(path, errors="replace") as file:
            return file.read(1 << 16)
    except OSError:
        return ""


def found(things):
    """`nothing`, or what is there."""
    things = sorted(set(map(str, things)))
    return ", ".join(things)[:200] if things else "nothing"


def own(things):
    """The same, but `virtual` for what gVisor's kernel has made up: its control groups are nobody else's."""
    word = found(things)
    return word if word == "nothing" or virtual("allowed") == "allowed" else "virtual"


def child(action):
    """The same, in a child of its own: for what would change this process."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, str(action()).encode()[:200])
        except OSError as error:
            os.write(writing, name_of(error.errno).encode())
        except BaseException as error:
            os.write(writing, type(error).__name__.encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        word = pipe.read().decode()
    status = os.waitpid(pid, 0)[1]
    return word or "died-of-signal-%d" % (status & 127)


def cloned(flags, action=lambda: "allowed", old=False):
    """The same, in a child in new namespaces, by clone3 or by the old clone."""
    def inner():
        reading, writing = os.pipe()
        if old:
            number = ctypes.c_long(CALLS["clone"][platform.machine() == "aarch64"])
            pid = libc.syscall(number, ctypes.c_long(flags | signal.SIGCHLD), *[ctypes.c_long(0)] * 4)
        else:
            pid = libc.syscall(ctypes.c_long(435), room(88, flags, 0, 0, 0, signal.SIGCHLD), ctypes.c_long(88))
        if pid < 0:
            return name_of(ctypes.get_errno())
        if pid == 0:
            os.write(writing, action().encode())
            os._exit(0)
        os.close(writing)
        return os.read(reading, 200).decode()
    return child(inner)


def sock(family, kind, protocol=0):
    """Opens a socket of this family."""
    return attempt(lambda: socket.socket(family, kind, protocol).close())


def reach(address, kind=socket.SOCK_STREAM, family=socket.AF_INET, seconds=1.5):
    """Connects, and for a datagram also sends: `allowed` when it went out."""
    def action():
        with socket.socket(family, kind) as one:
            one.settimeout(seconds)
            one.connect(address)
            if kind == socket.SOCK_DGRAM:
                one.send(b"\0" * 12)
    return attempt(action)


def status(field):
    """A field of /proc/self/status."""
    for line in content("/proc/self/status").splitlines():
        if line.startswith(field + ":"):
            return line.split(":", 1)[1].strip()
    return ""


def mounts():
    """(source, where, type, options) of every mount."""
    return [tuple(line.split()[:4]) for line in content("/proc/self/mounts").splitlines()]


def fill(folder):
    """Fills a folder up to three times the limit: `bounded` when that was too much."""
    path = os.path.join(folder, "fill")
    try:
        with open(path, "wb", buffering=0) as file:
            for _ in range(3 * LIMITS["disk"] >> 20):
                if file.write(b"x" * (1 << 20)) < 1 << 20:
                    return "bounded"
    except OSError as error:
        return "bounded" if error.errno == errno.ENOSPC else name_of(error.errno)
    finally:
        os.unlink(path)
    return "unbounded"


def all_files():
    """Raises the limit of open files as far as it goes."""
    import resource
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def raised(kind):
    """Lowers a hard limit and raises it again, which takes a capability; for a child."""
    import resource
    resource.setrlimit(kind, (32, 512))
    return attempt(lambda: resource.setrlimit(kind, (32, 1024)))
