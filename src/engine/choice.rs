//! Which engine serves, by a rule that fits in one sentence.
//!
//! Beside this file only the engines' own folders know that there are two.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    Engine, EngineError, Instance,
    docker::{DockerConfig, DockerEngine},
    runsc::{Platform, RunscConfig, RunscEngine},
    seccomp::Profile,
};
use crate::image::Store;

/// The OCI runtime that both engines start by default.
const RUNSC: &str = "runsc";

/// The engine as the settings name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// runsc where it is installed and the image store holds an image, else Docker.
    Auto,
    /// Containers of a Docker daemon.
    Docker,
    /// `runsc` itself, without a daemon.
    Runsc,
}

/// What the choice and the engines are made of.
#[derive(Debug)]
pub struct EngineConfig {
    /// The wish.
    pub choice: Choice,
    /// Docker's socket.
    pub docker_socket: String,
    /// The OCI runtime as Docker knows it; another than `runsc` is something only Docker can start.
    pub runtime: String,
    /// The runsc program, as a path or a name to be found in `search`.
    pub runsc: PathBuf,
    /// The value of PATH.
    pub search: std::ffi::OsString,
    /// gVisor's platform for the runsc engine.
    pub platform: Platform,
    /// The seccomp profile.
    pub seccomp: Profile,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Docker => "docker",
            Self::Runsc => "runsc",
        })
    }
}

impl EngineConfig {
    /// Chooses, says on the log what and why, and connects.
    ///
    /// # Errors
    /// When the chosen engine cannot serve, or cannot do what the settings ask.
    pub async fn connect(self, store: Store, instance: Instance) -> Result<Arc<dyn Engine>, EngineError> {
        let program = find(&self.runsc, &self.search);
        let (choice, reason) = self.settle(program.as_deref(), &store);
        tracing::info!(engine = %choice, reason, "the engine");
        if choice == Choice::Runsc {
            if self.runtime != RUNSC {
                return Err(EngineError::Unsupported(format!(
                    "the runsc engine starts no `{}`\nhint: weaker isolation, asked for by `--runtime` or ENABLE_SANDBOX=false, needs `--engine docker`",
                    self.runtime
                )));
            }
            let program = program.unwrap_or(self.runsc);
            let config = RunscConfig { program, platform: self.platform, seccomp: self.seccomp };
            return Ok(Arc::new(RunscEngine::connect(config, store, instance).await?));
        }
        let config = DockerConfig { socket: self.docker_socket, runtime: self.runtime, seccomp: self.seccomp };
        Ok(Arc::new(DockerEngine::connect(config, instance).await?))
    }

    /// The rule.
    fn settle(&self, program: Option<&Path>, store: &Store) -> (Choice, &'static str) {
        match self.choice {
            Choice::Auto if self.runtime != RUNSC => (Choice::Docker, "only Docker starts the OCI runtime asked for"),
            Choice::Auto if program.is_none() => (Choice::Docker, "there is no runsc program"),
            Choice::Auto if store.list().is_ok_and(|images| images.is_empty()) => {
                (Choice::Docker, "the image store is empty")
            }
            Choice::Auto => (Choice::Runsc, "runsc is installed and the image store has images"),
            asked => (asked, "the settings name it"),
        }
    }
}

/// The program's path; `None` when there is none that could be run.
fn find(program: &Path, search: &std::ffi::OsStr) -> Option<PathBuf> {
    use rustix::fs::{Access, access};
    let runnable = |path: &PathBuf| path.is_file() && access(path, Access::EXEC_OK).is_ok();
    if program.components().count() > 1 {
        return Some(program.to_owned()).filter(runnable);
    }
    // Where an ordinary user's PATH does not look.
    let more = ["/usr/local/sbin", "/usr/sbin"].map(PathBuf::from);
    std::env::split_paths(search).chain(more).map(|folder| folder.join(program)).find(runnable)
}
