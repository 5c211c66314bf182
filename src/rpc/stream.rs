//! What a cell says while it runs, as numbered notifications.
//!
//! Each stream's first `max_output` bytes are passed on, in whole characters, and nothing after them: the result alone
//! holds the tail.

use tokio::sync::mpsc;

use super::outbox::Outbox;
use crate::{
    kernel::wire::StreamName,
    output::LiveText,
    protocol::{CellDisplay, CellOutput},
    session::Said,
};

/// What waits between a session and its client's outbox.
pub(super) const SAID: usize = 2;

struct Stream<'a> {
    outbox: &'a Outbox,
    session_id: &'a str,
    cell_id: String,
    seq: u64,
    stdout: LiveText,
    stderr: LiveText,
}

/// Passes on everything that one cell says; ends with the cell.
pub(super) async fn pass_on(outbox: &Outbox, session_id: &str, max_output: usize, mut said: mpsc::Receiver<Said>) {
    let text = || LiveText::new(max_output);
    let mut stream = Stream { outbox, session_id, cell_id: String::new(), seq: 0, stdout: text(), stderr: text() };
    while let Some(said) = said.recv().await {
        match said {
            Said::Started(id) => stream.cell_id = id,
            Said::Output(name, bytes) => {
                let text = stream.text(name).push(bytes);
                stream.output(name, text).await;
            }
            Said::Display(value) => {
                stream.seq += 1;
                let Stream { session_id, cell_id, seq, .. } = &stream;
                let display = CellDisplay { session_id, cell_id, seq: *seq, value: &value };
                outbox.notify("cell.display", display).await;
            }
        }
    }
    for name in [StreamName::Stdout, StreamName::Stderr] {
        let text = stream.text(name).finish();
        stream.output(name, text).await;
    }
}

impl Stream<'_> {
    fn text(&mut self, name: StreamName) -> &mut LiveText {
        match name {
            StreamName::Stdout => &mut self.stdout,
            StreamName::Stderr => &mut self.stderr,
        }
    }

    async fn output(&mut self, name: StreamName, text: Option<String>) {
        if let Some(text) = text {
            self.seq += 1;
            let Self { session_id, cell_id, seq, .. } = self;
            let output = CellOutput { session_id, cell_id, seq: *seq, name, text: &text };
            self.outbox.notify("cell.output", output).await;
        }
    }
}
