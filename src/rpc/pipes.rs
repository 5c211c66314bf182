//! Standard input and output without a thread in between, where they are pipes.
//!
//! tokio's own read and write on a pool of blocking threads, which costs a request two thread switches each way. A pipe
//! is opened anew instead: the new open file description is ours alone, so that making it non-blocking changes nothing
//! for whoever shares the old one.

use std::pin::Pin;

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::unix::pipe,
};

/// Standard input.
pub(super) fn stdin() -> Pin<Box<dyn AsyncRead + Send>> {
    match pipe::OpenOptions::new().open_receiver("/proc/self/fd/0") {
        Ok(pipe) => Box::pin(pipe),
        Err(_) => Box::pin(tokio::io::stdin()),
    }
}

/// Standard output.
pub(super) fn stdout() -> Pin<Box<dyn AsyncWrite + Send>> {
    match pipe::OpenOptions::new().open_sender("/proc/self/fd/1") {
        Ok(pipe) => Box::pin(pipe),
        Err(_) => Box::pin(tokio::io::stdout()),
    }
}
