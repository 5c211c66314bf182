//! The whole hardening of a container, as one pure function.
//!
//! Snapshot-tested: a wall that is removed shows as a diff of `snapshots/`.

use std::collections::HashMap;

use bollard::models::{ContainerCreateBody, HostConfig, HostConfigLogConfig, ResourcesUlimits};

use super::{DockerConfig, Instance};
use crate::{engine::Resources, runtime::Runtime};

/// Names the supervisor that owns a container.
pub(super) const LABEL_INSTANCE: &str = "cellblock.instance";
/// Names the set of supervisors that can see whether the owner lives.
pub(super) const LABEL_SCOPE: &str = "cellblock.scope";

/// `nobody` and `nogroup` of Debian; needs no entry in the image.
const USER: &str = "65534:65534";
/// Open files of one guest process.
const MAX_FILES: i64 = 1024;
/// Threads of the Sentry itself that the host's limit counts beside the guest's; too few and a fork bomb kills the
/// sandbox instead of being refused (facts: `--pids-limit=64` did).
const SENTRY_PIDS: i64 = 512;

/// The container that runs `runtime`, hardened.
pub(super) fn container(
    runtime: &Runtime,
    resources: &Resources,
    config: &DockerConfig,
    instance: &Instance,
) -> ContainerCreateBody {
    let memory = i64::try_from(resources.memory.0).unwrap_or(i64::MAX);
    let tmpfs = format!("rw,nosuid,nodev,mode=1777,size={}", resources.disk.0);
    // POSIX semaphores and shared memory (multiprocessing, joblib) live in /dev/shm.
    let writable = ["/workspace", "/tmp", "/dev/shm"];
    #[expect(clippy::cast_possible_truncation, reason = "the settings bound CPUs far below what would not fit")]
    let nano_cpus = (resources.cpus * 1e9) as i64;
    let limit =
        |name: &str, value: i64| ResourcesUlimits { name: Some(name.to_owned()), soft: Some(value), hard: Some(value) };
    ContainerCreateBody {
        image: Some(runtime.image.clone()),
        entrypoint: Some(Vec::new()),
        cmd: Some(runtime.command.clone()),
        user: Some(USER.to_owned()),
        working_dir: Some("/workspace".to_owned()),
        hostname: Some("cellblock".to_owned()),
        env: Some(vec!["HOME=/workspace".to_owned(), "LANG=C.UTF-8".to_owned()]),
        labels: Some(HashMap::from([
            (LABEL_INSTANCE.to_owned(), instance.id().to_owned()),
            (LABEL_SCOPE.to_owned(), instance.scope().to_owned()),
        ])),
        tty: Some(false),
        open_stdin: Some(true),
        // The container's input closes with the supervisor's connection, and the kernel ends with its input.
        stdin_once: Some(true),
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        network_disabled: Some(true),
        host_config: Some(HostConfig {
            runtime: Some(config.runtime.clone()),
            readonly_rootfs: Some(true),
            tmpfs: Some(writable.map(|path| (path.to_owned(), tmpfs.clone())).into()),
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(vec!["no-new-privileges:true".to_owned(), format!("seccomp={}", config.seccomp)]),
            privileged: Some(false),
            network_mode: Some("none".to_owned()),
            ipc_mode: Some("none".to_owned()),
            memory: Some(memory),
            // Equal to the memory: no swap.
            memory_swap: Some(memory),
            nano_cpus: Some(nano_cpus),
            pids_limit: Some(i64::from(resources.processes) + SENTRY_PIDS),
            ulimits: Some(vec![
                limit("core", 0),
                limit("nofile", MAX_FILES),
                limit("nproc", i64::from(resources.processes)),
            ]),
            log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
            auto_remove: Some(false),
            init: Some(false),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{runtime::Runtimes, units::ByteSize};

    #[test]
    fn the_whole_hardening() {
        let folder = tempfile::tempdir().expect("a folder for the instance");
        let instance = Instance::claim(folder.path()).expect("an instance");
        let resources = Resources { memory: ByteSize(512 << 20), cpus: 1.0, processes: 128, disk: ByteSize(64 << 20) };
        let config = DockerConfig { socket: "/run/docker.sock".into(), runtime: "runsc".into(), seccomp: "{}".into() };
        let runtimes = Runtimes::builtin();
        let mut runtime = runtimes.find("python").expect("shipped").clone();
        runtime.command = vec!["python3".into()];
        let body = container(&runtime, &resources, &config, &instance);
        let mut body = serde_json::to_value(body).expect("JSON");
        body["Labels"] = serde_json::json!({LABEL_INSTANCE: "[instance]", LABEL_SCOPE: "[scope]"});
        insta::assert_snapshot!(serde_json::to_string_pretty(&body).expect("JSON"));
    }
}
