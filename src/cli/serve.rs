//! `cellblock serve`: sessions for clients until the input ends or a signal comes.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{Failure, start};
use crate::{
    config::Config,
    rpc::{
        Server,
        listen::{self, Socket},
    },
};

pub(super) async fn serve(config: Config) -> Result<u8, Failure> {
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    // From the first moment, so that a socket never outlives us by an early signal.
    let (mut terminate, mut interrupt) = (handler(SignalKind::terminate())?, handler(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("a signal asks for the end: draining");
        stop.cancel();
    });
    // Bound before the engine is looked at: a client that was told the path can connect meanwhile.
    let socket = config.socket.as_deref().map(|path| Socket::bind(path, config.socket_mode.0)).transpose()?;
    let (registry, runtimes) = start(&config).await?;
    tracing::info!(socket = ?config.socket, runtime = %config.runtime, "serving");
    let server = Server::new(registry.clone(), runtimes, config, shutdown);
    match socket {
        Some(socket) => socket.serve(server).await,
        None => listen::stdio(server).await,
    }
    registry.close_all().await;
    Ok(0)
}

fn handler(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Failure> {
    signal(kind).map_err(Failure::Stdio)
}
