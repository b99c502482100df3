//! A VM's serial console: kept drained into a bounded buffer, because a guest that floods its console must fill
//! neither a disk nor a pipe, and open for typing.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longest wait for the last of what an ended VM wrote: it is in the socket already.
const LAST_LIMIT: Duration = Duration::from_secs(1);
/// What is kept of a console's output.
const KEPT_BYTES: usize = 256 << 10;

/// The kept end of the output, and how much there was in all.
#[derive(Default)]
struct Tail {
    bytes: VecDeque<u8>,
    total: u64,
}

/// One VM's console.
pub(crate) struct Console {
    path: PathBuf,
    tail: Arc<Mutex<Tail>>,
    /// `None`: hung up on.
    writer: tokio::sync::Mutex<Option<OwnedWriteHalf>>,
    reader: JoinHandle<()>,
    /// Fires when nothing comes any more.
    over: CancellationToken,
}

impl Drop for Console {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Console {
    /// Opens the console behind `path`.
    pub(crate) async fn open(path: PathBuf) -> io::Result<Self> {
        let (mut read, write) = UnixStream::connect(&path).await?.into_split();
        let tail: Arc<Mutex<Tail>> = Arc::default();
        let (kept, over) = (tail.clone(), CancellationToken::new());
        let at_end = over.clone().drop_guard();
        let reader = tokio::spawn(async move {
            let _at_end = at_end;
            let mut buffer = vec![0u8; 16 << 10];
            while let Ok(count) = read.read(&mut buffer).await {
                if count == 0 {
                    break;
                }
                let mut tail = kept.lock().unwrap_or_else(PoisonError::into_inner);
                tail.total += count as u64;
                tail.bytes.extend(&buffer[..count]);
                let excess = tail.bytes.len().saturating_sub(KEPT_BYTES);
                tail.bytes.drain(..excess);
            }
        });
        Ok(Self { path, tail, writer: tokio::sync::Mutex::new(Some(write)), reader, over })
    }

    /// Whether this is still the console behind `path`.
    pub(crate) fn is_of(&self, path: &std::path::Path) -> bool {
        self.path == path && !self.is_over()
    }

    /// Whether nothing comes any more.
    pub(crate) fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    /// Gives back the connection to a VM that has ended; what it showed stays.
    pub(crate) async fn hang_up(&self) {
        // What comes later is not waited for: then somebody else has the other end.
        let _ = tokio::time::timeout(LAST_LIMIT, self.over.cancelled()).await;
        *self.writer.lock().await = None;
    }

    /// Output after the first `from` bytes of all, as far as it is kept, and the offset to go on from.
    pub(crate) fn output(&self, from: u64) -> (Vec<u8>, u64) {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let first_kept = tail.total - tail.bytes.len() as u64;
        let skip = usize::try_from(from.saturating_sub(first_kept)).unwrap_or(usize::MAX);
        (tail.bytes.iter().skip(skip).copied().collect(), tail.total)
    }

    /// Types.
    pub(crate) async fn input(&self, bytes: &[u8]) -> io::Result<()> {
        match self.writer.lock().await.as_mut() {
            Some(writer) => writer.write_all(bytes).await,
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}
