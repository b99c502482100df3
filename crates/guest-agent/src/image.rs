//! Read-only images on virtio disks. An image is found by the serial of its disk, recognised by its superblock, and
//! mounted aside: outside `/usr`, so that no mistake here can take the agent's own tools away.

use crate::execution::kernel::disk_name;
use crate::failure::Failure;
use proteus_protocol::guest::v1::service::{MANIFEST_BYTES_MAX, MANIFEST_PATH};
use proteus_protocol::guest::v1::setting::DiskSelector;
use proteus_protocol::guest::v1::{ErrorCode, ImageMounted, ServiceManifest};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const IMAGES: &str = "/run/proteus/image";
/// Most images at a time: as many as there are disks in a sample.
const IMAGES_MAX: usize = 32;

/// A mounted image.
#[derive(Debug, Clone)]
pub struct Image {
    /// Where.
    pub dir: PathBuf,
    /// Its service, if it has one.
    pub manifest: Option<ServiceManifest>,
    serial: String,
    disk: String,
    filesystem: &'static str,
}

/// All that are mounted.
#[derive(Debug, Default)]
pub struct Images {
    mounted: BTreeMap<String, Image>,
}

/// Which file system a block device holds, by its superblock.
pub fn filesystem(device: &Path) -> Result<&'static str, Failure> {
    let failure = |e: std::io::Error| Failure::system(format!("read {}", device.display()), &e);
    let file = File::open(device).map_err(failure)?;
    let mut block = [0u8; 2048];
    file.read_exact_at(&mut block, 0).map_err(failure)?;
    // Magic numbers of linux/magic.h, little endian, at the offsets of the three superblocks.
    if block[1024..1028] == 0xE0F5_E1E2_u32.to_le_bytes() {
        Ok("erofs")
    } else if block[..4] == *b"hsqs" {
        Ok("squashfs")
    } else if block[1080..1082] == 0xEF53_u16.to_le_bytes() {
        Ok("ext4")
    } else {
        Err(Failure::unsupported(format!("{} holds neither erofs, squashfs nor ext4", device.display())))
    }
}

fn check_name(name: &str) -> Result<(), Failure> {
    let ok = (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-');
    let message = || format!("image name {name:?} is refused: expected 1 to 63 of a-z, 0-9 and '-'");
    ok.then_some(()).ok_or_else(|| Failure::new(ErrorCode::Invalid, message()))
}

fn read_manifest(dir: &Path) -> Result<Option<ServiceManifest>, Failure> {
    let failure = |e: &dyn std::error::Error| Failure::system("read the image's service manifest", e);
    let root = File::open(dir).map_err(|e| failure(&e))?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    let file = match openat2(&root, MANIFEST_PATH, flags, Mode::empty(), resolve) {
        Ok(fd) => File::from(fd),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(error) => return Err(failure(&error)),
    };
    let mut data = Vec::new();
    file.take(MANIFEST_BYTES_MAX as u64 + 1).read_to_end(&mut data).map_err(|e| failure(&e))?;
    ServiceManifest::from_json(&data).map(Some).map_err(|e| Failure::invalid(&e))
}

impl Image {
    fn describe(&self, name: &str) -> ImageMounted {
        ImageMounted {
            name: name.to_owned(),
            disk: self.disk.clone(),
            filesystem: self.filesystem.to_owned(),
            service: self.manifest.as_ref().map(|m| m.name.clone()),
            version: self.manifest.as_ref().map(|m| m.version.clone()),
        }
    }
}

impl Images {
    /// A mounted image.
    pub fn get(&self, name: &str) -> Result<&Image, Failure> {
        self.mounted.get(name).ok_or_else(|| Failure::not_found(format!("image {name}")))
    }

    /// Mounts the image on the disk with this serial; `NotFound` while the disk is not there.
    pub fn ensure_mounted(&mut self, serial: &str, name: &str) -> Result<ImageMounted, Failure> {
        check_name(name)?;
        let selector = DiskSelector::Serial(serial.to_owned());
        selector.validate().map_err(|e| Failure::invalid(&e))?;
        if let Some(image) = self.mounted.get(name) {
            if image.serial == serial {
                return Ok(image.describe(name));
            }
            return Err(Failure::busy(format!("image {name} is mounted from disk {}", image.serial)));
        }
        if self.mounted.len() >= IMAGES_MAX {
            return Err(Failure::unsupported(format!("at most {IMAGES_MAX} images can be mounted")));
        }
        let disk = disk_name(&selector)?;
        let device = Path::new("/dev").join(&disk);
        let filesystem = filesystem(&device)?;
        let dir = Path::new(IMAGES).join(name);
        std::fs::create_dir_all(&dir).map_err(|e| Failure::system("make a mount point", &e))?;
        let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID;
        mount(&device, &dir, filesystem, flags, None)
            .map_err(|e| Failure::system(format!("mount {filesystem} from {disk}"), &e))?;
        let manifest = read_manifest(&dir).inspect_err(|_| {
            // Nothing uses it yet, so this cannot fail for being busy.
            let _ = unmount(&dir, UnmountFlags::empty());
        })?;
        let image = Image { dir, manifest, serial: serial.to_owned(), disk, filesystem };
        let described = image.describe(name);
        self.mounted.insert(name.to_owned(), image);
        Ok(described)
    }

    /// Unmounts an image that nothing uses.
    pub fn ensure_unmounted(&mut self, name: &str) -> Result<(), Failure> {
        let Some(image) = self.mounted.get(name) else { return Ok(()) };
        unmount(&image.dir, UnmountFlags::empty())
            .map_err(|e| Failure::system(format!("unmount image {name}"), &e))?;
        // A leftover empty folder harms nobody.
        let _ = std::fs::remove_dir(&image.dir);
        self.mounted.remove(name);
        Ok(())
    }
}
