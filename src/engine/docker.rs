//! The Docker engine: one container per sandbox, through bollard.
//!
//! create -> attach -> start, so that no byte is missed and standard input closes when the supervisor dies.
//! `spec.rs` renders the hardening, `oom.rs` ends what ran out of memory; only this folder names bollard.

mod oom;
mod sandbox;
mod spec;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bollard::{
    Docker,
    errors::Error as DockerError,
    query_parameters::{
        AttachContainerOptionsBuilder, CreateContainerOptionsBuilder, ListContainersOptionsBuilder,
        RemoveContainerOptionsBuilder,
    },
};

use super::{Engine, EngineError, Instance, Resources, Sandbox, hardening::Hardening, seccomp::Profile};
use crate::{
    protocol::{EngineInfo, Isolation, MemoryGuard},
    runtime::Runtime,
};

/// Seconds until Docker must have answered a call; a daemon that hangs is unreachable after that.
const CALL_TIMEOUT_S: u64 = 15;
/// The same for the one call that takes long on a busy machine, starting a container.
const START_CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// The OCI runtime that the operator names for the weaker isolation.
pub const WEAK_RUNTIME: &str = "runc";

/// How to reach Docker and what to ask of it.
#[derive(Clone, Debug)]
pub struct DockerConfig {
    /// The daemon's Unix socket.
    pub socket: String,
    /// The OCI runtime's registered name.
    pub runtime: String,
    /// The seccomp profile.
    pub seccomp: Profile,
}

impl DockerConfig {
    /// What the runtime is to give; the posture of each sandbox is held against it.
    fn isolation(&self) -> Isolation {
        if self.runtime == WEAK_RUNTIME { Isolation::Container } else { Isolation::Gvisor }
    }
}

/// Sandboxes as containers of a Docker daemon.
#[derive(Debug)]
pub struct DockerEngine {
    docker: Docker,
    config: Arc<DockerConfig>,
    instance: Arc<Instance>,
    info: EngineInfo,
    /// Ends with the engine.
    _oom_watch: AbortOnDrop,
}

/// A background task of the engine.
#[derive(Debug)]
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl DockerEngine {
    fn start_error(&self, step: &str, error: &DockerError) -> EngineError {
        step_error(&self.config.socket, step, error)
    }

    /// Connects, and checks that the OCI runtime is registered.
    ///
    /// # Errors
    /// When the daemon does not answer or does not know the runtime.
    pub async fn connect(config: DockerConfig, instance: Instance) -> Result<Self, EngineError> {
        let unreachable = |error: &dyn std::fmt::Display| unreachable_error(&config.socket, error);
        let docker = Docker::connect_with_unix(&config.socket, CALL_TIMEOUT_S, bollard::API_DEFAULT_VERSION)
            .map_err(|error| unreachable(&error))?;
        let docker = docker.negotiate_version().await.map_err(|error| unreachable(&error))?;
        let system = docker.info().await.map_err(|error| unreachable(&error))?;
        let runtimes = system.runtimes.unwrap_or_default();
        if !runtimes.contains_key(&config.runtime) {
            let mut known: Vec<_> = runtimes.into_keys().collect();
            known.sort();
            return Err(EngineError::NoRuntime { name: config.runtime, known: known.join(", ") });
        }
        let isolation = config.isolation();
        let version = system.server_version.unwrap_or_default();
        let info = EngineInfo {
            name: "docker".into(),
            version,
            runtime: config.runtime.clone(),
            isolation,
            platform: None,
            rootless: None,
            memory_guard: MemoryGuard::Cgroup,
        };
        let watch = oom::watch(docker.clone(), format!("{}={}", spec::LABEL_INSTANCE, instance.id()));
        Ok(Self {
            docker,
            config: Arc::new(config),
            instance: Arc::new(instance),
            info,
            _oom_watch: AbortOnDrop(tokio::spawn(watch)),
        })
    }
}

#[async_trait]
impl Engine for DockerEngine {
    async fn start(&self, runtime: &Runtime, resources: &Resources) -> Result<Sandbox, EngineError> {
        let hardening = Hardening::new(runtime, resources);
        let body = spec::container(&runtime.image, &hardening, &self.config, &self.instance);
        let name = format!("cellblock-{}", crate::random_id());
        let options = CreateContainerOptionsBuilder::new().name(&name).build();
        let created = self.docker.create_container(Some(options), body).await.map_err(|error| match error {
            DockerError::DockerResponseServerError { status_code: 404, .. } => {
                EngineError::NoImage { image: runtime.image.clone() }
            }
            error => {
                let error = self.start_error("creating the container", &error);
                // A daemon that hung may still carry out what it was asked for.
                sandbox::remove_unanswered(self.docker.clone(), name, Arc::clone(&self.instance));
                error
            }
        })?;
        // From here on the container exists: whatever happens, somebody removes it.
        let container = sandbox::Container::new(
            self.docker.clone(),
            created.id,
            Arc::clone(&self.config),
            Arc::clone(&self.instance),
        );
        let options = AttachContainerOptionsBuilder::new().stream(true).stdin(true).stdout(true).stderr(true).build();
        let attached = self.docker.attach_container(container.id(), Some(options)).await;
        let attached = attached.map_err(|error| self.start_error("attaching to the container", &error))?;
        let started = self.docker.clone().with_timeout(START_CALL_TIMEOUT).start_container(container.id(), None).await;
        started.map_err(|error| self.start_error("starting the container", &error))?;
        Ok(sandbox::sandbox(container, attached))
    }

    fn info(&self) -> EngineInfo {
        self.info.clone()
    }

    async fn reap(&self) -> Result<usize, EngineError> {
        let filters = std::collections::HashMap::from([("label", vec![spec::LABEL_INSTANCE])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let containers = self.docker.list_containers(Some(options)).await;
        let containers = containers.map_err(|error| unreachable_error(&self.config.socket, &error))?;
        let mut removed = 0;
        for container in containers {
            let labels = container.labels.unwrap_or_default();
            let (Some(id), Some(owner), Some(scope)) =
                (container.id, labels.get(spec::LABEL_INSTANCE), labels.get(spec::LABEL_SCOPE))
            else {
                continue;
            };
            if self.instance.is_dead(owner, scope) {
                tracing::info!(container = %id, instance = %owner, "removing what a dead supervisor left");
                let options = RemoveContainerOptionsBuilder::new().force(true).build();
                match self.docker.remove_container(&id, Some(options)).await {
                    Ok(()) => removed += 1,
                    Err(error) => tracing::warn!(container = %id, %error, "cannot remove it"),
                }
            }
        }
        self.instance.forget_dead();
        Ok(removed)
    }
}

/// The daemon's own refusal of a step, or that there is no daemon.
fn step_error(socket: &str, step: &str, error: &DockerError) -> EngineError {
    match error {
        DockerError::DockerResponseServerError { .. } => EngineError::Start { message: format!("{step}: {error}") },
        error => unreachable_error(socket, &format!("{step}: {error}")),
    }
}

fn unreachable_error(socket: &str, error: &dyn std::fmt::Display) -> EngineError {
    let hint = match std::os::unix::net::UnixStream::connect(socket) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            format!(
                "no permission on `{socket}`: run as root or as a member of the group that owns the socket (`docker`)"
            )
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            format!(
                "there is no socket `{socket}`: install and start Docker with `scripts/setup`, or name another with `--docker-socket`"
            )
        }
        Err(_) => {
            format!("nothing listens on `{socket}`: start the Docker daemon (`scripts/setup` does)")
        }
        Ok(_) => "the daemon takes connections but did not answer this call; see its log (`make logs`)".to_owned(),
    };
    EngineError::Unreachable { message: format!("Docker cannot be used: {error}"), hint }
}
