//! File operations on a session's `/workspace`, cut into commands that a kernel takes.
//!
//! A path is looked at here before the kernel is asked, which looks again: the one knows what is sensible, the other
//! what is there.

use base64::prelude::{BASE64_STANDARD, Engine as _};

use crate::{
    error::{Error, Outcome},
    kernel::{
        Event, Kernel,
        wire::{FileErrorCode, FileReply, MAX_FILE_CHUNK, ToKernel},
    },
    protocol::FileList,
};

/// The longest path, bytes.
pub const MAX_PATH: usize = 4096;
/// The longest name in a path, bytes.
const MAX_NAME: usize = 255;
/// The most bytes of one `file.read`.
pub const MAX_READ: usize = 8 << 20;
/// The most entries of one `file.list`.
pub const MAX_ENTRIES: usize = 10_000;
/// Where all files are.
const ROOT: &str = "/workspace";

/// A path below `/workspace` that is sensible; whether it leads out by a link only the kernel can tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePath(String);

/// A file operation.
#[derive(Debug)]
pub enum FileOp {
    /// Writes a range.
    Write {
        /// Which file.
        path: FilePath,
        /// To where, bytes.
        offset: u64,
        /// Whether the file is cut to `offset` first.
        truncate: bool,
        /// What.
        data: Vec<u8>,
    },
    /// Reads a range.
    Read {
        /// Which file.
        path: FilePath,
        /// From where, bytes.
        offset: u64,
        /// How much, at most [`MAX_READ`].
        length: usize,
    },
    /// Lists a folder.
    List {
        /// Which; `/workspace` itself when absent.
        path: Option<FilePath>,
        /// Whether folders below it are listed too.
        recursive: bool,
        /// How many entries at most, at most [`MAX_ENTRIES`].
        max: usize,
    },
    /// Deletes.
    Delete {
        /// What.
        path: FilePath,
        /// Whether a folder goes with what it holds.
        recursive: bool,
    },
}

/// What a file operation brought.
#[derive(Debug)]
pub enum FileAnswer {
    /// The size after a write.
    Written(u64),
    /// What was read, and the file's whole size.
    Read(Vec<u8>, u64),
    /// What was listed.
    Listed(FileList),
    /// It is deleted.
    Deleted,
}

/// Why an operation did not end as it should.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The kernel says so, and lives.
    Refused(Error),
    /// The kernel is of no more use.
    Lost(&'static str),
}

impl FilePath {
    /// Looks a client's path over.
    ///
    /// # Errors
    /// For a path that no honest client means; the text quotes it.
    pub fn parse(path: &str) -> Result<Self, Error> {
        let wrong = |why: &str| Err(Error::Params(format!("the path `{}` {why}", shown(path))));
        let relative = match path.strip_prefix(ROOT) {
            Some(rest) if rest.starts_with('/') => &rest[1..],
            _ if path.starts_with('/') => return wrong("is not below `/workspace`"),
            _ => path,
        };
        if relative.is_empty() {
            return wrong("names nothing below `/workspace`");
        }
        if relative.len() > MAX_PATH {
            return wrong(&format!("is {} bytes long; it must be at most {MAX_PATH}", relative.len()));
        }
        if relative.contains('\0') {
            return wrong("holds a NUL");
        }
        let parts: Vec<_> = relative.split('/').filter(|part| *part != ".").collect();
        for part in &parts {
            match *part {
                "" => return wrong("has an empty part (`//`, or `/` at its end)"),
                ".." => return wrong("has a part `..`"),
                part if part.len() > MAX_NAME => return wrong(&format!("has a part of more than {MAX_NAME} bytes")),
                _ => {}
            }
        }
        if parts.is_empty() {
            return wrong("names nothing below `/workspace`");
        }
        Ok(Self(parts.join("/")))
    }

    /// Relative to `/workspace`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A path in an error's text: without control characters, and short.
fn shown(path: &str) -> String {
    let start: String = path.chars().take(200).collect();
    let dots = if start.len() < path.len() { ".." } else { "" };
    format!("{}{dots}", start.escape_debug())
}

impl FileOp {
    /// Does it; at most one [`MAX_FILE_CHUNK`] is on its way at a time.
    pub(super) async fn perform(&self, kernel: &mut Kernel) -> Result<FileAnswer, Trouble> {
        match self {
            Self::Write { path, offset, truncate, data } => write(kernel, path, *offset, *truncate, data).await,
            Self::Read { path, offset, length } => read(kernel, path, *offset, *length).await,
            Self::List { path, recursive, max } => {
                let path = path.as_ref().map_or(ROOT, FilePath::as_str);
                list(kernel, path, *recursive, *max).await.map(FileAnswer::Listed)
            }
            Self::Delete { path, recursive } => {
                let id = kernel.next_id();
                let command = ToKernel::FileDelete { id: &id, path: path.as_str(), recursive: *recursive };
                ask(kernel, &id, &command, path.as_str(), true).await.map(|_| FileAnswer::Deleted)
            }
        }
    }
}

async fn write(
    kernel: &mut Kernel,
    path: &FilePath,
    offset: u64,
    truncate: bool,
    data: &[u8],
) -> Result<FileAnswer, Trouble> {
    let mut size = 0;
    let mut at = offset;
    // An empty write makes an empty file.
    for chunk in data.chunks(MAX_FILE_CHUNK).chain(data.is_empty().then_some(data)) {
        let (id, encoded) = (kernel.next_id(), BASE64_STANDARD.encode(chunk));
        let truncate = truncate && at == offset;
        let command = ToKernel::FileWrite { id: &id, path: path.as_str(), offset: at, truncate, data: &encoded };
        let reply = ask(kernel, &id, &command, path.as_str(), true).await?;
        size = reply.size.ok_or(Trouble::Lost("the answer to `file.write` has no size"))?;
        at += chunk.len() as u64;
    }
    Ok(FileAnswer::Written(size))
}

async fn read(kernel: &mut Kernel, path: &FilePath, offset: u64, length: usize) -> Result<FileAnswer, Trouble> {
    let mut data = Vec::new();
    loop {
        let id = kernel.next_id();
        let (at, wanted) = (offset + data.len() as u64, (length - data.len()).min(MAX_FILE_CHUNK));
        let command = ToKernel::FileRead { id: &id, path: path.as_str(), offset: at, length: wanted };
        let reply = ask(kernel, &id, &command, path.as_str(), false).await?;
        let chunk = reply.data.and_then(|data| BASE64_STANDARD.decode(data).ok());
        let (Some(chunk), Some(size)) = (chunk.filter(|chunk| chunk.len() <= wanted), reply.size) else {
            return Err(Trouble::Lost("the answer to `file.read` holds no data of the length asked for"));
        };
        data.extend_from_slice(&chunk);
        if chunk.is_empty() || data.len() >= length || offset + data.len() as u64 >= size {
            return Ok(FileAnswer::Read(data, size));
        }
    }
}

/// What is in a folder.
pub(super) async fn list(kernel: &mut Kernel, path: &str, recursive: bool, max: usize) -> Result<FileList, Trouble> {
    let id = kernel.next_id();
    let reply = ask(kernel, &id, &ToKernel::FileList { id: &id, path, recursive, max }, path, false).await?;
    let entries = reply.entries.filter(|entries| entries.len() <= max);
    let entries = entries.ok_or(Trouble::Lost("the answer to `file.list` is no list of the length asked for"))?;
    Ok(FileList { entries, truncated: reply.truncated })
}

/// Everything in `/workspace`.
pub(super) async fn list_all(kernel: &mut Kernel) -> Result<FileList, Trouble> {
    list(kernel, ROOT, true, MAX_ENTRIES).await
}

async fn ask(
    kernel: &mut Kernel,
    id: &str,
    command: &ToKernel<'_>,
    path: &str,
    changes: bool,
) -> Result<FileReply, Trouble> {
    let reply = kernel.file(id, command).await.map_err(|event| match event {
        Event::Broken(reason) => Trouble::Lost(reason),
        _ => Trouble::Lost("the kernel ended"),
    })?;
    let Some(failure) = reply.error else { return Ok(reply) };
    // What failed half-way may have changed something; the others are found before anything is touched.
    let outcome = match failure.code {
        FileErrorCode::NoSpace | FileErrorCode::TooLarge | FileErrorCode::Io if changes => Outcome::Unknown,
        _ => Outcome::NotStarted,
    };
    let (path, said) = (shown(path), shown(&failure.message));
    let message = if said.contains(&path) { said } else { format!("`{path}`: {said}") };
    Err(Trouble::Refused(Error::File { reason: failure.code, message, outcome }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_looked_over_before_the_kernel_is_asked() {
        for (path, meant) in [
            ("a.csv", "a.csv"),
            ("./a/./b c", "a/b c"),
            ("/workspace/a", "a"),
            ("...", "..."),
            ("a\nb", "a\nb"),
            ("/workspacer", ""),
            ("/etc/passwd", ""),
            ("", ""),
            (".", ""),
            ("/workspace", ""),
            ("/workspace/", ""),
            ("a/../b", ""),
            ("..", ""),
            ("a//b", ""),
            ("a/", ""),
            ("a\0b", ""),
        ] {
            match FilePath::parse(path) {
                Ok(parsed) => assert_eq!(parsed.as_str(), meant, "{path:?}"),
                Err(error) => assert!(meant.is_empty() && !error.to_string().contains('\0'), "{path:?}: {error}"),
            }
        }
        for long in ["a/".repeat(2100) + "a", "b".repeat(300)] {
            let error = FilePath::parse(&long).expect_err("too long").to_string();
            assert!(error.len() < 400, "{error}");
        }
    }
}
