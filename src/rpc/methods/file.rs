//! The methods of files.

use base64::prelude::{BASE64_STANDARD, Engine as _};

use super::{Call, parse};
use crate::{
    error::Error,
    output::whole_characters,
    protocol::{
        Encoding, FileContent, FileDeleteParams, FileDeleted, FileList, FileListParams, FileReadParams,
        FileWriteParams, FileWritten,
    },
    rpc::wanted,
    session::files::{FileAnswer, FileOp, FilePath, MAX_ENTRIES, MAX_READ},
};

/// Entries of a `file.list` that does not say how many.
const ENTRIES: usize = 1000;

pub(super) async fn write(call: Call) -> Result<FileWritten, Error> {
    let params: FileWriteParams = parse(&call.params)?;
    let (path, data) = (FilePath::parse(&params.path)?, wanted::content(params.text, params.base64)?);
    let written = path.as_str().to_owned();
    let op = FileOp::Write { path, offset: params.offset, truncate: params.truncate, data };
    match perform(&call, &params.session_id, op).await? {
        FileAnswer::Written(size) => Ok(FileWritten { path: written, size }),
        _ => Err(Error::Abandoned),
    }
}

pub(super) async fn read(call: Call) -> Result<FileContent, Error> {
    let params: FileReadParams = parse(&call.params)?;
    let path = FilePath::parse(&params.path)?;
    let wanted = params.length.unwrap_or(MAX_READ as u64);
    let Some(length) = usize::try_from(wanted).ok().filter(|length| (1..=MAX_READ).contains(length)) else {
        return Err(Error::Params(format!("`length` is {wanted}; it must be from 1 to {MAX_READ}")));
    };
    let (name, offset) = (path.as_str().to_owned(), params.offset);
    match perform(&call, &params.session_id, FileOp::Read { path, offset, length }).await? {
        FileAnswer::Read(data, size) => content(name, offset, &data, size, params.encoding),
        _ => Err(Error::Abandoned),
    }
}

/// Text where it is asked for or possible, else base64. Text ends with a whole character; the next read goes on there.
fn content(
    path: String,
    offset: u64,
    data: &[u8],
    size: u64,
    encoding: Option<Encoding>,
) -> Result<FileContent, Error> {
    let ends = offset + data.len() as u64 >= size;
    let whole = if ends { data.len() } else { whole_characters(data) };
    let text = match encoding {
        Some(Encoding::Base64) => None,
        _ => std::str::from_utf8(&data[..whole]).ok(),
    };
    if text.is_none() && encoding == Some(Encoding::Utf8) {
        return Err(Error::Params(format!(
            "`encoding` is `utf8`, and `{}` holds other bytes here",
            path.escape_debug()
        )));
    }
    let bytes = text.map_or(data.len(), str::len) as u64;
    let (text, base64) = match text {
        Some(text) => (Some(text.to_owned()), None),
        None => (None, Some(BASE64_STANDARD.encode(data))),
    };
    Ok(FileContent { path, offset, bytes, size, eof: offset + bytes >= size, text, base64 })
}

pub(super) async fn list(call: Call) -> Result<FileList, Error> {
    let params: FileListParams = parse(&call.params)?;
    let max = params.max.unwrap_or(ENTRIES);
    if !(1..=MAX_ENTRIES).contains(&max) {
        return Err(Error::Params(format!("`max` is {max}; it must be from 1 to {MAX_ENTRIES}")));
    }
    let path = params.path.as_deref().filter(|path| !matches!(*path, "" | "." | "/workspace"));
    let path = path.map(FilePath::parse).transpose()?;
    match perform(&call, &params.session_id, FileOp::List { path, recursive: params.recursive, max }).await? {
        FileAnswer::Listed(list) => Ok(list),
        _ => Err(Error::Abandoned),
    }
}

pub(super) async fn delete(call: Call) -> Result<FileDeleted, Error> {
    let params: FileDeleteParams = parse(&call.params)?;
    let op = FileOp::Delete { path: FilePath::parse(&params.path)?, recursive: params.recursive };
    perform(&call, &params.session_id, op).await.map(|_| FileDeleted { deleted: true })
}

async fn perform(call: &Call, session: &str, op: FileOp) -> Result<FileAnswer, Error> {
    let pending = call.connection.session(session)?.file(op)?;
    pending.answer_or_cancel(&call.cancelled.0).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_at_whole_characters_and_other_bytes_are_base64() {
        let read = |data: &[u8], size, encoding| content("a".into(), 10, data, size, encoding).expect("content");
        let cut = read("aé".as_bytes().split_at(2).0, 20, None);
        assert_eq!((cut.text.as_deref(), cut.bytes, cut.eof), (Some("a"), 1, false));
        let end = read("aé".as_bytes(), 13, None);
        assert_eq!((end.text.as_deref(), end.eof), (Some("aé"), true));
        let binary = read(b"a\xFF", 12, None);
        assert_eq!((binary.base64.as_deref(), binary.bytes, binary.eof), (Some("Yf8="), 2, true));
        assert_eq!(read(b"a", 11, Some(Encoding::Base64)).base64.as_deref(), Some("YQ=="));
        assert!(content("a".into(), 0, &[0xFF], 1, Some(Encoding::Utf8)).is_err());
    }
}
