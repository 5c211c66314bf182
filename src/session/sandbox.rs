//! From an engine's sandbox to a kernel that may run user code: started, greeted, measured.

use std::sync::Arc;

use crate::{
    engine::{Control, Engine, EngineError},
    kernel::Kernel,
    posture::{self, Posture},
    runtime::Runtime,
    session::Policy,
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
pub(super) async fn start(engine: &dyn Engine, runtime: &Runtime, policy: &Policy) -> Result<Live, EngineError> {
    let failed = |message: String| EngineError::Start { message };
    let started = tokio::time::timeout(policy.start_timeout, async {
        let sandbox = engine.start(runtime, &policy.resources).await?;
        let greeted = Kernel::start(sandbox.stdin, sandbox.stdout, runtime.kernel).await;
        let (kernel, ready) = match greeted {
            Ok(greeted) => greeted,
            Err(reason) => {
                sandbox.control.destroy().await;
                let said = sandbox.diagnostics.text();
                return Err(failed(if said.is_empty() {
                    reason
                } else {
                    format!("{reason}; its standard error: {said}")
                }));
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
    });
    let timeout = humantime::format_duration(policy.start_timeout);
    started.await.unwrap_or_else(|_| Err(failed(format!("it was not ready after {timeout}"))))
}
