//! The set-up: Docker's `daemon.json` is somebody else's file, and a machine gets only what was asked for.
//!
//! Drives the functions of `scripts/lib` through bash, with the real `runsc` and a `daemon.json` of the test's own.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Value, json};

/// A folder with a `daemon.json` in it.
struct Docker {
    folder: tempfile::TempDir,
    file: PathBuf,
}

impl Docker {
    /// Without the file.
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("daemon.json");
        Self { folder, file }
    }

    fn with(text: &str) -> Self {
        let docker = Self::new();
        fs::write(&docker.file, text).expect("written");
        docker
    }

    fn register(&self) -> Output {
        bash("register_runtime", &[("DOCKER_DAEMON_JSON", self.file.to_str().expect("plain"))])
    }

    #[track_caller]
    fn registered(&self) -> Value {
        let output = self.register();
        assert!(output.status.success(), "{}", messages(&output));
        serde_json::from_slice(&fs::read(&self.file).expect("there")).expect("JSON")
    }

    fn backup(&self) -> PathBuf {
        self.folder.path().join("daemon.json.before-cellblock")
    }

    /// Names in the folder, for what must not be left there.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).expect("a folder");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("plain")).collect();
        names.sort();
        names
    }
}

/// Runs a command with the functions of the set-up.
fn bash(command: &str, environment: &[(&str, &str)]) -> Output {
    let script = format!(
        "set -euo pipefail; for part in scripts/lib/*.sh; do . \"$part\"; done; ENGINE=${{ENGINE:-}}; {command}"
    );
    Command::new("/bin/bash")
        .args(["-c", &script])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("ENGINE")
        .envs(environment.iter().copied())
        .output()
        .expect("bash is there")
}

fn messages(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn assert_has_our_flags(runtime: &Value) {
    let arguments: Vec<_> = runtime["runtimeArgs"].as_array().expect("arguments").iter().collect();
    let platform = arguments[0].as_str().expect("text");
    assert!(["--platform=systrap", "--platform=ptrace"].contains(&platform), "{runtime}");
    assert_eq!(arguments[1..], ["--network=none", "--oci-seccomp"], "{runtime}");
    let path = Path::new(runtime["path"].as_str().expect("a path"));
    assert!(path.is_absolute() && path.exists(), "{runtime}");
}

#[test]
fn what_was_in_daemon_json_stays_and_a_foreign_runsc_keeps_its_name() {
    let before = json!({
        "log-driver": "journald",
        "registry-mirrors": ["https://mirror.example"],
        "runtimes": {
            "kata": {"path": "/opt/kata/bin/containerd-shim-kata-v2"},
            "runsc": {"path": "/opt/gvisor/runsc", "runtimeArgs": ["--platform=kvm"]},
        },
    });
    let docker = Docker::with(&before.to_string());
    let mut after = docker.registered();
    let ours = after["runtimes"].as_object_mut().expect("an object").remove("cellblock-runsc").expect("ours is added");
    assert_has_our_flags(&ours);
    assert_eq!(after, before);
    assert_eq!(fs::read_to_string(docker.backup()).expect("a backup"), before.to_string());
    assert!(messages(&docker.register()).contains("`--runtime cellblock-runsc`"));
}

#[test]
fn a_second_run_changes_nothing() {
    let docker = Docker::with("{\"debug\": true}\n");
    docker.registered();
    let changed = fs::metadata(&docker.file).expect("there");
    let output = docker.register();
    assert!(output.status.success());
    assert_eq!(messages(&output), "");
    let again = fs::metadata(&docker.file).expect("there");
    assert_eq!((again.ino(), again.mtime_nsec()), (changed.ino(), changed.mtime_nsec()));
    assert_eq!(docker.names(), ["daemon.json", "daemon.json.before-cellblock"]);
}

#[test]
fn the_backup_is_the_first_version_whatever_comes_later() {
    let docker = Docker::with("{\"debug\": true}");
    docker.registered();
    fs::write(&docker.file, "{\"debug\": false}").expect("written");
    assert_has_our_flags(&docker.registered()["runtimes"]["runsc"]);
    assert_eq!(fs::read_to_string(docker.backup()).expect("a backup"), "{\"debug\": true}");
}

#[test]
fn a_daemon_json_that_docker_could_not_read_is_refused_and_untouched() {
    for text in ["{\"runtimes\": {", "[]", "\"text\"", "{\"runtimes\": []}", "{} {}"] {
        let docker = Docker::with(text);
        let output = docker.register();
        assert!(!output.status.success(), "{text}");
        let said = messages(&output);
        assert!(said.contains(docker.file.to_str().expect("plain")) && said.contains("nothing was changed"), "{said}");
        assert_eq!(fs::read_to_string(&docker.file).expect("there"), text);
        assert_eq!(docker.names(), ["daemon.json"], "{text}");
    }
}

#[test]
fn a_link_stays_a_link_and_the_file_behind_it_keeps_its_mode() {
    let docker = Docker::new();
    let folder = tempfile::tempdir().expect("a folder");
    let target = folder.path().join("docker.json");
    fs::write(&target, "{\"debug\": true}").expect("written");
    fs::set_permissions(&target, fs::Permissions::from_mode(0o640)).expect("its mode");
    symlink(&target, &docker.file).expect("a link");
    assert_eq!(docker.registered()["debug"], true);
    assert!(docker.file.is_symlink());
    assert!(fs::read_to_string(&target).expect("there").contains("--oci-seccomp"));
    assert_eq!(fs::metadata(&target).expect("there").permissions().mode() & 0o777, 0o640);
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1, "no temporary file is left");
    assert!(!docker.backup().is_symlink());
    assert_eq!(fs::read_to_string(docker.backup()).expect("a backup"), "{\"debug\": true}");
}

#[test]
fn an_absent_or_blank_daemon_json_becomes_one_with_our_runtime_alone() {
    for docker in [Docker::new(), Docker::with(""), Docker::with(" \n")] {
        let after = docker.registered();
        assert_has_our_flags(&after["runtimes"]["runsc"]);
        assert_eq!(after["runtimes"].as_object().map(serde_json::Map::len), Some(1));
        assert_eq!(after.as_object().map(serde_json::Map::len), Some(1));
    }
}

#[test]
fn docker_is_not_installed_unasked() {
    let bare = tempfile::tempdir().expect("a folder");
    let path = bare.path().to_str().expect("plain");
    for (engine, chosen, wants_docker) in [("", "runsc", false), ("docker", "docker", true), ("all", "all", true)] {
        // After the parts have been read: they add the usual folders to PATH.
        let command = "PATH=$BARE; choose_engine; echo \"$ENGINE\"; missing_packages";
        let output = bash(command, &[("ENGINE", engine), ("BARE", path)]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some(chosen), "{}", messages(&output));
        let packages: Vec<_> = lines.collect();
        assert!(packages.contains(&"runsc"), "{packages:?}");
        assert_eq!(packages.contains(&"docker.io"), wants_docker, "{packages:?}");
        assert_eq!(packages.contains(&"skopeo"), chosen == "all", "only tests need it: {packages:?}");
    }
    let output = bash("choose_engine; echo \"$ENGINE\"", &[]);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "docker\n",
        "this machine has Docker (scripts/setup --engine all)"
    );
}

#[test]
fn an_unknown_engine_is_refused_before_anything_is_looked_at() {
    let output = bash("scripts/setup --engine podman", &[]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(messages(&output), "setup: error: unknown engine `podman`; it is `docker`, `runsc` or `all`\n");
}

#[test]
fn nothing_is_missing_here_for_any_engine() {
    for engine in ["docker", "runsc", "all"] {
        let output = bash(&format!("scripts/setup --check --no-images --engine {engine}"), &[]);
        assert!(output.status.success(), "`scripts/setup --engine all` installs it: {}", messages(&output));
    }
}
