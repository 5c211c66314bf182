//! One client: a reader, requests in flight, one writer, and the sessions that it made.
//!
//! Every bound is reached before memory is: a line, the bytes in flight, the answers waiting for a client that does
//! not read. At the end of input the answers in flight are still sent, then the client's sessions are closed.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{StreamExt as _, future::join_all};
use serde_json::value::RawValue;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
    task::JoinHandle,
};
use tokio_util::{codec::FramedRead, sync::CancellationToken, task::TaskTracker};

use super::{
    Server,
    dispatch::{self, InFlight},
    outbox::{Outbox, outbox},
};
use crate::{
    error::Error,
    lines::{Frame, LineDecoder},
    protocol::{CloseReason, SessionClosed},
    session::{Registry, Session},
};

/// Requests in flight on one connection.
const MAX_IN_FLIGHT: usize = 1024;
/// Bytes of request lines in flight on one connection, in lines of the maximal length.
const LINES_IN_FLIGHT: usize = 4;
/// How long closed sessions may take to answer their last requests.
const CLOSE_WAIT: Duration = Duration::from_secs(10);

/// What a connection's requests share; clones are the same connection.
#[derive(Clone, Debug)]
pub(super) struct Connection(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Arc<Registry>,
    sessions: Mutex<BTreeMap<String, Held>>,
    in_flight: InFlight,
    token: CancellationToken,
    /// Cancelled when nothing more is done for this client.
    gone: CancellationToken,
    outbox: Outbox,
}

/// A session that this connection holds.
#[derive(Debug)]
struct Held {
    session: Session,
    hold: u64,
    /// Sends `session.closed` when it is over.
    watcher: JoinHandle<()>,
}

impl Connection {
    fn new(registry: Arc<Registry>, outbox: Outbox) -> Self {
        Self(Arc::new(Inner {
            registry,
            sessions: Mutex::default(),
            in_flight: InFlight::default(),
            token: CancellationToken::new(),
            gone: CancellationToken::new(),
            outbox,
        }))
    }

    /// The session with this id, if this connection holds it.
    pub(super) fn session(&self, id: &str) -> Result<Session, Error> {
        let sessions = self.sessions();
        let held = sessions.get(id).filter(|held| held.session.is_held_by(held.hold));
        match held {
            Some(held) => Ok(held.session.clone()),
            None => Err(self.0.registry.missing(id)),
        }
    }

    /// Takes a session up; whoever held it is told so.
    ///
    /// # Errors
    /// When the connection ends: the session is not held then.
    pub(super) fn hold(&self, session: &Session) -> Result<(), Error> {
        let mut sessions = self.sessions();
        if self.0.gone.is_cancelled() {
            return Err(Error::ShuttingDown);
        }
        let hold = session.hold();
        let (connection, id, number) = (self.clone(), session.id().to_owned(), hold.number());
        let watcher = tokio::spawn(async move {
            let Some(reason) = hold.over().await else { return };
            connection.forget(&id, number);
            connection.outbox().notify("session.closed", SessionClosed { session_id: &id, reason }).await;
        });
        sessions.insert(session.id().to_owned(), Held { session: session.clone(), hold: number, watcher });
        Ok(())
    }

    /// Closes a session and waits until it is gone and the client was told.
    pub(super) async fn close(&self, id: &str, reason: CloseReason) -> Result<(), Error> {
        let session = self.session(id)?;
        let held = self.sessions().remove(id);
        session.close(reason).await;
        if let Some(held) = held {
            let _ = held.watcher.await;
        }
        Ok(())
    }

    /// All sessions that it holds, oldest first.
    pub(super) fn all(&self) -> Vec<Session> {
        let sessions = self.sessions();
        let held = sessions.values().filter(|held| held.session.is_held_by(held.hold));
        let mut sessions: Vec<_> = held.map(|held| held.session.clone()).collect();
        sessions.sort_by_key(Session::number);
        sessions
    }

    pub(super) fn in_flight(&self) -> &InFlight {
        &self.0.in_flight
    }

    /// The parent of every request's token.
    pub(super) fn token(&self) -> &CancellationToken {
        &self.0.token
    }

    /// Cancelled when nothing more is done for this client.
    pub(super) fn gone(&self) -> &CancellationToken {
        &self.0.gone
    }

    pub(super) fn outbox(&self) -> &Outbox {
        &self.0.outbox
    }

    /// Forgets a session if it is still held by this hold.
    fn forget(&self, id: &str, hold: u64) {
        let mut sessions = self.sessions();
        if sessions.get(id).is_some_and(|held| held.hold == hold) {
            sessions.remove(id);
        }
    }

    fn sessions(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Held>> {
        self.0.sessions.lock().expect("no holder panics")
    }

    /// Lets go of every session: closes those that belong to their connection, and leaves those that outlive it unless
    /// the server ends, too.
    async fn leave(&self, server_ends: bool) {
        self.0.gone.cancel();
        let outlives = |session: &Session| session.detach() && !server_ends;
        let (detached, own): (Vec<_>, Vec<_>) = self.all().into_iter().partition(outlives);
        for session in detached {
            if let Some(held) = self.sessions().remove(session.id()) {
                held.watcher.abort();
            }
        }
        join_all(own.iter().map(|session| self.close(session.id(), CloseReason::Shutdown))).await;
    }
}

/// Serves one client until its input ends or the server shuts down, and leaves nothing of it behind.
pub async fn serve(server: Server, reader: impl AsyncRead + Unpin, writer: impl AsyncWrite + Unpin + Send + 'static) {
    let (answers, messages) = outbox();
    let connection = Connection::new(Arc::clone(&server.registry), answers.clone());
    let mut writing = tokio::spawn(messages.write(writer));
    let requests = TaskTracker::new();
    read(&server, &connection, &requests, &answers, reader).await;

    requests.close();
    let drained = tokio::time::timeout(server.config.drain_timeout.0, requests.wait()).await;
    if drained.is_err() {
        tracing::warn!("requests were still in flight at the end of input; their sessions are closed");
    }
    connection.leave(server.shutdown.is_cancelled()).await;
    let _ = tokio::time::timeout(CLOSE_WAIT, requests.wait()).await;
    drop((answers, connection));
    if tokio::time::timeout(CLOSE_WAIT, &mut writing).await.is_err() {
        tracing::warn!("the client does not read its last answers");
        writing.abort();
    }
}

async fn read(
    server: &Server,
    connection: &Connection,
    requests: &TaskTracker,
    answers: &Outbox,
    reader: impl AsyncRead + Unpin,
) {
    let max_line = usize::try_from(server.config.max_line.0).unwrap_or(usize::MAX);
    // Cancel-safe: what was read stays in the framing.
    let mut lines = FramedRead::new(reader, LineDecoder::new(max_line));
    let bytes_in_flight =
        Arc::new(Semaphore::new(max_line.saturating_mul(LINES_IN_FLIGHT).min(Semaphore::MAX_PERMITS)));
    loop {
        let frame = tokio::select! {
            biased;
            () = server.shutdown.cancelled() => return,
            frame = async {
                answers.settled().await;
                lines.next().await
            } => frame,
        };
        let line = match frame {
            None => return,
            Some(Err(error)) => return tracing::debug!(%error, "the connection broke"),
            Some(Ok(Frame::TooLong)) => {
                deliver(answers, requests, dispatch::too_long(server.config.max_line.0)).await;
                continue;
            }
            Some(Ok(Frame::Line(line))) if line.iter().all(u8::is_ascii_whitespace) => continue,
            Some(Ok(Frame::Line(line))) => line,
        };
        let size = u32::try_from(line.len()).unwrap_or(u32::MAX);
        let permit = Arc::clone(&bytes_in_flight).try_acquire_many_owned(size);
        let (Ok(permit), true) = (permit, requests.len() < MAX_IN_FLIGHT) else {
            deliver(answers, requests, dispatch::busy(&line)).await;
            continue;
        };
        let mut answer = dispatch::line(server, connection, &line);
        drop(line);
        // The first poll happens here, in the order of the lines (see `dispatch`).
        if let std::task::Poll::Ready(answer) = futures_util::poll!(answer.as_mut()) {
            if let Some(answer) = answer {
                deliver(answers, requests, answer).await;
            }
            continue;
        }
        let answers = answers.clone();
        requests.spawn(async move {
            if let Some(answer) = answer.await {
                answers.send(answer).await;
            }
            drop(permit);
        });
    }
}

/// Puts an answer in at once, or leaves it to a task: the reader must be able to hear of a shutdown.
async fn deliver(outbox: &Outbox, requests: &TaskTracker, answer: Box<RawValue>) {
    let outbox = outbox.clone();
    let mut sending = Box::pin(async move { outbox.send(answer).await });
    if futures_util::poll!(sending.as_mut()).is_pending() {
        requests.spawn(sending);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, Cursor},
        sync::Arc,
    };

    use jsonrpsee::RpcModule;
    use serde_json::{Value, json};
    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::{
        config::Settings,
        engine::{Engine, EngineError, Resources, Sandbox},
        protocol::{EngineInfo, Isolation, MemoryGuard},
        runtime::{Runtime, Runtimes},
        session::Registry,
    };

    /// For requests that need no sandbox.
    #[derive(Debug)]
    struct NoEngine;

    #[async_trait::async_trait]
    impl Engine for NoEngine {
        async fn start(&self, runtime: &Runtime, _: &Resources) -> Result<Sandbox, EngineError> {
            Err(EngineError::NoImage { image: runtime.image.clone() })
        }

        fn info(&self) -> EngineInfo {
            EngineInfo {
                name: "none".into(),
                version: "0".into(),
                runtime: "none".into(),
                isolation: Isolation::Gvisor,
                platform: None,
                rootless: None,
                memory_guard: MemoryGuard::Cgroup,
            }
        }

        async fn reap(&self) -> Result<usize, EngineError> {
            Ok(0)
        }
    }

    fn server() -> Server {
        let config = Settings::resolve("/nonexistent".into(), "/nonexistent".into(), Vec::new())
            .expect("the defaults are valid")
            .config;
        let registry = Arc::new(Registry::new(Arc::new(NoEngine), config.policy()));
        Server::new(registry, Runtimes::builtin(), config, CancellationToken::new())
    }

    async fn talk(server: Server, lines: &str) -> Vec<Value> {
        let (mut ours, theirs) = tokio::io::duplex(1 << 16);
        let mut answers = Vec::new();
        tokio::join!(serve(server, Cursor::new(lines.to_owned().into_bytes()), theirs), async {
            ours.read_to_end(&mut answers).await.expect("a pipe");
        });
        answers.lines().map(|line| serde_json::from_str(&line.expect("text")).expect("JSON")).collect()
    }

    #[tokio::test]
    async fn a_handler_that_panics_is_answered_and_the_connection_goes_on() {
        let mut panics = RpcModule::new(());
        let register = panics.register_async_method("panic", |params, _, _| async move {
            if params.one::<bool>().is_ok() {
                tokio::task::yield_now().await;
            }
            assert!(params.is_object(), "on purpose");
        });
        register.expect("a new name");
        let mut server = server();
        server.methods.merge(panics).expect("a new name");
        let lines = [
            r#"{"jsonrpc":"2.0","id":1,"method":"panic"}"#,
            r#"{"jsonrpc":"2.0","id":2,"method":"panic","params":[true]}"#,
            r#"{"jsonrpc":"2.0","method":"panic"}"#,
            r#"[{"jsonrpc":"2.0","id":3,"method":"panic"},{"jsonrpc":"2.0","id":4,"method":"ping"}]"#,
            r#"{"jsonrpc":"2.0","id":5,"method":"ping"}"#,
        ];
        let answers = talk(server, &lines.join("\n")).await;
        let answers: Vec<_> =
            answers.into_iter().flat_map(|answer| answer.as_array().cloned().unwrap_or(vec![answer])).collect();
        let answer = |id: u64| answers.iter().find(|answer| answer["id"] == id).expect("answered");
        for id in [1, 2, 3] {
            assert_eq!(answer(id)["error"]["code"], -32603);
            assert_eq!(
                answer(id)["error"]["data"],
                json!({"kind": "internal", "outcome": "unknown", "retryable": false})
            );
        }
        for id in [4, 5] {
            assert_eq!(answer(id)["result"], "pong");
        }
        assert_eq!(answers.len(), 5);
    }
}
