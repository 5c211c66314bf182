//! /proc, /sys, devices, the root file system, and what lies on the host beside it. Files are opened, never written to.

use crate::case::{Case, Wall, hidden, inside, node, python};

/// The answers with which a file or device stays closed.
const CLOSED: &str = "ENOENT EACCES EPERM EROFS ENXIO ENODEV ENOTDIR";

pub(crate) fn cases() -> Vec<Case> {
    vec![
        closed("read /proc/kcore", "opened('/proc/kcore')")
            .stands_because("on a kernel that is built without it"),
        closed("read /proc/kmsg", "opened('/proc/kmsg')"),
        closed("read /dev/kmsg", "opened('/dev/kmsg')"),
        closed("read /dev/mem", "opened('/dev/mem')")
            .stands_because("on a kernel that is built without it"),
        closed("read /dev/port", "opened('/dev/port')")
            .stands_because("on a kernel that is built without it"),
        closed("open /dev/kvm", "opened('/dev/kvm', os.O_RDWR)"),
        inside("open /dev/fuse", "virtual(opened('/dev/fuse', os.O_RDWR))"),
        closed("make a tunnel with /dev/net/tun", "import fcntl\nattempt(lambda: fcntl.ioctl(os.open('/dev/net/tun', os.O_RDWR), 0x400454ca, struct.pack('16sH14x', b'attack', 0x1002)))"),
        closed("open /dev/loop-control", "opened('/dev/loop-control')"),
        closed("open /dev/vhost-vsock", "opened('/dev/vhost-vsock')")
            .stands_because("on a kernel that is built without it"),
        closed("open /dev/userfaultfd", "opened('/dev/userfaultfd', os.O_RDWR)"),
        closed("open /dev/snapshot", "opened('/dev/snapshot')")
            .stands_because("on a kernel that is built without it"),
        closed("open /dev/cpu/0/msr", "opened('/dev/cpu/0/msr')")
            .stands_because("on a kernel that is built without it"),
        hidden("block devices in /dev", "found(p for p in glob.glob('/dev/*') if stat.S_ISBLK(os.lstat(p).st_mode))"),
        closed("mknod: a block device of one's own", "attempt(lambda: (os.mknod('/tmp/disk', 0o600 | stat.S_IFBLK, os.makedev(254, 0)), os.unlink('/tmp/disk')))"),
        closed("mknod: the memory of the machine", "attempt(lambda: (os.mknod('/tmp/mem', 0o600 | stat.S_IFCHR, os.makedev(1, 1)), os.unlink('/tmp/mem')))"),
        closed("write /proc/sysrq-trigger", "opened('/proc/sysrq-trigger', os.O_WRONLY)")
            .stands_because("on a kernel that is built without it"),
        closed("write core_pattern", "opened('/proc/sys/kernel/core_pattern', os.O_WRONLY)"),
        closed("write the path of modprobe", "opened('/proc/sys/kernel/modprobe', os.O_WRONLY)")
            .stands_because("on a kernel that is built without it"),
        closed("write drop_caches", "opened('/proc/sys/vm/drop_caches', os.O_WRONLY)"),
        closed("write overcommit_memory", "opened('/proc/sys/vm/overcommit_memory', os.O_WRONLY)"),
        closed("write the host's name", "opened('/proc/sys/kernel/hostname', os.O_WRONLY)"),
        closed("register a binary format", "opened('/proc/sys/fs/binfmt_misc/register', os.O_WRONLY)")
            .stands_because("on a kernel that is built without it"),
        closed("forward packets", "opened('/proc/sys/net/ipv4/ip_forward', os.O_WRONLY)"),
        inside("lower one's own oom score", "virtual(child(lambda: attempt(lambda: os.write(os.open('/proc/self/oom_score_adj', os.O_WRONLY), b'-1000'))))")
            .stands_because("where root itself lacks CAP_SYS_RESOURCE, as in some virtual machines"),
        hidden("addresses in /proc/kallsyms", "found(line for line in content('/proc/kallsyms').splitlines()[:1] if line.split()[0].strip('0'))"),
        hidden("the machine's memory map", "found(content('/proc/iomem').splitlines()[:2])"),
        hidden("the machine's modules", "found(content('/proc/modules').splitlines()[:2])")
            .stands_because("a machine whose kernel has everything built in has no modules to show"),
        hidden("the machine's interrupts", "found(content('/proc/interrupts').splitlines()[1:3])"),
        hidden("the machine's disks", "found(content('/proc/partitions').split()[4:] + content('/proc/diskstats').split()[:3])"),
        hidden("the machine's timers", "found(content('/proc/timer_list').splitlines()[:1])"),
        hidden("the machine's keys", "found(content('/proc/keys').splitlines()[:1] + content('/proc/key-users').splitlines()[:1])"),
        hidden("the machine's slabs", "found(content('/proc/slabinfo').splitlines()[:1])"),
        hidden("the machine's boot command", "found([HOST['cmdline']] if content('/proc/cmdline').strip() == HOST['cmdline'] else [])").on_host(),
        hidden("the machine's boot id", "found([HOST['boot']] if content('/proc/sys/kernel/random/boot_id').strip() == HOST['boot'] else [])").on_host(),
        hidden("the machine's load", "import re\nfound(re.findall(r'/(\\d{3,})', content('/proc/loadavg')))"),
        hidden("the machine's cgroup files", "found(p for p in glob.glob('/sys/fs/cgroup/**/release_agent', recursive=True) + glob.glob('/sys/fs/cgroup/**/cgroup.procs', recursive=True) if os.access(p, os.W_OK))"),
        closed("debugfs and tracefs", "attempt(lambda: os.listdir('/sys/kernel/debug') and os.listdir('/sys/kernel/debug/tracing'))")
            .stands_because("needs a mounted debugfs"),
        closed("uevent_helper", "opened('/sys/kernel/uevent_helper', os.O_WRONLY)")
            .stands_because("needs a kernel with the helper's path configured"),
        closed("firmware variables", "attempt(lambda: os.listdir('/sys/firmware/efi') or os.listdir('/sys/firmware/acpi'))")
            .stands_because("needs firmware that shows any"),
        hidden("disks in /sys/block", "found(os.listdir('/sys/block') if os.path.isdir('/sys/block') else [])"),
        hidden("network cards in /sys", "found(set(os.listdir('/sys/class/net') if os.path.isdir('/sys/class/net') else []) - {'lo'})"),
        hidden("PCI devices in /sys", "found((os.listdir('/sys/bus/pci/devices') if os.path.isdir('/sys/bus/pci/devices') else []) + glob.glob('/sys/bus/virtio/devices/*'))"),
        hidden("writable files in /sys", "import itertools\nfiles = (d + '/' + f for d, _, fs in os.walk('/sys') for f in fs)\nfound(p for p in itertools.islice(files, 3000) if os.access(p, os.W_OK))"),
        closed("write into /", "opened('/attack', os.O_WRONLY | os.O_CREAT)"),
        closed("write /etc/passwd", "opened('/etc/passwd', os.O_WRONLY)"),
        closed("write /etc/ld.so.preload", "opened('/etc/ld.so.preload', os.O_WRONLY | os.O_CREAT)"),
        closed("write the standard library", "opened(os.__file__, os.O_WRONLY)"),
        closed("replace the interpreter", "opened(os.path.realpath(sys.executable), os.O_WRONLY)"),
        closed("write the running program", "opened('/proc/self/exe', os.O_WRONLY)"),
        closed("make a hard link to /etc/passwd", "attempt(lambda: (os.link('/etc/passwd', '/etc/attack-link'), os.unlink('/etc/attack-link')))"),
        closed("read /etc/shadow", "opened('/etc/shadow')"),
        hidden("the host's file by its name", "found(p for p in [HOST['file'], '/proc/1/root' + HOST['file'], '/proc/self/root' + HOST['file'], '/workspace/' + '../' * 20 + HOST['file'][1:]] if HOST['token'] in content(p))").on_host(),
        hidden("the host's file through a link", "link = '/workspace/link'\nos.path.lexists(link) and os.unlink(link)\nos.symlink(HOST['file'], link)\nfound([link] if HOST['token'] in content(link) else [])").on_host(),
        hidden("the host's file through descriptors", "found(fd for fd in os.listdir('/proc/self/fd') if HOST['token'] in content('/proc/self/fd/%s/%s%s' % (fd, '../' * 20, HOST['file'][1:])))").on_host()
            .stands_because("needs a folder's descriptor that the runtime has leaked"),
        hidden("descriptors of folders left open", "found(os.readlink('/proc/self/fd/' + f) for f in os.listdir('/proc/self/fd') if os.path.isdir('/proc/self/fd/' + f) and not os.readlink('/proc/self/fd/' + f).startswith('/proc'))")
            .stands_because("the attack needs a container runtime that leaks one; runc has learnt not to"),
        hidden("the sockets of container engines", "found(p for p in ['/var/run/docker.sock', '/run/docker.sock', '/run/containerd/containerd.sock', '/run/crio/crio.sock', '/run/podman/podman.sock'] if os.path.exists(p))"),
        hidden("the sidecar's and the engine's folders", "found(p for p in ['/var/lib/docker', '/var/lib/containerd', '/run/cellblock', '/run/runsc', '/var/lib/kubelet', '/var/run/secrets'] if os.path.exists(p))")
            .stands_because("the container without walls does not mount the whole host"),
        hidden("other processes of the machine", "found(p for p in os.listdir('/proc') if p.isdigit() and int(p) == HOST['pid'] and 'attacks' in content('/proc/%s/cmdline' % p))").on_host(),
        hidden("file systems of the machine", "found(m[:3] for m in mounts() if m[0].startswith('/dev/') or m[2] in ('ext4', 'xfs', 'btrfs', 'overlay', 'fuse', 'nfs'))"),
        hidden("paths of the host in mountinfo", "found(line.split()[3] for line in content('/proc/self/mountinfo').splitlines() if line.split()[3] not in ('/', '') and not line.split()[4].startswith(('/proc', '/sys', '/dev')))"),
        inside("paths of the host in cgroup", "own(line.split(':')[2] for line in content('/proc/self/cgroup').splitlines() if line.split(':')[2] not in ('/', ''))"),
        node("replace Node's own program", Wall::Refused, CLOSED, "attempt(() => fs.openSync(process.execPath, 'r+'))"),
        node("write into the modules' folder", Wall::Refused, CLOSED, "attempt(() => fs.writeFileSync((process.env.NODE_PATH || '/opt/nodejs/node_modules') + '/attack.js', ''))"),
        node("write into / from Node", Wall::Refused, CLOSED, "attempt(() => { fs.writeFileSync('/attack', ''); fs.unlinkSync('/attack'); })"),
        node("the host's file from Node", Wall::Hidden, "nothing", "found([HOST.file, '/proc/1/root' + HOST.file].filter((path) => content(path).includes(HOST.token)))").on_host(),
        // Without a control group runsc knows of no limit, and shows the machine's size; protocol.md says so.
        node("the machine's memory size", Wall::Virtual, "virtual", "os.totalmem() <= 2 * LIMITS.memory || LIMITS.memory_guard === 'watchdog' ? 'virtual' : `${os.totalmem()} bytes`"),
    ]
}

fn closed(name: &'static str, code: &'static str) -> Case {
    python(name, Wall::Refused, CLOSED, code)
}
