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

use super::start_error;
use crate::{
    engine::{Control, Diagnostics, EngineError, Exit, Instance, Sandbox},
    posture::OutsideFacts,
    protocol::MemoryGuard,
};

/// How long process 1 may take to end after its output has ended, before it counts as one that closed its descriptors.
const EXIT_WAIT: Duration = Duration::from_secs(2);
/// Between two looks at an ending container.
const EXIT_POLL: Duration = Duration::from_millis(20);

/// A container that exists; removed by `destroy`, or in the background when dropped without.
#[derive(Debug)]
pub(super) struct Container {
    docker: Docker,
    id: String,
    runtime: String,
    removed: AtomicBool,
    /// The containers of a supervisor are its own as long as any of them is held.
    _instance: Arc<Instance>,
}

impl Container {
    pub(super) fn new(docker: Docker, id: String, runtime: String, instance: Arc<Instance>) -> Self {
        Self { docker, id, runtime, removed: AtomicBool::new(false), _instance: instance }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    async fn state(&self) -> Option<bollard::models::ContainerState> {
        self.docker.inspect_container(&self.id, None).await.ok()?.state
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
            .map_err(|error| start_error("interrupting the container", &error))
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
        let options = RemoveContainerOptionsBuilder::new().force(true).build();
        match self.docker.remove_container(&self.id, Some(options)).await {
            Ok(()) | Err(DockerError::DockerResponseServerError { status_code: 404 | 409, .. }) => {}
            Err(error) => {
                tracing::warn!(container = %self.id, %error, "cannot remove the container; the next start will");
            }
        }
    }

    async fn outside(&self) -> Result<OutsideFacts, EngineError> {
        let inspected = self.docker.inspect_container(&self.id, None).await;
        let inspected = inspected.map_err(|error| start_error("inspecting the container", &error))?;
        let runtime = inspected.host_config.and_then(|host| host.runtime).unwrap_or_else(|| self.runtime.clone());
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
            let (docker, id) = (self.docker.clone(), std::mem::take(&mut self.id));
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move {
                    let options = RemoveContainerOptionsBuilder::new().force(true).build();
                    let _ = docker.remove_container(&id, Some(options)).await;
                });
            }
        }
    }
}
