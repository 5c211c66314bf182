//! What waits to be written to one client: answers and notifications, in the order in which they were sent.
//!
//! Bounded in number and in bytes, so that a client that does not read holds back whoever has something for it, and
//! fills no memory.

use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt as _},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};

/// Messages that wait for the writer.
const MESSAGES: usize = 64;
/// Bytes of messages that wait for the writer; one that is larger waits alone.
const BYTES: u32 = 8 << 20;
/// Messages up to this size are written together.
const TOGETHER: usize = 64 << 10;

/// The sending end; clones send to the same client.
#[derive(Clone, Debug)]
pub(super) struct Outbox {
    messages: mpsc::Sender<Message>,
    bytes: Arc<Semaphore>,
}

/// A line's text, and its place.
#[derive(Debug)]
struct Message(Box<RawValue>, OwnedSemaphorePermit);

/// What waits, for the one task that writes.
#[derive(Debug)]
pub(super) struct Waiting(mpsc::Receiver<Message>);

#[derive(Serialize)]
struct Notification<'a, T> {
    jsonrpc: &'static str,
    method: &'a str,
    params: T,
}

/// An outbox and what reads it.
pub(super) fn outbox() -> (Outbox, Waiting) {
    let (messages, waiting) = mpsc::channel(MESSAGES);
    (Outbox { messages, bytes: Arc::new(Semaphore::new(BYTES as usize)) }, Waiting(waiting))
}

impl Outbox {
    /// Sends a message once there is room; a client that is gone gets nothing.
    pub(super) async fn send(&self, message: Box<RawValue>) {
        let size = u32::try_from(message.get().len()).unwrap_or(BYTES).min(BYTES);
        tokio::select! {
            permit = Arc::clone(&self.bytes).acquire_many_owned(size) => if let Ok(permit) = permit {
                let _ = self.messages.send(Message(message, permit)).await;
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
}

impl Waiting {
    /// The only thing that writes to the client; ends when nobody can send any more, or the client is gone.
    pub(super) async fn write(mut self, mut writer: impl AsyncWrite + Unpin) {
        let mut lines = Vec::new();
        while let Some(Message(message, permit)) = self.0.recv().await {
            append(&mut lines, &message);
            let mut permits = permit;
            while lines.len() < TOGETHER
                && let Ok(Message(message, permit)) = self.0.try_recv()
            {
                append(&mut lines, &message);
                permits.merge(permit);
            }
            let written = async {
                writer.write_all(&lines).await?;
                writer.flush().await
            };
            if let Err(error) = written.await {
                return tracing::debug!(%error, "the client is gone");
            }
            drop(permits);
            lines.clear();
            lines.shrink_to(TOGETHER);
        }
    }
}

fn append(lines: &mut Vec<u8>, message: &RawValue) {
    lines.extend_from_slice(message.get().as_bytes());
    lines.push(b'\n');
}
