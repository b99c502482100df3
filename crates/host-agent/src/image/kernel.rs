//! Which of a kernel's modules a small guest gets, in the order in which they can be loaded. The agent loads them
//! one after another; there is no `modprobe` in the guest.

use super::tool::DEPMOD;
use super::{ImageError, file_error};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Without these a guest does not start, or cannot be reached.
const REQUIRED: [&str; 6] = ["virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "overlay", "erofs"];

/// With these it can do more; a kernel may have them built in, or not at all.
const WANTED: [&str; 33] = [
    "crc32c_intel",
    "virtio_balloon",
    "virtio_mem",
    "virtio_rng",
    "squashfs",
    "ext4",
    "loop",
    "button",
    "evdev",
    "nf_tables",
    "nft_ct",
    "nft_limit",
    "nft_socket",
    "nft_reject_inet",
    "nft_log",
    "nft_nat",
    "nft_redir",
    "nft_masq",
    "inet_diag",
    "tcp_diag",
    "tcp_bbr",
    "sch_fq",
    "sch_htb",
    "kyber_iosched",
    "bfq",
    "mq_deadline",
    "zram",
    "bonding",
    "e1000e",
    "vmxnet3",
    "vmw_vsock_virtio_transport",
    "virtio_pmem",
    "nd_pmem",
];

/// Modules of a kernel.
pub struct Modules {
    /// Folder with `modules.dep`.
    dir: PathBuf,
    dependencies: BTreeMap<String, (PathBuf, Vec<PathBuf>)>,
    builtin: BTreeSet<String>,
}

/// Name of a module, as the kernel says it: the file may be written with a dash.
fn module_name(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    Some(file.split(".ko").next()?.replace('-', "_"))
}

impl Modules {
    /// Reads what a kernel brings; `tree` holds its unpacked package.
    pub fn read(tree: &Path, release: &str) -> Result<Self, ImageError> {
        let base = tree.to_string_lossy().into_owned();
        DEPMOD.run("find out which module needs which", tree, ["-b", &base, release])?;
        let dir = tree.join("lib/modules").join(release);
        let read = |name: &str| {
            let path = dir.join(name);
            std::fs::read_to_string(&path).map_err(file_error("read", &path))
        };
        let mut dependencies = BTreeMap::new();
        for line in read("modules.dep")?.lines() {
            let Some((path, needs)) = line.split_once(':') else { continue };
            let Some(name) = module_name(path) else { continue };
            let needs = needs.split_ascii_whitespace().map(PathBuf::from).collect();
            dependencies.insert(name, (PathBuf::from(path), needs));
        }
        let builtin = read("modules.builtin")?.lines().filter_map(module_name).collect();
        Ok(Self { dir, dependencies, builtin })
    }

    /// Files in the order in which they can be loaded.
    pub fn choose(&self, release: &str) -> Result<Vec<PathBuf>, ImageError> {
        for module in REQUIRED {
            if !self.dependencies.contains_key(module) && !self.builtin.contains(module) {
                return Err(ImageError::NoModule { release: release.to_owned(), module });
            }
        }
        let mut chosen = Vec::new();
        for name in WANTED.iter().take(1).chain(&REQUIRED).chain(&WANTED[1..]) {
            if let Some((path, _)) = self.dependencies.get(*name) {
                self.add(path, &mut chosen);
            }
        }
        Ok(chosen.into_iter().map(|path| self.dir.join(path)).collect())
    }

    /// Adds a module after everything that it needs. The graph has no circle: `depmod` refuses one.
    fn add(&self, path: &Path, chosen: &mut Vec<PathBuf>) {
        if chosen.iter().any(|known| known == path) {
            return;
        }
        let name = module_name(&path.to_string_lossy()).unwrap_or_default();
        if let Some((_, needs)) = self.dependencies.get(&name) {
            for need in needs {
                self.add(need, chosen);
            }
        }
        chosen.push(path.to_path_buf());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let entry = |path: &str, needs: &[&str]| {
            let needs = needs.iter().map(PathBuf::from).collect();
            (module_name(path).unwrap(), (PathBuf::from(path), needs))
        };
        let modules = Modules {
            dir: PathBuf::from("/m"),
            dependencies: BTreeMap::from([
                entry("a/virtio-ring.ko", &[]),
                entry("a/virtio.ko", &["a/virtio-ring.ko"]),
                entry("b/virtio_net.ko", &["a/virtio.ko", "a/virtio-ring.ko"]),
                entry("b/virtio_blk.ko", &["a/virtio.ko", "a/virtio-ring.ko"]),
            ]),
            builtin: ["virtio_pci", "virtio_console", "overlay", "erofs"].map(str::to_owned).into(),
        };
        let chosen = modules.choose("6").unwrap();
        let names: Vec<_> = chosen.iter().map(|p| p.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["virtio-ring.ko", "virtio.ko", "virtio_blk.ko", "virtio_net.ko"]);
    }

    #[test]
    fn a_kernel_without_a_disk_driver_is_refused() {
        let modules =
            Modules { dir: PathBuf::new(), dependencies: BTreeMap::new(), builtin: BTreeSet::new() };
        assert!(matches!(modules.choose("6"), Err(ImageError::NoModule { module: "virtio_pci", .. })));
    }
}
