//! A real VM of the driver under test, in an instance of its own.

use crate::channel::Channel;
use crate::instance::Instance;
use proteus_hypervisor::driver::{Driver, Seat};
use proteus_hypervisor::network::Network;
use proteus_hypervisor::qemu::QemuDriver;
use proteus_model::id::VmId;
use proteus_model::unit::Bytes;
use proteus_model::vm::{Boot, DiskFormat, DiskIntent, ImageIntent, VmIntent};
use proteus_protocol::guest::v1::{Reply, Request};
use std::fs::Permissions;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// Longest wait for a guest to come up: 5–12 s, times ten for load.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// Folder of guests and images.
fn image_dir() -> PathBuf {
    crate::images::image_dir(&["nginx.erofs", "redis.erofs"])
}

/// An image as `proteus image build` made it.
pub fn image(name: &str) -> ImageIntent {
    let text = std::fs::read(image_dir().join(format!("{name}.json"))).unwrap();
    let sidecar: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let digest = sidecar["files"]["image"]["sha256"].as_str().unwrap().to_owned();
    let path = image_dir().join(format!("{name}.erofs")).canonicalize().unwrap();
    ImageIntent { name: name.parse().unwrap(), path, digest }
}

/// Waits until `ready` gives something.
pub async fn wait_for<T>(what: &str, limit: Duration, mut ready: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = ready().await {
            return value;
        }
        assert!(start.elapsed() < limit, "{what} did not come within {limit:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whether the process is there and no zombie.
pub fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

pub struct Guest {
    pub driver: QemuDriver,
    pub seat: Seat,
    pub instance: String,
    clean: Cleaner,
}

/// Ends and removes everything of an instance, then its folder.
struct Cleaner {
    dir: tempfile::TempDir,
    instance: Instance,
}

impl Drop for Cleaner {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.path().join("vm/qemu.log")).unwrap_or_default();
            let running = self.instance.processes();
            eprintln!("VMMs that still run: {running:?}; what the last one said: {log:?}");
        }
        self.instance.clear();
    }
}

impl Guest {
    /// Boots the small guest: 1 of 4 vCPUs, 256 of 512 MiB, a raw disk of 64 MiB, the image of nginx.
    pub async fn boot() -> Self {
        Self::boot_with(DiskFormat::Raw).await
    }

    /// The same with a disk of this format.
    pub async fn boot_with(format: DiskFormat) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // VMMs have users of their own: they must reach their folder.
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o711)).unwrap();
        let mut hasher = DefaultHasher::new();
        dir.path().hash(&mut hasher);
        let instance = format!("{:08x}", hasher.finish() as u32);
        let clean = Cleaner { instance: Instance::new(instance.clone(), dir.path().to_owned()), dir };
        let dir = clean.dir.path();
        let disk = dir.join("data");
        let word = if format == DiskFormat::Raw { "raw" } else { "qcow2" };
        let made = Command::new("qemu-img").args(["create", "-q", "-f", word]).arg(&disk).arg("64M").status();
        assert!(made.unwrap().success());
        let images = image_dir();
        let intent = VmIntent {
            vcpus_max: 4,
            memory_max: Bytes::mib(512),
            disks: vec![DiskIntent {
                name: "data".parse().unwrap(),
                path: disk,
                format,
                read_only: false,
                overlay: false,
            }],
            images: vec![image("nginx")],
            ..VmIntent::new(
                "guest".parse().unwrap(),
                Boot::Kernel {
                    kernel: images.join("small/vmlinuz").canonicalize().unwrap(),
                    initrd: images.join("small/initramfs.cpio").canonicalize().unwrap(),
                    append: String::new(),
                },
                Bytes::mib(256),
            )
        };
        let seat = Seat {
            id: VmId::from_bits(u128::from(hasher.finish()) << 64),
            slot: 0,
            dir: dir.join("vm"),
            intent,
            attached: Vec::new(),
            furnished: false,
            newborn: false,
            user: None,
        };
        std::fs::create_dir(&seat.dir).unwrap();
        let driver = QemuDriver::open(&instance, dir).await.unwrap();
        let guest = Self { driver, seat, instance, clean };
        guest.start().await;
        guest
    }

    /// Starts it and waits for its agent.
    pub async fn start(&self) {
        let begun = Instant::now();
        self.driver.start(&self.seat).await.unwrap();
        drop(self.channel().await);
        println!("guest is up after {:.1} s", begun.elapsed().as_secs_f64());
    }

    pub fn id(&self) -> VmId {
        self.seat.id
    }

    pub async fn pid(&self) -> u32 {
        self.driver.pid(self.id()).await.unwrap()
    }

    /// VMMs of this guest that run.
    pub fn vmms(&self) -> Vec<u32> {
        let of_qemu = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.starts_with(b"qemu-system-x86_64\0")
        };
        self.clean.instance.processes().into_iter().filter(of_qemu).collect()
    }

    /// The guest channel; QEMU takes one client at a time.
    pub async fn channel(&self) -> Channel {
        let doors = self.driver.doors(self.id()).await.unwrap();
        let mut channel = Channel::open(&doors.agent.unwrap()).await;
        channel.knock(BOOT_LIMIT).await;
        channel
    }

    /// Its control group.
    pub fn group(&self) -> PathBuf {
        self.clean.instance.group().join(self.id().short())
    }

    /// Value of a file of its control group, by its v1 and v2 name.
    pub fn group_file(&self, v1: &str, v2: &str) -> String {
        let group = self.group();
        let path = if group.join(v1).exists() { group.join(v1) } else { group.join(v2) };
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).trim().to_owned()
    }

    /// The threads that the cap holds.
    pub fn capped_threads(&self) -> Vec<u32> {
        let text = self.group_file("tasks", "vcpu/cgroup.threads");
        text.lines().map(|line| line.parse().unwrap()).collect()
    }

    /// Output of a tool inside the guests' namespace.
    pub fn in_namespace(&self, argv: &[&str]) -> String {
        let space = format!("proteus-{}", self.instance);
        let output = Command::new("ip").args(["netns", "exec", &space]).args(argv).output().unwrap();
        assert!(output.status.success(), "{argv:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Connects to a port of the guest.
    pub async fn connect(&self, port: u16, limit: Duration) -> std::io::Result<TcpStream> {
        let address = Network::address(self.seat.slot);
        self.driver.network().connect((address, port).into(), limit).await
    }

    /// Mounts the image of nginx and starts it.
    pub async fn start_nginx(&self, channel: &mut Channel) {
        let mount = Request::MountImage { serial: "nginx".into(), name: "nginx".into() };
        let reply = channel.ask(mount).await;
        assert!(matches!(reply, Reply::Image { .. }), "{reply:?}");
        let start = Request::StartService { name: "nginx".into(), image: "nginx".into(), data_serial: None };
        let reply = channel.ask(start).await;
        assert!(matches!(reply, Reply::Service { .. }), "{reply:?}");
    }

    /// What is left of this instance on the host.
    pub fn leftovers(&self) -> Vec<String> {
        self.clean.instance.leftovers()
    }
}
