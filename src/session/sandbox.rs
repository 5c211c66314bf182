//! From an engine's sandbox to a kernel that may run user code: started, greeted, measured.

use std::sync::Arc;

use super::{Opening, Policy};
use crate::{
    engine::{Control, Engine, EngineError, Resources},
    error::Error,
    kernel::{Event, Kernel, wire::Capability},
    posture::{self, Posture},
};

/// A sandbox whose kernel is idle and whose posture fits the policy.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) kernel: Kernel,
    pub(super) control: Arc<dyn Control>,
    pub(super) posture: Arc<Posture>,
    pub(super) version: String,
}

/// Starts one; a half-started sandbox is removed when this fails or is dropped.
pub(super) async fn start(engine: &dyn Engine, opening: &Opening, policy: &Policy) -> Result<Live, Error> {
    let started = tokio::time::timeout(policy.start_timeout, async {
        let mut live = greet(engine, opening, policy).await?;
        if let Err(error) = configure(&mut live.kernel, opening).await {
            live.control.destroy().await;
            return Err(error);
        }
        Ok(live)
    });
    let timeout = humantime::format_duration(policy.start_timeout);
    started.await.unwrap_or_else(|_| Err(failed(format!("it was not ready after {timeout}")).into()))
}

/// A sandbox that nobody has used and that is what the policy says.
async fn greet(engine: &dyn Engine, opening: &Opening, policy: &Policy) -> Result<Live, EngineError> {
    let (runtime, limits) = (&opening.runtime, &opening.limits);
    let resources = Resources { memory: limits.memory, cpus: limits.cpus, ..policy.resources };
    let sandbox = engine.start(runtime, &resources).await?;
    let greeted = Kernel::start(sandbox.stdin, sandbox.stdout, runtime.kernel).await;
    let (kernel, ready) = match greeted {
        Ok(greeted) => greeted,
        Err(reason) => {
            sandbox.control.destroy().await;
            let said = sandbox.diagnostics.text();
            return Err(failed(if said.is_empty() { reason } else { format!("{reason}; its standard error: {said}") }));
        }
    };
    let outside = sandbox.control.outside().await?;
    let posture = posture::assess(engine.info().isolation, &ready.probe, outside);
    let findings = posture.findings();
    if !findings.is_empty() {
        sandbox.control.destroy().await;
        return Err(EngineError::Posture { findings });
    }
    Ok(Live { kernel, control: sandbox.control, posture: Arc::new(posture), version: ready.version })
}

/// Makes it this session's own.
async fn configure(kernel: &mut Kernel, opening: &Opening) -> Result<(), Error> {
    if opening.env.is_empty() {
        return Ok(());
    }
    if !kernel.can(Capability::Configure) {
        return Err(Error::Unsupported {
            feature: Capability::Configure.name(),
            runtime: opening.runtime.name.clone(),
        });
    }
    kernel.configure(&opening.env).await.map_err(|event| {
        let reason = if let Event::Broken(reason) = event { reason } else { "the end of its output" };
        failed(format!("its kernel answered `configure` with {reason}")).into()
    })
}

fn failed(message: String) -> EngineError {
    EngineError::Start { message }
}
