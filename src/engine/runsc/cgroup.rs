//! Control groups of sandboxes, version 1 and 2: made by us, joined by runsc, removed by us.
//!
//! runsc joins a group that is there, takes its limits for the machine that the guest sees, and leaves it alone. So the
//! counters outlive the sandbox, and the end of one that ran out of memory can be told from others.
//! Without root runsc joins none: it wants to enable controllers from the root group down, may not, and goes on without
//! a word. So a sandbox of an ordinary user is started in its group (`launcher.rs`), and its guest sees the machine's
//! memory for its own; version 2 alone can be delegated (`delegation.rs`).
//! A group is `<base>/cellblock-<instance>/<sandbox>`, so that what a dead supervisor left has a name.

mod delegation;

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::net::unix::pipe;

use crate::engine::hardening::Hardening;
use delegation::Delegation;

/// What a group limits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Bytes, swap included.
    memory: u64,
    cpus: f64,
    pids: u64,
}

impl Limits {
    /// Any, to try whether limits can be set at all.
    const PROBE: Self = Self { memory: 64 << 20, cpus: 1.0, pids: 16 };
}

impl From<&Hardening> for Limits {
    fn from(hardening: &Hardening) -> Self {
        Self { memory: hardening.memory, cpus: hardening.cpus, pids: hardening.host_pids }
    }
}

/// What a sandbox's limits need.
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];
/// The period that CPU quotas count in, microseconds: the kernel's own default.
const PERIOD_US: f64 = 100_000.0;
/// How often removing a group is tried while its last processes end.
const REMOVE_TRIES: usize = 100;
const REMOVE_PAUSE: Duration = Duration::from_millis(10);

/// The hierarchies that we may make groups in; the supervisor's own group in them goes with the last of its sandboxes'.
#[derive(Debug)]
pub(super) struct Hierarchies {
    version: Version,
    /// Mount points; runsc makes groups of ours in all of them.
    mounts: Vec<PathBuf>,
    /// Where below each mount point our groups begin.
    base: String,
    /// Those of an ordinary user are in a group that was delegated.
    delegation: Option<Delegation>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// One sandbox's group.
#[derive(Debug)]
pub(super) struct Group {
    hierarchies: Arc<Hierarchies>,
    path: String,
}

impl Hierarchies {
    /// Those of this machine, with everything a sandbox's limits need; `None` when we may not make groups in them.
    pub(super) fn find(instance: &str) -> Option<Arc<Self>> {
        let mounted = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let memberships = fs::read_to_string("/proc/self/cgroup").ok()?;
        let root = rustix::process::geteuid().is_root();
        let found = Self::parse(&mounted, &memberships, root, instance)?;
        match found.try_out(&memberships, root) {
            Ok(found) => Some(found),
            Err(error) => {
                tracing::info!(%error, "no control groups can be made here: the supervisor itself guards the memory");
                None
            }
        }
    }

    /// Makes one group, and removes it.
    fn try_out(mut self, memberships: &str, root: bool) -> io::Result<Arc<Self>> {
        if self.version == Version::Two && !root {
            let own = own_group(memberships).unwrap_or_default();
            let group = self.mounts[0].join(above(&self.base).trim_start_matches('/'));
            self.delegation = Some(Delegation::take(group, delegation::parent(own) == own)?);
        }
        let found = Arc::new(self);
        found.create("probe", Limits::PROBE)?.try_remove();
        Ok(found)
    }

    /// `mounted` is /proc/self/mountinfo, `memberships` /proc/self/cgroup.
    fn parse(mounted: &str, memberships: &str, root: bool, instance: &str) -> Option<Self> {
        let mut one = Vec::new();
        let (mut two, mut controllers) = (None, Vec::new());
        for line in mounted.lines() {
            let (before, after) = line.split_once(" - ")?;
            let mut before = before.split(' ').skip(3);
            let (top, point) = (before.next()?, PathBuf::from(before.next()?));
            let mut after = after.split(' ');
            match after.next()? {
                "cgroup" => {
                    controllers.extend(after.nth(1).unwrap_or_default().split(',').map(str::to_owned));
                    one.push(point);
                }
                "cgroup2" => {
                    two.get_or_insert((top, point));
                }
                _ => {}
            }
        }
        let name = format!("cellblock-{instance}");
        if CONTROLLERS.iter().all(|wanted| controllers.iter().any(|controller| controller == wanted)) {
            return Some(Self { version: Version::One, mounts: one, base: format!("/{name}"), delegation: None });
        }
        let (top, point) = two?;
        // As root below the root group, like Docker; others below the group that was delegated to them, if one was.
        // A container may see a part of the hierarchy only, but its groups by their whole names.
        let parent = match own_group(memberships)? {
            _ if root => "",
            own => delegation::parent(own.strip_prefix(top.trim_end_matches('/'))?),
        };
        Some(Self { version: Version::Two, mounts: vec![point], base: format!("{parent}/{name}"), delegation: None })
    }

    /// Whether sandboxes have to be started in their groups, since runsc cannot join them.
    pub(super) fn are_joined_at_start(&self) -> bool {
        self.delegation.is_some()
    }

    /// Makes a group with these limits. A group half-made is removed.
    pub(super) fn create(self: &Arc<Self>, name: &str, limits: Limits) -> io::Result<Group> {
        let group = Group { hierarchies: Arc::clone(self), path: format!("{}/{name}", self.base) };
        match group.make(limits) {
            Ok(()) => Ok(group),
            Err(error) => {
                group.try_remove();
                Err(error)
            }
        }
    }

    /// Removes what the dead supervisor with this id left in the hierarchies.
    pub(super) async fn remove_of(&self, instance: &str) {
        let base = format!("{}/cellblock-{instance}", above(&self.base));
        let theirs = Arc::new(Self { version: self.version, mounts: self.mounts.clone(), base, delegation: None });
        let left = theirs.mounts.iter().flat_map(|mount| fs::read_dir(mount.join(&theirs.base[1..])));
        let names: BTreeSet<_> =
            left.flatten().flatten().filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name()).collect();
        for name in names {
            let path = format!("{}/{}", theirs.base, name.display());
            Group { hierarchies: Arc::clone(&theirs), path }.remove().await;
        }
    }
}

impl Drop for Hierarchies {
    fn drop(&mut self) {
        for mount in &self.mounts {
            let _ = fs::remove_dir(mount.join(&self.base[1..]));
        }
    }
}

impl Group {
    /// As `linux.cgroupsPath` names it.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// The folder to start runsc in, where runsc does not join by itself.
    pub(super) fn joined_at_start(&self) -> Option<PathBuf> {
        let joined = self.hierarchies.are_joined_at_start();
        joined.then(|| self.hierarchies.mounts[0].join(&self.path[1..]))
    }

    fn make(&self, limits: Limits) -> io::Result<()> {
        #[expect(clippy::cast_possible_truncation, reason = "the settings bound CPUs far below what would not fit")]
        let quota = (limits.cpus * PERIOD_US) as i64;
        let memory = limits.memory.to_string();
        let pids = limits.pids.to_string();
        match self.hierarchies.version {
            Version::One => {
                // The others (cpuset above all, which must be filled in before it can be joined) are runsc's to make.
                for controller in CONTROLLERS {
                    fs::create_dir_all(self.folder(controller)?)?;
                }
                let in_memory = self.folder("memory")?;
                set(in_memory.join("memory.limit_in_bytes"), &memory)?;
                // Memory and swap together; absent where the kernel does not account for swap.
                ignore_missing(set(in_memory.join("memory.memsw.limit_in_bytes"), &memory))?;
                set(self.folder("cpu")?.join("cpu.cfs_quota_us"), quota.to_string())?;
                set(self.folder("pids")?.join("pids.max"), pids)
            }
            Version::Two => {
                let folder = self.folder("")?;
                let parent = folder.parent().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
                fs::create_dir_all(parent)?;
                if let Some(above) = parent.parent() {
                    enable_controllers(above)?;
                }
                enable_controllers(parent)?;
                fs::create_dir_all(&folder)?;
                set(folder.join("memory.max"), &memory)?;
                ignore_missing(set(folder.join("memory.swap.max"), "0"))?;
                // A Sentry without one of its stubs stalls: the OOM killer must take them all.
                set(folder.join("memory.oom.group"), "1")?;
                set(folder.join("cpu.max"), format!("{quota} {PERIOD_US}"))?;
                set(folder.join("pids.max"), pids)
            }
        }
    }

    /// This group in the hierarchy of a controller; version 2 has one for all.
    fn folder(&self, controller: &str) -> io::Result<PathBuf> {
        let below = &self.path[1..];
        let mounts = &self.hierarchies.mounts;
        if self.hierarchies.version == Version::Two {
            return Ok(mounts[0].join(below));
        }
        // Controllers that share a hierarchy are mounted as `cpu,cpuacct`, often with a link for each.
        let mount = mounts.iter().find(|mount| {
            let name = mount.file_name().unwrap_or_default().to_string_lossy();
            name.split(',').any(|part| part == controller)
        });
        mount.map(|mount| mount.join(below)).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("no hierarchy of the controller `{controller}`"))
        })
    }

    /// Whether the machine's OOM killer took a process of it.
    pub(super) fn ran_out_of_memory(&self) -> bool {
        let file = match self.hierarchies.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        let Ok(counters) = self.folder("memory").and_then(|folder| fs::read_to_string(folder.join(file))) else {
            return false;
        };
        counters.lines().any(|line| line.strip_prefix("oom_kill ").is_some_and(|count| count.trim() != "0"))
    }

    /// Returns when the group is out of memory; never on version 2, where the kernel then ends all of it by itself.
    pub(super) async fn out_of_memory(&self) {
        if self.hierarchies.version == Version::One {
            match self.await_event().await {
                Ok(()) => return,
                Err(error) => tracing::warn!(%error, "no notice of memory running out in {}", self.path),
            }
        }
        std::future::pending::<()>().await;
    }

    /// The kernel tells an event descriptor that was registered with the group (kernel documentation, cgroup-v1,
    /// memory.txt section 10); also when the group is removed.
    async fn await_event(&self) -> io::Result<()> {
        use rustix::event::{EventfdFlags, eventfd};
        use std::os::fd::AsRawFd as _;

        let folder = self.folder("memory")?;
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let control = fs::File::open(folder.join("memory.oom_control"))?;
        let order = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
        set(folder.join("cgroup.event_control"), order)?;
        // An event descriptor is no pipe, but is waited for like one.
        pipe::Receiver::from_owned_fd_unchecked(event)?.readable().await
    }

    /// Removes it once its last process has ended.
    pub(super) async fn remove(self) {
        for _ in 0..REMOVE_TRIES {
            if self.try_remove() {
                return;
            }
            tokio::time::sleep(REMOVE_PAUSE).await;
        }
        tracing::warn!(group = %self.path, "a control group cannot be removed; the next start tries again");
    }

    /// Whether nothing of it is left.
    fn try_remove(&self) -> bool {
        self.hierarchies.mounts.iter().fold(true, |gone, mount| {
            let removed = fs::remove_dir(mount.join(&self.path[1..]));
            gone & !matches!(removed, Err(error) if error.kind() != io::ErrorKind::NotFound)
        })
    }
}

/// Gives a group's children the controllers that a sandbox's limits need.
fn enable_controllers(group: &Path) -> io::Result<()> {
    let enable = CONTROLLERS.map(|controller| format!("+{controller}")).join(" ");
    set(group.join("cgroup.subtree_control"), enable)
}

/// The group of version 2 that the process with these memberships is in; empty for the root group.
fn own_group(memberships: &str) -> Option<&str> {
    Some(memberships.lines().find_map(|line| line.strip_prefix("0::"))?.trim_end_matches('/'))
}

/// The path of the group above.
fn above(path: &str) -> &str {
    path.rfind('/').map_or("", |at| &path[..at])
}

/// Writes a file of a group; never makes one.
fn set(file: PathBuf, value: impl AsRef<[u8]>) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(file)?.write_all(value.as_ref())
}

/// Some kernels account for no swap, and have no file to limit it.
fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "\
31 23 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct
32 23 0:28 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory
33 23 0:29 / /sys/fs/cgroup/pids rw,nosuid - cgroup cgroup rw,pids
34 23 0:30 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw";
    const TWO: &str = "29 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime - cgroup2 cgroup2 rw,nsdelegate";

    #[test]
    fn version_one_is_used_where_the_controllers_are() {
        let found = Hierarchies::parse(ONE, "4:memory:/x\n0::/", true, "7").expect("found");
        assert_eq!((found.version, found.base.as_str(), found.mounts.len()), (Version::One, "/cellblock-7", 3));
        let group = Group { path: format!("{}/1", found.base), hierarchies: Arc::new(found) };
        let folder = group.folder("cpu").expect("mounted");
        assert_eq!(folder, Path::new("/sys/fs/cgroup/cpu,cpuacct/cellblock-7/1"));
    }

    #[track_caller]
    fn assert_base(mounted: &str, own: &str, root: bool, base: Option<&str>) {
        let found = Hierarchies::parse(mounted, &format!("0::{own}\n"), root, "7");
        assert!(found.as_ref().is_none_or(|found| found.version == Version::Two));
        assert_eq!(found.as_ref().map(|found| found.base.as_str()), base);
    }

    #[test]
    fn version_two_otherwise() {
        assert_base(TWO, "/user.slice/x.scope", true, Some("/cellblock-7"));
        assert_base(TWO, "/user.slice/x.scope", false, Some("/user.slice/x.scope/cellblock-7"));
        assert_base(TWO, "/x.service/supervisor", false, Some("/x.service/cellblock-7"));
        assert_base(TWO, "/", false, Some("/cellblock-7"));
    }

    #[test]
    fn a_part_of_the_hierarchy_has_shorter_paths() {
        let part = TWO.replace(" / /sys", " /docker/1 /sys");
        assert_base(&part, "/docker/1", false, Some("/cellblock-7"));
        assert_base(&part, "/docker/1/x", false, Some("/x/cellblock-7"));
        assert_base(&part, "/elsewhere", false, None);
    }

    #[test]
    fn no_hierarchy_is_no_group() {
        assert!(Hierarchies::parse("22 1 0:21 / /proc rw - proc proc rw", "0::/", true, "7").is_none());
    }
}
