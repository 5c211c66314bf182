//! The runsc engine: one `runsc run` per sandbox, without a daemon, as root or as anybody.
//!
//! The bundle is `bundle.rs`, its root file system the image store's, one for all sandboxes of an image and read-only.
//! Standard input and output are plain pipes to process 1. As root every sandbox has a control group (`cgroup.rs`);
//! others get one where a group was delegated to them, and a memory guard of our own elsewhere (`memory.rs`).

mod bundle;
mod cgroup;
pub mod launcher;
mod memory;
mod platform;
mod sandbox;

use std::{
    ffi::OsString,
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncReadExt as _;

pub use platform::Platform;

use super::{Diagnostics, Engine, EngineError, Instance, Resources, Sandbox, hardening::Hardening, seccomp::Profile};
use crate::{
    image::{ImageError, Store},
    protocol::{EngineInfo, Isolation, MemoryGuard},
    runtime::Runtime,
};
use cgroup::{Group, Hierarchies};
use launcher::Launcher;
use sandbox::{Parts, RunscSandbox};

/// How to run runsc.
#[derive(Debug)]
pub struct RunscConfig {
    /// The program; searched in PATH by `cli`.
    pub program: PathBuf,
    /// The platform to use.
    pub platform: Platform,
    /// The seccomp profile.
    pub seccomp: Profile,
}

/// Sandboxes as processes of our own.
#[derive(Debug)]
pub struct RunscEngine {
    config: RunscConfig,
    store: Store,
    instance: Arc<Instance>,
    /// Holds a folder for each sandbox.
    folder: PathBuf,
    launcher: Arc<Launcher>,
    groups: Option<Arc<Hierarchies>>,
    flags: Vec<OsString>,
    info: EngineInfo,
    started: AtomicU64,
}

impl RunscEngine {
    /// Finds out what this machine can do: the platform, the control groups, whether we are root.
    ///
    /// # Errors
    /// When runsc is missing or starts no sandbox here.
    pub async fn connect(config: RunscConfig, store: Store, instance: Instance) -> Result<Self, EngineError> {
        let version = version(&config.program).await?;
        // What a supervisor held when it ended can go now. A store that is mounted read-only is somebody else's to tidy.
        if let Err(error) = store.collect() {
            tracing::debug!(%error, "the image store was not tidied");
        }
        let launcher = Launcher::new().map_err(|error| unusable(&config.program, &error))?;
        let folder = instance.make_private_folder().map_err(|error| EngineError::Unsupported(error.to_string()))?;
        let root = rustix::process::geteuid().is_root();
        let groups = Hierarchies::find(instance.id());
        // --oci-seccomp: without it runsc ignores the profile. No overlay: the root is read-only.
        let mut flags: Vec<OsString> =
            ["--network=none", "--oci-seccomp", "--overlay2=none"].map(OsString::from).into();
        if !root {
            flags.push("--rootless".into());
        }
        if groups.as_ref().is_none_or(|groups| groups.are_joined_at_start()) {
            flags.push("--ignore-cgroups".into());
        }
        // What `runsc do` needs no group for; the bundle's own group is tried by the first sandbox.
        let mut trial = flags.clone();
        trial.push("--ignore-cgroups".into());
        let (known, scratch) = (instance.shared_file("platform"), folder.join("trial"));
        let platform = config.platform.settle(&launcher, &config.program, &trial, &known, &scratch).await;
        let platform = platform.map_err(|tried| EngineError::NoPlatform { tried })?;
        flags.push(format!("--platform={platform}").into());
        let guard = if groups.is_some() { MemoryGuard::Cgroup } else { MemoryGuard::Watchdog };
        let info = EngineInfo {
            name: "runsc".into(),
            version,
            runtime: "runsc".into(),
            isolation: Isolation::Gvisor,
            platform: Some(platform.to_string()),
            rootless: Some(!root),
            memory_guard: guard,
        };
        let (instance, launcher) = (Arc::new(instance), Arc::new(launcher));
        Ok(Self { config, store, instance, folder, launcher, groups, flags, info, started: AtomicU64::new(0) })
    }

    /// Makes the sandbox's folder, group and bundle; half of them is removed again.
    async fn prepare(&self, runtime: &Runtime, resources: &Resources) -> Result<Parts, EngineError> {
        let failed = |step: &str, error: &io::Error| EngineError::Start { message: format!("{step}: {error}") };
        let image = self.store.find(&runtime.image).map_err(|error| no_image(&runtime.image, &error))?;
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let folder = self.folder.join(number.to_string());
        fs::DirBuilder::new().mode(0o700).create(&folder).map_err(|error| failed("making its folder", &error))?;
        let hardening = Hardening::new(runtime, resources);
        let group = self.groups.as_ref().map(|groups| groups.create(&number.to_string(), (&hardening).into()));
        let (group, refused) = match group.transpose() {
            Ok(group) => (group, None),
            Err(error) => (None, Some(failed("making its control group", &error))),
        };
        let path = group.as_ref().filter(|group| group.joined_at_start().is_none()).map(Group::path);
        let config = bundle::config(&image.root, &image.config.env, &hardening, &self.config.seccomp, path);
        let written = fs::write(folder.join("config.json"), config.to_string());
        let parts = Parts {
            id: format!("{}-{number}", &self.instance.id()[..12]),
            pid_file: folder.join("pid"),
            folder,
            memory: hardening.memory,
            group,
            _image: image,
            _launcher: Arc::clone(&self.launcher),
            _instance: Arc::clone(&self.instance),
        };
        match refused.or(written.err().map(|error| failed("writing its bundle", &error))) {
            Some(error) => {
                parts.remove().await;
                Err(error)
            }
            None => Ok(parts),
        }
    }
}

#[async_trait]
impl Engine for RunscEngine {
    async fn start(&self, runtime: &Runtime, resources: &Resources) -> Result<Sandbox, EngineError> {
        let parts = self.prepare(runtime, resources).await?;
        let mut arguments = vec!["--root".into(), parts.folder.clone().into_os_string()];
        arguments.extend_from_slice(&self.flags);
        arguments.extend(["run".into(), "--bundle".into(), parts.folder.clone().into_os_string()]);
        arguments.extend(["--pid-file".into(), parts.pid_file.clone().into_os_string(), parts.id.clone().into()]);
        let program = self.config.program.as_os_str();
        let join = parts.group.as_ref().and_then(Group::joined_at_start);
        let started = self.launcher.start(program, &arguments, join.as_deref(), |command| {
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        });
        let mut child = match started.await {
            Ok(child) => child,
            Err(error) => {
                parts.remove().await;
                return Err(unusable(&self.config.program, &error));
            }
        };
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let control = Arc::new(RunscSandbox::keep(child, parts));
        let (Some(stdin), Some(stdout), Some(mut stderr)) = (stdin, stdout, stderr) else {
            return Err(EngineError::Start { message: "its streams are not there".to_owned() });
        };
        let diagnostics = Diagnostics::default();
        let kept = diagnostics.clone();
        // Read to its end, so that nobody who writes there ever waits.
        tokio::spawn(async move {
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = stderr.read(&mut chunk).await {
                kept.push(&chunk[..count]);
            }
        });
        Ok(Sandbox { stdin: Box::new(stdin), stdout: Box::new(stdout), diagnostics, control })
    }

    fn info(&self) -> EngineInfo {
        self.info.clone()
    }

    async fn reap(&self) -> Result<usize, EngineError> {
        let mut removed = 0;
        for (owner, folder) in self.instance.dead_folders() {
            for sandbox in fs::read_dir(&folder).into_iter().flatten().flatten() {
                tracing::info!(sandbox = ?sandbox.path(), "removing what a dead supervisor left");
                end_leftover(&sandbox.path(), &owner);
                removed += 1;
            }
            if let Some(groups) = &self.groups {
                groups.remove_of(&owner).await;
            }
            if let Err(error) = fs::remove_dir_all(&folder) {
                tracing::warn!(?folder, %error, "cannot remove it");
            }
        }
        self.instance.forget_dead();
        Ok(removed)
    }
}

/// Ends the Sentry of a dead supervisor's sandbox, should it have outlived both its parents; never another process.
fn end_leftover(folder: &Path, owner: &str) {
    let Ok(text) = fs::read_to_string(folder.join("pid")) else {
        return;
    };
    let Some(pid) = text.trim().parse().ok().and_then(Pid::from_raw) else {
        return;
    };
    let command = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    let command = String::from_utf8_lossy(&command);
    if command.starts_with("runsc-sandbox") && command.contains(owner) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// What `runsc --version` says.
async fn version(program: &Path) -> Result<String, EngineError> {
    let output = tokio::process::Command::new(program).arg("--version").output().await;
    let output = output.map_err(|error| unusable(program, &error))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.lines().next().and_then(|line| line.strip_prefix("runsc version ")).unwrap_or("unknown");
    Ok(version.to_owned())
}

fn unusable(program: &Path, error: &io::Error) -> EngineError {
    EngineError::Unreachable {
        message: format!("`{}` cannot be run: {error}", program.display()),
        hint: "install runsc (`scripts/setup --engine runsc` does), or name it with `--runsc`".to_owned(),
    }
}

fn no_image(image: &str, error: &ImageError) -> EngineError {
    EngineError::NoStoredImage { image: image.to_owned(), message: error.to_string() }
}
