//! Files that the user names, read up to a limit. Must never wait for a writer or read without an end: a pipe, a
//! device or a folder is refused, and standard input is read only where that is asked for.

use crate::error::{CommandError, usage};
use proteus_model::unit::Bytes;
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
pub(crate) fn irregular(about: &std::fs::Metadata) -> Option<&'static str> {
    let kind = about.file_type();
    match () {
        () if kind.is_file() => None,
        () if kind.is_dir() => Some("a folder"),
        () if kind.is_fifo() => Some("a pipe"),
        () if kind.is_socket() => Some("a socket"),
        () => Some("a device"),
    }
}

/// The bytes of a regular file, or of standard input for `-`; refused where they are more than `most`.
pub(crate) fn read_bounded(path: &Path, most: u64) -> Result<Vec<u8>, CommandError> {
    let failed = |source| CommandError::File { path: path.to_owned(), source };
    let too_large = |found: String| {
        let what =
            format!("{}: expected at most {most} bytes ({}), found {found}", name_of(path), Bytes(most));
        usage(what, "is it the file that you mean?")
    };
    let mut bytes = Vec::new();
    if path.as_os_str() == STDIN {
        std::io::stdin().lock().take(most + 1).read_to_end(&mut bytes).map_err(failed)?;
    } else {
        // Looked at before it is opened: opening a pipe waits for its writer, and opening some devices does something.
        let about = std::fs::metadata(path).map_err(failed)?;
        if let Some(found) = irregular(&about) {
            let what = format!("{}: expected a regular file, found {found}", path.display());
            return Err(usage(what, "name a file, or give `-` and pipe the text into standard input"));
        }
        if about.len() > most {
            return Err(too_large(format!("{} ({})", about.len(), Bytes(about.len()))));
        }
        std::fs::File::open(path)
            .and_then(|file| file.take(most + 1).read_to_end(&mut bytes))
            .map_err(failed)?;
    }
    if bytes.len() as u64 > most { Err(too_large("more".into())) } else { Ok(bytes) }
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
        assert_eq!(read_bounded(&file, 7).unwrap(), b"name: a");
        let large = read_bounded(&file, 6).unwrap_err().to_string();
        assert!(large.ends_with("a.yaml: expected at most 6 bytes (6 B), found 7 (7 B)"), "{large}");
        for (path, found) in
            [(dir.path(), "a folder"), (&socket, "a socket"), ("/dev/zero".as_ref(), "a device")]
        {
            let error = read_bounded(path, 100).unwrap_err();
            assert!(matches!(&error, CommandError::Usage { .. }), "{error:?}");
            assert!(error.to_string().ends_with(&format!("found {found}")), "{error}");
        }
    }
}
