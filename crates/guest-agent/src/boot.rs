//! What the first process does before it is an agent: mounts, modules, network. Must never stop at what is not
//! essential: a guest that cannot be reached because a tuning module is missing helps nobody. What went wrong is
//! said on the console.

use crate::execution::application::{CGROUP_ROOT, SERVICES, cgroup_dir};
use crate::identity;
use crate::procfs::{read_text, write_text};
use crate::sys;
use proteus_protocol::guest::v1::NetworkSettings;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use std::path::Path;

/// Modules in the order in which they can be loaded, one path per line: written by the host's image builder.
const MODULE_LIST: &str = "/etc/proteus/modules";

/// Source, target, type, options.
const MOUNTS: [(&str, &str, &str, Option<&str>); 9] = [
    ("proc", "/proc", "proc", None),
    ("sysfs", "/sys", "sysfs", None),
    ("devtmpfs", "/dev", "devtmpfs", Some("mode=755")),
    ("devpts", "/dev/pts", "devpts", Some("mode=620,gid=5,ptmxmode=666")),
    ("tmpfs", "/dev/shm", "tmpfs", Some("mode=1777")),
    ("tmpfs", "/run", "tmpfs", Some("mode=755")),
    ("tmpfs", "/tmp", "tmpfs", Some("mode=1777")),
    ("cgroup2", CGROUP_ROOT, "cgroup2", None),
    ("tracefs", "/sys/kernel/tracing", "tracefs", None),
];

/// Says something on the console.
pub fn console(message: &str) {
    eprintln!("proteus-guest: {message}");
}

/// Settings on the kernel's command line, as in `proteus.ip=10.0.0.2/24`.
fn parameter(cmdline: &str, name: &str) -> Option<String> {
    let own =
        |word: &str| Some(word.strip_prefix("proteus.")?.strip_prefix(name)?.strip_prefix('=')?.to_owned());
    cmdline.split_ascii_whitespace().find_map(own)
}

/// Everything up to a guest that an agent can work in.
pub fn run() {
    for (source, target, kind, options) in MOUNTS {
        if let Err(error) = ensure_mount(source, target, kind, options) {
            console(&format!("mount {target}: {error}"));
        }
    }
    let cmdline = read_text("/proc/cmdline").unwrap_or_default();
    let (loaded, failed) = load_modules();
    if failed > 0 {
        console(&format!("{failed} of {} modules could not be loaded", loaded + failed));
    }
    enable_controllers();
    if let Err(error) = sys::take_ctrl_alt_del() {
        console(&format!("take ctrl-alt-del: {error}"));
    }
    if let Err(error) = sys::network::set_up("lo") {
        console(&format!("switch on lo: {error}"));
    }
    match network_settings(&cmdline) {
        Ok(Some(network)) => {
            if let Err(error) = identity::set_network(&network) {
                console(&format!("network: {error}"));
            }
        }
        Ok(None) => {}
        Err(word) => console(&format!("proteus.{word} on the command line is malformed")),
    }
    if let Some(name) = parameter(&cmdline, "host")
        && let Err(error) = identity::set_hostname(&name)
    {
        console(&format!("host name: {error}"));
    }
    console(&format!("version {}, {loaded} modules", env!("CARGO_PKG_VERSION")));
}

fn ensure_mount(source: &str, target: &str, kind: &str, options: Option<&str>) -> std::io::Result<()> {
    std::fs::create_dir_all(target)?;
    let options = options.map(std::ffi::CString::new).transpose()?;
    match mount(source, target, kind, MountFlags::NOSUID, options.as_deref()) {
        // Busy: the kernel mounted it itself.
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Loads what the initramfs brought, and frees the memory of the files: the kernel has its own copy.
fn load_modules() -> (usize, usize) {
    let list = read_text(MODULE_LIST).unwrap_or_default();
    let (mut loaded, mut failed) = (0, 0);
    for path in list.lines().filter(|line| !line.is_empty()) {
        let result = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .and_then(|file| rustix::system::finit_module(&file, c"", 0));
        match result {
            Ok(()) | Err(Errno::EXIST) => loaded += 1,
            Err(error) => {
                failed += 1;
                console(&format!("load {path}: {error}"));
            }
        }
        if let Err(error) = std::fs::remove_file(path) {
            console(&format!("remove {path}: {error}"));
        }
    }
    (loaded, failed)
}

/// Turns on the resource controllers for services; each alone, so that a missing one costs only itself.
fn enable_controllers() {
    for group in ["", SERVICES] {
        if let Err(error) = std::fs::create_dir_all(cgroup_dir(group)) {
            console(&format!("make control group {group:?}: {error}"));
        }
        for controller in ["cpu", "memory", "io", "pids", "cpuset"] {
            let file = cgroup_dir(group).join("cgroup.subtree_control");
            if let Err(error) = write_text(file, &format!("+{controller}")) {
                console(&format!("control group {group:?}: enable {controller}: {error}"));
            }
        }
    }
}

/// The network on the command line; an error names the malformed word.
fn network_settings(cmdline: &str) -> Result<Option<NetworkSettings>, &'static str> {
    let Some(ip) = parameter(cmdline, "ip") else { return Ok(None) };
    let (address, prefix) = ip.split_once('/').ok_or("ip")?;
    let gateway = parameter(cmdline, "gw").map(|text| text.parse().map_err(|_| "gw")).transpose()?;
    Ok(Some(NetworkSettings {
        interface: None,
        address: address.parse().map_err(|_| "ip")?,
        prefix: prefix.parse().ok().filter(|prefix| *prefix <= 32).ok_or("ip")?,
        gateway,
        hostname: None,
    }))
}

/// The devices of the power button, for reading key presses.
pub fn power_buttons() -> Vec<rustix::fd::OwnedFd> {
    let Ok(entries) = std::fs::read_dir("/sys/class/input") else { return Vec::new() };
    let is_button = |dir: &Path| read_text(dir.join("device/name")).is_ok_and(|name| name == "Power Button");
    let open_device = |name: &std::ffi::OsStr| {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        open(Path::new("/dev/input").join(name), flags, Mode::empty()).ok()
    };
    entries
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with("event") && is_button(&e.path()))
        .filter_map(|e| open_device(&e.file_name()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_read() {
        let line = "console=ttyS0 proteus.ip=10.1.2.3/24 proteus.gw=10.1.2.1 proteus.host=web quiet";
        let network = network_settings(line).unwrap().unwrap();
        assert_eq!((network.address.octets(), network.prefix), ([10, 1, 2, 3], 24));
        assert_eq!(network.gateway.unwrap().octets(), [10, 1, 2, 1]);
        assert_eq!(parameter(line, "host").as_deref(), Some("web"));
        assert_eq!(network_settings("quiet"), Ok(None));
        for bad in [
            "proteus.ip=10.1.2.3",
            "proteus.ip=10.1.2.3/33",
            "proteus.ip=x/1",
            "proteus.ip=1.2.3.4/8 proteus.gw=y",
        ] {
            assert!(network_settings(bad).is_err(), "{bad:?} was taken");
        }
    }
}
