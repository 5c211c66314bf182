//! Ends sandboxes that ran out of memory.
//!
//! The machine's OOM killer picks a process of the container's cgroup. When that is one of the Sentry's stub processes
//! rather than the Sentry, gVisor stalls instead of ending (seen with a Node.js cell that fills 512 MiB): the cell would
//! hang until its timeout and be reported as one that ignored it. So the first `oom` event ends the whole container,
//! and Docker, which has then noted the cause, tells it to whoever asks how the sandbox ended.

use std::{collections::HashMap, time::Duration};

use bollard::{
    Docker,
    query_parameters::{EventsOptionsBuilder, KillContainerOptionsBuilder},
};
use futures_util::StreamExt as _;

/// Between two tries to listen to a daemon that went away.
const RECONNECT: Duration = Duration::from_secs(1);

/// Watches the containers with this label until the task is aborted.
pub(super) async fn watch(docker: Docker, label: String) {
    loop {
        let filters = HashMap::from([("event", vec!["oom"]), ("label", vec![label.as_str()])]);
        let mut events = docker.events(Some(EventsOptionsBuilder::new().filters(&filters).build()));
        while let Some(Ok(event)) = events.next().await {
            if let Some(id) = event.actor.and_then(|actor| actor.id) {
                tracing::info!(container = %id, "out of memory");
                let options = KillContainerOptionsBuilder::new().signal("SIGKILL").build();
                if let Err(error) = docker.kill_container(&id, Some(options)).await {
                    tracing::debug!(container = %id, %error, "it had ended by itself");
                }
            }
        }
        tokio::time::sleep(RECONNECT).await;
    }
}
