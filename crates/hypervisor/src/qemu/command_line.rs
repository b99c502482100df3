//! The command line of a VM's QEMU: everything that can only be chosen at start, chosen so that as much as
//! possible can be changed later. Pure: the same seat gives the same arguments.

use crate::driver::Seat;
use crate::network::Network;
use crate::qemu::probe::Accelerator;
use proteus_model::unit::Bytes;
use proteus_model::vm::{Boot, DiskFormat, DiskIntent, ImageIntent};
use std::path::{Path, PathBuf};

/// Ports into which images and disks are plugged live. `pcie.0` itself refuses hot-plug.
pub(crate) const ROOT_PORTS: u8 = 8;
const _: () = assert!(ROOT_PORTS as usize == proteus_model::vm::IMAGES_MAX, "a port for each image");
/// Name of the guest channel's port; the agent looks for it.
pub(crate) const AGENT_PORT: &str = "org.proteus.agent.0";
/// Block size of plugged memory: the smallest that a Linux guest of x86-64 plugs.
pub(crate) const HOT_BLOCK: Bytes = Bytes::mib(2);

/// What a seat does not say and the command line needs.
pub(crate) struct Surroundings<'a> {
    pub accelerator: Accelerator,
    pub machine: &'a str,
    pub ram_dir: &'a Path,
    pub tap_fd: i32,
    /// Where a replacement's guest comes from: it then starts paused and waits.
    pub incoming: bool,
    /// Whether its CPUs wait to be told: a snapshot is loaded first.
    pub paused: bool,
    /// vCPUs and images plugged since the start, which a replacement must have from its start.
    pub plugged: &'a Plugged,
    /// Sockets are named after this: a replacement lives beside its predecessor for a moment.
    pub incarnation: u32,
}

/// What was plugged into a running VM: a replacement is built with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Plugged {
    /// Each plugged image: device id, root port, the image.
    pub images: Vec<PluggedImage>,
    /// vCPUs plugged beyond those of the start.
    pub vcpus: u32,
}

/// An image in a port.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct PluggedImage {
    pub device: String,
    pub port: u8,
    pub image: ImageIntent,
}

/// Sockets of one incarnation of a VMM.
pub(crate) struct Sockets {
    pub qmp: PathBuf,
    pub agent: PathBuf,
    pub console: PathBuf,
}

impl Sockets {
    pub(crate) fn of(seat: &Seat, incarnation: u32) -> Self {
        let path = |what: &str| seat.run_dir().join(format!("{what}.{incarnation}"));
        Self { qmp: path("qmp"), agent: path("agent"), console: path("console") }
    }
}

/// Path of the file that is the VM's memory.
pub(crate) fn ram_path(ram_dir: &Path, seat: &Seat, part: &str) -> PathBuf {
    ram_dir.join(format!("{}.{part}", seat.id))
}

/// A path inside a comma-separated option: QEMU reads two commas as one.
fn quoted(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

fn hot_memory(seat: &Seat) -> Bytes {
    seat.intent.memory_max.saturating_sub(seat.intent.memory)
}

/// Driver name of a vCPU of this accelerator, as `device_add` and `-device` want it.
pub(crate) fn cpu_driver(accelerator: Accelerator) -> &'static str {
    match accelerator {
        Accelerator::Kvm => "host-x86_64-cpu",
        Accelerator::Tcg => "max-x86_64-cpu",
    }
}

/// All arguments after the program's name.
pub(crate) fn arguments(seat: &Seat, around: &Surroundings<'_>) -> Vec<String> {
    let mut args: Vec<String> = Vec::new();
    let mut add = |words: &[&str]| args.extend(words.iter().map(|w| (*w).to_owned()));
    let intent = &seat.intent;
    add(&["-name", &format!("guest={}", intent.name), "-nodefaults", "-no-user-config", "-display", "none"]);
    add(&["-machine", &format!("{},memory-backend=ram", around.machine)]);
    match around.accelerator {
        Accelerator::Kvm => add(&["-accel", "kvm", "-cpu", "host"]),
        Accelerator::Tcg => add(&["-accel", "tcg,thread=multi", "-cpu", "max"]),
    }
    let topology = format!("{0},maxcpus={1},sockets=1,cores={1},threads=1", intent.vcpus, intent.vcpus_max);
    add(&["-smp", &topology]);
    for index in intent.vcpus..(intent.vcpus + around.plugged.vcpus) {
        let cpu = cpu_driver(around.accelerator);
        add(&["-device", &format!("{cpu},id=cpu{index},socket-id=0,core-id={index},thread-id=0")]);
    }
    add_memory(&mut add, seat, around);
    add_devices(&mut add, seat, around);
    for (index, disk) in seat.disks().iter().enumerate() {
        add_disk(&mut add, disk, index);
    }
    for plugged in &around.plugged.images {
        add_image(&mut add, plugged);
    }
    if let Boot::Kernel { kernel, initrd, append } = &intent.boot {
        add(&["-kernel", &kernel.display().to_string(), "-initrd", &initrd.display().to_string()]);
        let network = format!(
            "proteus.ip={}/{} proteus.gw={} proteus.host={}",
            Network::address(seat.slot),
            Network::prefix(),
            Network::gateway(),
            intent.name
        );
        // An emulated guest on a busy host may not get its first timer interrupts in time, and Linux then panics
        // ("IO-APIC + timer doesn't work"). It leaves that check out by itself under KVM.
        let fixed = "console=ttyS0 quiet psi=1 panic=-1 no_timer_check memhp_default_state=online_movable";
        add(&["-append", format!("{fixed} {network} {append}").trim_end()]);
    }
    if around.incoming {
        add(&["-incoming", "defer"]);
    }
    if around.paused {
        add(&["-S"]);
    }
    add(&["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]);
    args
}

fn add_memory(add: &mut impl FnMut(&[&str]), seat: &Seat, around: &Surroundings<'_>) {
    let (size, hot) = (seat.intent.memory.0, hot_memory(seat).0);
    let file = quoted(&ram_path(around.ram_dir, seat, "ram"));
    add(&["-object", &format!("memory-backend-file,id=ram,size={size},mem-path={file},share=on")]);
    if hot == 0 {
        return add(&["-m", &format!("size={size}B")]);
    }
    add(&["-m", &format!("size={size}B,slots=1,maxmem={}B", size + hot)]);
    let file = quoted(&ram_path(around.ram_dir, seat, "hot"));
    add(&["-object", &format!("memory-backend-file,id=hot,size={hot},mem-path={file},share=on,reserve=off")]);
    let block = HOT_BLOCK.0;
    add(&[
        "-device",
        &format!(
            "virtio-mem-pci,id=vmem0,memdev=hot,requested-size=0,block-size={block},bus=pcie.0,addr=0x6"
        ),
    ]);
}

fn add_devices(add: &mut impl FnMut(&[&str]), seat: &Seat, around: &Surroundings<'_>) {
    let sockets = Sockets::of(seat, around.incarnation);
    let socket = |id: &str, path: &Path| format!("socket,id={id},path={},server=on,wait=off", quoted(path));
    add(&["-chardev", &socket("qmp", &sockets.qmp), "-mon", "chardev=qmp,mode=control"]);
    add(&["-chardev", &socket("console", &sockets.console), "-serial", "chardev:console"]);
    add(&["-chardev", &socket("agent", &sockets.agent)]);
    add(&["-device", "virtio-serial-pci,id=serial0,bus=pcie.0,addr=0x2"]);
    add(&["-device", &format!("virtserialport,bus=serial0.0,chardev=agent,name={AGENT_PORT}")]);
    let balloon = "virtio-balloon-pci,id=balloon0,deflate-on-oom=on,free-page-reporting=on";
    add(&["-device", &format!("{balloon},bus=pcie.0,addr=0x3")]);
    add(&["-object", "rng-random,id=rng0,filename=/dev/urandom"]);
    add(&["-device", "virtio-rng-pci,rng=rng0,bus=pcie.0,addr=0x4"]);
    add(&["-netdev", &format!("tap,id=net0,fd={}", around.tap_fd)]);
    add(&["-device", &format!("virtio-net-pci,id=nic0,netdev=net0,mac={},bus=pcie.0,addr=0x5", seat.mac())]);
    for port in 0..ROOT_PORTS {
        let first = if port == 0 { ",multifunction=on" } else { "" };
        let device =
            format!("pcie-root-port,id=rp{port},chassis={},slot={port},addr=0x8.{port}{first}", port + 1);
        add(&["-device", &device]);
    }
}

fn add_disk(add: &mut impl FnMut(&[&str]), disk: &DiskIntent, index: usize) {
    let (name, file) = (&disk.name, quoted(&disk.path));
    let read_only = if disk.read_only { "on" } else { "off" };
    let format = match disk.format {
        DiskFormat::Qcow2 => "qcow2",
        DiskFormat::Raw => "raw",
    };
    add(&["-object", &format!("throttle-group,id=tg-{name}")]);
    let base = format!("read-only={read_only},discard=unmap");
    add(&["-blockdev", &format!("driver=file,node-name=f-{name},filename={file},{base}")]);
    add(&["-blockdev", &format!("driver={format},node-name=d-{name},file=f-{name},{base}")]);
    let throttle = format!("driver=throttle,node-name=t-{name},throttle-group=tg-{name},file=d-{name}");
    add(&["-blockdev", &format!("{throttle},read-only={read_only}")]);
    let address = 0x10 + index;
    let device =
        format!("virtio-blk-pci,id=disk-{name},drive=t-{name},serial={name},bus=pcie.0,addr={address:#x}");
    let boot = if index == 0 { ",bootindex=1" } else { "" };
    add(&["-device", &format!("{device}{boot}")]);
}

fn add_image(add: &mut impl FnMut(&[&str]), plugged: &PluggedImage) {
    let (device, port, file) = (&plugged.device, plugged.port, quoted(&plugged.image.path));
    add(&["-blockdev", &format!("driver=file,node-name=f-{device},filename={file},read-only=on")]);
    add(&["-blockdev", &format!("driver=raw,node-name=n-{device},file=f-{device},read-only=on")]);
    let serial = &plugged.image.name;
    add(&["-device", &format!("virtio-blk-pci,id={device},drive=n-{device},serial={serial},bus=rp{port}")]);
}
