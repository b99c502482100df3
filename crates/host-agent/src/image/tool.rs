//! Runs the programs that build images. Arguments are never put together to a shell's text. Must always say which
//! package brings a program that is missing.

use super::ImageError;
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Of what a failed program said, the last this much is shown.
const SAID_BYTES_MAX: usize = 600;

/// A program and the Debian package that has it.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    /// Its name.
    pub program: &'static str,
    /// The package.
    pub package: &'static str,
    /// What may help when it fails.
    pub hint: &'static str,
}

/// Resolves and downloads packages.
pub const APT_GET: Tool =
    Tool { program: "apt-get", package: "apt", hint: "\nhint: apt-get update may help" };
/// Unpacks packages.
pub const DPKG_DEB: Tool = Tool { program: "dpkg-deb", package: "dpkg", hint: "" };
/// Unpacks what `dpkg-deb` gives.
pub const TAR: Tool = Tool { program: "tar", package: "tar", hint: "" };
/// Knows which module needs which.
pub const DEPMOD: Tool = Tool { program: "depmod", package: "kmod", hint: "" };
/// Makes erofs images.
pub const MKFS_EROFS: Tool = Tool { program: "mkfs.erofs", package: "erofs-utils", hint: "" };
/// Makes squashfs images.
pub const MKSQUASHFS: Tool = Tool { program: "mksquashfs", package: "squashfs-tools", hint: "" };
/// Makes the cache of shared libraries.
pub const LDCONFIG: Tool = Tool { program: "ldconfig", package: "libc-bin", hint: "" };
/// Installs a Debian into a folder.
pub const DEBOOTSTRAP: Tool = Tool { program: "debootstrap", package: "debootstrap", hint: "" };
/// Runs a program whose mounts nobody else sees, and which end with it.
const UNSHARE: Tool = Tool { program: "unshare", package: "util-linux", hint: "" };
/// Runs a program of such a folder in it.
pub const CHROOT: Tool = Tool { program: "chroot", package: "coreutils", hint: "" };
/// Makes a disk's file system from a folder.
pub const MKFS_EXT4: Tool = Tool { program: "mkfs.ext4", package: "e2fsprogs", hint: "" };
/// Converts disks.
pub const QEMU_IMG: Tool = Tool { program: "qemu-img", package: "qemu-utils", hint: "" };

/// Makes the disk for cloud-init.
pub const XORRISO: Tool = Tool { program: "xorriso", package: "xorriso", hint: "" };

/// Folders for administrators' programs, which an ordinary user's search path lacks.
const EXTRA_PATHS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

impl Tool {
    /// Where it is.
    pub fn find(self) -> Result<std::path::PathBuf, ImageError> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .chain(EXTRA_PATHS.map(Into::into))
            .map(|dir| dir.join(self.program))
            .find(|file| file.is_file())
            .ok_or(ImageError::MissingTool { program: self.program, package: self.package })
    }

    /// A command that speaks the C locale and reads nothing.
    pub fn command(self) -> Result<Command, ImageError> {
        let mut command = Command::new(self.find()?);
        command.stdin(Stdio::null()).env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
        Ok(command)
    }

    fn failure(self, operation: &str, output: &Output) -> ImageError {
        let said = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
        let from = said.len().saturating_sub(SAID_BYTES_MAX);
        ImageError::Tool {
            operation: operation.to_owned(),
            program: self.program.to_owned(),
            status: output.status,
            said: String::from_utf8_lossy(&said[from..]).trim().to_owned(),
            hint: self.hint,
        }
    }

    /// Runs it to its end, and gives its standard output.
    pub fn run<A: AsRef<OsStr>>(
        self,
        operation: &str,
        dir: &Path,
        args: impl IntoIterator<Item = A>,
    ) -> Result<Vec<u8>, ImageError> {
        let mut command = self.command()?;
        self.finish(operation, command.args(args).current_dir(dir))
    }

    /// The same of one that mounts into a folder, as `/proc`: cut short it would leave that there, and whoever removes the
    /// folder would remove what is the host's.
    pub fn run_with_mounts<A: AsRef<OsStr>>(
        self,
        operation: &str,
        dir: &Path,
        args: impl IntoIterator<Item = A>,
    ) -> Result<Vec<u8>, ImageError> {
        let program = self.find()?;
        let mut command = UNSHARE.command()?;
        command.args(["--mount", "--propagation", "private"]).arg(program).args(args);
        self.finish(operation, command.current_dir(dir))
    }

    fn finish(self, operation: &str, command: &mut Command) -> Result<Vec<u8>, ImageError> {
        let output = command.output().map_err(|source| self.not_run(operation, source))?;
        if output.status.success() { Ok(output.stdout) } else { Err(self.failure(operation, &output)) }
    }

    fn not_run(self, operation: &str, source: std::io::Error) -> ImageError {
        ImageError::Run { operation: operation.to_owned(), program: self.program.to_owned(), source }
    }
}

/// Unpacks a package over a tree. Through `tar`, because `dpkg-deb -x` replaces the links of a merged `/usr`.
pub fn unpack(package: &Path, tree: &Path) -> Result<(), ImageError> {
    let operation = format!("unpack {}", package.display());
    let mut source = DPKG_DEB.command()?;
    let mut source = source
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| DPKG_DEB.not_run(&operation, e))?;
    let mut sink = TAR.command()?;
    sink.args(["-x", "--keep-directory-symlink", "-p", "--numeric-owner", "-f", "-", "-C"]).arg(tree);
    if let Some(stdout) = source.stdout.take() {
        sink.stdin(stdout);
    }
    let output = sink.output().map_err(|e| TAR.not_run(&operation, e));
    let status = source.wait().map_err(|e| DPKG_DEB.not_run(&operation, e))?;
    let output = output?;
    match (status.success(), output.status.success()) {
        (true, true) => Ok(()),
        (false, _) => {
            Err(DPKG_DEB.failure(&operation, &Output { status, stdout: Vec::new(), stderr: Vec::new() }))
        }
        (true, false) => Err(TAR.failure(&operation, &output)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SH: Tool = Tool { program: "sh", package: "dash", hint: "" };

    #[test]
    fn what_is_mounted_is_seen_by_nobody_else_and_ends_with_the_program() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("proc");
        std::fs::create_dir(&inside).unwrap();
        let script = "mount -t proc proc proc && test -e proc/self && echo mounted && exit $1";
        let mount = |code: &str| SH.run_with_mounts("mount", dir.path(), ["-c", script, "sh", code]);
        assert_eq!(mount("0").unwrap(), b"mounted\n");
        // Also where it is cut short, with what it said.
        let error = mount("3").unwrap_err().to_string();
        assert!(error.contains("sh") && error.contains("mounted"), "{error}");
        assert_eq!(std::fs::read_dir(&inside).unwrap().count(), 0, "it is mounted still");
    }
}
