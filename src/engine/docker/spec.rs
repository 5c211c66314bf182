//! The hardening rendered as a container's body, as one pure function.
//!
//! Snapshot-tested: a wall that is removed shows as a diff of `snapshots/`.

use std::collections::HashMap;

use bollard::models::{ContainerCreateBody, HostConfig, HostConfigLogConfig, ResourcesUlimits};

use super::DockerConfig;
use crate::engine::{Instance, hardening::Hardening};

/// Names the supervisor that owns a container.
pub(super) const LABEL_INSTANCE: &str = "cellblock.instance";
/// Names the set of supervisors that can see whether the owner lives.
pub(super) const LABEL_SCOPE: &str = "cellblock.scope";

/// The container of `image` with these walls.
pub(super) fn container(
    image: &str,
    hardening: &Hardening,
    config: &DockerConfig,
    instance: &Instance,
) -> ContainerCreateBody {
    let memory = bounded(hardening.memory);
    let tmpfs = format!("rw,{}", hardening.tmpfs_options.join(","));
    #[expect(clippy::cast_possible_truncation, reason = "the settings bound CPUs far below what would not fit")]
    let nano_cpus = (hardening.cpus * 1e9) as i64;
    let rlimits = hardening.rlimits.map(|(name, value)| ResourcesUlimits {
        name: Some(name.to_owned()),
        soft: Some(bounded(value)),
        hard: Some(bounded(value)),
    });
    ContainerCreateBody {
        image: Some(image.to_owned()),
        entrypoint: Some(Vec::new()),
        cmd: Some(hardening.command.clone()),
        user: Some(format!("{}:{}", hardening.uid, hardening.gid)),
        working_dir: Some(hardening.working_dir.to_owned()),
        hostname: Some(hardening.hostname.to_owned()),
        env: Some(hardening.env.map(str::to_owned).into()),
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
            tmpfs: Some(hardening.writable.map(|path| (path.to_owned(), tmpfs.clone())).into()),
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(vec![
                "no-new-privileges:true".to_owned(),
                format!("seccomp={}", config.seccomp.docker(config.isolation())),
            ]),
            privileged: Some(false),
            network_mode: Some("none".to_owned()),
            ipc_mode: Some("none".to_owned()),
            memory: Some(memory),
            // Equal to the memory: no swap.
            memory_swap: Some(memory),
            nano_cpus: Some(nano_cpus),
            pids_limit: Some(bounded(hardening.host_pids)),
            ulimits: Some(rlimits.into()),
            log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
            auto_remove: Some(false),
            init: Some(false),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

/// Docker's integers are signed.
fn bounded(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::{Resources, seccomp::Profile},
        runtime::Runtimes,
        units::ByteSize,
    };

    #[test]
    fn the_whole_hardening() {
        let folder = tempfile::tempdir().expect("a folder for the instance");
        let instance = Instance::claim(folder.path()).expect("an instance");
        let resources = Resources { memory: ByteSize(512 << 20), cpus: 1.0, processes: 128, disk: ByteSize(64 << 20) };
        let seccomp = Profile::parse(r#"{"defaultAction": "SCMP_ACT_ERRNO"}"#).expect("a profile");
        let config = DockerConfig { socket: "/run/docker.sock".into(), runtime: "runsc".into(), seccomp };
        let runtimes = Runtimes::builtin();
        let mut runtime = runtimes.find("python").expect("shipped").clone();
        runtime.command = vec!["python3".into()];
        let body = container(&runtime.image, &Hardening::new(&runtime, &resources), &config, &instance);
        let mut body = serde_json::to_value(body).expect("JSON");
        body["Labels"] = serde_json::json!({LABEL_INSTANCE: "[instance]", LABEL_SCOPE: "[scope]"});
        insta::assert_snapshot!(serde_json::to_string_pretty(&body).expect("JSON"));
    }
}
