//! Writes an initramfs in the kernel's "newc" format (Linux,
//! Documentation/driver-api/early-userspace/buffer-format.rst). The same entries give the same bytes.

use std::io::{self, Write};

/// What an entry is.
pub enum Entry<'a> {
    /// A folder.
    Directory,
    /// A file with its content.
    File(&'a [u8]),
    /// A link to a path.
    Link(&'a str),
    /// A character device.
    Device {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

/// Writes entries one after another.
pub struct CpioWriter<W: Write> {
    out: W,
    inode: u32,
}

/// Type bits of `st_mode` (inode(7)).
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;
const S_IFCHR: u32 = 0o020_000;

impl<W: Write> CpioWriter<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        Self { out, inode: 0 }
    }

    /// Adds an entry owned by root. Folders must come before what is in them.
    pub fn add(&mut self, path: &str, permissions: u32, entry: &Entry<'_>) -> io::Result<()> {
        let (kind, data, device): (u32, &[u8], (u32, u32)) = match entry {
            Entry::Directory => (S_IFDIR, b"", (0, 0)),
            Entry::File(data) => (S_IFREG, data, (0, 0)),
            Entry::Link(target) => (S_IFLNK, target.as_bytes(), (0, 0)),
            Entry::Device { major, minor } => (S_IFCHR, b"", (*major, *minor)),
        };
        self.inode += 1;
        self.write_entry(path, self.inode, kind | permissions, data, device)
    }

    fn write_entry(
        &mut self,
        path: &str,
        inode: u32,
        mode: u32,
        data: &[u8],
        device: (u32, u32),
    ) -> io::Result<()> {
        let path = path.trim_start_matches('/');
        let size = u32::try_from(data.len()).map_err(io::Error::other)?;
        let name_bytes = path.len() as u32 + 1;
        let (major, minor) = device;
        let fields = [inode, mode, 0, 0, 1, 0, size, 0, 0, major, minor, name_bytes, 0];
        self.out.write_all(b"070701")?;
        for field in fields {
            write!(self.out, "{field:08X}")?;
        }
        self.out.write_all(path.as_bytes())?;
        self.out.write_all(b"\0")?;
        // Header of 6 + 13 × 8 = 110 bytes, and the name, up to a multiple of four.
        self.pad(110 + path.len() + 1)?;
        self.out.write_all(data)?;
        self.pad(data.len())
    }

    fn pad(&mut self, written: usize) -> io::Result<()> {
        self.out.write_all(&[0; 3][..written.next_multiple_of(4) - written])
    }

    /// Ends the archive.
    pub fn finish(mut self) -> io::Result<W> {
        self.write_entry("TRAILER!!!", 0, 0, b"", (0, 0))?;
        Ok(self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_end_with_a_trailer() {
        let mut writer = CpioWriter::new(Vec::new());
        writer.add("/etc", 0o755, &Entry::Directory).unwrap();
        writer.add("/etc/a", 0o644, &Entry::File(b"hello")).unwrap();
        writer.add("/b", 0o777, &Entry::Link("etc/a")).unwrap();
        writer.add("/c", 0o600, &Entry::Device { major: 5, minor: 1 }).unwrap();
        let bytes = writer.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let heads: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(b"070701")).collect();
        assert_eq!(heads.len(), 5);
        assert!(heads.iter().all(|at| at % 4 == 0));
        assert_eq!(&bytes[heads[1] + 110..heads[1] + 116], b"etc/a\0");
        assert!(bytes.windows(10).any(|w| w == b"TRAILER!!!"));
    }
}
