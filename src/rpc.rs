//! The JSON-RPC front door: connections, their requests, and the methods.
//!
//! No policy: it parses, finds the session's handle, and turns answers into lines. With `http`, the only place that
//! names jsonrpsee (beside the error map).

mod connection;
mod dispatch;
pub mod listen;
mod methods;
mod outbox;
mod pipes;
mod stream;
mod wanted;

pub use connection::serve;

use std::sync::Arc;

use jsonrpsee::Methods;
use tokio_util::sync::CancellationToken;

use crate::{config::Config, runtime::Runtimes, session::Registry};

/// What all connections share.
#[derive(Clone, Debug)]
pub struct Server {
    registry: Arc<Registry>,
    runtimes: Arc<Runtimes>,
    config: Arc<Config>,
    methods: Methods,
    /// Cancelled once the server goes down: connections stop reading and drain.
    shutdown: CancellationToken,
}

impl Server {
    /// A server over these sessions, until `shutdown`.
    pub fn new(registry: Arc<Registry>, runtimes: Runtimes, config: Config, shutdown: CancellationToken) -> Self {
        let methods = methods::methods();
        Self { registry, runtimes: Arc::new(runtimes), config: Arc::new(config), methods, shutdown }
    }
}
