//! Who the code is and what it may become: ids, capabilities, privileges, limits.

use crate::case::{Case, Wall, hidden, inside, node, python, refused};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        hidden("root's ids", "found(line for line in [status('Uid'), status('Gid')] if '0' in line.split())"),
        hidden("more groups", "found(set(os.getgroups()) - {os.getgid()})")
            .stands_because("root has no more groups in the image"),
        hidden("inheritable capabilities", "found({status('CapInh')} - {'0' * 16})")
            .stands_because("engines no longer hand out inheritable capabilities"),
        hidden("permitted capabilities", "found({status('CapPrm')} - {'0' * 16})"),
        hidden("effective capabilities", "found({status('CapEff')} - {'0' * 16})"),
        hidden("bounding capabilities", "found({status('CapBnd')} - {'0' * 16})"),
        python("new privileges", Wall::Refused, "1", "str(libc.prctl(39, 0, 0, 0, 0))"),
        python("a system call filter", Wall::Refused, "2", "status('Seccomp')"),
        refused("setuid(0)", "child(lambda: attempt(lambda: os.setuid(0)))"),
        refused("setgid(0)", "child(lambda: attempt(lambda: os.setgid(0)))"),
        refused("setresuid(0, 0, 0)", "child(lambda: attempt(lambda: os.setresuid(0, 0, 0)))"),
        refused("setgroups([0])", "child(lambda: attempt(lambda: os.setgroups([0])))"),
        refused("capset: the administrator's", "child(lambda: call('capset', room(8, 0x20080522), room(24, 1 << 21 | 1 << 53)))"),
        refused("securebits", "child(lambda: 'allowed' if libc.prctl(28, 0, 0, 0, 0) == 0 else name_of(ctypes.get_errno()))")
            .also("EINVAL"),
        refused("give a file to root", "open('/tmp/mine', 'w').close()\nattempt(lambda: (os.chown('/tmp/mine', 0, 0), os.chown('/tmp/mine', 1, 1)))"),
        refused("change the mode of a file of root's", "attempt(lambda: os.chmod('/etc/passwd', os.stat('/etc/passwd').st_mode & 0o7777))")
            .also("EROFS"),
        inside("a higher priority", "virtual(child(lambda: attempt(lambda: os.nice(-5))))"),
        refused("a real-time scheduler", "child(lambda: attempt(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))))")
            .also("EINVAL")
            .stands_because("kernels may give control groups no real-time"),
        python("raise the hard limit of processes", Wall::Refused, "EPERM ValueError", RAISE_PROCESSES)
        .stands_because("where root itself lacks CAP_SYS_RESOURCE, as in some virtual machines"),
        python("raise the hard limit of files", Wall::Refused, "EPERM ValueError", RAISE_FILES)
        .stands_because("where root itself lacks CAP_SYS_RESOURCE, as in some virtual machines"),
        python("core dumps", Wall::Bounded, "0", "import resource\nstr(resource.getrlimit(resource.RLIMIT_CORE)[1])"),
        python("the name of the machine", Wall::Virtual, "virtual", "'virtual' if os.uname().nodename != HOST['hostname'] else HOST['hostname']").on_host(),
        hidden("programs that give root to anybody", "found(p for d in os.environ['PATH'].split(':') for p in glob.glob(d + '/*') if os.path.isfile(p) and os.stat(p).st_mode & 0o6000 and libc.prctl(39, 0, 0, 0, 0) != 1)")
            .stands_because("the image has no such program"),
        python("su to root", Wall::Refused, "refused", "import shutil\n'refused' if not shutil.which('su') or 'uid=0' not in subprocess.run(['su', '-c', 'id'], capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout else 'root'"),
        node("start a child as root", Wall::Refused, "EPERM", "const run = child_process.spawnSync('id', { uid: 0, gid: 0 }); run.error ? run.error.code : 'allowed'"),
    ]
}

const RAISE_PROCESSES: &str = "child(lambda: raised(__import__('resource').RLIMIT_NPROC))";
const RAISE_FILES: &str = "child(lambda: raised(__import__('resource').RLIMIT_NOFILE))";
