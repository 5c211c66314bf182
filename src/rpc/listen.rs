//! Where connections come from: standard input and output, or a Unix socket.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, Mode, flock};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::task::TaskTracker;

use super::{Server, connection, pipes};

/// Connections of one socket that are open at once.
const MAX_CONNECTIONS: usize = 256;

/// A socket that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another process listens on it.
    #[error("another process listens on `{0}`\nhint: stop it, or choose another `--socket`")]
    Live(PathBuf),
    /// Something that is no socket stands there.
    #[error("`{0}` exists and is no socket\nhint: choose another `--socket`; nothing was removed")]
    NotASocket(PathBuf),
    /// The path cannot be used.
    #[error("cannot listen on `{0}`: {1}")]
    Io(PathBuf, io::Error),
}

/// Serves standard input and output until the input ends or the server shuts down.
pub async fn stdio(server: Server) {
    // A task of its own runs beside the sessions' tasks; here every wake-up would go to another thread.
    let _ = tokio::spawn(connection::serve(server, pipes::stdin(), pipes::stdout())).await;
}

/// A bound Unix socket; its file goes with it.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    inode: (u64, u64),
}

impl Socket {
    /// Binds `path` with its final mode in one step. The stale socket of a dead owner is replaced.
    ///
    /// # Errors
    /// When another process listens on it, or it is something else, or cannot be made.
    pub fn bind(path: &Path, mode: u32) -> Result<Self, SocketError> {
        let failed = |error| SocketError::Io(path.to_owned(), error);
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // Two starters must not take each other's fresh socket for a stale one.
        let folder = fs::File::open(parent).map_err(failed)?;
        flock(&folder, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
        if let Ok(metadata) = fs::symlink_metadata(path) {
            if !metadata.file_type().is_socket() {
                return Err(SocketError::NotASocket(path.to_owned()));
            }
            match std::os::unix::net::UnixStream::connect(path) {
                Ok(_) => return Err(SocketError::Live(path.to_owned())),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(path).map_err(failed)?;
                }
                Err(error) => return Err(failed(error)),
            }
        }
        // The mode a socket is born with is what the umask leaves of 0777.
        let before = rustix::process::umask(Mode::from_raw_mode(!mode & 0o777));
        let bound = UnixListener::bind(path);
        rustix::process::umask(before);
        let listener = bound.map_err(failed)?;
        let metadata = fs::symlink_metadata(path).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned(), inode: (metadata.dev(), metadata.ino()) })
    }

    /// Accepts connections until the server shuts down, then waits until all have drained.
    pub async fn serve(self, server: Server) {
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                () = server.shutdown.cancelled() => break,
                accepted = self.listener.accept(), if connections.len() < MAX_CONNECTIONS => accepted,
                // At the limit new clients wait in the socket's backlog until somebody leaves.
                () = tokio::time::sleep(std::time::Duration::from_millis(50)), if connections.len() >= MAX_CONNECTIONS => continue,
            };
            match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve_stream(server.clone(), stream));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
        drop(self);
        connections.close();
        connections.wait().await;
    }
}

async fn serve_stream(server: Server, stream: UnixStream) {
    let (reader, writer) = stream.into_split();
    connection::serve(server, reader, writer).await;
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Only our own: somebody may have put another in its place.
        if fs::symlink_metadata(&self.path).is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}
