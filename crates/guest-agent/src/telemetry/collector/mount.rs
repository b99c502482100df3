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
    use crate::fuzz::{Random, mutate, run};
    use std::os::unix::ffi::OsStrExt;

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

    /// As the kernel writes it.
    fn escaped(text: &[u8]) -> Vec<u8> {
        let one = |byte: &u8| match byte {
            b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}").into_bytes(),
            byte => vec![*byte],
        };
        text.iter().flat_map(one).collect()
    }

    #[test]
    fn a_line_of_any_bytes() {
        let pieces: [&[u8]; 8] = [b" ", b"- ", b" - ", b"\\", b"\\040", b"\\777", b"\\8", &[0xFF]];
        let make = |random: &mut Random| {
            let letters = b"ab/ \t\n\\-.\xff";
            let word = |random: &mut Random| -> Vec<u8> {
                (0..1 + random.below(12)).map(|_| letters[random.below(letters.len())]).collect()
            };
            let (root, point, source) = (word(random), word(random), word(random));
            let mut line = b"36 35 98:0 ".to_vec();
            line.extend([escaped(&root), escaped(&point)].join(&b' '));
            line.extend_from_slice(b" rw,noatime shared:2 - ext4 ");
            line.extend([escaped(&source), b"rw".to_vec()].join(&b' '));
            let mount = parse(&line).unwrap();
            assert_eq!(
                (mount.root.as_os_str().as_bytes(), mount.point.as_os_str().as_bytes()),
                (&root[..], &point[..])
            );
            assert_eq!((mount.device.as_str(), mount.kind.as_str()), ("98:0", "ext4"));
            assert_eq!(mount.source, String::from_utf8_lossy(&source));
            mutate(random, &mut line, &pieces);
            line
        };
        run(20_000, make, |line: &Vec<u8>| {
            let Some(mount) = parse(line) else { return false };
            let length = mount.root.as_os_str().len() + mount.point.as_os_str().len();
            assert!(length <= line.len(), "{mount:?} is longer than its line");
            // A byte that is none of UTF-8 becomes one letter of three.
            let texts = mount.device.len() + mount.options.len() + mount.kind.len() + mount.source.len();
            assert!(texts <= 3 * line.len(), "{mount:?}");
            assert!(!mount.device.is_empty() && !mount.kind.is_empty());
            true
        });
    }
}
