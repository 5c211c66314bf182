//! Answers on their way to one client: a queue that is bounded by bytes, and the only task that writes.
//!
//! Who cannot put an answer in waits in line, and reading waits behind them: a client that does not read its answers
//! is not read from either, and holds no more memory than the queue and the answers of what it had asked for by then.

use std::sync::Arc;

use serde_json::value::RawValue;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt as _},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};

/// What an answer counts beside its bytes, so that many small ones are bounded too.
const OVERHEAD: usize = 256;

/// The queue's entrance; clones are the same queue.
#[derive(Clone, Debug)]
pub(super) struct Outbox {
    /// Without a limit of its own: every message in it holds its share of `room`.
    queue: mpsc::UnboundedSender<Waiting>,
    room: Arc<Semaphore>,
    size: usize,
}

/// An answer and its share of the room, given back when it has been written.
#[derive(Debug)]
pub(super) struct Waiting {
    answer: Box<RawValue>,
    _room: OwnedSemaphorePermit,
}

impl Outbox {
    /// A queue of `size` bytes, and its exit for [`write`].
    pub(super) fn new(size: usize) -> (Self, mpsc::UnboundedReceiver<Waiting>) {
        let size = size.min(u32::MAX as usize);
        let (queue, exit) = mpsc::unbounded_channel();
        (Self { queue, room: Arc::new(Semaphore::new(size)), size }, exit)
    }

    /// Puts an answer in, in the order of the calls; one that is larger than the queue has it for itself.
    pub(super) async fn send(self, answer: Box<RawValue>) {
        let share = u32::try_from((answer.get().len() + OVERHEAD).min(self.size)).unwrap_or(u32::MAX);
        let room = self.room.acquire_many_owned(share).await.expect("nobody closes it");
        // A client that is gone gets nothing.
        let _ = self.queue.send(Waiting { answer, _room: room });
    }

    /// Waits until every answer of before has been put in.
    pub(super) async fn settled(&self) {
        let _ = self.room.acquire().await;
    }
}

/// The only task that writes to the client; ends when the queue's entrances are gone, or the client is.
pub(super) async fn write(mut writer: impl AsyncWrite + Unpin, mut exit: mpsc::UnboundedReceiver<Waiting>) {
    while let Some(Waiting { answer, _room }) = exit.recv().await {
        let mut line = Vec::with_capacity(answer.get().len() + 1);
        line.extend_from_slice(answer.get().as_bytes());
        line.push(b'\n');
        drop(answer);
        let written = async {
            writer.write_all(&line).await?;
            writer.flush().await
        };
        if let Err(error) = written.await {
            return tracing::debug!(%error, "the client is gone");
        }
    }
}
