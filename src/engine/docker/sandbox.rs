//! A container as a sandbox: two streams and a handle that removes it.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bollard::{
    Docker,
    container::{AttachContainerResults, LogOutput},
    errors::Error as DockerError,
    query_parameters::{KillContainerOptionsBuilder, RemoveContainerOptionsBuilder},
};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio_util::io::StreamReader;

use super::{DockerConfig, step_error};
use crate::{
    engine::{Control, Diagnostics, EngineError, Exit, Instance, Sandbox},
    posture::OutsideFacts,
    protocol::MemoryGuard,
};

/// How long process 1 may take to end after its output has ended, before it counts as one that closed its descriptors.
const EXIT_WAIT: Duration = Duration::from_secs(2);
/// Between two looks at an ending container.
const EXIT_POLL: Duration = Duration::from_millis(20);

/// Between two tries to remove a container: the first pause, doubled up to the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How often Docker may say that it has no container whose creation it was asked for and did not answer.
const MISSES: u32 = 5;

/// A container that exists; removed by `destroy`, or in the background when dropped without.
#[derive(Debug)]
pub(super) struct Container {
    docker: Docker,
    id: String,
    config: Arc<DockerConfig>,
    removed: AtomicBool,
    /// The containers of a supervisor are its own as long as any of them is held.
    instance: Arc<Instance>,
}

impl Container {
    pub(super) fn new(docker: Docker, id: String, config: Arc<DockerConfig>, instance: Arc<Instance>) -> Self {
        Self { docker, id, config, removed: AtomicBool::new(false), instance }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    async fn state(&self) -> Option<bollard::models::ContainerState> {
        self.docker.inspect_container(&self.id, None).await.ok()?.state
    }

    fn remove_later(&self) {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(remove_until_gone(self.docker.clone(), self.id.clone(), Arc::clone(&self.instance), 0));
        }
    }
}

/// Removes a container that Docker may not even have made yet: its creation was asked for and not answered.
pub(super) fn remove_unanswered(docker: Docker, name: String, instance: Arc<Instance>) {
    tokio::spawn(remove_until_gone(docker, name, instance, MISSES));
}

/// Goes on until Docker has removed it, so that a daemon that comes back keeps nothing that nobody owns.
async fn remove_until_gone(docker: Docker, container: String, _owner: Arc<Instance>, mut misses: u32) {
    let (mut pause, longest) = RETRY;
    loop {
        match remove(&docker, &container).await {
            Ok(true) => return,
            Ok(false) if misses == 0 => return,
            Ok(false) => misses -= 1,
            Err(error) => {
                tracing::debug!(container, %error, "still cannot remove the container");
                pause = longest.min(pause * 2);
            }
        }
        tokio::time::sleep(pause).await;
    }
}

/// Ends and removes a container; false when there is none.
async fn remove(docker: &Docker, container: &str) -> Result<bool, DockerError> {
    let options = RemoveContainerOptionsBuilder::new().force(true).build();
    match docker.remove_container(container, Some(options)).await {
        // 409: somebody else is removing it.
        Ok(()) | Err(DockerError::DockerResponseServerError { status_code: 409, .. }) => Ok(true),
        Err(DockerError::DockerResponseServerError { status_code: 404, .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Joins a started container and its attached streams.
pub(super) fn sandbox(container: Container, attached: AttachContainerResults) -> Sandbox {
    let diagnostics = Diagnostics::default();
    let stderr = diagnostics.clone();
    let stdout = attached.output.filter_map(move |item| {
        let bytes: Option<io::Result<Bytes>> = match item {
            Ok(LogOutput::StdErr { message }) => {
                stderr.push(&message);
                None
            }
            Ok(LogOutput::StdOut { message } | LogOutput::Console { message } | LogOutput::StdIn { message }) => {
                Some(Ok(message))
            }
            Err(error) => Some(Err(io::Error::other(error))),
        };
        std::future::ready(bytes)
    });
    Sandbox {
        stdin: Box::new(attached.input),
        stdout: Box::new(StreamReader::new(stdout)),
        diagnostics,
        control: Arc::new(container),
    }
}

#[async_trait]
impl Control for Container {
    async fn interrupt(&self) -> Result<(), EngineError> {
        let options = KillContainerOptionsBuilder::new().signal("SIGINT").build();
        self.docker
            .kill_container(&self.id, Some(options))
            .await
            .map_err(|error| step_error(&self.config.socket, "interrupting the container", &error))
    }

    async fn exit(&self) -> Exit {
        let deadline = tokio::time::Instant::now() + EXIT_WAIT;
        loop {
            match self.state().await {
                Some(state) if state.running == Some(false) => {
                    let code = state.exit_code.and_then(|code| i32::try_from(code).ok());
                    return Exit { code, oom: state.oom_killed.unwrap_or(false) };
                }
                Some(_) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(EXIT_POLL).await;
                }
                _ => {
                    return Exit { code: None, oom: false };
                }
            }
        }
    }

    async fn destroy(&self) {
        if self.removed.swap(true, Ordering::SeqCst) {
            return;
        }
        if let Err(error) = remove(&self.docker, &self.id).await {
            tracing::warn!(container = %self.id, %error, "cannot remove the container now; trying again until it is gone");
            self.remove_later();
        }
    }

    async fn outside(&self) -> Result<OutsideFacts, EngineError> {
        let inspected = self.docker.inspect_container(&self.id, None).await;
        let inspected =
            inspected.map_err(|error| step_error(&self.config.socket, "inspecting the container", &error))?;
        let runtime = inspected.host_config.and_then(|host| host.runtime);
        let runtime = runtime.unwrap_or_else(|| self.config.runtime.clone());
        let pid = inspected.state.and_then(|state| state.pid).filter(|&pid| pid > 0);
        // Only trust a look at /proc when the process there is surely this container's: its command line or cgroup names it.
        let sentry = pid.and_then(|pid| {
            let read = |file: &str| std::fs::read(format!("/proc/{pid}/{file}")).ok();
            let cgroup = String::from_utf8_lossy(&read("cgroup")?).contains(&self.id);
            let command = String::from_utf8_lossy(&read("cmdline")?).into_owned();
            (cgroup || command.contains(&self.id)).then(|| command.starts_with("runsc-sandbox"))
        });
        Ok(OutsideFacts { runtime, container: self.id.clone(), sentry, memory_guard: MemoryGuard::Cgroup })
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // The last resort, for a start that failed half-way or was cancelled: `destroy` is how a sandbox ends.
        if !self.removed.swap(true, Ordering::SeqCst) {
            self.remove_later();
        }
    }
}
