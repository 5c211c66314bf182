//! Posture: what a sandbox measurably is, compared with what the policy wants.
//!
//! Pure: facts in, checks out. The inside facts come from the kernel before any user code ran, the outside facts from
//! the engine; neither is a claim of the configuration.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::protocol::{Isolation, MemoryGuard};

/// gVisor's constant answer to `uname`: no machine's own kernel says this.
const GVISOR_KERNEL: &str = "Linux version 4.4.0";
/// The date in gVisor's version line, fixed in its source since 2016.
const GVISOR_BUILD: &str = "Sun Jan 10 15:06:54 PST 2016";

/// What the host sees of a sandbox.
#[derive(Clone, Debug, Serialize)]
pub struct OutsideFacts {
    /// The OCI runtime that the engine used.
    pub runtime: String,
    /// The container's id.
    pub container: String,
    /// Whether the host's process of this container is gVisor's Sentry; null where the host's processes are not visible.
    pub sentry: Option<bool>,
    /// What holds it to its memory.
    pub memory_guard: MemoryGuard,
}

/// One line of the posture.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// What the policy wants.
    pub expected: String,
    /// What was found.
    pub found: String,
    /// Whether they agree.
    pub ok: bool,
}

/// Result of `session.posture`.
#[derive(Clone, Debug, Serialize)]
pub struct Posture {
    /// Which kernel stands between user code and the machine's, as found.
    pub isolation: Isolation,
    /// Whether every check agrees with the policy and the isolation is gVisor's.
    pub strong: bool,
    /// What is weaker than the default, because the operator asked for it or the machine gives no more.
    pub warnings: Vec<String>,
    /// The checks.
    pub checks: Vec<Check>,
    /// The host's view.
    pub outside: OutsideFacts,
}

impl Posture {
    /// The failed checks in words; empty when all agree.
    pub fn findings(&self) -> String {
        let failed = self.checks.iter().filter(|check| !check.ok);
        failed
            .map(|check| format!("{} is `{}`, not {}", check.name, check.found, check.expected))
            .collect::<Vec<_>>()
            .join("; ")
    }
}

/// Compares a sandbox with the policy. `wanted` is the isolation that the operator asked for.
pub fn assess(wanted: Isolation, probe: &BTreeMap<String, Option<String>>, outside: OutsideFacts) -> Posture {
    let file = |path: &str| probe.get(path).and_then(Option::as_deref).unwrap_or("");
    let version = file("/proc/version").trim();
    let gvisor = version.starts_with(GVISOR_KERNEL) && version.ends_with(GVISOR_BUILD) && outside.sentry != Some(false);
    let isolation = if gvisor { Isolation::Gvisor } else { Isolation::Container };
    let mut checks = Vec::new();
    let mut check = |name, expected: &str, found: String, ok| {
        checks.push(Check { name, expected: expected.to_owned(), found, ok });
    };
    if wanted == Isolation::Gvisor {
        check("kernel", "gVisor's", version.to_owned(), gvisor);
    }
    let status = file("/proc/self/status");
    let field = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.map(|value| value.split_whitespace().collect::<Vec<_>>().join(" ")).unwrap_or_default()
    };
    let ids = |key| {
        let text = field(key);
        let ok = !text.is_empty() && text.split(' ').all(|id| id.parse::<u32>().is_ok_and(|id| id != 0));
        (text, ok)
    };
    let (uid, uid_ok) = ids("Uid");
    check("uid", "unprivileged", uid, uid_ok);
    let (gid, gid_ok) = ids("Gid");
    check("gid", "unprivileged", gid, gid_ok);
    for name in ["CapInh", "CapPrm", "CapEff", "CapBnd"] {
        let found = field(name);
        let ok = !found.is_empty() && found.bytes().all(|byte| byte == b'0');
        check(name, "0", found, ok);
    }
    let no_new_privileges = match field("NoNewPrivs") {
        // gVisor's status file has no such line, and its exec never grants privileges (prctl says 1 for every task).
        text if text.is_empty() && gvisor => "1".to_owned(),
        text => text,
    };
    for (name, expected, found) in [("NoNewPrivs", "1", no_new_privileges), ("Seccomp", "2", field("Seccomp"))] {
        let ok = found == expected;
        check(name, expected, found, ok);
    }
    let root = root_options(file("/proc/self/mounts"));
    check("root", "read-only", root.to_owned(), root.split(',').any(|option| option == "ro"));
    let interfaces = interfaces(file("/proc/net/dev"));
    let ok = interfaces.iter().all(|name| name == "lo") && probe.contains_key("/proc/net/dev");
    check("interfaces", "lo or none", interfaces.join(" "), ok);
    let mut warnings = Vec::new();
    if isolation == Isolation::Container {
        warnings.push(format!(
            "not gVisor: the runtime `{}` shares the machine's kernel with user code, as the operator asked",
            outside.runtime
        ));
    }
    if outside.memory_guard == MemoryGuard::Watchdog {
        warnings.push("no control group can be had: memory is guarded by the supervisor, CPUs are not limited".into());
    }
    let strong = gvisor && checks.iter().all(|check| check.ok);
    Posture { isolation, strong, warnings, checks, outside }
}

/// The options of the last mount on `/`.
fn root_options(mounts: &str) -> &str {
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    fields
        .filter(|fields| fields.get(1) == Some(&"/"))
        .filter_map(|fields| fields.get(3).copied())
        .next_back()
        .unwrap_or("")
}

/// The names in `/proc/net/dev`.
fn interfaces(table: &str) -> Vec<String> {
    table.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tpython3\nUid:\t65534\t65534\t65534\t65534\nGid:\t65534\t65534\t65534\t65534\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nSeccomp:\t2\nNoNewPrivs:\t1\n";
    const VERSION: &str = "Linux version 4.4.0 #1 SMP Sun Jan 10 15:06:54 PST 2016\n";

    fn outside() -> OutsideFacts {
        OutsideFacts {
            runtime: "runsc".into(),
            container: "1".into(),
            sentry: Some(true),
            memory_guard: MemoryGuard::Cgroup,
        }
    }

    fn probe(version: &str, status: &str) -> BTreeMap<String, Option<String>> {
        let files = [
            ("/proc/version", version),
            ("/proc/self/status", status),
            ("/proc/self/mounts", "none / 9p ro,trans=fd 0 0\nnone /tmp tmpfs rw 0 0\n"),
            ("/proc/net/dev", "Inter-| Receive\n face |bytes\n    lo:       0 0\n"),
        ];
        files.map(|(path, text)| (path.to_owned(), Some(text.to_owned()))).into()
    }

    #[test]
    fn a_hardened_sandbox_is_strong() {
        let posture = assess(Isolation::Gvisor, &probe(VERSION, STATUS), outside());
        assert!(posture.strong, "{}", posture.findings());
    }

    #[test]
    fn every_removed_wall_is_found() {
        for (from, to, name) in [
            ("65534\t65534", "0\t65534", "uid"),
            ("Seccomp:\t2", "Seccomp:\t0", "Seccomp"),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0", "NoNewPrivs"),
            ("CapBnd:\t0", "CapBnd:\t8", "CapBnd"),
        ] {
            let posture = assess(Isolation::Gvisor, &probe(VERSION, &STATUS.replacen(from, to, 1)), outside());
            assert!(!posture.strong && posture.findings().contains(name), "{name}: {}", posture.findings());
        }
        let empty = assess(Isolation::Gvisor, &BTreeMap::new(), outside());
        assert!(empty.checks.iter().all(|check| !check.ok), "nothing read is nothing proven");
    }

    #[test]
    fn another_kernel_is_not_gvisor_whatever_it_says() {
        let ours = "Linux version 6.1.0-18-amd64 (debian-kernel@lists.debian.org)\n";
        assert!(!assess(Isolation::Gvisor, &probe(ours, STATUS), outside()).strong);
        let no_sentry = OutsideFacts { sentry: Some(false), ..outside() };
        assert!(!assess(Isolation::Gvisor, &probe(VERSION, STATUS), no_sentry).strong);
        let asked = assess(Isolation::Container, &probe(ours, STATUS), outside());
        assert!(!asked.strong && asked.findings().is_empty() && asked.warnings.len() == 1);
    }
}
