//! Kernel surface: calls that have no business in a sandbox, each tried raw, with arguments that harm nothing where
//! they are let through. An errno that speaks of the arguments (EINVAL, EFAULT, EBADF) means that the call was let in.

use crate::case::{Case, Wall, hidden, inside, node, python, refused};

/// A socket of a family that nobody needs here.
const NO_SOCKET: &str = "EPERM EACCES EAFNOSUPPORT EPROTONOSUPPORT ESOCKTNOSUPPORT";

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        refused("io_uring_setup", "call('io_uring_setup', 8, room(120))"),
        refused("io_uring_enter", "call('io_uring_enter', -1, 0, 0, 0, 0, 0)"),
        refused("io_uring_register", "call('io_uring_register', -1, 0, 0, 0)"),
        refused("io_setup", "call('io_setup', 1, room(8))"),
        refused("bpf: make a map", "call('bpf', 0, room(120, 2 | 4 << 32, 8 | 1 << 32), 72)"),
        refused("userfaultfd", "call('userfaultfd', 0o2000000)"),
        refused("ptrace: attach to the parent", "child(lambda: call('ptrace', 16, os.getppid(), 0, 0))"),
        refused("ptrace: be traced", "child(lambda: call('ptrace', 0, 0, 0, 0))"),
        refused("process_vm_readv", "b = room(16)\ni = room(16, ctypes.addressof(b), 8)\ncall('process_vm_readv', os.getpid(), i, 1, i, 1, 0)"),
        refused("process_vm_writev", "b = room(16)\ni = room(16, ctypes.addressof(b), 8)\ncall('process_vm_writev', os.getpid(), i, 1, i, 1, 0)"),
        refused("process_madvise", "call('process_madvise', -1, 0, 0, 0, 0)"),
        refused("pidfd_getfd", "call('pidfd_getfd', call('pidfd_open', os.getpid(), 0) == 'allowed' and 3, 0, 0)"),
        refused("kcmp", "call('kcmp', os.getpid(), os.getpid(), 0, 0, 0)"),
        refused("keyctl: join a session keyring", "child(lambda: call('keyctl', 1, 0, 0, 0, 0))"),
        refused("add_key", "call('add_key', b'user', b'attack', b'x', 1, -3)"),
        refused("request_key", "call('request_key', b'user', b'attack', 0, -3)"),
        refused("perf_event_open", "call('perf_event_open', room(128, 1 | 112 << 32), 0, -1, -1, 0)"),
        refused("mount a tmpfs", "os.makedirs('/tmp/mnt', exist_ok=True)\nchild(lambda: call('unshare', 0x20000) and call('mount', b'none', b'/tmp/mnt', b'tmpfs', 0, 0))"),
        refused("remount the root writable", "call('mount', 0, b'/nowhere', 0, 0x20 | 0x1000, 0)"),
        refused("umount2", "call('umount2', b'/nowhere', 0)"),
        refused("pivot_root", "call('pivot_root', b'/nowhere', b'/nowhere')"),
        refused("chroot", "child(lambda: call('chroot', b'/tmp'))"),
        refused("fsopen", "call('fsopen', b'tmpfs', 1)"),
        refused("open_tree", "call('open_tree', -100, b'/', 1)"),
        refused("move_mount", "call('move_mount', -1, b'', -100, b'/nowhere', 0)"),
        refused("mount_setattr", "call('mount_setattr', -1, b'', 0, room(32), 32)"),
        refused("unshare: a user namespace", "child(lambda: call('unshare', 0x10000000))"),
        refused("unshare: a mount namespace", "child(lambda: call('unshare', 0x20000))"),
        refused("unshare: a network namespace", "child(lambda: call('unshare', 0x40000000))"),
        refused("clone: a user namespace", "cloned(0x10000000, old=True)"),
        inside("clone3: a user namespace", "virtual(cloned(0x10000000))"),
        inside("clone3: a user and a network namespace", "virtual(cloned(0x50000000))"),
        refused("root in a namespace of one's own: mount", "cloned(0x10020000, lambda: call('mount', b'none', b'/tmp', b'tmpfs', 0, 0))"),
        refused("root in a namespace of one's own: chroot", "cloned(0x10000000, lambda: call('chroot', b'/tmp'))"),
        refused("setns", "call('setns', -1, 0)"),
        refused("kexec_load", "call('kexec_load', 0, 99, 0, 0)")
            .stands_because("on a kernel that is built without it"),
        refused("kexec_file_load", "call('kexec_file_load', -1, -1, 0, 0, 0xffff)")
            .stands_because("on a kernel that is built without it"),
        refused("init_module", "call('init_module', 0, 0, b'')")
            .stands_because("on a kernel that is built without it"),
        refused("finit_module", "call('finit_module', -1, b'', 0)")
            .stands_because("on a kernel that is built without it"),
        refused("delete_module", "call('delete_module', b'no_such_module', 0o4000)")
            .stands_because("on a kernel that is built without it"),
        refused("reboot with wrong magic numbers", "call('reboot', 1, 2, 0, 0)"),
        refused("swapon", "call('swapon', b'/nowhere', 0)"),
        refused("swapoff", "call('swapoff', b'/nowhere')"),
        refused("acct", "call('acct', b'/nowhere')"),
        refused("quotactl", "call('quotactl', 0x800007 << 8, b'/nowhere', 0, 0)"),
        refused("syslog: the kernel's messages", "call('syslog', 3, room(64), 64)"),
        refused("iopl", "call('iopl', 0)")
            .stands_because("on a kernel that is built without it"),
        refused("ioperm", "call('ioperm', 0x80, 1, 0)")
            .stands_because("on a kernel that is built without it"),
        refused("vhangup", "child(lambda: (os.setsid(), call('vhangup'))[1])"),
        refused("settimeofday: the zone, to what it is", "call('settimeofday', 0, room(8))"),
        refused("clock_settime", "call('clock_settime', 0, room(16, 0, 1 << 62))"),
        refused("sethostname, to what it is", "call('sethostname', os.uname().nodename.encode(), len(os.uname().nodename))"),
        refused("name_to_handle_at", "call('name_to_handle_at', -100, b'/', room(136, 128), room(8), 0)"),
        refused("open_by_handle_at", "call('open_by_handle_at', -100, room(136, 128), 0)"),
        refused("fanotify_init", "call('fanotify_init', 0, 0)"),
        refused("migrate_pages", "call('migrate_pages', os.getpid(), 0, 0, 0)"),
        refused("move_pages", "call('move_pages', os.getpid(), 0, 0, 0, 0, 0)"),
        refused("memfd_secret", "call('memfd_secret', 0)"),
        refused("personality: read implies execute", "child(lambda: call('personality', 0x400000))"),
        // Around a container with a seccomp filter of its own the call ends the Sentry's stub; gVisor then tells no signal.
        python("x32 calls", Wall::Refused, "EPERM EACCES ENOSYS died-of-signal-31 died-of-signal-0", "child(lambda: 'allowed' if libc.syscall(ctypes.c_long(0x40000000 + 39)) > 0 else name_of(ctypes.get_errno()))")
            .stands_because("most kernels are built without the x32 ABI"),
        python("32-bit calls through int 0x80", Wall::Refused, "EPERM ENOSYS died-of-signal-11 died-of-signal-31 died-of-signal-0", INT_80),
        python("TIOCSTI: type into a terminal", Wall::Refused, "EPERM EACCES EIO ENOTTY", TIOCSTI)
            .stands_because("kernels from 6.2 on refuse it themselves"),
        python("the kernel is not the machine's", Wall::Virtual, "virtual", "'virtual' if os.uname().release.startswith('4.4.0') and 'Jan 10 15:06:54 PST 2016' in content('/proc/version') else os.uname().release"),
        python("the kernel's messages are gVisor's", Wall::Virtual, "virtual", "import subprocess\nrun = subprocess.run(['dmesg'], capture_output=True, text=True)\n'virtual' if 'gVisor' in run.stdout or not run.stdout else 'the messages of the machine'"),
        node("a module with native code from /workspace", Wall::Refused, "ERR_DLOPEN_FAILED", "fs.writeFileSync('/workspace/attack.node', 'x'); attempt(() => process.dlopen({ exports: {} }, '/workspace/attack.node'))")
            .stands_because("the file is no library; it shows that nothing runs before the loader has looked"),
        node("the system's release", Wall::Virtual, "4.4.0", "os.release()"),
    ];
    cases.extend([
        socket("AF_PACKET", "sock(17, socket.SOCK_RAW, socket.htons(3))"),
        socket("raw IPv4", "sock(socket.AF_INET, socket.SOCK_RAW, 1)"),
        socket("raw IPv6", "sock(socket.AF_INET6, socket.SOCK_RAW, 58)"),
        hidden("netlink: the interfaces", "found(name for _, name in socket.if_nameindex() if name != 'lo')"),
        socket("netlink: audit", "sock(16, socket.SOCK_RAW, 9)"),
        socket("netlink: the kernel's events", "sock(16, socket.SOCK_RAW, 15)"),
        socket("vsock to the hypervisor", "sock(40, socket.SOCK_STREAM)"),
        socket("AF_ALG", "sock(38, 5)").stands_because("on a kernel that is built without it"),
        socket("AF_KEY", "sock(15, socket.SOCK_RAW, 2)").stands_because("on a kernel that is built without it"),
        socket("AF_XDP", "sock(44, socket.SOCK_RAW)"),
    ]);
    cases
}

fn socket(name: &'static str, code: &'static str) -> Case {
    python(name, Wall::Refused, NO_SOCKET, code)
}

/// getpid of the 32-bit table, in four bytes of machine code; what the child dies of is the wall too.
const INT_80: &str = r"
def gate():
    import mmap
    if platform.machine() != 'x86_64':
        return 'ENOSYS'
    code = mmap.mmap(-1, 4096, prot=7)
    code.write(bytes([0xb8, 20, 0, 0, 0, 0xcd, 0x80, 0xc3]))
    entry = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    got = entry()
    return 'allowed' if got > 0 else name_of(-got)
child(gate)";

const TIOCSTI: &str = r"
def type_in():
    import fcntl
    a, b = os.openpty()
    os.setsid()
    fcntl.ioctl(b, 0x540e, 0)
    fcntl.ioctl(b, 0x5412, b'x')
    return 'allowed'
child(type_in)";
