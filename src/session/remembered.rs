//! The results that a session keeps: those of cells with an idempotency key, and the last one of a session that may be
//! detached.
//!
//! They are the session's and not the sandbox's: a lost sandbox loses none. Bounded in number and in bytes; the oldest go
//! first.

use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use super::Cell;
use crate::protocol::CellResult;

/// Keyed results of one session.
const MAX_KEYS: usize = 64;
/// Bytes of one session's keyed results.
const MAX_BYTES: usize = 16 << 20;

/// What is kept.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    keyed: VecDeque<Keyed>,
    bytes: usize,
    last: Option<CellResult>,
}

#[derive(Debug)]
struct Keyed {
    key: String,
    fingerprint: u64,
    result: CellResult,
    bytes: usize,
}

/// What is known of a key.
#[derive(Debug)]
pub(super) enum Known<'a> {
    /// The same cell ended so.
    Same(&'a CellResult),
    /// It was another cell's.
    Other,
}

impl Remembered {
    /// What is known of this cell's key.
    pub(super) fn find(&self, cell: &Cell) -> Option<Known<'_>> {
        let key = cell.key.as_ref()?;
        let keyed = self.keyed.iter().find(|keyed| keyed.key == *key)?;
        Some(if keyed.fingerprint == fingerprint(cell) { Known::Same(&keyed.result) } else { Known::Other })
    }

    /// Keeps a result under its cell's key, if it has one.
    pub(super) fn keep(&mut self, cell: &Cell, result: &CellResult) {
        let Some(key) = cell.key.clone() else { return };
        let bytes = size(result);
        self.keyed.push_back(Keyed { key, fingerprint: fingerprint(cell), result: result.clone(), bytes });
        self.bytes += bytes;
        // The newest stays, whatever its size: a request that was just answered must be repeatable.
        while self.keyed.len() > 1 && (self.keyed.len() > MAX_KEYS || self.bytes > MAX_BYTES) {
            self.bytes -= self.keyed.pop_front().map_or(0, |oldest| oldest.bytes);
        }
    }

    /// Keeps a result as the last one.
    pub(super) fn keep_last(&mut self, result: &CellResult) {
        self.last = Some(result.clone());
    }

    /// The last result.
    pub(super) fn last(&self) -> Option<&CellResult> {
        self.last.as_ref()
    }
}

fn fingerprint(cell: &Cell) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&cell.code, &cell.stdin, cell.artifacts).hash(&mut hasher);
    hasher.finish()
}

/// The bytes of a result's texts.
fn size(result: &CellResult) -> usize {
    let values = result.displays.iter().chain(&result.result);
    let values: usize = values.flat_map(|value| &value.data).map(|(kind, text)| kind.len() + text.len()).sum();
    let error = result
        .error
        .as_ref()
        .map_or(0, |error| error.message.len() + error.traceback.iter().map(String::len).sum::<usize>());
    let artifacts = result.artifacts.iter().flatten().map(|file| file.path.len()).sum::<usize>();
    result.stdout.text.len() + result.stderr.text.len() + values + error + artifacts
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        output::OutputText,
        protocol::{CellStatus, EndedBy, State},
    };

    fn cell(key: &str, code: &str) -> Cell {
        Cell { key: Some(key.to_owned()), ..Cell::new(code.to_owned(), Duration::from_secs(1), 1) }
    }

    fn result(text: usize) -> CellResult {
        CellResult {
            cell_id: "c1".into(),
            execution_count: 1,
            status: CellStatus::Ok,
            stdout: OutputText { text: "x".repeat(text), ..OutputText::default() },
            stderr: OutputText::default(),
            result: None,
            displays: Vec::new(),
            displays_dropped: 0,
            error: None,
            exit_code: None,
            artifacts: None,
            artifacts_truncated: None,
            duration_ms: 0.0,
            cpu_ms: None,
            memory_peak: None,
            state: State::Preserved,
            generation: 1,
            ended_by: EndedBy::Completed,
        }
    }

    #[test]
    fn a_key_knows_its_cell_and_the_oldest_are_forgotten_first() {
        let mut remembered = Remembered::default();
        for n in 0..=MAX_KEYS {
            remembered.keep(&cell(&n.to_string(), "1"), &result(1));
        }
        assert!(remembered.find(&cell("0", "1")).is_none(), "one too many");
        assert!(matches!(remembered.find(&cell("1", "1")), Some(Known::Same(_))));
        assert!(matches!(remembered.find(&cell("1", "2")), Some(Known::Other)));
        remembered.keep(&Cell { key: None, ..cell("", "1") }, &result(1));
        assert_eq!(remembered.keyed.len(), MAX_KEYS);

        remembered.keep(&cell("large", "1"), &result(MAX_BYTES + 1));
        assert!(matches!(remembered.find(&cell("large", "1")), Some(Known::Same(_))), "the newest stays");
        assert_eq!(remembered.keyed.len(), 1, "and bytes count, too");
        remembered.keep(&cell("small", "1"), &result(1));
        assert_eq!((remembered.keyed.len(), remembered.bytes), (1, 1));
    }
}
