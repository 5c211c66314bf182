//! One connection to a cellblock: the public protocol over a socket or a command's standard input and output.

use std::{
    collections::{HashMap, VecDeque},
    io::{self, BufRead as _, BufReader, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::Duration,
};

use serde_json::{Value, json};

/// How long any answer may take; a sidecar that lets a client wait longer has fallen.
const PATIENCE: Duration = Duration::from_secs(60);

/// Our requests' ids start above this, so that what a play writes by hand can use low ones.
const FIRST_ID: u64 = 1 << 20;

/// A client.
pub(crate) struct Client {
    writer: Option<Box<dyn Write>>,
    lines: Receiver<Value>,
    early: HashMap<u64, Value>,
    stray: VecDeque<Value>,
    next_id: u64,
    stream: Option<UnixStream>,
    child: Option<Child>,
}

impl Client {
    /// A connection to a server's socket.
    pub(crate) fn connect(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        let reader = stream.try_clone()?;
        let mut client = Self::new(Box::new(stream.try_clone()?), reader);
        client.stream = Some(stream);
        Ok(client)
    }

    /// A command that speaks the protocol on its standard input and output, and ends when the client is dropped.
    pub(crate) fn spawn(command: &[String]) -> io::Result<Self> {
        let [program, arguments @ ..] = command else { return Err(io::Error::other("no command")) };
        let mut child = Command::new(program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("no pipes"));
        };
        let mut client = Self::new(Box::new(stdin), stdout);
        client.child = Some(child);
        Ok(client)
    }

    fn new(writer: Box<dyn Write>, reader: impl Read + Send + 'static) -> Self {
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                // What is not JSON is handed on as the text that it is: a case will say what it is.
                let value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if sender.send(value).is_err() {
                    break;
                }
            }
        });
        Self {
            writer: Some(writer),
            lines,
            early: HashMap::new(),
            stray: VecDeque::new(),
            next_id: FIRST_ID,
            stream: None,
            child: None,
        }
    }

    /// Sends raw bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        let writer = self.writer.as_mut().ok_or("the connection is closed")?;
        writer
            .write_all(bytes)
            .and_then(|()| writer.flush())
            .map_err(|error| format!("the server does not read: {error}"))
    }

    /// The next message, whatever it answers.
    fn read(&mut self) -> Result<Value, String> {
        self.lines.recv_timeout(PATIENCE).map_err(|error| match error {
            RecvTimeoutError::Timeout => format!("no answer in {PATIENCE:?}"),
            RecvTimeoutError::Disconnected => "the connection was closed".into(),
        })
    }

    /// Sends a request and returns its id.
    pub(crate) fn send(&mut self, method: &str, params: &Value) -> Result<u64, String> {
        self.next_id += 1;
        let request = json!({"jsonrpc": "2.0", "id": self.next_id, "method": method, "params": params});
        self.write(format!("{request}\n").as_bytes())?;
        Ok(self.next_id)
    }

    /// Whether the request has been answered by now.
    pub(crate) fn answered(&mut self, id: u64) -> bool {
        while let Ok(message) = self.lines.try_recv() {
            self.keep(message);
        }
        self.early.contains_key(&id)
    }

    /// The whole answer to a request.
    pub(crate) fn answer(&mut self, id: u64) -> Result<Value, String> {
        loop {
            if let Some(answer) = self.early.remove(&id) {
                return Ok(answer);
            }
            let message = self.read()?;
            self.keep(message);
        }
    }

    /// Calls a method: its result, or the error as text.
    pub(crate) fn call(&mut self, method: &str, params: &Value) -> Result<Value, String> {
        let id = self.send(method, params)?;
        let mut answer = self.answer(id)?;
        match answer.get("error") {
            Some(error) => Err(error.to_string()),
            None => Ok(answer["result"].take()),
        }
    }

    /// The next message that answers none of our requests.
    pub(crate) fn stray(&mut self) -> Result<Value, String> {
        loop {
            if let Some(message) = self.stray.pop_front() {
                return Ok(message);
            }
            let message = self.read()?;
            self.keep(message);
        }
    }

    /// Answers to our requests are kept by id; anything else but a notification is stray.
    fn keep(&mut self, message: Value) {
        match message["id"].as_u64() {
            Some(id) if id > FIRST_ID => drop(self.early.insert(id, message)),
            _ if message.get("method").is_some() => {}
            _ => self.stray.push_back(message),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        drop(self.writer.take());
        // The reading thread holds the stream too, so that closing alone would not end the connection.
        if let Some(stream) = &self.stream {
            let _ = stream.shutdown(Shutdown::Both);
        }
        if let Some(child) = &mut self.child {
            let _ = child.wait();
        }
    }
}
