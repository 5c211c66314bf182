//! Which files a cell created or changed: two listings of `/workspace`, compared. Pure.

use std::collections::HashMap;

use crate::protocol::{Artifact, Entry, EntryKind, FileList};

/// What a file was: enough to see that it is another now.
type Stamp = (u64, i64);

/// The regular files of one moment.
#[derive(Debug)]
pub(super) struct Snapshot {
    files: HashMap<String, Stamp>,
    truncated: bool,
}

/// What changed between two moments.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) files: Vec<Artifact>,
    /// Whether there may be more.
    pub(super) truncated: bool,
}

impl Snapshot {
    pub(super) fn new(list: FileList) -> Self {
        let files = regular(list.entries).map(|entry| (entry.path, (entry.size, entry.modified_ns)));
        Self { files: files.collect(), truncated: list.truncated }
    }

    /// The files of `now` that were not there before, or were others.
    pub(super) fn changes(&self, now: FileList) -> Changes {
        let truncated = self.truncated || now.truncated;
        let changed = regular(now.entries)
            .filter(|entry| self.files.get(&entry.path) != Some(&(entry.size, entry.modified_ns)))
            .map(|entry| Artifact {
                mime_type: mime_type(&entry.path).to_owned(),
                path: entry.path,
                size: entry.size,
                base64: None,
            });
        Changes { files: changed.collect(), truncated }
    }
}

fn regular(entries: Vec<Entry>) -> impl Iterator<Item = Entry> {
    entries.into_iter().filter(|entry| entry.kind == EntryKind::File)
}

/// What a path's ending says of its content.
fn mime_type(path: &str) -> &'static str {
    let ending = path.rsplit('/').next().and_then(|name| name.rsplit_once('.')).map_or("", |(_, ending)| ending);
    match ending.to_ascii_lowercase().as_str() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "svg" => "image/svg+xml",
        "pdf" => "application/pdf",
        "csv" => "text/csv",
        "tsv" => "text/tab-separated-values",
        "json" | "ipynb" => "application/json",
        "jsonl" | "ndjson" => "application/x-ndjson",
        "html" | "htm" => "text/html",
        "xml" => "application/xml",
        "md" => "text/markdown",
        "txt" | "log" => "text/plain",
        "py" => "text/x-python",
        "js" | "mjs" | "cjs" => "text/javascript",
        "css" => "text/css",
        "yaml" | "yml" => "application/yaml",
        "zip" => "application/zip",
        "gz" | "tgz" => "application/gzip",
        "tar" => "application/x-tar",
        "parquet" => "application/vnd.apache.parquet",
        "xlsx" => "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        "docx" => "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        "pptx" => "application/vnd.openxmlformats-officedocument.presentationml.presentation",
        "mp3" => "audio/mpeg",
        "wav" => "audio/wav",
        "mp4" => "video/mp4",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(files: &[(&str, EntryKind, u64, i64)]) -> FileList {
        let entries =
            files.iter().map(|&(path, kind, size, modified_ns)| Entry { path: path.into(), kind, size, modified_ns });
        FileList { entries: entries.collect(), truncated: false }
    }

    #[test]
    fn new_and_changed_files_are_named_and_nothing_else() {
        let file = EntryKind::File;
        let before =
            Snapshot::new(list(&[("a", file, 1, 1), ("b", file, 1, 1), ("c", file, 1, 1), ("gone", file, 1, 1)]));
        let now = list(&[
            ("a", file, 1, 1),
            ("b", file, 2, 1),
            ("c", file, 1, 2),
            ("d", EntryKind::Directory, 0, 9),
            ("d/E.PNG", file, 3, 9),
            ("d/.csv", file, 3, 9),
            ("link", EntryKind::Symlink, 1, 9),
        ]);
        let found = before.changes(now);
        let found: Vec<_> = found.files.iter().map(|file| (&*file.path, &*file.mime_type)).collect();
        let other = "application/octet-stream";
        assert_eq!(found, [("b", other), ("c", other), ("d/E.PNG", "image/png"), ("d/.csv", "text/csv")]);
    }
}
