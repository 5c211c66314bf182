//! What every sandbox is, whichever engine starts it: the whole hardening that an engine has only to render.
//!
//! Pure. What an engine adds of its own (labels, streams, the runtime's flags) is no hardening and stands with it.

use super::Resources;
use crate::runtime::Runtime;

/// `nobody` and `nogroup` of Debian; needs no entry in the image.
const NOBODY: u32 = 65534;
/// Open files of one guest process.
const MAX_FILES: u64 = 1024;
/// Threads of the Sentry itself that the host's limit counts beside the guest's; too few and a fork bomb kills the
/// sandbox instead of being refused (measured: a limit of 64 did).
const SENTRY_PIDS: u64 = 512;

/// The walls around one sandbox, as both engines build them.
///
/// Beyond the fields, an engine makes the root read-only, drops every capability, sets no-new-privileges, loads the
/// seccomp profile, gives no network, no host mounts and no swap.
#[derive(Clone, Debug)]
pub(super) struct Hardening {
    /// Process 1.
    pub(super) command: Vec<String>,
    /// User and group of process 1, never 0.
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Where process 1 starts.
    pub(super) working_dir: &'static str,
    pub(super) hostname: &'static str,
    /// Variables beside the image's own; nothing of the supervisor's.
    pub(super) env: [&'static str; 2],
    /// The only writable places: tmpfs of `disk` bytes each.
    pub(super) writable: [&'static str; 3],
    /// Mount options of these.
    pub(super) tmpfs_options: [String; 4],
    /// Limits of each guest process, soft and hard, by their names without `RLIMIT_`, in lower case.
    pub(super) rlimits: [(&'static str, u64); 3],
    /// Bytes, swap included.
    pub(super) memory: u64,
    /// CPUs, as a fraction of the machine's.
    pub(super) cpus: f64,
    /// Host processes and threads, the Sentry's own included.
    pub(super) host_pids: u64,
}

impl Hardening {
    /// The hardening of one sandbox.
    pub(super) fn new(runtime: &Runtime, resources: &Resources) -> Self {
        let processes = u64::from(resources.processes);
        Self {
            command: runtime.command.clone(),
            uid: NOBODY,
            gid: NOBODY,
            working_dir: "/workspace",
            hostname: "cellblock",
            env: ["HOME=/workspace", "LANG=C.UTF-8"],
            // POSIX semaphores and shared memory (multiprocessing, joblib) live in /dev/shm.
            writable: ["/workspace", "/tmp", "/dev/shm"],
            tmpfs_options: ["nosuid".into(), "nodev".into(), "mode=1777".into(), format!("size={}", resources.disk.0)],
            rlimits: [("core", 0), ("nofile", MAX_FILES), ("nproc", processes)],
            memory: resources.memory.0,
            cpus: resources.cpus,
            host_pids: processes + SENTRY_PIDS,
        }
    }
}
