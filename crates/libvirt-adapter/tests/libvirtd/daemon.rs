//! A libvirtd of a test's own: in network, mount and process namespaces that end with it, with its own folders over those
//! that libvirt knows, so that two of them beside each other, or one of the host, never meet.

#[path = "../../../../tests/support/images.rs"]
mod image;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longest wait for anything: emulated guests on a busy host.
pub const LIMIT: Duration = Duration::from_secs(200);

/// Runs as the first process of the namespaces, and reaps what loses its parent. `$1`: the folder.
const INIT: &str = r#"
set -e
for at in /run /var/lib /var/cache /var/log; do mount -t tmpfs none $at; done
for pair in run:/run lib:/var/lib cache:/var/cache log:/var/log etc:/etc; do
    at=${pair#*:}/libvirt
    mkdir -p "$1/${pair%%:*}" $at
    mount --bind "$1/${pair%%:*}" $at
done
# The user that libvirt's packages make on a host where they start it; it is looked up and not used.
{ cat /etc/passwd; echo 'libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin'; } >"$1/passwd"
{ cat /etc/group; echo 'libvirt-qemu:x:64055:'; echo 'kvm:x:64054:'; } >"$1/group"
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/group" /etc/group
ip link set lo up
touch "$1/ready"
while :; do sleep 3600 & wait $!; done
"#;

const LIBVIRTD_CONF: &str =
    "auth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\nunix_sock_ro_perms = \"0777\"\n";
const QEMU_CONF: &str = "security_driver = \"none\"\nuser = \"root\"\ngroup = \"root\"\nnamespaces = []\n\
cgroup_controllers = []\nstdio_handler = \"file\"\nremember_owner = 0\n";

/// The daemon, its namespaces and its folder.
pub struct Daemon {
    dir: TempDir,
    /// Holds the namespaces: all that is in them is killed with it.
    namespaces: Child,
}

/// Waits for a condition.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < LIMIT, "{what} did not come about");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

fn checked(output: Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}: {}", output.status, text(&output.stderr));
    text(&output.stdout)
}

impl Daemon {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        fs::write(dir.path().join("etc/qemu.conf"), QEMU_CONF).unwrap();
        fs::write(dir.path().join("libvirtd.conf"), LIBVIRTD_CONF).unwrap();
        let images = image::image_dir(&[]);
        // Copied: what lies below /var is not seen in there.
        for file in ["vmlinuz", "initramfs.cpio"] {
            fs::copy(images.join("small").join(file), dir.path().join(file)).unwrap();
        }
        let mut unshare = Command::new("setpriv");
        unshare.args([
            "--pdeathsig",
            "KILL",
            "unshare",
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
        ]);
        unshare.args(["--mount-proc", "sh", "-c", INIT, "init"]).arg(dir.path());
        let namespaces = unshare.stdin(Stdio::null()).spawn().expect("util-linux is installed; run as root");
        let daemon = Self { dir, namespaces };
        wait_for("namespaces", || daemon.path("ready").exists().then_some(()));
        daemon.begin();
        daemon
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs a program in the namespaces.
    pub fn inside(&self, words: &[&str]) -> Output {
        let id = self.namespaces.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        let mut command = Command::new("nsenter");
        command.args(["-t", children.trim(), "-m", "-n", "-p", "--"]).args(words);
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// Starts libvirtd, and waits until it answers.
    pub fn begin(&self) {
        let conf = self.path("libvirtd.conf");
        let words = ["libvirtd", "-d", "-f", conf.to_str().unwrap(), "-p", "/run/libvirt/libvirtd.pid"];
        checked(self.inside(&words));
        wait_for("libvirtd", || self.virsh("-r", "list --all").status.success().then_some(()));
    }

    /// Ends libvirtd; its guests go on.
    pub fn end(&self) {
        let pid = fs::read_to_string(self.path("run/libvirtd.pid")).unwrap();
        checked(self.inside(&["kill", pid.trim()]));
        wait_for("the end of libvirtd", || (!self.path("run/libvirtd.pid").exists()).then_some(()));
    }

    /// For the adapter: from outside, by the read-only socket.
    pub fn uri(&self) -> String {
        format!("qemu:///system?socket={}", self.path("run/libvirt-sock-ro").display())
    }

    fn virsh(&self, read_only: &str, words: &str) -> Output {
        let socket = if read_only.is_empty() { "run/libvirt-sock" } else { "run/libvirt-sock-ro" };
        let mut command = Command::new("virsh");
        command.args(Some(read_only).filter(|word| !word.is_empty()));
        command.arg("-c").arg(format!("qemu:///system?socket={}", self.path(socket).display())).arg(words);
        command.env("LC_ALL", "C").stdin(Stdio::null()).output().unwrap()
    }

    /// As the administrator of these VMs.
    pub fn order(&self, words: &str) -> String {
        checked(self.virsh("", words))
    }

    /// As the adapter could at most; what libvirt says.
    pub fn order_read_only(&self, words: &str) -> String {
        let output = self.virsh("-r", words);
        assert!(!output.status.success(), "{words}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Defines a domain that boots the small guest's kernel and does this in its shell.
    pub fn define(&self, name: &str, uuid: &str, work: &str) {
        let escaped = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
        let (dir, disk) = (self.dir.path().display(), self.path(&format!("{uuid}.img")));
        fs::File::create(&disk).unwrap().set_len(16 << 20).unwrap();
        let line = escaped(&format!("console=ttyS0 quiet rdinit=/bin/busybox -- sh -c \"{work}\""));
        let xml = format!(
            "<domain type='qemu'><name>{}</name><uuid>{uuid}</uuid><memory unit='MiB'>128</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='pc'>hvm</type><kernel>{dir}/vmlinuz</kernel>\
             <initrd>{dir}/initramfs.cpio</initrd><cmdline>{line}</cmdline></os><devices>\
             <emulator>/usr/bin/qemu-system-x86_64</emulator>\
             <serial type='file'><source path='{dir}/{uuid}.log'/></serial>\
             <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}'/>\
             <target dev='vda' bus='virtio'/></disk><memballoon model='virtio'/></devices></domain>",
            escaped(name),
            disk.display()
        );
        let file = self.path(&format!("{uuid}.xml"));
        fs::write(&file, xml).unwrap();
        self.order(&format!("define {}", file.display()));
    }

    /// Sends a signal to the QEMU of a domain, by its process inside.
    pub fn signal(&self, signal: &str, domain: &str) {
        let pid = fs::read_to_string(self.path("run/qemu").join(format!("{domain}.pid"))).unwrap();
        checked(self.inside(&["kill", signal, pid.trim()]));
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Its child, the first process of the namespaces, is killed with it, and with that all others in them.
        let _ = self.namespaces.kill();
        let _ = self.namespaces.wait();
    }
}
