//! Drives one kernel over a reader and a writer: start, execute, ping, and whatever comes back.
//!
//! Knows the kernel protocol and neither sessions nor engines. Everything read is bounded and checked here; a kernel
//! that breaks the protocol is reported once, as [`Event::Broken`].

pub mod wire;

use std::{collections::BTreeMap, io, pin::Pin};

use futures_util::StreamExt as _;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio_util::codec::FramedRead;

use crate::{
    lines::{Frame, LineDecoder},
    protocol::Value,
};
use wire::{
    Bounds, Capability, Done, FileReply, FromKernel, KERNEL_PROTOCOL, MAX_KERNEL_LINE, Ready, StreamName, ToKernel,
};

/// A kernel that greeted us.
pub struct Kernel {
    stdin: Pin<Box<dyn AsyncWrite + Send>>,
    lines: FramedRead<Box<dyn AsyncRead + Send + Unpin>, LineDecoder>,
    /// The cell that runs and the bounds of what it says; messages about any other break the protocol.
    running: Option<(String, Bounds)>,
    capabilities: Vec<String>,
    /// Numbers the commands that are answered between cells.
    asked: u64,
}

/// A cell as its kernel gets it.
#[derive(Clone, Copy, Debug)]
pub struct Execute<'a> {
    /// Unique within the session.
    pub cell: &'a str,
    /// The execution count, from 1.
    pub count: u64,
    /// The source.
    pub code: &'a str,
    /// Bound of each text of the result and of the error, bytes.
    pub max_value: usize,
    /// Bound of what a bundle holds beside its text, bytes.
    pub max_media: usize,
    /// What its standard input holds.
    pub stdin: Option<&'a str>,
}

/// What a kernel did.
#[derive(Debug)]
pub enum Event {
    /// The running cell, or a child of it, wrote.
    Output(StreamName, Vec<u8>),
    /// The running cell displayed something.
    Display(Value),
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
        let stdin = Box::into_pin(stdin as Box<dyn AsyncWrite + Send>);
        let mut kernel = Self { stdin, lines, running: None, capabilities: Vec::new(), asked: 0 };
        let bootstrap = format!("{}\n{source}", source.len());
        kernel.write(bootstrap.as_bytes()).await.map_err(|error| format!("its standard input: {error}"))?;
        match kernel.message().await {
            Ok(FromKernel::Ready(ready)) if ready.protocol == KERNEL_PROTOCOL => {
                kernel.capabilities.clone_from(&ready.capabilities);
                Ok((kernel, ready))
            }
            Ok(FromKernel::Ready(ready)) => {
                Err(format!("the kernel speaks protocol {}, this supervisor {KERNEL_PROTOCOL}", ready.protocol))
            }
            Ok(_) => Err("the kernel's first message was not `ready`".to_owned()),
            Err(Event::Broken(reason)) => Err(format!("the kernel broke the protocol: {reason}")),
            Err(_) => Err("the kernel ended before it was ready".to_owned()),
        }
    }

    /// Whether it can do this.
    pub fn can(&self, capability: Capability) -> bool {
        self.capabilities.iter().any(|name| name == capability.name())
    }

    /// Hands over a cell; none may be running.
    ///
    /// # Errors
    /// When the kernel's input is closed.
    pub async fn execute(&mut self, cell: Execute<'_>) -> io::Result<()> {
        let Execute { cell, count, code, max_value, max_media, stdin } = cell;
        self.running = Some((cell.to_owned(), Bounds { max_value, max_media }));
        self.send(&ToKernel::Execute { cell, count, code, max_value, max_media, stdin }).await
    }

    /// Sets environment variables; no cell may be running.
    ///
    /// # Errors
    /// What the kernel did instead of answering.
    pub async fn configure(&mut self, env: &BTreeMap<String, String>) -> Result<(), Event> {
        let id = self.next_id();
        self.send(&ToKernel::Configure { id: &id, env }).await.map_err(|_| Event::Gone)?;
        match self.message().await? {
            FromKernel::Pong { id: answered } if answered == id => Ok(()),
            _ => Err(Event::Broken("something else than the answer to `configure`")),
        }
    }

    /// Sends one file command that carries `id`, and waits for its answer; no cell may be running.
    /// Not cancel-safe: a kernel whose answer was not waited for is of no more use.
    ///
    /// # Errors
    /// What the kernel did instead of answering.
    pub async fn file(&mut self, id: &str, command: &ToKernel<'_>) -> Result<FileReply, Event> {
        self.send(command).await.map_err(|_| Event::Gone)?;
        match self.message().await? {
            FromKernel::File(reply) if reply.id == id => Ok(reply),
            _ => Err(Event::Broken("something else than the answer to a file command")),
        }
    }

    /// An id for a command that is answered between cells.
    pub fn next_id(&mut self) -> String {
        self.asked += 1;
        format!("q{}", self.asked)
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
            Ok(FromKernel::Display(display)) if self.runs(&display.cell).is_some() => {
                if self.runs(&display.cell).is_some_and(|bounds| !display.value.fits(bounds)) {
                    return Event::Broken("a display over its bound");
                }
                Event::Display(display.value)
            }
            Ok(FromKernel::Done(done)) if self.runs(&done.cell).is_some_and(|bounds| !done.fits(bounds)) => {
                Event::Broken("a value or an error over its bound")
            }
            Ok(FromKernel::Done(done)) if self.runs(&done.cell).is_some() => {
                self.running = None;
                Event::Done(done)
            }
            Ok(FromKernel::Pong { id }) => Event::Pong(id),
            Ok(FromKernel::Ready(_)) => Event::Broken("a second `ready`"),
            Ok(FromKernel::Stream(_) | FromKernel::Display(_) | FromKernel::Done(_)) => {
                Event::Broken("a message about a cell that is not running")
            }
            Ok(FromKernel::File(_)) => Event::Broken("an answer to a file command that nobody sent"),
            Err(event) => event,
        }
    }

    /// The bounds of what this cell says, if it runs.
    fn runs(&self, cell: &str) -> Option<Bounds> {
        self.running.as_ref().filter(|(running, _)| running == cell).map(|&(_, bounds)| bounds)
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt as _, BufReader, DuplexStream, duplex, split};

    use super::*;

    /// A kernel whose other end answers each line that it gets with the next of `answers`.
    async fn kernel(capabilities: &str, answers: &'static [&'static str]) -> Kernel {
        let (ours, theirs) = duplex(1 << 16);
        let (reader, writer) = split(ours);
        let greeting = format!(
            "{{\"type\":\"ready\",\"protocol\":1,\"kernel\":\"k\",\"version\":\"1\",\"probe\":{{}},\"capabilities\":{capabilities}}}\n"
        );
        tokio::spawn(answer(theirs, greeting, answers));
        let (kernel, _) = Kernel::start(Box::new(writer), Box::new(reader), "source").await.expect("greeted");
        kernel
    }

    async fn answer(theirs: DuplexStream, greeting: String, answers: &'static [&'static str]) {
        let (reader, mut writer) = split(theirs);
        let mut lines = BufReader::new(reader).lines();
        let _ = lines.next_line().await;
        writer.write_all(greeting.as_bytes()).await.expect("read");
        let mut answers = answers.iter();
        // The source has no newline of its own: the first command ends its line.
        while let (Ok(Some(_)), Some(answer)) = (lines.next_line().await, answers.next()) {
            writer.write_all(answer.as_bytes()).await.expect("read");
        }
    }

    #[tokio::test]
    async fn capabilities_are_what_the_greeting_names() {
        let kernel = kernel(r#"["files","dance"]"#, &[]).await;
        assert!(kernel.can(Capability::Files) && !kernel.can(Capability::Configure));
    }

    #[tokio::test]
    async fn an_answer_to_another_question_breaks_the_protocol() {
        let mut kernel = kernel(
            r#"["files","configure"]"#,
            &[
                "{\"type\":\"pong\",\"id\":\"q1\"}\n",
                "{\"type\":\"file\",\"id\":\"q2\",\"size\":1}\n",
                "{\"type\":\"file\",\"id\":\"q2\"}\n",
            ],
        )
        .await;
        assert!(kernel.configure(&BTreeMap::new()).await.is_ok());
        for expected in [true, false] {
            let id = kernel.next_id();
            let command = ToKernel::FileDelete { id: &id, path: "a", recursive: false };
            assert_eq!(kernel.file(&id, &command).await.is_ok(), expected);
        }
    }
}
