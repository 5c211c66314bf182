//! What scripts that look for a way out of a container enumerate: each finding would be a first step.

use crate::case::{Case, Wall, hidden, inside, python};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        hidden("a container engine's socket, by looking everywhere", "found(p for d, _, files in list(os.walk('/run')) + list(os.walk('/var/run')) for p in (d + '/' + f for f in files) if p.endswith('.sock'))"),
        hidden("a container engine's port", "found(p for p in (2375, 2376, 10250, 10255, 6443, 8001, 2379, 5000) for h in ('127.0.0.1', '172.17.0.1') if reach((h, p), seconds=0.5) == 'allowed')")
            .stands_because("the host may have none of these open"),
        hidden("a containerd-shim's abstract socket", "found(line.split()[-1] for line in content('/proc/net/unix').splitlines() if 'containerd' in line or 'docker' in line)"),
        hidden("dangerous capabilities", "bits = int(status('CapEff') or '0', 16)\nfound(n for n, b in {'SYS_ADMIN': 21, 'SYS_MODULE': 16, 'SYS_PTRACE': 19, 'DAC_READ_SEARCH': 2, 'DAC_OVERRIDE': 1, 'NET_ADMIN': 12, 'NET_RAW': 13, 'SYS_RAWIO': 17, 'MKNOD': 27, 'SETUID': 7, 'BPF': 39, 'SYS_CHROOT': 18}.items() if bits >> b & 1)"),
        hidden("a container without its own process ids", "found(content('/proc/%s/comm' % p).strip() for p in os.listdir('/proc') if p.isdigit() and content('/proc/%s/comm' % p).strip() in ('systemd', 'init', 'kthreadd', 'dockerd', 'containerd', 'cellblock', 'runsc'))"),
        hidden("more processes than ours", "found(p for p in os.listdir('/proc') if p.isdigit() and int(p) != os.getpid() and content('/proc/%s/stat' % p).split() and int(content('/proc/%s/stat' % p).split(') ')[-1].split()[1]) not in (os.getpid(), 1))"),
        hidden("a container without its own network", "found(content('/proc/net/unix').splitlines()[200:201])")
            .stands_because("counts the sockets in use; a quiet host has few"),
        hidden("folders of the host mounted into the sandbox", "found(m[1] for m in mounts() if m[2] in ('ext4', 'xfs', 'btrfs', 'virtiofs', 'nfs', 'fuse.sshfs', 'vboxsf', 'drvfs'))"),
        hidden("where the root file system lies on the host", "import re\nfound(re.findall(r'(?:upperdir|lowerdir|workdir)=[^,]*', content('/proc/self/mounts')))"),
        hidden("a cgroup whose release agent can be set", "found(p for p in glob.glob('/sys/fs/cgroup/*/release_agent') if os.path.exists(p))")
            .stands_because("cgroup v2 has no release agents"),
        inside("a cgroup file system that can be written", "own(m[1] for m in mounts() if m[2].startswith('cgroup') and 'rw' in m[3].split(','))"),
        hidden("a writable /proc/sys", "found(p for p in ('kernel/core_pattern', 'kernel/modprobe', 'vm/panic_on_oom', 'fs/binfmt_misc') if os.access('/proc/sys/' + p, os.W_OK))"),
        hidden("service account tokens", "found(p for p in ('/var/run/secrets/kubernetes.io', '/run/secrets', '/var/run/secrets/eks.amazonaws.com') if os.path.exists(p))")
            .stands_because("there is no cluster here"),
        hidden("keys and passwords in the image", "found(p for pattern in ('/root/.ssh/*', '/home/*/.ssh/*', '/root/.aws/*', '/root/.docker/config.json', '/root/.netrc', '/root/.pip/*', '/root/.npmrc', '/etc/ssl/private/*.key', '/root/.bash_history') for p in glob.glob(pattern))")
            .stands_because("the image has none; it is the same one"),
        hidden("jobs and start files that can be written", "found(p for p in ('/etc/crontab', '/etc/cron.d', '/etc/profile', '/etc/init.d', '/root/.bashrc', '/etc/ld.so.conf.d', '/etc/environment') if os.access(p, os.W_OK))"),
        hidden("writable folders outside the three", "found(d for d, subs, _ in os.walk('/') if not d.startswith(('/proc', '/sys', '/dev', '/tmp', '/workspace')) and os.access(d, os.W_OK) and attempt(lambda: os.rmdir(__import__('tempfile').mkdtemp(dir=d))) == 'allowed')"),
        hidden("file capabilities in the image", "found(p for d in ('/bin', '/sbin', '/usr/bin', '/usr/sbin', '/usr/local/bin') for p in glob.glob(d + '/*') if os.path.isfile(p) and 'security.capability' in (os.listxattr(p) if attempt(lambda: os.listxattr(p)) == 'allowed' else []))")
            .stands_because("the image has none; it is the same one"),
        hidden("tools that make attacks easy", "import shutil\nfound(t for t in ('gcc', 'cc', 'gdb', 'strace', 'docker', 'kubectl', 'nsenter-static', 'nmap', 'tcpdump', 'sudo', 'ssh', 'nc', 'curl', 'wget') if shutil.which(t))")
            .stands_because("the image has none; it is the same one"),
        hidden("the machine's model and serial number", "found(content(p).strip() for p in glob.glob('/sys/class/dmi/id/*') + ['/sys/firmware/devicetree/base/model'] if content(p).strip())")
            .stands_because("needs a machine that shows them"),
        // Without a control group runsc knows of no limit, and shows the machine's size; protocol.md says so.
        python("the machine's processor count and memory", Wall::Virtual, "virtual", "total = int(content('/proc/meminfo').split()[1]) * 1024\n'virtual' if total <= 2 * LIMITS['memory'] or LIMITS.get('memory_guard') == 'watchdog' else '%d bytes' % total"),
        hidden("traces of the container engine", "found(p for p in ('/.dockerenv', '/run/.containerenv') if os.path.exists(p) and os.path.getsize(p))")
            .stands_because("the file is empty; it tells where one is, and opens nothing"),
        hidden("a namespace of the host", "found(n for n in ('net', 'pid', 'mnt', 'ipc', 'uts', 'user') if 'namespaces' in HOST and os.path.exists('/proc/self/ns/' + n) and os.readlink('/proc/self/ns/' + n) == HOST['namespaces'][n])").on_host(),
        hidden("the host's root through a process of its own", "found(p for p in glob.glob('/proc/[0-9]*/root') if HOST['token'] in content(p + HOST['file']))").on_host(),
        hidden("the page cache of read-only files", "import mmap\nf = open('/etc/passwd', 'rb')\nfound(['written'] if attempt(lambda: mmap.mmap(f.fileno(), 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)) == 'allowed' else [])")
            .stands_because("a file opened for reading is never mapped for writing; the case is for kernels that err"),
        hidden("a pipe that writes into read-only files", DIRTY_PIPE)
            .stands_because("the kernels that did this have been mended"),
    ]
}

/// Splices a page of a file of our own that we may only read into a pipe, and writes there.
const DIRTY_PIPE: &str = r"
path = '/tmp/read-only'
if not os.path.exists(path):
    with open(path, 'w') as file:
        file.write('x' * 4096)
    os.chmod(path, 0o400)
fd = os.open(path, os.O_RDONLY)
reading, writing = os.pipe()
for _ in range(16):
    os.write(writing, b'y' * 4096)
    os.read(reading, 4096)
attempt(lambda: os.splice(fd, writing, 1, offset_src=0))
os.write(writing, b'attack')
found(['written'] if 'attack' in content(path) else [])";
