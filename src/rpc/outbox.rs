//! What waits to be written to one client: answers and notifications, in the order in which they were sent.
//!
//! The queue is bounded by bytes. Who cannot put a message in waits in line, and reading waits behind them: a client
//! that does not read is not read from either, holds back its own cells, and holds no more memory than the queue and
//! the answers of what it had asked for by then.

use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt as _},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};

/// Bytes of messages that wait for the writer; one that is larger waits alone.
const BYTES: u32 = 8 << 20;
/// What a message counts beside its bytes, so that many small ones are bounded too.
const OVERHEAD: u32 = 256;
/// Messages up to this size are written together.
const TOGETHER: usize = 64 << 10;

/// The sending end; clones send to the same client.
#[derive(Clone, Debug)]
pub(super) struct Outbox {
    /// Without a limit of its own: every message in it holds its share of `room`.
    messages: mpsc::UnboundedSender<Message>,
    room: Arc<Semaphore>,
}

/// A line's text, and its share of the room, given back when it has been written.
#[derive(Debug)]
struct Message(Box<RawValue>, OwnedSemaphorePermit);

/// What waits, for the one task that writes.
#[derive(Debug)]
pub(super) struct Waiting(mpsc::UnboundedReceiver<Message>);

#[derive(Serialize)]
struct Notification<'a, T> {
    jsonrpc: &'static str,
    method: &'a str,
    params: T,
}

/// An outbox and what reads it.
pub(super) fn outbox() -> (Outbox, Waiting) {
    let (messages, waiting) = mpsc::unbounded_channel();
    (Outbox { messages, room: Arc::new(Semaphore::new(BYTES as usize)) }, Waiting(waiting))
}

impl Outbox {
    /// Sends a message once there is room, in the order of the calls; a client that is gone gets nothing.
    pub(super) async fn send(&self, message: Box<RawValue>) {
        let size = u32::try_from(message.get().len()).unwrap_or(BYTES).saturating_add(OVERHEAD).min(BYTES);
        tokio::select! {
            room = Arc::clone(&self.room).acquire_many_owned(size) => if let Ok(room) = room {
                let _ = self.messages.send(Message(message, room));
            },
            () = self.messages.closed() => {}
        }
    }

    /// Sends a notification.
    pub(super) async fn notify(&self, method: &str, params: impl Serialize) {
        let notification = Notification { jsonrpc: "2.0", method, params };
        if let Ok(message) = serde_json::value::to_raw_value(&notification) {
            self.send(message).await;
        }
    }

    /// Waits until every message of before has been put in.
    pub(super) async fn settled(&self) {
        tokio::select! {
            room = self.room.acquire() => drop(room),
            () = self.messages.closed() => {}
        }
    }
}

impl Waiting {
    /// The only thing that writes to the client; ends when nobody can send any more, or the client is gone.
    pub(super) async fn write(mut self, mut writer: impl AsyncWrite + Unpin) {
        let mut lines = Vec::new();
        while let Some(Message(message, room)) = self.0.recv().await {
            append(&mut lines, &message);
            let mut rooms = room;
            while lines.len() < TOGETHER
                && let Ok(Message(message, room)) = self.0.try_recv()
            {
                append(&mut lines, &message);
                rooms.merge(room);
            }
            let written = async {
                writer.write_all(&lines).await?;
                writer.flush().await
            };
            if let Err(error) = written.await {
                return tracing::debug!(%error, "the client is gone");
            }
            drop(rooms);
            lines.clear();
            lines.shrink_to(TOGETHER);
        }
    }
}

fn append(lines: &mut Vec<u8>, message: &RawValue) {
    lines.extend_from_slice(message.get().as_bytes());
    lines.push(b'\n');
}
