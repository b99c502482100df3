//! Whole rounds over a guest made of files. Must never look at this machine's own configuration.

use super::*;
use proptest::prelude::*;
use proteus_protocol::guest::v1::findings::Configuration;

/// A guest of files, which goes with the test.
struct Guest(PathBuf);

impl Guest {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("proteus-configuration-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, file: &str, content: &str) {
        let path = self.0.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    fn collector(&self) -> History {
        History::new(self.0.clone(), self.0.join("state"))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn round(collector: &mut History) -> Configuration {
    let mut findings = Findings::default();
    for _ in 0..1000 {
        if collector.step(&mut findings) == Step::Done {
            return findings.configuration.unwrap().value;
        }
    }
    panic!("the round has no end");
}

fn missing(told: &Configuration, aspect: Aspect) -> Option<&str> {
    told.aspects.iter().find(|each| each.aspect == aspect).unwrap().missing.as_deref()
}

/// What changed: aspect, name, from, to.
fn changes(told: &Configuration) -> Vec<(Aspect, &str, Option<&str>, Option<&str>)> {
    told.changes.iter().map(|c| (c.aspect, c.name.as_str(), c.from.as_deref(), c.to.as_deref())).collect()
}

const STATUS: &str = "Package: nginx\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.22-1\n\
    Description: a server\n Version: 9 of something else\n\nPackage: gone\nStatus: deinstall ok config-files\n\
    Version: 1\n\nPackage: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36\n\n\
    Package: libc6\nStatus: install ok installed\nArchitecture: i386\nVersion: 2.36\n";

#[test]
fn what_others_change_is_seen_also_while_the_agent_was_away() {
    let guest = Guest::new("away");
    guest.write("var/lib/dpkg/status", STATUS);
    guest.write("proc/sys/vm/swappiness", "60\n");
    guest.write("proc/self/mountinfo", "1 0 8:1 / / rw,relatime - ext4 /dev/vda rw\n");
    guest.write("etc/shadow", "root:secret\n");
    guest.write("etc/ssh/sshd_config", "Port 22\n");
    guest.write("run/systemd/system/x", "");
    guest.write("etc/systemd/system/multi-user.target.wants/nginx.service", "");
    let first = round(&mut guest.collector());
    assert_eq!((first.changes.len(), first.kept), (0, true));
    let packages = first.aspects.iter().find(|each| each.aspect == Aspect::Packages).unwrap();
    assert_eq!(packages.entries, 3);
    guest.write("var/lib/dpkg/status", &STATUS.replace("1.22-1", "1.26-10"));
    guest.write("proc/sys/vm/swappiness", "10\n");
    guest.write("etc/shadow", "root:another\n");
    guest.write("sys/fs/cgroup/system.slice/nginx.service/cgroup.events", "populated 1\nfrozen 0\n");
    let later = round(&mut guest.collector());
    assert_eq!((later.history.as_str(), later.sequence), (first.history.as_str(), 4));
    let said = changes(&later);
    assert!(said.contains(&(Aspect::Packages, "nginx", Some("1.22-1"), Some("1.26-10"))), "{said:?}");
    assert!(said.contains(&(Aspect::Sysctl, "vm.swappiness", Some("60"), Some("10"))));
    assert!(said.contains(&(Aspect::Units, "nginx.service", Some("enabled"), Some("enabled, active"))));
    let shadow = said.iter().find(|(_, name, ..)| *name == "/etc/shadow").unwrap();
    assert_ne!(shadow.2, shadow.3);
    let all = serde_json::to_string(&later).unwrap();
    assert!(!all.contains("secret") && !all.contains("another"), "{all}");
}

#[test]
fn what_cannot_be_read_is_missing_and_not_gone() {
    let guest = Guest::new("missing");
    guest.write("var/lib/dpkg/status", STATUS);
    guest.write("proc/sys/vm/swappiness", "60\n");
    let mut collector = guest.collector();
    let first = round(&mut collector);
    assert_eq!(missing(&first, Aspect::Units), Some("this guest does not run systemd"));
    assert_eq!(missing(&first, Aspect::Packages), None);
    std::fs::remove_file(guest.0.join("var/lib/dpkg/status")).unwrap();
    std::fs::create_dir_all(guest.0.join("var/lib/rpm")).unwrap();
    std::fs::remove_dir_all(guest.0.join("proc")).unwrap();
    let later = round(&mut collector);
    assert_eq!(changes(&later), []);
    assert!(missing(&later, Aspect::Packages).unwrap().contains("rpm"));
    assert!(missing(&later, Aspect::Mounts).is_some() && missing(&later, Aspect::Sysctl).is_some());
    let packages = later.aspects.iter().find(|each| each.aspect == Aspect::Packages).unwrap();
    assert_eq!(packages.entries, 3, "what was known last");
}

#[test]
fn secrets_of_mounts_stay_and_passing_ones_are_left_out() {
    let guest = Guest::new("mounts");
    let lines = "1 0 8:1 / / rw - ext4 /dev/vda rw\n\
        2 1 0:9 / /mnt rw,password=hunter2,noexec - fuse https://me:hunter2@host/x rw\n\
        3 1 0:10 / /run/user/1000 rw - tmpfs tmpfs rw\n\
        4 1 8:16 / /run/proteus/image/web ro - erofs /dev/vdb ro\n";
    guest.write("proc/self/mountinfo", lines);
    let Look::Seen(mounts, None) = read::mounts(&guest.0) else { panic!("it was read") };
    assert_eq!(mounts["/mnt"], "fuse https://host/x rw,noexec");
    assert_eq!(mounts.len(), 2);
    let Look::Seen(images, None) = read::images(&guest.0) else { panic!("it was read") };
    assert_eq!(images, Entries::from([("web".to_owned(), "erofs /dev/vdb".to_owned())]));
}

#[test]
fn who_mounts_is_not_told() {
    let guest = Guest::new("people");
    let lines = "1 0 8:1 / / rw - ext4 /dev/vda rw\n\
        2 1 8:2 / /media/alice/USB rw - vfat /dev/sda1 rw\n\
        3 1 8:3 / /run/media/alice/USB rw - vfat /dev/sdb1 rw\n\
        4 1 0:9 / /home rw - xfs /dev/vdb rw\n\
        5 4 0:10 / %/alice/remote rw - fuse.sshfs alice@host:/ rw\n\
        6 4 0:11 / /srv/a rw - fuse.sshfs alice@corp@host:/srv rw\n\
        7 4 0:12 / /srv/b rw - cifs //alice@host/share rw\n\
        8 4 0:13 / /srv/c rw - ecryptfs %/.ecryptfs/alice/.Private rw\n\
        9 4 0:14 / /srv/d ro - zfs pool/data@monday ro\n";
    guest.write("proc/self/mountinfo", &lines.replace('%', "/home"));
    let Look::Seen(mounts, None) = read::mounts(&guest.0) else { panic!("it was read") };
    assert!(!format!("{mounts:?}").contains("alice"), "{mounts:?}");
    let wanted = [
        ("/", "ext4 /dev/vda rw"),
        ("/home", "xfs /dev/vdb rw"),
        ("/srv/a", "fuse.sshfs host:/srv rw"),
        ("/srv/b", "cifs //host/share rw"),
        ("/srv/c", "ecryptfs /home rw"),
        ("/srv/d", "zfs pool/data@monday ro"),
    ];
    assert_eq!(mounts, wanted.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
}

#[test]
fn devices_are_what_is_plugged_in() {
    let guest = Guest::new("devices");
    guest.write("sys/block/vda/size", "2048\n");
    guest.write("sys/block/vda/serial", "root\n");
    guest.write("sys/block/loop0/size", "2048\n");
    guest.write("sys/block/sr0/size", "0\n");
    guest.write("sys/class/net/eth0/address", "52:54:00:00:00:01\n");
    guest.write("sys/class/net/eth0/device/vendor", "");
    guest.write("sys/class/net/lo/address", "00:00:00:00:00:00\n");
    guest.write("sys/devices/system/cpu/online", "0-1\n");
    guest.write("sys/devices/system/memory/block_size_bytes", "8000000\n");
    guest.write("sys/devices/system/memory/memory0/state", "online\n");
    guest.write("sys/devices/system/memory/memory1/state", "offline\n");
    let wanted = [
        ("cpus online", "0-1"),
        ("disk vda", "1048576 bytes, serial root"),
        ("link eth0", "52:54:00:00:00:01"),
        ("memory online", "134217728 bytes"),
    ];
    let wanted: Entries = wanted.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    assert_eq!(read::devices(&guest.0), Look::Seen(wanted, None));
    assert!(matches!(read::devices(Path::new("/nowhere")), Look::Unknown(_)));
}

#[test]
fn an_untouched_file_is_not_read_again_and_a_mode_is_a_change() {
    use std::os::unix::fs::PermissionsExt;
    let guest = Guest::new("etc");
    for number in 0..600 {
        guest.write(&format!("etc/d{}/{number}", number % 7), "x");
    }
    guest.write("etc/adjtime", "changes by itself");
    let mut etc = etc::Etc::default();
    let mut look = || loop {
        if let Some(Look::Seen(entries, lacking)) = etc.look(&guest.0, [1, 2]) {
            return (entries, lacking);
        }
    };
    let (first, lacking) = look();
    assert_eq!((first.len(), lacking), (600, None));
    assert_eq!(look().0, first);
    let path = guest.0.join("etc/d0/0");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let changed = look().0;
    let differ = first.iter().filter(|(name, value)| changed[*name] != **value);
    assert_eq!(differ.map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["/etc/d0/0"]);
}

proptest! {
    #[test]
    fn any_list_of_packages_is_read(text in "([A-Z][a-z]{2,8}: [a-z0-9 .]{0,10}\n|\n| x\n|\\PC{0,20}\n){0,40}") {
        let guest = Guest::new("packages");
        guest.write("var/lib/dpkg/status", &text);
        let look = read::Reader::default().packages(&guest.0);
        let installed = text.lines().filter(|line| line.starts_with("Package: ")).count();
        if let Look::Seen(entries, _) = look {
            prop_assert!(entries.len() <= installed);
        }
    }
}
