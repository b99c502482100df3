//! The root directory of one generation of a service: its image, with memory on top for what it writes. Paths from
//! a manifest are resolved inside it by the kernel, so that no link in an image leads out. Unmounted when dropped.

use crate::execution::kernel::disk_name;
use crate::failure::Failure;
use crate::image::filesystem;
use proteus_protocol::guest::v1::service::User;
use proteus_protocol::guest::v1::setting::DiskSelector;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, unlinkat};
use rustix::fs::{
    FileType, Gid, Mode, OFlags, ResolveFlags, Uid, chmodat, chownat, makedev, mkdirat, mknodat, open,
    openat2,
};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const SERVICES: &str = "/run/proteus/service";

/// Devices that any program may expect: name, major, minor (Linux, Documentation/admin-guide/devices.txt).
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Links that any program may expect.
const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// A disk for a service's data.
#[derive(Debug, Clone)]
pub struct DataDisk<'a> {
    /// Serial of the disk.
    pub serial: &'a str,
    /// Where it goes.
    pub dir: &'a str,
}

/// A mounted root directory.
#[derive(Debug)]
pub struct Root {
    base: PathBuf,
    path: CString,
    fd: Option<OwnedFd>,
    data: Option<PathBuf>,
}

fn failure(operation: &str) -> impl Fn(Errno) -> Failure {
    move |error| Failure::system(operation, &error)
}

/// The kernel's own directory of an open descriptor: a path that needs no resolving inside the image.
fn by_descriptor(fd: BorrowedFd<'_>) -> PathBuf {
    use rustix::fd::AsRawFd;
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

impl Root {
    /// Mounts memory over an image.
    pub fn build(service: &str, number: u32, image: &Path, scratch_bytes: u64) -> Result<Self, Failure> {
        let base = Path::new(SERVICES).join(service).join(number.to_string());
        let path = base.join("root");
        let c_path = CString::new(path.as_os_str().as_bytes()).map_err(|e| Failure::invalid(&e))?;
        // From here on, dropping it undoes what was done.
        let mut root = Self { base: base.clone(), path: c_path, fd: None, data: None };
        let scratch = base.join("scratch");
        let io = |e: std::io::Error| Failure::system("make a service's folders", &e);
        std::fs::create_dir_all(&scratch).map_err(io)?;
        std::fs::create_dir_all(&path).map_err(io)?;
        let options =
            CString::new(format!("size={scratch_bytes},mode=755")).map_err(|e| Failure::invalid(&e))?;
        mount("tmpfs", &scratch, "tmpfs", MountFlags::NOSUID, Some(options.as_c_str()))
            .map_err(failure("mount memory for a service"))?;
        let (upper, work) = (scratch.join("upper"), scratch.join("work"));
        std::fs::create_dir(&upper).map_err(io)?;
        std::fs::create_dir(&work).map_err(io)?;
        let options =
            format!("lowerdir={},upperdir={},workdir={}", image.display(), upper.display(), work.display());
        let options = CString::new(options).map_err(|e| Failure::invalid(&e))?;
        mount("overlay", &path, "overlay", MountFlags::NOSUID, Some(options.as_c_str()))
            .map_err(failure("mount a service's root"))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        root.fd = Some(open(&path, flags, Mode::empty()).map_err(failure("open a service's root"))?);
        root.furnish()?;
        Ok(root)
    }

    /// Mounts a disk for data. Several generations may have it mounted at once.
    pub fn mount_data(&mut self, data: &DataDisk<'_>) -> Result<(), Failure> {
        let selector = DiskSelector::Serial(data.serial.to_owned());
        selector.validate().map_err(|e| Failure::invalid(&e))?;
        let device = Path::new("/dev").join(disk_name(&selector)?);
        let kind = filesystem(&device).unwrap_or("no file system that is known");
        if kind != "ext4" {
            let why = "and must hold ext4: `mkfs.ext4 FILE` makes one, of a raw file, before the VM starts";
            return Err(Failure::unsupported(format!("data disk {} holds {kind}, {why}", data.serial)));
        }
        self.ensure_directory(data.dir, User { uid: 0, gid: 0 }, 0o755)?;
        let fd = self
            .resolve(data.dir, OFlags::PATH | OFlags::DIRECTORY)
            .map_err(failure("open the data folder"))?;
        let target = by_descriptor(fd.as_fd());
        let real = std::fs::read_link(&target).map_err(|e| Failure::system("find the data folder", &e))?;
        mount(&device, &target, kind, MountFlags::NOSUID | MountFlags::NODEV, None)
            .map_err(failure("mount a data disk"))?;
        self.data = Some(real);
        Ok(())
    }

    /// Its path, seen from the agent.
    pub fn path(&self) -> &CStr {
        &self.path
    }

    fn dir(&self) -> Result<BorrowedFd<'_>, Errno> {
        self.fd.as_ref().map(AsFd::as_fd).ok_or(Errno::BADF)
    }

    fn resolve(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        openat2(self.dir()?, path, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT)
    }

    /// Whether a path exists inside.
    pub fn exists(&self, path: &str) -> bool {
        self.resolve(path, OFlags::PATH).is_ok()
    }

    /// Makes a directory inside, with those above it; the last gets owner and mode.
    pub fn ensure_directory(&self, path: &str, user: User, mode: u32) -> Result<(), Failure> {
        let at = |e: Errno| Failure::system(format!("make folder {path} of a service"), &e);
        let mut so_far = String::new();
        let mut parent = self.resolve("/", OFlags::PATH | OFlags::DIRECTORY).map_err(at)?;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            so_far.push('/');
            so_far.push_str(part);
            match mkdirat(&parent, part, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(at(error)),
            }
            parent = self.resolve(&so_far, OFlags::PATH | OFlags::DIRECTORY).map_err(at)?;
        }
        let target = by_descriptor(parent.as_fd());
        let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
        chownat(rustix::fs::CWD, &target, Some(uid), Some(gid), AtFlags::empty()).map_err(at)?;
        chmodat(rustix::fs::CWD, &target, Mode::from_raw_mode(mode), AtFlags::empty()).map_err(at)
    }

    /// What every program may expect: `/dev` with the harmless devices, `/proc`, `/run`, `/tmp`.
    fn furnish(&self) -> Result<(), Failure> {
        let owner = User { uid: 0, gid: 0 };
        for (path, mode) in [
            ("/dev", 0o755),
            ("/dev/shm", 0o1777),
            ("/proc", 0o555),
            ("/run", 0o755),
            ("/tmp", 0o1777),
            ("/sys", 0o555),
        ] {
            self.ensure_directory(path, owner, mode)?;
        }
        let at = failure("make the devices of a service");
        let dev = self.resolve("/dev", OFlags::RDONLY | OFlags::DIRECTORY).map_err(&at)?;
        for (name, major, minor) in DEVICES {
            ensure_absent(&dev, name).map_err(&at)?;
            let mode = Mode::from_raw_mode(0o666);
            mknodat(&dev, name, FileType::CharacterDevice, mode, makedev(major, minor)).map_err(&at)?;
            chmodat(&dev, name, mode, AtFlags::empty()).map_err(&at)?;
        }
        for (name, target) in LINKS {
            ensure_absent(&dev, name).map_err(&at)?;
            rustix::fs::symlinkat(target, &dev, name).map_err(&at)?;
        }
        Ok(())
    }
}

fn ensure_absent(dir: &OwnedFd, name: &str) -> Result<(), Errno> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        self.fd = None;
        // Detached: a process of the service that is about to end may still hold it. Not mounted is fine too.
        if let Some(data) = &self.data {
            let _ = unmount(data, UnmountFlags::DETACH);
        }
        let _ = unmount(self.path.as_c_str(), UnmountFlags::DETACH);
        let _ = unmount(self.base.join("scratch"), UnmountFlags::DETACH);
        for folder in ["root", "scratch"] {
            let _ = std::fs::remove_dir(self.base.join(folder));
        }
        let _ = std::fs::remove_dir(&self.base);
    }
}
