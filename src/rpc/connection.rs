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
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    sync::{Semaphore, mpsc},
};
use tokio_util::{codec::FramedRead, sync::CancellationToken, task::TaskTracker};

use super::{
    Server,
    dispatch::{self, InFlight},
};
use crate::{
    error::Error,
    lines::{Frame, LineDecoder},
    session::Session,
};

/// Answers that wait for the writer; then requests wait, then reading stops.
const ANSWERS: usize = 64;
/// Requests in flight on one connection.
const MAX_IN_FLIGHT: usize = 1024;
/// Bytes of request lines in flight on one connection, in lines of the maximal length.
const LINES_IN_FLIGHT: usize = 4;
/// How long closed sessions may take to answer their last requests.
const CLOSE_WAIT: Duration = Duration::from_secs(10);

/// What a connection's requests share; clones are the same connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Connection(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    sessions: Mutex<BTreeMap<String, Session>>,
    in_flight: InFlight,
    token: CancellationToken,
}

impl Connection {
    /// The session with this id, if this connection made it.
    pub(super) fn session(&self, id: &str) -> Result<Session, Error> {
        self.sessions().get(id).cloned().ok_or_else(|| Error::NoSession(id.to_owned()))
    }

    /// Takes up a session.
    pub(super) fn insert(&self, session: Session) {
        self.sessions().insert(session.id().to_owned(), session);
    }

    /// Forgets a session.
    pub(super) fn remove(&self, id: &str) -> Result<Session, Error> {
        self.sessions().remove(id).ok_or_else(|| Error::NoSession(id.to_owned()))
    }

    /// All of them, oldest first.
    pub(super) fn all(&self) -> Vec<Session> {
        let mut sessions: Vec<_> = self.sessions().values().cloned().collect();
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

    fn sessions(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Session>> {
        self.0.sessions.lock().expect("no holder panics")
    }
}

/// Serves one client until its input ends or the server shuts down, and leaves nothing of it behind.
pub async fn serve(server: Server, reader: impl AsyncRead + Unpin, writer: impl AsyncWrite + Unpin + Send + 'static) {
    let connection = Connection::default();
    let (answers, outbox) = mpsc::channel(ANSWERS);
    let writing = tokio::spawn(write(writer, outbox));
    let requests = TaskTracker::new();
    let max_line = server.config.max_line.0;
    read(&server, &connection, &requests, &answers, reader).await;

    requests.close();
    let drained = tokio::time::timeout(server.config.drain_timeout.0, requests.wait()).await;
    if drained.is_err() {
        tracing::warn!("requests were still in flight at the end of input; their sessions are closed");
    }
    join_all(connection.all().iter().map(Session::close)).await;
    let _ = tokio::time::timeout(CLOSE_WAIT, requests.wait()).await;
    drop(answers);
    if tokio::time::timeout(CLOSE_WAIT, writing).await.is_err() {
        tracing::warn!(max_line, "the client does not read its last answers");
    }
}

async fn read(
    server: &Server,
    connection: &Connection,
    requests: &TaskTracker,
    answers: &mpsc::Sender<Box<RawValue>>,
    reader: impl AsyncRead + Unpin,
) {
    let max_line = usize::try_from(server.config.max_line.0).unwrap_or(usize::MAX);
    let mut lines = FramedRead::new(reader, LineDecoder::new(max_line));
    let bytes_in_flight =
        Arc::new(Semaphore::new(max_line.saturating_mul(LINES_IN_FLIGHT).min(Semaphore::MAX_PERMITS)));
    loop {
        let frame = tokio::select! {
            biased;
            () = server.shutdown.cancelled() => return,
            frame = lines.next() => frame,
        };
        let line = match frame {
            None => return,
            Some(Err(error)) => return tracing::debug!(%error, "the connection broke"),
            Some(Ok(Frame::TooLong)) => {
                let _ = answers.send(dispatch::too_long(server.config.max_line.0)).await;
                continue;
            }
            Some(Ok(Frame::Line(line))) if line.iter().all(u8::is_ascii_whitespace) => continue,
            Some(Ok(Frame::Line(line))) => line,
        };
        let size = u32::try_from(line.len()).unwrap_or(u32::MAX);
        let permit = Arc::clone(&bytes_in_flight).try_acquire_many_owned(size);
        let (Ok(permit), true) = (permit, requests.len() < MAX_IN_FLIGHT) else {
            let _ = answers.send(dispatch::busy(&line)).await;
            continue;
        };
        let mut answer = dispatch::line(server, connection, &line);
        drop(line);
        // The first poll happens here, in the order of the lines (see `dispatch`).
        if let std::task::Poll::Ready(answer) = futures_util::poll!(answer.as_mut()) {
            if let Some(answer) = answer {
                let _ = answers.send(answer).await;
            }
            continue;
        }
        let answers = answers.clone();
        requests.spawn(async move {
            if let Some(answer) = answer.await {
                let _ = answers.send(answer).await;
            }
            drop(permit);
        });
    }
}

/// The only task that writes to the client.
async fn write(mut writer: impl AsyncWrite + Unpin, mut outbox: mpsc::Receiver<Box<RawValue>>) {
    while let Some(answer) = outbox.recv().await {
        let mut line = Vec::with_capacity(answer.get().len() + 1);
        line.extend_from_slice(answer.get().as_bytes());
        line.push(b'\n');
        let written = async {
            writer.write_all(&line).await?;
            writer.flush().await
        };
        if let Err(error) = written.await {
            return tracing::debug!(%error, "the client is gone");
        }
    }
}
