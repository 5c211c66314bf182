//! The Docker engine's floor: the echo program in the very container that the engine makes, reached as it reaches it.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bollard::{
    Docker,
    container::{AttachContainerResults, LogOutput},
    models::{ContainerCreateBody, HostConfig},
    query_parameters::{AttachContainerOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder},
};
use futures_util::{Stream, StreamExt as _};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt as _},
    runtime::Runtime,
};

use crate::{ECHO, sidecar::Sidecar, table::Measure};

/// A client of the daemon and the container to make.
#[derive(Clone)]
pub(crate) struct Api {
    runtime: Arc<Runtime>,
    docker: Docker,
    body: ContainerCreateBody,
}

/// A running echo program.
struct Echo {
    id: String,
    input: Pin<Box<dyn AsyncWrite + Send>>,
    output: Pin<Box<dyn Stream<Item = Result<LogOutput, bollard::errors::Error>> + Send>>,
}

impl Api {
    /// Asks Docker how the engine has made a session's container and takes that over, hardening and limits, but for
    /// the program.
    pub(crate) fn like_the_engine() -> Self {
        let runtime = Arc::new(Runtime::new().expect("threads"));
        let docker = Docker::connect_with_unix_defaults().expect("a socket");
        let mut sidecar = Sidecar::start(&["--engine", "docker"]);
        sidecar.open("python");
        let filters = HashMap::from([("label", vec![format!("cellblock.scope={}", sidecar.scope())])]);
        let body = runtime.block_on(async {
            let options = ListContainersOptionsBuilder::new().filters(&filters).build();
            let found = docker.list_containers(Some(options)).await.expect("Docker answers");
            let id = found[0].id.as_deref().expect("an id");
            let made = docker.inspect_container(id, None).await.expect("Docker answers");
            let config = made.config.expect("a configuration");
            // The last one of a measure ends with its input.
            let host_config = made.host_config.map(|host| HostConfig { auto_remove: Some(true), ..host });
            ContainerCreateBody {
                image: config.image,
                cmd: Some(["python3", "-S", "-c", ECHO].map(str::to_owned).into()),
                user: config.user,
                working_dir: config.working_dir,
                hostname: config.hostname,
                env: config.env,
                tty: config.tty,
                open_stdin: config.open_stdin,
                stdin_once: config.stdin_once,
                attach_stdin: config.attach_stdin,
                attach_stdout: config.attach_stdout,
                attach_stderr: config.attach_stderr,
                network_disabled: Some(true),
                host_config,
                ..ContainerCreateBody::default()
            }
        });
        Self { runtime, docker, body }
    }

    /// A line to the echo program and back.
    pub(crate) fn round_trips(&self) -> Measure {
        let api = self.clone();
        let mut echo = Some(api.on_a_worker(|api| async move { api.start().await }));
        Box::new(move |times| {
            let mut running = echo.take().expect("put back");
            let (running, samples) = api.on_a_worker(move |_| async move {
                let mut samples = Vec::with_capacity(times);
                for _ in 0..times {
                    let start = Instant::now();
                    running.ask().await;
                    samples.push(start.elapsed());
                }
                (running, samples)
            });
            echo = Some(running);
            samples
        })
    }

    /// Create, attach, start, and a line there and back; the removal is not counted.
    pub(crate) fn starts(&self) -> Measure {
        let api = self.clone();
        Box::new(move |times| (0..times).map(|_| api.on_a_worker(Self::timed_start)).collect())
    }

    async fn timed_start(self) -> Duration {
        let start = Instant::now();
        let mut echo = self.start().await;
        echo.ask().await;
        let took = start.elapsed();
        let options = RemoveContainerOptionsBuilder::new().force(true).build();
        // Or its own end was faster.
        let _ = self.docker.remove_container(&echo.id, Some(options)).await;
        took
    }

    /// Where the engine works too; only there reading a socket needs no second thread.
    fn on_a_worker<T: Send + 'static, F>(&self, work: impl FnOnce(Self) -> F) -> T
    where
        F: Future<Output = T> + Send + 'static,
    {
        let task = self.runtime.spawn(work(self.clone()));
        self.runtime.block_on(task).expect("it does not panic")
    }

    async fn start(&self) -> Echo {
        let created = self.docker.create_container(None, self.body.clone()).await.expect("created");
        let options = AttachContainerOptionsBuilder::new().stream(true).stdin(true).stdout(true).stderr(true).build();
        let attached = self.docker.attach_container(&created.id, Some(options)).await;
        let AttachContainerResults { output, input } = attached.expect("attached");
        self.docker.start_container(&created.id, None).await.expect("started");
        Echo { id: created.id, input, output }
    }
}

impl Echo {
    async fn ask(&mut self) {
        self.input.write_all(b"1 + 1\n").await.expect("written");
        self.input.flush().await.expect("written");
        self.output.next().await.expect("answered").expect("answered");
    }
}
