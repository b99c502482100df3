//! How each aspect of a configuration is read: from files, without running a program. Must never say that something is
//! gone when it only could not be read.

use super::super::mount::{Mount, each_mount};
use super::sysctl::LISTED;
use super::{Entries, Look};
use crate::procfs::{each_entry, read_text};
use std::fs::{File, Metadata};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Longest line of a list of packages that is read whole: longer ones are none of those that are wanted.
const LINE_BYTES_MAX: u64 = 4096;
/// Mounts that come and go with sessions, containers, services and people, whose names are in some of the paths.
const PASSING: [&str; 11] = [
    "/media",
    "/run/media",
    "/run/user",
    "/run/credentials",
    "/run/docker",
    "/run/netns",
    "/run/containerd",
    "/run/proteus/service",
    "/var/lib/docker",
    "/var/lib/containers",
    "/var/lib/kubelet",
];
/// Where the agent mounts images.
const IMAGES: &str = "/run/proteus/image";
/// Blocks of memory that are looked at: 512 GiB in blocks of 128 MiB.
const BLOCKS_MAX: usize = 4096;
const UNREAD_MOUNTS: &str = "/proc/self/mountinfo cannot be read whole";

fn unknown(why: impl Into<String>) -> Look {
    Look::Unknown(why.into())
}

fn seen(entries: Entries) -> Look {
    Look::Seen(entries, None)
}

/// Names in folders, and what could not be read of them.
#[derive(Default)]
struct Names {
    lacking: Option<String>,
}

impl Names {
    /// Names in a folder, in their order.
    fn of(&mut self, folder: &Path) -> Vec<String> {
        let mut names = Vec::new();
        if !each_entry(folder, |name, _| names.extend(name.to_str().ok().map(str::to_owned))) {
            self.lacking = Some("a folder of it cannot be read".to_owned());
        }
        names.sort_unstable();
        names
    }
}

/// The kernel that runs.
pub fn kernel() -> Look {
    let is = rustix::system::uname();
    let entry = |name: &str, value: &std::ffi::CStr| (name.to_owned(), value.to_string_lossy().into_owned());
    seen(Entries::from([entry("release", is.release()), entry("version", is.version())]))
}

/// What is plugged in: disks, links, CPUs, memory.
pub fn devices(root: &Path) -> Look {
    let (mut entries, mut names) = (Entries::new(), Names::default());
    let blocks = root.join("sys/block");
    let is_made = |name: &str| ["loop", "ram", "zram", "fd", "nbd"].iter().any(|kind| name.starts_with(kind));
    for name in names.of(&blocks).into_iter().filter(|name| !is_made(name)) {
        let dir = blocks.join(&name);
        // A drive without a disk in it has no size.
        let sectors = read_text(dir.join("size")).ok().and_then(|text| text.parse::<u64>().ok());
        let Some(bytes) = sectors.map(|sectors| sectors.saturating_mul(512)).filter(|bytes| *bytes > 0)
        else {
            continue;
        };
        let serial = read_text(dir.join("serial")).or_else(|_| read_text(dir.join("device/serial")));
        let serial = serial.map(|serial| format!(", serial {serial}")).unwrap_or_default();
        entries.insert(format!("disk {name}"), format!("{bytes} bytes{serial}"));
    }
    let links = root.join("sys/class/net");
    for name in names.of(&links).into_iter().filter(|name| links.join(name).join("device").exists()) {
        let address = read_text(links.join(&name).join("address")).unwrap_or_default();
        entries.insert(format!("link {name}"), address);
    }
    if let Ok(online) = read_text(root.join("sys/devices/system/cpu/online")) {
        entries.insert("cpus online".to_owned(), online);
    }
    if let Some(bytes) = memory(&root.join("sys/devices/system/memory"), &mut names) {
        entries.insert("memory online".to_owned(), format!("{bytes} bytes"));
    }
    if entries.is_empty() { unknown("/sys cannot be read") } else { Look::Seen(entries, names.lacking) }
}

/// Memory by its blocks: what is plugged, not what a balloon leaves of it.
fn memory(folder: &Path, names: &mut Names) -> Option<u64> {
    let block = read_text(folder.join("block_size_bytes")).ok()?;
    let block = u64::from_str_radix(&block, 16).ok()?;
    let is_online = |name: &String| {
        name.starts_with("memory")
            && read_text(folder.join(name).join("state")).is_ok_and(|is| is == "online")
    };
    let blocks = names.of(folder).into_iter().take(BLOCKS_MAX).filter(is_online).count();
    Some(block * blocks as u64)
}

/// A mount's source without the name and the password of who mounts it: `https://somebody:word@host/`, `//me@host/x`,
/// `me@host:/`. A snapshot of ZFS is no such one: `pool/home@monday`.
fn without_user(source: &str) -> String {
    let begin = source.find("://").map(|at| at + 3).or_else(|| source.starts_with("//").then_some(2));
    let (scheme, rest) = source.split_at(begin.unwrap_or(0));
    let host = match begin {
        // A password may have one too: the last one ends it.
        Some(_) => rest.rsplit_once('@').map_or(rest, |(_, host)| host),
        None => match rest.find(':') {
            Some(end) => &rest[rest[..end].rfind('@').map_or(0, |at| at + 1)..],
            None => rest,
        },
    };
    format!("{scheme}{host}")
}

/// A path as it is told: of one in somebody's home only that it is in one.
fn place(point: &Path) -> String {
    let is_in_home = point.strip_prefix("/home").is_ok_and(|below| below.components().next().is_some());
    if is_in_home { "/home".to_owned() } else { point.to_string_lossy().into_owned() }
}

/// Without what people give to a mount as a secret.
fn without_secrets(mount: &Mount) -> (String, String) {
    let secret = |word: &&str| {
        let name = word.split('=').next().unwrap_or_default();
        !["pass", "password", "secret", "key", "cred", "credentials"].contains(&name)
    };
    let options: Vec<&str> = mount.options.split(',').filter(secret).collect();
    (place(Path::new(&without_user(&mount.source))), options.join(","))
}

/// What is mounted where.
pub fn mounts(root: &Path) -> Look {
    let mut entries = Entries::new();
    let is_read = each_mount(&root.join("proc/self/mountinfo"), |mount| {
        let is_passing = PASSING.iter().any(|place| mount.point.starts_with(place));
        if !is_passing && !mount.point.starts_with(IMAGES) {
            let (source, options) = without_secrets(&mount);
            let value = format!("{} {source} {options}", mount.kind);
            entries.entry(place(&mount.point)).or_insert(value);
        }
    });
    if is_read { seen(entries) } else { unknown(UNREAD_MOUNTS) }
}

/// Images that the agent mounted.
pub fn images(root: &Path) -> Look {
    let mut entries = Entries::new();
    let is_read = each_mount(&root.join("proc/self/mountinfo"), |mount| {
        if let Ok(name) = mount.point.strip_prefix(IMAGES) {
            entries.insert(name.to_string_lossy().into_owned(), format!("{} {}", mount.kind, mount.source));
        }
    });
    if is_read { seen(entries) } else { unknown(UNREAD_MOUNTS) }
}

/// Kernel parameters, by their names with dots.
pub fn sysctl(root: &Path) -> Look {
    let (mut entries, mut lacking) = (Entries::new(), None);
    for (folder, names) in LISTED {
        for name in names {
            let value = match read_text(root.join("proc/sys").join(folder).join(name)) {
                Ok(value) => value,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(_) => {
                    lacking = Some("some of it cannot be read".to_owned());
                    continue;
                }
            };
            entries.insert(format!("{}.{name}", folder.replace('/', ".")), value.replace('\t', " "));
        }
    }
    if entries.is_empty() { unknown("/proc/sys cannot be read") } else { Look::Seen(entries, lacking) }
}

/// Units of systemd that somebody enabled or masked; of a service that is enabled, whether it runs.
pub fn units(root: &Path) -> Look {
    let folder = root.join("etc/systemd/system");
    if !root.join("run/systemd/system").is_dir() {
        return unknown("this guest does not run systemd");
    }
    let (mut entries, mut names) = (Entries::new(), Names::default());
    for name in names.of(&folder) {
        let path = folder.join(&name);
        if [".wants", ".requires"].iter().any(|end| name.ends_with(end)) {
            for unit in names.of(&path) {
                let active = if unit.ends_with(".service") { activity(root, &unit) } else { "" };
                entries.insert(unit, format!("enabled{active}"));
            }
        } else if std::fs::read_link(&path).is_ok_and(|target| target == Path::new("/dev/null")) {
            entries.insert(name, "masked".to_owned());
        }
    }
    Look::Seen(entries, names.lacking)
}

/// Whether the control group of a service has processes. A service that does its work and ends has none.
fn activity(root: &Path, unit: &str) -> &'static str {
    let group = root.join("sys/fs/cgroup/system.slice").join(unit).join("cgroup.events");
    let events = read_text(group).unwrap_or_default();
    if events.lines().any(|line| line == "populated 1") { ", active" } else { "" }
}

/// What the kernel says of a list of packages: what differs when it was replaced.
type Stamp = (u64, u64, i64, i64);

fn stamp(is: &Metadata) -> Stamp {
    (is.ino(), is.len(), is.mtime(), is.mtime_nsec())
}

/// What must be known of the look before.
#[derive(Default)]
pub struct Reader {
    list: Option<(PathBuf, Stamp)>,
}

/// A package of a list, as far as it was read.
#[derive(Default)]
struct Package {
    name: String,
    version: String,
    architecture: String,
    is_installed: bool,
}

impl Package {
    fn field(&mut self, line: &str) {
        let Some((field, value)) = line.split_once(": ") else { return };
        match field {
            "Package" => value.clone_into(&mut self.name),
            "Version" => value.clone_into(&mut self.version),
            "Architecture" => value.clone_into(&mut self.architecture),
            "Status" => self.is_installed = value.split(' ').next_back() == Some("installed"),
            _ => {}
        }
    }

    fn close(&mut self, into: &mut Entries) {
        let Self { name, version, architecture, is_installed } = std::mem::take(self);
        if !is_installed || name.is_empty() {
            return;
        }
        // The same package for a second architecture has the same name.
        let name = if into.contains_key(&name) { format!("{name}:{architecture}") } else { name };
        into.insert(name, version);
    }
}

/// Packages of dpkg's list (deb822(5)), line by line: it may have tens of megabytes.
fn dpkg(file: File) -> std::io::Result<Entries> {
    let mut reader = BufReader::with_capacity(64 << 10, file);
    let (mut entries, mut package, mut line) = (Entries::new(), Package::default(), Vec::new());
    let mut is_begin = true;
    loop {
        line.clear();
        if reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)? == 0 {
            package.close(&mut entries);
            return Ok(entries);
        }
        let is_end = line.ends_with(b"\n");
        if is_begin && line == b"\n" {
            package.close(&mut entries);
        } else if is_begin && is_end {
            package.field(String::from_utf8_lossy(&line).trim_end());
        }
        is_begin = is_end;
    }
}

impl Reader {
    /// Installed packages.
    pub fn packages(&mut self, root: &Path) -> Look {
        let path = root.join("var/lib/dpkg/status");
        let has = |path: &str| root.join(path).exists();
        let Ok(file) = File::open(&path) else {
            let rpm = has("var/lib/rpm") || has("usr/lib/sysimage/rpm");
            let why = "the packages of rpm are not read: its database can only be read by rpm itself";
            return unknown(if rpm { why } else { "there is no list of packages of dpkg" });
        };
        let now = file.metadata().ok().map(|is| (path, stamp(&is)));
        if now.is_some() && self.list == now {
            return Look::Same;
        }
        match dpkg(file) {
            Ok(entries) if entries.is_empty() => unknown("the list of dpkg has no package"),
            Ok(entries) => {
                self.list = now;
                seen(entries)
            }
            Err(error) => unknown(format!("read the list of dpkg: {error}")),
        }
    }
}
