//! Files that the user names, read up to a limit. Must never wait for a writer or read without an end: a pipe, a
//! device or a folder is refused, and standard input is read only where that is asked for.

use crate::error::{CommandError, usage};
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// Stands for standard input.
const STDIN: &str = "-";

/// What a file is called in messages.
pub(crate) fn name_of(path: &Path) -> String {
    if path.as_os_str() == STDIN { "standard input".to_owned() } else { path.display().to_string() }
}

/// What stands at a path, where it is no regular file.
fn irregular(about: &std::fs::Metadata) -> Option<&'static str> {
    let kind = about.file_type();
    match () {
        () if kind.is_file() => None,
        () if kind.is_dir() => Some("a folder"),
        () if kind.is_fifo() => Some("a pipe"),
        () if kind.is_socket() => Some("a socket"),
        () => Some("a device"),
    }
}

/// The bytes of a regular file, or of standard input for `-`; no more of them than `limit`.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, CommandError> {
    let failed = |source| CommandError::File { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    if path.as_os_str() == STDIN {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes).map_err(failed)?;
        return Ok(bytes);
    }
    // Looked at before it is opened: opening a pipe waits for its writer, and opening some devices does something.
    if let Some(found) = irregular(&std::fs::metadata(path).map_err(failed)?) {
        let what = format!("{}: expected a regular file, found {found}", path.display());
        return Err(usage(what, "name a file, or give `-` and pipe the text into standard input"));
    }
    std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)).map_err(failed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_ends_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let (file, socket) = (dir.path().join("a.yaml"), dir.path().join("socket"));
        std::fs::write(&file, "name: a").unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert_eq!(read_bounded(&file, 100).unwrap(), b"name: a");
        assert_eq!(read_bounded(&file, 4).unwrap(), b"name");
        for (path, found) in
            [(dir.path(), "a folder"), (&socket, "a socket"), ("/dev/zero".as_ref(), "a device")]
        {
            let error = read_bounded(path, 100).unwrap_err();
            assert!(matches!(&error, CommandError::Usage { .. }), "{error:?}");
            assert!(error.to_string().ends_with(&format!("found {found}")), "{error}");
        }
    }
}
