//! Drives one kernel over a reader and a writer: start, execute, ping, and whatever comes back.
//!
//! Knows the kernel protocol and neither sessions nor engines. Everything read is bounded and checked here; a kernel
//! that breaks the protocol is reported once, as [`Event::Broken`].

pub mod wire;

use std::{io, pin::Pin};

use futures_util::StreamExt as _;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio_util::codec::FramedRead;

use crate::lines::{Frame, LineDecoder};
use wire::{Done, FromKernel, KERNEL_PROTOCOL, MAX_KERNEL_LINE, Ready, StreamName, ToKernel};

/// A kernel that greeted us.
pub struct Kernel {
    stdin: Pin<Box<dyn AsyncWrite + Send>>,
    lines: FramedRead<Box<dyn AsyncRead + Send + Unpin>, LineDecoder>,
    /// The cell that runs and the bound of its texts; messages about any other break the protocol.
    running: Option<(String, usize)>,
}

/// What a kernel did.
#[derive(Debug)]
pub enum Event {
    /// The running cell, or a child of it, wrote.
    Output(StreamName, Vec<u8>),
    /// The running cell is over.
    Done(Box<Done>),
    /// It answered a ping.
    Pong(String),
    /// It broke the protocol; the reason.
    Broken(&'static str),
    /// Its output ended.
    Gone,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel").field("running", &self.running).finish_non_exhaustive()
    }
}

impl Kernel {
    /// Sends the kernel's source to its bootstrap and waits for the greeting.
    ///
    /// # Errors
    /// When the streams end or what comes is no greeting of a version we speak; the text says what came instead.
    pub async fn start(
        stdin: Box<dyn AsyncWrite + Send + Unpin>,
        stdout: Box<dyn AsyncRead + Send + Unpin>,
        source: &str,
    ) -> Result<(Self, Ready), String> {
        let lines = FramedRead::new(stdout, LineDecoder::new(MAX_KERNEL_LINE));
        let mut kernel = Self { stdin: Box::into_pin(stdin as Box<dyn AsyncWrite + Send>), lines, running: None };
        let bootstrap = format!("{}\n{source}", source.len());
        kernel.write(bootstrap.as_bytes()).await.map_err(|error| format!("its standard input: {error}"))?;
        match kernel.message().await {
            Ok(FromKernel::Ready(ready)) if ready.protocol == KERNEL_PROTOCOL => Ok((kernel, ready)),
            Ok(FromKernel::Ready(ready)) => {
                Err(format!("the kernel speaks protocol {}, this supervisor {KERNEL_PROTOCOL}", ready.protocol))
            }
            Ok(_) => Err("the kernel's first message was not `ready`".to_owned()),
            Err(Event::Broken(reason)) => Err(format!("the kernel broke the protocol: {reason}")),
            Err(_) => Err("the kernel ended before it was ready".to_owned()),
        }
    }

    /// Hands over a cell; none may be running.
    ///
    /// # Errors
    /// When the kernel's input is closed.
    pub async fn execute(&mut self, cell: &str, count: u64, code: &str, max_value: usize) -> io::Result<()> {
        self.running = Some((cell.to_owned(), max_value));
        self.send(&ToKernel::Execute { cell, count, code, max_value }).await
    }

    /// Asks for a sign of life.
    ///
    /// # Errors
    /// When the kernel's input is closed.
    pub async fn ping(&mut self, id: &str) -> io::Result<()> {
        self.send(&ToKernel::Ping { id }).await
    }

    /// The next thing the kernel does. Cancel-safe: what was read stays in the framing.
    pub async fn next(&mut self) -> Event {
        match self.message().await {
            Ok(FromKernel::Stream(stream)) if self.runs(&stream.cell).is_some() => {
                let name = stream.name;
                stream
                    .into_bytes()
                    .map_or(Event::Broken("a chunk of output that is neither text nor base64"), |bytes| {
                        Event::Output(name, bytes)
                    })
            }
            Ok(FromKernel::Done(done)) if self.runs(&done.cell).is_some_and(|max_value| !done.fits(max_value)) => {
                Event::Broken("a value or an error over its bound")
            }
            Ok(FromKernel::Done(done)) if self.runs(&done.cell).is_some() => {
                self.running = None;
                Event::Done(done)
            }
            Ok(FromKernel::Pong { id }) => Event::Pong(id),
            Ok(FromKernel::Ready(_)) => Event::Broken("a second `ready`"),
            Ok(FromKernel::Stream(_) | FromKernel::Done(_)) => {
                Event::Broken("a message about a cell that is not running")
            }
            Err(event) => event,
        }
    }

    /// The bound of this cell's texts, if it runs.
    fn runs(&self, cell: &str) -> Option<usize> {
        self.running.as_ref().filter(|(running, _)| running == cell).map(|&(_, max_value)| max_value)
    }

    async fn message(&mut self) -> Result<FromKernel, Event> {
        match self.lines.next().await {
            Some(Ok(Frame::Line(line))) => wire::parse(&line).ok_or(Event::Broken("a line that is no message")),
            Some(Ok(Frame::TooLong)) => Err(Event::Broken("a line over 8 MiB")),
            Some(Err(_)) | None => Err(Event::Gone),
        }
    }

    async fn send(&mut self, message: &ToKernel<'_>) -> io::Result<()> {
        let mut line = serde_json::to_vec(message).map_err(io::Error::other)?;
        line.push(b'\n');
        self.write(&line).await
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stdin.write_all(bytes).await?;
        self.stdin.flush().await
    }
}
