//! A full Debian with systemd and its own kernel, with the agent as a service from a `.deb`. Built in a folder of
//! its own by debootstrap, which runs the packages' scripts inside that folder, as an installer does.

use super::apt;
use super::artifact::{BUILDER_VERSION, ImageKind, ImageMetadata, OutputDir, digest_file, digest_of};
use super::tool::{APT_GET, CHROOT, DEBOOTSTRAP, DPKG_DEB, MKFS_EXT4, QEMU_IMG};
use super::{ImageError, Progress, elf, file_error};
use std::ffi::OsStr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Debian 12.
pub const RELEASE: &str = "bookworm";
const NAME: &str = "debian-12";
const CLOUD_NAME: &str = "debian-12-cloud-init";
/// The second brings what packages of the first ask for by another name, which debootstrap does not look up.
const CLOUD_PACKAGES: [&str; 2] = ["cloud-init", "python3-cffi-backend"];
/// Where cloud-init looks: only on disks; asking networks for other sources would cost minutes of a start. Two kinds of
/// disk, because of a list with one kind it takes that for found: without a seed it then runs for nothing, and a start
/// takes twice as long. And the one locale that a minimal system has, and no boot loader to set up: it has none.
const CLOUD_FILE: (&str, &str) = (
    "etc/cloud/cloud.cfg.d/90-proteus.cfg",
    "datasource_list: [ NoCloud, ConfigDrive, None ]\nlocale: C.UTF-8\ngrub_dpkg: { enabled: false }\n",
);
const KERNEL: &str = "linux-image-cloud-amd64";
/// Beside what a minimal system has.
const PACKAGES: [&str; 9] =
    ["systemd", "systemd-sysv", "udev", "dbus", "iproute2", "nftables", "procps", "kmod", KERNEL];
/// Units that never run: this one looks for snapshots of volumes, of which a guest's plain disk has none, and that takes
/// an emulated guest about 15 s of its start.
const MASKED: [&str; 1] = ["e2scrub_reap.service"];
/// The disk's least size: the system takes about 450 MiB.
pub const DISK_MIB_MIN: u64 = 1024;

/// What to build a full guest from.
#[derive(Debug, Clone)]
pub struct FullOptions<'a> {
    /// The static agent.
    pub agent: &'a Path,
    /// Packages beside the standard ones, as in `nginx`.
    pub extra_packages: &'a [String],
    /// With cloud-init, which reads the seed of a VM.
    pub cloud_init: bool,
    /// Size of the disk; what is not written takes no room.
    pub disk_mib: u64,
}

/// A finished full guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FullGuest {
    /// The disk, qcow2: give each VM its own overlay of it.
    pub disk: PathBuf,
    /// For `-kernel`; boot with `root=/dev/vda`.
    pub kernel: PathBuf,
    /// For `-initrd`.
    pub initrd: PathBuf,
    /// Its description; the version is the kernel's release.
    pub metadata: ImageMetadata,
    /// Whether it was there already.
    pub reused: bool,
}

/// Files of the agent's package beside the program: path, content.
const DEB_FILES: [(&str, &str); 2] = [
    ("lib/systemd/system/proteus-guest.service", UNIT),
    ("lib/udev/rules.d/60-proteus-guest.rules", UDEV_RULE),
];

const UNIT: &str = "\
[Unit]
Description=Proteus guest agent
Documentation=man:proteus-guest(8)
BindsTo=dev-virtio\\x2dports-org.proteus.agent.0.device
After=dev-virtio\\x2dports-org.proteus.agent.0.device
StartLimitIntervalSec=0

[Service]
ExecStart=/usr/sbin/proteus-guest
Restart=always
RestartSec=1
";

/// Starts the agent when its port is there, and only then.
const UDEV_RULE: &str = "SUBSYSTEM==\"virtio-ports\", ATTR{name}==\"org.proteus.agent.0\", \
    TAG+=\"systemd\", ENV{SYSTEMD_WANTS}=\"proteus-guest.service\"\n";

/// Files of the guest beside its packages.
const GUEST_FILES: [(&str, &str); 5] = [
    ("etc/hostname", "debian\n"),
    ("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 debian\n"),
    ("etc/fstab", "/dev/vda / ext4 defaults,noatime 0 1\n"),
    // An empty file: drawn at the first boot, so that no two guests are one.
    ("etc/machine-id", ""),
    ("etc/systemd/network/10-proteus.network", NETWORK),
];

const NETWORK: &str =
    "[Match]\nDriver=virtio_net\n\n[Network]\nDHCP=ipv4\n\n[DHCPv4]\nClientIdentifier=mac\n";

fn write(root: &Path, path: &str, content: &str) -> Result<(), ImageError> {
    let path = root.join(path);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(file_error("make", parent))?;
    }
    std::fs::write(&path, content).map_err(file_error("write", &path))
}

/// Packs the agent as a Debian package.
pub fn build_agent_deb(agent: &Path, target: &Path, scratch: &Path) -> Result<(), ImageError> {
    use std::os::unix::fs::PermissionsExt;
    if !elf::is_static(agent)? {
        return Err(ImageError::NotStatic { path: agent.to_path_buf() });
    }
    let root = scratch.join("agent-deb");
    let version = env!("CARGO_PKG_VERSION");
    let control = format!(
        "Package: proteus-guest\nVersion: {version}\nArchitecture: amd64\nMaintainer: The Proteus authors\n\
         Section: admin\nPriority: optional\nRecommends: nftables\n\
         Description: Proteus guest agent\n Samples the guest and takes part when it is reshaped.\n"
    );
    write(&root, "DEBIAN/control", &control)?;
    for (path, content) in DEB_FILES {
        write(&root, path, content)?;
    }
    let program = root.join("usr/sbin/proteus-guest");
    write(&root, "usr/sbin/.keep", "")?;
    std::fs::remove_file(root.join("usr/sbin/.keep"))
        .map_err(file_error("remove", root.join("usr/sbin/.keep")))?;
    std::fs::copy(agent, &program).map_err(file_error("copy", &program))?;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))
        .map_err(file_error("set the mode of", &program))?;
    let args =
        [OsStr::new("--root-owner-group"), OsStr::new("--build"), root.as_os_str(), target.as_os_str()];
    DPKG_DEB.run("pack the agent", scratch, args).map(drop)
}

/// The mirror of the release that the host itself uses.
fn mirror(scratch: &Path) -> Result<String, ImageError> {
    let format = "$(CREATED_BY) $(CODENAME) $(COMPONENT) $(REPO_URI)";
    let output = APT_GET.run("read the host's apt sources", scratch, ["indextargets", "--format", format])?;
    let text = String::from_utf8_lossy(&output);
    let wanted = format!("Packages {RELEASE} main ");
    let found = text.lines().find_map(|line| line.strip_prefix(wanted.as_str()));
    found.map(str::to_owned).ok_or(ImageError::NoMirror { release: RELEASE })
}

/// Builds the full guest into a folder, unless it is there from the same inputs.
pub fn build_full(
    options: &FullOptions<'_>,
    out: &Path,
    progress: Progress<'_>,
) -> Result<FullGuest, ImageError> {
    let dir = OutputDir::open(out)?;
    let scratch = dir.scratch()?;
    progress("full guest: finding packages");
    let mut wanted: Vec<String> = PACKAGES.iter().map(|name| (*name).to_owned()).collect();
    wanted.extend(options.extra_packages.iter().cloned());
    if options.cloud_init {
        wanted.extend(CLOUD_PACKAGES.map(str::to_owned));
    }
    let name = if options.cloud_init { CLOUD_NAME } else { NAME };
    let files: Vec<_> = GUEST_FILES.into_iter().chain(options.cloud_init.then_some(CLOUD_FILE)).collect();
    let packages = apt::closure(&wanted, scratch.path())?;
    let parts = (BUILDER_VERSION, &wanted, &packages, digest_file(options.agent)?, options.disk_mib);
    let inputs = digest_of("a build's inputs", &(parts, DEB_FILES, &files, MASKED))?;
    if let Some(metadata) = dir.existing(name, &inputs) {
        progress("full guest: up to date");
        return Ok(finished(&dir, metadata, true));
    }
    let deb = scratch.path().join("proteus-guest.deb");
    build_agent_deb(options.agent, &deb, scratch.path())?;
    let tree = scratch.path().join("tree");
    progress("full guest: installing Debian (about two minutes)");
    let mirror = mirror(scratch.path())?;
    let include = format!("--include={}", wanted.join(","));
    let tree_text = tree.to_string_lossy().into_owned();
    let args = ["--variant=minbase", &include, RELEASE, &tree_text, &mirror];
    DEBOOTSTRAP.run_with_mounts("install Debian", scratch.path(), args)?;
    furnish(&tree, &files, &deb, scratch.path())?;
    let release = kernel_release(&tree)?;
    let packages = installed(&tree)?;
    progress("full guest: making the disk");
    let raw = scratch.path().join("disk.raw");
    let qcow2 = scratch.path().join("disk.qcow2");
    let (raw_text, qcow2_text) = (raw.to_string_lossy(), qcow2.to_string_lossy());
    let size = format!("{}M", options.disk_mib.max(DISK_MIB_MIN));
    let args = ["-q", "-F", "-L", "root", "-E", "root_owner=0:0", "-d", &tree_text, &raw_text, &size];
    MKFS_EXT4.run("make the disk", scratch.path(), args)?;
    let args = ["convert", "-f", "raw", "-O", "qcow2", &raw_text, &qcow2_text];
    QEMU_IMG.run("make the disk", scratch.path(), args)?;
    let boot = tree.join("boot");
    let files = [
        ("disk".to_owned(), dir.take(&qcow2, name, "qcow2")?),
        ("kernel".to_owned(), dir.take(&boot.join(format!("vmlinuz-{release}")), "vmlinuz", "bin")?),
        ("initrd".to_owned(), dir.take(&boot.join(format!("initrd.img-{release}")), "initrd", "img")?),
    ];
    let (name, kind) = (name.to_owned(), ImageKind::Full);
    let metadata = ImageMetadata { name, version: release, kind, inputs, files: files.into(), packages };
    dir.publish(&metadata)?;
    Ok(finished(&dir, metadata, false))
}

fn finished(dir: &OutputDir, metadata: ImageMetadata, reused: bool) -> FullGuest {
    let path = |role| dir.path(&metadata, role);
    let (disk, kernel, initrd) = (path("disk"), path("kernel"), path("initrd"));
    FullGuest { disk, kernel, initrd, metadata, reused }
}

/// Makes the installed system a guest: network, the agent, nothing of the installation left.
fn furnish(tree: &Path, files: &[(&str, &str)], deb: &Path, scratch: &Path) -> Result<(), ImageError> {
    for (path, content) in files {
        write(tree, path, content)?;
    }
    let wants = tree.join("etc/systemd/system/multi-user.target.wants");
    std::fs::create_dir_all(&wants).map_err(file_error("make", &wants))?;
    let link = wants.join("systemd-networkd.service");
    if link.symlink_metadata().is_err() {
        symlink("/lib/systemd/system/systemd-networkd.service", &link).map_err(file_error("link", &link))?;
    }
    for unit in MASKED {
        let link = tree.join("etc/systemd/system").join(unit);
        symlink("/dev/null", &link).map_err(file_error("link", &link))?;
    }
    // Inside: with `--root`, dpkg looks for the tree's groups on the host, which need not have them.
    let inside = tree.join("agent.deb");
    std::fs::copy(deb, &inside).map_err(file_error("copy", &inside))?;
    let dpkg = ["/usr/bin/env", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "dpkg", "--install", "/agent.deb"];
    let args = [tree.as_os_str()].into_iter().chain(dpkg.map(OsStr::new));
    CHROOT.run("install the agent", scratch, args)?;
    std::fs::remove_file(&inside).map_err(file_error("remove", &inside))?;
    for path in ["var/cache/apt/archives", "var/lib/apt/lists"] {
        let dir = tree.join(path);
        std::fs::remove_dir_all(&dir).map_err(file_error("empty", &dir))?;
        std::fs::create_dir_all(dir.join("partial")).map_err(file_error("make", &dir))?;
    }
    Ok(())
}

/// What is really installed: the mirror's versions may be older than those of the host's security source.
fn installed(tree: &Path) -> Result<Vec<apt::Package>, ImageError> {
    let path = tree.join("var/lib/dpkg/status");
    let text = std::fs::read_to_string(&path).map_err(file_error("read", &path))?;
    Ok(text.split("\n\n").filter_map(parse_status).collect())
}

fn parse_status(paragraph: &str) -> Option<apt::Package> {
    let value = |key: &str| paragraph.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
    let (name, version) = (value("Package")?.to_owned(), value("Version")?.to_owned());
    Some(apt::Package { name, version, checksum: String::new() })
}

fn kernel_release(tree: &Path) -> Result<String, ImageError> {
    let boot = tree.join("boot");
    let entries = std::fs::read_dir(&boot).map_err(file_error("list", &boot))?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut releases: Vec<String> =
        names.filter_map(|n| n.strip_prefix("vmlinuz-").map(str::to_owned)).collect();
    releases.sort();
    releases.pop().ok_or_else(|| ImageError::NoPackage { name: KERNEL.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installed_packages_are_read() {
        let package =
            parse_status("Package: zlib1g\nStatus: install ok installed\nVersion: 1:1.2-3").unwrap();
        assert_eq!((package.name.as_str(), package.version.as_str()), ("zlib1g", "1:1.2-3"));
        assert_eq!(parse_status(""), None);
    }

    #[test]
    fn a_program_that_needs_a_loader_is_no_agent() {
        let temp = tempfile::tempdir().unwrap();
        let me = std::env::current_exe().unwrap();
        let result = build_agent_deb(&me, &temp.path().join("x.deb"), temp.path());
        assert!(matches!(result, Err(ImageError::NotStatic { .. })));
    }
}
