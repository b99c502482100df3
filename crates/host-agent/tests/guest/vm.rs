//! A guest under test: a QEMU process, its agent channel, its console.

use proteus_host_agent::image::{
    FullOptions, SmallOptions, build_full, build_package_image, build_small, built_in,
};
use proteus_protocol::guest::frame::{Decoder, encode};
use proteus_protocol::guest::v1::{
    Blob, Event, ExecOutcome, ExecRequest, GuestMessage, HelloRequest, HostMessage, Reply, Request,
};
use proteus_protocol::guest::{GUEST_PAYLOAD_BYTES_MAX, HOST_PAYLOAD_BYTES_MAX, PORT_NAME};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// For one answer: emulated guests on a busy machine are slow.
const ANSWER_PATIENCE: Duration = Duration::from_secs(180);

/// Folder of the images, kept between runs.
fn image_dir() -> PathBuf {
    let given = std::env::var_os("PROTEUS_TEST_IMAGES").map(PathBuf::from);
    given.unwrap_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("guest-images"))
}

/// The static agent, built beforehand.
fn agent_binary() -> PathBuf {
    if let Some(path) = std::env::var_os("PROTEUS_TEST_AGENT") {
        return path.into();
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    target.join("x86_64-unknown-linux-gnu/agent/proteus-guest")
}

/// What to start a guest with.
#[derive(Default)]
pub struct Options {
    /// Images of built-in recipes, as disks with their names as serials.
    pub images: &'static [&'static str],
    /// Guest ports that are reachable from here.
    pub ports: &'static [u16],
    /// CPUs at start, and at most.
    pub cpus: Option<(u32, u32)>,
    /// An empty ext4 disk with serial `data`, of so many MiB.
    pub data_mib: Option<u64>,
    /// The full Debian instead of the small guest.
    pub full: bool,
}

/// What is put before a guest to boot it.
struct Boot {
    kernel: PathBuf,
    initrd: PathBuf,
    line: String,
    disk: Option<PathBuf>,
}

impl Boot {
    fn small() -> Self {
        let options = SmallOptions { agent: &agent_binary(), busybox: true };
        let small = build_small(&options, &image_dir(), &|step| eprintln!("{step}")).unwrap();
        let line = "console=ttyS0 quiet psi=1 no_timer_check memhp_default_state=online_movable \
            proteus.ip=10.0.2.15/24 proteus.gw=10.0.2.2 proteus.host=guest-1";
        Self { kernel: small.kernel, initrd: small.initramfs, line: line.to_owned(), disk: None }
    }

    fn full(dir: &Path) -> Self {
        let options =
            FullOptions { agent: &agent_binary(), extra_packages: &[], cloud_init: true, disk_mib: 2048 };
        let full = build_full(&options, &image_dir(), &|step| eprintln!("{step}")).unwrap();
        let disk = dir.join("root.qcow2");
        let base = full.disk.display().to_string();
        let args = ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &base];
        assert!(Command::new("qemu-img").args(args).arg(&disk).status().unwrap().success());
        let line = "root=/dev/vda rw console=ttyS0 quiet psi=1 no_timer_check".to_owned();
        Self { kernel: full.kernel, initrd: full.initrd, line, disk: Some(disk) }
    }
}

/// A guest under test.
pub struct Vm {
    dir: tempfile::TempDir,
    qemu: Child,
    channel: UnixStream,
    decoder: Decoder<GuestMessage>,
    next_id: u64,
    /// Everything that came unasked.
    pub events: Vec<Event>,
    /// Answers that nobody has waited for yet: two can come in one read.
    replies: BTreeMap<u64, Reply>,
    ports: Vec<(u16, u16)>,
}

/// Waits until `ready` gives something, at most so long.
pub fn wait_for<T>(what: &str, patience: Duration, mut ready: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(start.elapsed() < patience, "{what} did not come within {patience:?}");
        // Gives the guest the CPU that it may be waiting for; a blocking wait has no handle on these conditions.
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn image_path(name: &str) -> PathBuf {
    build_package_image(&built_in(name).unwrap(), &image_dir(), &|step| eprintln!("{step}")).unwrap().path
}

impl Vm {
    /// Boots a guest and waits for its agent.
    pub fn boot(options: &Options) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let boot = if options.full { Boot::full(dir.path()) } else { Boot::small() };
        let ports: Vec<(u16, u16)> = options.ports.iter().map(|port| (*port, free_port())).collect();
        let mut command = qemu(&boot, dir.path(), options, &ports);
        let log = std::fs::File::create(dir.path().join("qemu.log")).unwrap();
        let start = Instant::now();
        let mut qemu = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let socket = dir.path().join("agent.sock");
        let channel = wait_for("the agent's socket", Duration::from_secs(20), || {
            assert!(qemu.try_wait().unwrap().is_none(), "{}", read(&dir.path().join("qemu.log")));
            UnixStream::connect(&socket).ok()
        });
        channel.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let decoder = Decoder::new(GUEST_PAYLOAD_BYTES_MAX);
        let mut vm = Self {
            dir,
            qemu,
            channel,
            decoder,
            next_id: 0,
            events: Vec::new(),
            replies: BTreeMap::new(),
            ports,
        };
        let what = "the agent's hello";
        wait_for(what, Duration::from_secs(300), || {
            vm.pump();
            assert!(vm.qemu.try_wait().unwrap().is_none(), "{}", vm.console());
            vm.events.iter().any(|event| matches!(event, Event::Hello { .. })).then_some(())
        });
        eprintln!("guest is up after {:.1} s", start.elapsed().as_secs_f64());
        vm
    }

    /// What the guest said on its console.
    pub fn console(&self) -> String {
        read(&self.dir.path().join("console.log"))
    }

    /// The port of this machine that leads to a port of the guest.
    pub fn host_port(&self, guest_port: u16) -> u16 {
        self.ports.iter().find(|(guest, _)| *guest == guest_port).unwrap().1
    }

    /// Sends bytes as they are.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.channel.write_all(bytes).unwrap();
    }

    /// Hangs up, and connects again.
    pub fn reconnect(&mut self) {
        let socket = self.dir.path().join("agent.sock");
        self.channel.shutdown(std::net::Shutdown::Both).unwrap();
        self.channel =
            wait_for("a new connection", Duration::from_secs(10), || UnixStream::connect(&socket).ok());
        self.channel.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        self.decoder = Decoder::new(GUEST_PAYLOAD_BYTES_MAX);
    }

    /// Sends a request; the answer is taken later.
    pub fn send(&mut self, request: Request) -> u64 {
        self.next_id += 1;
        let message = HostMessage { id: self.next_id, request };
        let frame = encode(&message, HOST_PAYLOAD_BYTES_MAX).unwrap();
        self.channel.write_all(&frame).unwrap();
        self.next_id
    }

    /// Takes what has arrived.
    pub fn pump(&mut self) {
        let mut chunk = [0; 65536];
        if let Ok(got) = self.channel.read(&mut chunk) {
            self.decoder.push(&chunk[..got]);
        }
        while let Some(message) = self.decoder.next() {
            match message.unwrap() {
                GuestMessage::Reply { id, reply } => drop(self.replies.insert(id, *reply)),
                GuestMessage::Event { event } => self.events.push(event),
                GuestMessage::Unknown => panic!("an unknown message"),
            }
        }
    }

    /// Waits for an answer.
    pub fn answer(&mut self, id: u64) -> Reply {
        let start = Instant::now();
        loop {
            self.pump();
            if let Some(reply) = self.replies.remove(&id) {
                return reply;
            }
            assert!(start.elapsed() < ANSWER_PATIENCE, "no answer to {id}; console:\n{}", self.console());
            assert!(self.qemu.try_wait().unwrap().is_none(), "QEMU ended; console:\n{}", self.console());
        }
    }

    /// Asks and waits.
    pub fn ask(&mut self, request: Request) -> Reply {
        let id = self.send(request);
        self.answer(id)
    }

    /// Greets, and gives what the agent is.
    pub fn hello(&mut self) -> proteus_protocol::guest::v1::HelloReply {
        let hello = HelloRequest { protocol: 1, version: "test".into() };
        match self.ask(Request::Hello { hello }) {
            Reply::Hello { hello } => hello,
            other => panic!("{other:?}"),
        }
    }

    /// Runs a program in the guest.
    pub fn exec(&mut self, argv: &[&str], service: Option<&str>) -> ExecOutcome {
        let exec = ExecRequest {
            argv: argv.iter().map(|arg| (*arg).to_owned()).collect(),
            service: service.map(str::to_owned),
            stdin: Blob::default(),
            timeout_ms: 60_000,
            output_bytes_max: 65536,
        };
        match self.ask(Request::Exec { exec }) {
            Reply::Exec { outcome } => outcome,
            other => panic!("{other:?}"),
        }
    }

    /// A file of the guest.
    pub fn cat(&mut self, path: &str) -> String {
        let outcome = self.exec(&["/bin/cat", path], None);
        assert_eq!(outcome.exit_code, Some(0), "cat {path}: {}", outcome.stderr.to_text_lossy());
        outcome.stdout.to_text_lossy()
    }

    /// One command to QEMU itself; gives its answer.
    pub fn qmp(&self, command: &str) -> String {
        let mut stream = UnixStream::connect(self.dir.path().join("qmp.sock")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut line = || {
            let mut text = Vec::new();
            let mut byte = [0];
            while text.last() != Some(&b'\n') {
                stream.read_exact(&mut byte).unwrap();
                text.push(byte[0]);
            }
            let text = String::from_utf8(text).unwrap();
            stream.write_all(b"").unwrap();
            (text, stream.try_clone().unwrap())
        };
        let (_greeting, mut out) = line();
        out.write_all(b"{\"execute\":\"qmp_capabilities\"}\n").unwrap();
        line();
        out.write_all(format!("{command}\n").as_bytes()).unwrap();
        loop {
            let (text, _) = line();
            if !text.contains("\"event\"") {
                return text;
            }
        }
    }

    /// Waits until QEMU has ended.
    pub fn wait_ended(&mut self, patience: Duration) {
        let qemu = &mut self.qemu;
        wait_for("the end of QEMU", patience, || qemu.try_wait().unwrap());
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

fn qemu(boot: &Boot, dir: &Path, options: &Options, ports: &[(u16, u16)]) -> Command {
    let (cpus, cpus_max) = options.cpus.unwrap_or((1, 1));
    let file = |name: &str| dir.join(name).display().to_string();
    let forwards: String = ports.iter().map(|(g, h)| format!(",hostfwd=tcp:127.0.0.1:{h}-:{g}")).collect();
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args([
            "-machine",
            "q35",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-m",
            if boot.disk.is_some() { "524352K" } else { "262208K" },
        ])
        .args([
            "-smp",
            &format!("{cpus},maxcpus={cpus_max}"),
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
        ])
        .arg("-kernel")
        .arg(&boot.kernel)
        .arg("-initrd")
        .arg(&boot.initrd)
        .args(["-append", &boot.line])
        .args(["-serial", &format!("file:{}", file("console.log"))])
        .args(["-qmp", &format!("unix:{},server=on,wait=off", file("qmp.sock"))])
        .args(["-device", "virtio-serial-pci"])
        .args(["-chardev", &format!("socket,id=agent,path={},server=on,wait=off", file("agent.sock"))])
        .args(["-device", &format!("virtserialport,chardev=agent,name={PORT_NAME}")])
        .args(["-device", "virtio-rng-pci"])
        .args(["-netdev", &format!("user,id=net0,restrict=on{forwards}")])
        .args(["-device", "virtio-net-pci,netdev=net0"]);
    if let Some(disk) = &boot.disk {
        command
            .args(["-drive", &format!("if=none,id=root,format=qcow2,file={}", disk.display())])
            .args(["-device", "virtio-blk-pci,drive=root,serial=root"]);
    }
    for name in options.images {
        let path = image_path(name);
        command
            .args(["-drive", &format!("if=none,id={name},format=raw,readonly=on,file={}", path.display())])
            .args(["-device", &format!("virtio-blk-pci,drive={name},serial={name}")]);
    }
    if let Some(mib) = options.data_mib {
        let path = file("data.img");
        let status = Command::new("mkfs.ext4").args(["-q", &path, &format!("{mib}M")]).status().unwrap();
        assert!(status.success());
        command
            .args(["-drive", &format!("if=none,id=data,format=raw,file={path}")])
            .args(["-device", "virtio-blk-pci,drive=data,serial=data"]);
    }
    command
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        if std::thread::panicking() {
            eprintln!("console:\n{}", self.console());
        }
    }
}
