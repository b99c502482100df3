//! What is mounted, line by line of `/proc/self/mountinfo` (proc_pid_mountinfo(5)). Must never hold the whole of it: a
//! machine with containers has thousands.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

/// The file.
pub const MOUNTS: &str = "/proc/self/mountinfo";
/// Most lines that are read.
const LINES_MAX: usize = 8192;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Major and minor number of the file system's device.
    pub device: String,
    /// Which folder of the file system is mounted.
    pub root: PathBuf,
    /// Where.
    pub point: PathBuf,
    /// Options of the mount.
    pub options: String,
    /// Kind of file system.
    pub kind: String,
    /// What is mounted.
    pub source: String,
}

/// Undoes `\040` and its like.
fn plain(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut at = 0;
    while at < field.len() {
        let code = field.get(at + 1..at + 4).filter(|_| field[at] == b'\\');
        let code = code.filter(|code| code.iter().all(|digit| (b'0'..=b'7').contains(digit)));
        let byte = code.map(|code| code.iter().fold(0u32, |sum, digit| sum * 8 + u32::from(digit - b'0')));
        out.push(byte.and_then(|byte| u8::try_from(byte).ok()).unwrap_or(field[at]));
        at += if byte.is_some() { 4 } else { 1 };
    }
    out
}

fn path(field: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    PathBuf::from(std::ffi::OsString::from_vec(plain(field)))
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(&plain(field)).into_owned()
}

/// One line; `None`: it is none of a mount.
pub fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ').filter(|field| !field.is_empty());
    let device = text(fields.nth(2)?);
    let (root, point, options) = (path(fields.next()?), path(fields.next()?), text(fields.next()?));
    // Optional fields, until one that is a dash.
    fields.find(|field| *field == b"-")?;
    Some(Mount { device, root, point, options, kind: text(fields.next()?), source: text(fields.next()?) })
}

/// Each mount, in the order in which they were made; false: the list could not be read to its end.
pub fn each_mount(file: &Path, mut on_mount: impl FnMut(Mount)) -> bool {
    let Ok(file) = File::open(file) else { return false };
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    for _ in 0..LINES_MAX {
        line.clear();
        match reader.read_until(b'\n', &mut line) {
            Ok(0) => return true,
            Ok(_) => parse(line.trim_ascii_end()).into_iter().for_each(&mut on_mount),
            Err(_) => return false,
        }
    }
    reader.fill_buf().is_ok_and(<[u8]>::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_with_its_optional_fields_and_its_spaces() {
        let line =
            b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue";
        let mount = parse(line).unwrap();
        assert_eq!((mount.device.as_str(), mount.root.to_str()), ("98:0", Some("/mnt1")));
        assert_eq!((mount.point.to_str(), mount.options.as_str()), (Some("/mnt 2"), "rw,noatime"));
        assert_eq!((mount.kind.as_str(), mount.source.as_str()), ("ext3", "/dev/root"));
        for bad in [&b""[..], b"36 35", b"36 35 98:0 / / rw master:1", b"36 35 98:0 / / rw - ext3"] {
            assert_eq!(parse(bad), None);
        }
        assert_eq!(plain(b"a\\9\\04"), b"a\\9\\04");
    }

    #[test]
    fn a_list_that_is_cut_is_not_whole() {
        let path = std::env::temp_dir().join(format!("proteus-mounts-{}", std::process::id()));
        let line = "1 0 8:1 / / rw - ext4 /dev/vda rw\n";
        let read = |lines: usize| {
            std::fs::write(&path, line.repeat(lines)).unwrap();
            let mut count = 0;
            (each_mount(&path, |_| count += 1), count)
        };
        assert_eq!((read(LINES_MAX), read(LINES_MAX + 1)), ((true, LINES_MAX), (false, LINES_MAX)));
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn this_machine_has_mounts() {
        let mut count = 0;
        assert!(each_mount(Path::new(MOUNTS), |_| count += 1) && count > 0);
    }
}
