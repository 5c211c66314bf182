//! The hardening rendered as an OCI bundle's `config.json`, as one pure function.
//!
//! Snapshot-tested: a wall that is removed shows as a diff of `snapshots/`.

use std::path::Path;

use serde_json::{Value, json};

use crate::engine::{hardening::Hardening, seccomp::Profile};

/// The OCI runtime specification that we write.
const OCI_VERSION: &str = "1.0.2";

/// The configuration of a sandbox over the read-only `root`. `image_env` is the image's own environment, which ours
/// wins over; `cgroup` is the group that limits it, when there is one.
pub(super) fn config(
    root: &Path,
    image_env: &[String],
    hardening: &Hardening,
    seccomp: &Profile,
    cgroup: Option<&str>,
) -> Value {
    let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
    let ours = hardening.env;
    let inherited =
        image_env.iter().map(String::as_str).filter(|theirs| ours.iter().all(|our| name(our) != name(theirs)));
    let env: Vec<&str> = inherited.chain(ours).collect();
    let rlimits = hardening
        .rlimits
        .map(|(name, value)| json!({"type": format!("RLIMIT_{}", name.to_uppercase()), "soft": value, "hard": value}));
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]}),
    ];
    mounts.extend(hardening.writable.map(
        |path| json!({"destination": path, "type": "tmpfs", "source": "tmpfs", "options": hardening.tmpfs_options}),
    ));
    let namespaces = ["pid", "network", "ipc", "uts", "mount"].map(|kind| json!({"type": kind}));
    let mut config = json!({
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": false,
            "user": {"uid": hardening.uid, "gid": hardening.gid},
            "args": hardening.command,
            "env": env,
            "cwd": hardening.working_dir,
            // None, in every set.
            "capabilities": {},
            "noNewPrivileges": true,
            "rlimits": rlimits,
        },
        "root": {"path": root, "readonly": true},
        "hostname": hardening.hostname,
        "mounts": mounts,
        "linux": {
            "namespaces": namespaces,
            "seccomp": seccomp.oci(),
        },
    });
    if let Some(path) = cgroup {
        config["linux"]["cgroupsPath"] = path.into();
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{engine::Resources, runtime::Runtimes, units::ByteSize};

    fn rendered(cgroup: Option<&str>) -> Value {
        let resources = Resources { memory: ByteSize(512 << 20), cpus: 1.0, processes: 128, disk: ByteSize(64 << 20) };
        let runtimes = Runtimes::builtin();
        let mut runtime = runtimes.find("python").expect("shipped").clone();
        runtime.command = vec!["python3".into()];
        let image_env = ["PATH=/usr/bin".to_owned(), "HOME=/root".to_owned()];
        let profile = Profile::parse(r#"{"defaultAction": "SCMP_ACT_ERRNO"}"#).expect("a profile");
        config(Path::new("/store/root"), &image_env, &Hardening::new(&runtime, &resources), &profile, cgroup)
    }

    #[test]
    fn the_whole_hardening() {
        insta::assert_snapshot!(serde_json::to_string_pretty(&rendered(Some("/cellblock/1"))).expect("JSON"));
    }

    #[test]
    fn without_a_group_none_is_named() {
        assert_eq!(rendered(None)["linux"].get("cgroupsPath"), None);
    }
}
