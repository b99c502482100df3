//! The small guest: Debian's cloud kernel, and an initramfs whose first process is the static agent. Beside the
//! agent it has the chosen kernel modules, `nft` with its libraries (for network policies), and busybox (for
//! people who look inside).

use super::apt::{self, Package};
use super::artifact::{BUILDER_VERSION, ImageKind, ImageMetadata, OutputDir, digest_file, digest_of};
use super::cpio::{CpioWriter, Entry};
use super::kernel::Modules;
use super::{ImageError, Progress, elf, file_error, tree};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Name of the image.
const NAME: &str = "small";
/// Depends on the newest cloud kernel.
const KERNEL: &str = "linux-image-cloud-amd64";
/// Where the agent looks for the order of the modules.
const MODULE_LIST: &str = "etc/proteus/modules";
/// Programs of busybox that get a name of their own.
const APPLETS: [&str; 34] = [
    "sh", "cat", "ls", "ps", "top", "free", "df", "du", "mount", "umount", "ip", "ping", "nc", "wget",
    "grep", "sed", "head", "tail", "wc", "dd", "sleep", "kill", "uname", "dmesg", "vi", "less", "find",
    "echo", "env", "date", "id", "nproc", "taskset", "chroot",
];

/// What to build a small guest from.
#[derive(Debug, Clone)]
pub struct SmallOptions<'a> {
    /// The static agent.
    pub agent: &'a Path,
    /// Whether people find a shell in it (2 MB more memory).
    pub busybox: bool,
}

/// A finished small guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmallGuest {
    /// For `-kernel`.
    pub kernel: PathBuf,
    /// For `-initrd`.
    pub initramfs: PathBuf,
    /// Its description; the version is the kernel's release.
    pub metadata: ImageMetadata,
    /// Whether it was there already.
    pub reused: bool,
}

/// The kernel package that the meta package stands for, and what else goes in.
fn choose_packages(
    options: &SmallOptions<'_>,
    scratch: &Path,
) -> Result<(Package, Vec<Package>), ImageError> {
    let found = apt::closure(&[KERNEL.to_owned()], scratch)?;
    let is_kernel = |package: &&Package| package.name.starts_with("linux-image-") && package.name != KERNEL;
    let kernel = found.iter().find(is_kernel).cloned();
    let kernel = kernel.ok_or_else(|| ImageError::NoPackage { name: KERNEL.to_owned() })?;
    let mut wanted = vec!["nftables".to_owned()];
    if options.busybox {
        wanted.push("busybox-static".to_owned());
    }
    Ok((kernel, apt::closure(&wanted, scratch)?))
}

/// Builds the small guest into a folder, unless it is there from the same inputs.
pub fn build_small(
    options: &SmallOptions<'_>,
    out: &Path,
    progress: Progress<'_>,
) -> Result<SmallGuest, ImageError> {
    if !elf::is_static(options.agent)? {
        return Err(ImageError::NotStatic { path: options.agent.to_path_buf() });
    }
    let dir = OutputDir::open(out)?;
    let scratch = dir.scratch()?;
    progress("small guest: finding packages");
    let (kernel, tools) = choose_packages(options, scratch.path())?;
    let agent = digest_file(options.agent)?;
    let inputs = digest_of("a build's inputs", &(BUILDER_VERSION, &kernel, &tools, agent, options.busybox))?;
    let release = kernel.name.trim_start_matches("linux-image-").to_owned();
    if let Some(metadata) = dir.existing(NAME, &inputs) {
        progress("small guest: up to date");
        return Ok(finished(&dir, metadata, true));
    }
    let mut packages = vec![kernel];
    packages.extend(tools);
    let files = apt::download(&packages, scratch.path(), progress)?;
    let kernel_tree = scratch.path().join("kernel");
    tree::unpack_all(&files[..1], &kernel_tree, progress)?;
    let tool_tree = scratch.path().join("tools");
    tree::unpack_all(&files[1..], &tool_tree, progress)?;
    let modules = Modules::read(&kernel_tree, &release)?.choose(&release)?;
    progress(&format!("small guest: packing {} modules", modules.len()));
    let packed = scratch.path().join("initramfs");
    pack(options, &modules, &tool_tree, &packed)?;
    let vmlinuz = kernel_tree.join("boot").join(format!("vmlinuz-{release}"));
    let initramfs = dir.take(&packed, &format!("small-{release}"), "cpio")?;
    let vmlinuz = dir.take(&vmlinuz, "vmlinuz", "bin")?;
    let metadata = ImageMetadata {
        name: NAME.to_owned(),
        version: release,
        kind: ImageKind::Small,
        inputs,
        files: [("initramfs".to_owned(), initramfs), ("kernel".to_owned(), vmlinuz)].into(),
        packages,
    };
    dir.publish(&metadata)?;
    Ok(finished(&dir, metadata, false))
}

fn finished(dir: &OutputDir, metadata: ImageMetadata, reused: bool) -> SmallGuest {
    let (kernel, initramfs) = (dir.path(&metadata, "kernel"), dir.path(&metadata, "initramfs"));
    SmallGuest { kernel, initramfs, metadata, reused }
}

/// Adds files to an initramfs, and the folders above them once.
struct Packer<W: Write> {
    cpio: CpioWriter<W>,
    folders: BTreeSet<String>,
    target: PathBuf,
}

impl<W: Write> Packer<W> {
    fn add(&mut self, path: &str, mode: u32, entry: &Entry<'_>) -> Result<(), ImageError> {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        for depth in 1..parts.len() {
            let folder = parts[..depth].join("/");
            if self.folders.insert(folder.clone()) {
                self.write(&folder, 0o755, &Entry::Directory)?;
            }
        }
        let path = parts.join("/");
        if matches!(entry, Entry::Directory) && !self.folders.insert(path.clone()) {
            return Ok(());
        }
        self.write(&path, mode, entry)
    }

    fn write(&mut self, path: &str, mode: u32, entry: &Entry<'_>) -> Result<(), ImageError> {
        self.cpio.add(path, mode, entry).map_err(file_error("write", &self.target))
    }

    fn add_file(&mut self, path: &str, mode: u32, source: &Path) -> Result<(), ImageError> {
        let data = std::fs::read(source).map_err(file_error("read", source))?;
        self.add(path, mode, &Entry::File(&data))
    }
}

fn pack(
    options: &SmallOptions<'_>,
    modules: &[PathBuf],
    tools: &Path,
    target: &Path,
) -> Result<(), ImageError> {
    let file = BufWriter::new(File::create(target).map_err(file_error("make", target))?);
    let mut packer =
        Packer { cpio: CpioWriter::new(file), folders: BTreeSet::new(), target: target.to_path_buf() };
    for folder in ["proc", "sys", "dev", "run", "tmp", "root", "var", "etc", "bin", "sbin"] {
        packer.add(folder, 0o755, &Entry::Directory)?;
    }
    // The first process has its standard streams only if this is there before it mounts anything.
    packer.add("dev/console", 0o600, &Entry::Device { major: 5, minor: 1 })?;
    packer.add("dev/null", 0o666, &Entry::Device { major: 1, minor: 3 })?;
    packer.add_file("init", 0o755, options.agent)?;
    packer.add("etc/passwd", 0o644, &Entry::File(b"root:x:0:0:root:/root:/bin/sh\n"))?;
    packer.add("etc/group", 0o644, &Entry::File(b"root:x:0:\n"))?;
    packer.add("etc/hosts", 0o644, &Entry::File(b"127.0.0.1 localhost\n"))?;
    let mut list = String::new();
    for module in modules {
        let name = module.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let path = format!("lib/modules/{name}");
        packer.add_file(&path, 0o644, module)?;
        list.push_str(&format!("/{path}\n"));
    }
    packer.add(MODULE_LIST, 0o644, &Entry::File(list.as_bytes()))?;
    pack_program(&mut packer, tools, "usr/sbin/nft")?;
    if options.busybox {
        packer.add_file("bin/busybox", 0o755, &tools.join("usr/bin/busybox"))?;
        for applet in APPLETS {
            packer.add(&format!("bin/{applet}"), 0o777, &Entry::Link("busybox"))?;
        }
    }
    let mut file = packer.cpio.finish().map_err(file_error("write", target))?;
    file.flush().map_err(file_error("write", target))
}

/// A program with the libraries that it needs, and the loader.
fn pack_program<W: Write>(packer: &mut Packer<W>, tools: &Path, program: &str) -> Result<(), ImageError> {
    packer.add_file(program, 0o755, &tools.join(program))?;
    for library in elf::libraries(tools, program)? {
        let name = library.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // Links are resolved: the file goes in under the name by which it is asked for.
        packer.add_file(&format!("usr/lib/x86_64-linux-gnu/{name}"), 0o755, &library)?;
    }
    packer.add("lib/x86_64-linux-gnu", 0o777, &Entry::Link("../usr/lib/x86_64-linux-gnu"))?;
    packer.add(
        "lib64/ld-linux-x86-64.so.2",
        0o777,
        &Entry::Link("../usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"),
    )
}
