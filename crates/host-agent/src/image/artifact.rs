//! How finished images lie in the output folder: a file named by its digest, beside it a description with the
//! digest of everything that went into it. Must never describe a file that is not whole: the file is moved into
//! place first, then the description.

use super::{ImageError, file_error};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Rises when the builder makes something else of the same inputs.
pub const BUILDER_VERSION: u32 = 1;

/// What an image is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageKind {
    /// Kernel and initramfs of a small guest.
    Small,
    /// Packages and a service, read only.
    Package,
    /// A full Debian with its own kernel.
    Full,
}

/// Description of a finished image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageMetadata {
    /// What people call it.
    pub name: String,
    /// Version of the main software in it.
    pub version: String,
    /// What it is for.
    pub kind: ImageKind,
    /// Digest of everything that went into it.
    pub inputs: String,
    /// Its files by role (`image`, `kernel`, `initramfs`, …): name in the same folder, digest, size.
    pub files: BTreeMap<String, ImageFile>,
    /// What is in it.
    pub packages: Vec<super::apt::Package>,
}

/// A file of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFile {
    /// Name in the folder of the description.
    pub file: String,
    /// SHA-256, in hex.
    pub sha256: String,
    /// Size in bytes.
    pub bytes: u64,
}

/// Hex digits of a digest.
fn hex(digest: &[u8]) -> String {
    digest.iter().fold(String::with_capacity(64), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// SHA-256 of a value in its JSON form.
pub fn digest_of<T: Serialize>(what: &'static str, value: &T) -> Result<String, ImageError> {
    let data = serde_json::to_vec(value).map_err(|source| ImageError::Json { what, source })?;
    Ok(hex(&Sha256::digest(&data)))
}

/// SHA-256 of a file.
pub fn digest_file(path: &Path) -> Result<String, ImageError> {
    let mut file = File::open(path).map_err(file_error("open", path))?;
    let mut hasher = Sha256::new();
    let mut chunk = vec![0u8; 1 << 20];
    loop {
        let got = file.read(&mut chunk).map_err(file_error("read", path))?;
        if got == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&chunk[..got]);
    }
}

/// What folders of builds begin with.
const SCRATCH: &str = ".build-";

/// What is mounted where (Linux, Documentation/filesystems/proc.rst).
const MOUNTS: &str = "/proc/self/mountinfo";

/// Removes folders of builds that were cut short; one into which something is mounted stays, for that is the host's.
fn sweep(dir: &Path, mounts: &str) -> std::io::Result<()> {
    let dir = dir.canonicalize()?;
    // The fifth word of a line is where it is mounted; a space in it is written as \040.
    let mounted =
        || mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(|at| at.replace("\\040", " "));
    for entry in std::fs::read_dir(&dir)? {
        let entry = entry?;
        let is_scratch = entry.file_name().to_string_lossy().starts_with(SCRATCH);
        if is_scratch
            && entry.file_type()?.is_dir()
            && !mounted().any(|at| Path::new(&at).starts_with(entry.path()))
        {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// The output folder, held against other builders while this lives.
pub struct OutputDir {
    dir: PathBuf,
    _lock: File,
}

impl OutputDir {
    /// Opens the folder, made when missing; waits for another builder to end.
    pub fn open(dir: &Path) -> Result<Self, ImageError> {
        std::fs::create_dir_all(dir).map_err(file_error("make", dir))?;
        let path = dir.join(".lock");
        let lock = File::create(&path).map_err(file_error("open", &path))?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|e| file_error("lock", &path)(e.into()))?;
        // Held by us, so nobody builds there: what is left is of builds that were cut short.
        let mounts = std::fs::read_to_string(MOUNTS).map_err(file_error("read", Path::new(MOUNTS)))?;
        sweep(dir, &mounts).map_err(file_error("clear", dir))?;
        Ok(Self { dir: dir.to_path_buf(), _lock: lock })
    }

    /// A folder for a build, gone when dropped. On the same file system, so that finished files can be moved.
    pub fn scratch(&self) -> Result<tempfile::TempDir, ImageError> {
        tempfile::Builder::new()
            .prefix(SCRATCH)
            .tempdir_in(&self.dir)
            .map_err(file_error("make a folder in", &self.dir))
    }

    fn description(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.json"))
    }

    /// The image of this name, if it was made from the same inputs and its files are whole in size.
    pub fn existing(&self, name: &str, inputs: &str) -> Option<ImageMetadata> {
        let data = std::fs::read(self.description(name)).ok()?;
        let found: ImageMetadata = serde_json::from_slice(&data).ok()?;
        let whole = |file: &ImageFile| {
            std::fs::metadata(self.dir.join(&file.file)).is_ok_and(|metadata| metadata.len() == file.bytes)
        };
        (found.inputs == inputs && found.files.values().all(whole)).then_some(found)
    }

    /// Path of a file of an image.
    pub fn path(&self, metadata: &ImageMetadata, role: &str) -> PathBuf {
        metadata.files.get(role).map_or_else(|| self.dir.clone(), |file| self.dir.join(&file.file))
    }

    /// Moves a finished file into place, named by its digest, readable for the VMs' user.
    pub fn take(&self, file: &Path, stem: &str, extension: &str) -> Result<ImageFile, ImageError> {
        use std::os::unix::fs::PermissionsExt;
        let sha256 = digest_file(file)?;
        let name = format!("{stem}-{}.{extension}", &sha256[..12]);
        let target = self.dir.join(&name);
        let bytes = std::fs::metadata(file).map_err(file_error("look at", file))?.len();
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o644))
            .map_err(file_error("open up", file))?;
        std::fs::rename(file, &target).map_err(file_error("move into place", &target))?;
        Ok(ImageFile { file: name, sha256, bytes })
    }

    /// Writes the description: from now on the image exists.
    pub fn publish(&self, metadata: &ImageMetadata) -> Result<(), ImageError> {
        let source = |source| ImageError::Json { what: "an image's description", source };
        let data = serde_json::to_vec_pretty(metadata).map_err(source)?;
        let target = self.description(&metadata.name);
        let fresh = target.with_extension("json.new");
        std::fs::write(&fresh, data).map_err(file_error("write", &fresh))?;
        std::fs::rename(&fresh, &target).map_err(file_error("move into place", &target))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_build_that_was_cut_short_left_is_cleared_and_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let left = temp.path().join(".build-a b");
        for dir in [&left, &temp.path().join(".build-mounted/inside"), &temp.path().join("guest")] {
            std::fs::create_dir_all(dir).unwrap();
            std::fs::write(dir.join("file"), b"x").unwrap();
        }
        let out = OutputDir::open(temp.path()).unwrap();
        assert!(!left.exists() && temp.path().join("guest/file").exists());
        // Of a build that is under way, or into which something is mounted.
        let scratch = out.scratch().unwrap();
        assert!(scratch.path().is_dir());
        let at = temp.path().canonicalize().unwrap().join(".build-m n");
        std::fs::create_dir(&at).unwrap();
        let line = |at: &str| format!("1 2 0:3 / {at} rw - proc proc rw");
        let mounts = line(&at.join("proc").display().to_string().replace(' ', "\\040"));
        sweep(temp.path(), &mounts).unwrap();
        assert!(at.is_dir());
        sweep(temp.path(), &line("/proc")).unwrap();
        assert!(!at.exists());
    }

    #[test]
    fn an_image_exists_only_whole_and_from_the_same_inputs() {
        let temp = tempfile::tempdir().unwrap();
        let out = OutputDir::open(temp.path()).unwrap();
        let file = temp.path().join("made");
        std::fs::write(&file, b"content").unwrap();
        let taken = out.take(&file, "web-1", "erofs").unwrap();
        assert!(taken.file.starts_with("web-1-ed7002b439e9"), "{}", taken.file);
        let metadata = ImageMetadata {
            name: "web".into(),
            version: "1".into(),
            kind: ImageKind::Package,
            inputs: "in".into(),
            files: [("image".to_owned(), taken)].into(),
            packages: vec![],
        };
        out.publish(&metadata).unwrap();
        assert_eq!(out.existing("web", "in"), Some(metadata.clone()));
        assert_eq!(out.existing("web", "other"), None);
        std::fs::write(out.path(&metadata, "image"), b"cut").unwrap();
        assert_eq!(out.existing("web", "in"), None);
    }
}
