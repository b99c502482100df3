//! The Proteus of the demonstration: a process of its own on a state folder of its own, killed, started again and
//! in the end cleared away with everything it made.

use anyhow::{Context, Result, bail, ensure};
use proteus_cli::client::{Client, segment};
use proteus_cli::intent::guest_of;
use proteus_cli::terminal;
use proteus_cli::told::Told;
use proteus_model::id::VmName;
use proteus_model::unit::{Bytes, Millis};
use proteus_model::vm::{Boot, DiskFormat, DiskIntent, ImageIntent, VmIntent};
use proteus_protocol::api::v1::{HostView, StopRequest, StopView, VmView};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

/// Longest wait for Proteus to listen: it probes the accelerator, and ends a morph that was cut short.
const START_LIMIT: Duration = Duration::from_secs(120);
/// Longest wait for Proteus to end.
const END_LIMIT: Duration = Duration::from_secs(60);

/// Size of a disk for data; what is not written takes no space.
const DATA_DISK_BYTES: u64 = 1 << 30;

/// Longest wait for init to reap a VMM whose parent was killed.
const REAP_LIMIT: Duration = Duration::from_secs(10);

pub(crate) struct Host {
    pub(crate) client: Client,
    state: PathBuf,
    server: Child,
    instance: String,
}

fn spawn(state: &Path) -> Result<Child> {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(state.join("serve.log"))?;
    let program = std::env::current_exe().context("find this program")?;
    Command::new(program)
        .arg("--state")
        .arg(state)
        .args(["serve", "--no-http"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::from(log))
        .process_group(0)
        .spawn()
        .context("start Proteus")
}

/// The work, or why it was given up: by ctrl-C or a TERM too, so that whoever waits removes what was made.
pub(crate) async fn unless_told<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut told = Told::listen()?;
    tokio::select! {
        done = work => done,
        () = told.wait() => bail!("interrupted"),
    }
}

/// An image as `proteus image build` made it.
fn image_of(images: &Path, image: &str) -> Result<ImageIntent> {
    let sidecar = images.join(format!("{image}.json"));
    let text = std::fs::read(&sidecar).with_context(|| format!("read {}", sidecar.display()))?;
    let about: serde_json::Value = serde_json::from_slice(&text)?;
    let digest = about["files"]["image"]["sha256"].as_str().context("the image has no digest")?;
    let file = about["files"]["image"]["file"].as_str().context("the image has no file")?;
    Ok(ImageIntent { name: image.parse()?, path: images.join(file), digest: digest.to_owned() })
}

impl Host {
    pub(crate) async fn start() -> Result<Self> {
        let state = std::env::temp_dir().join(format!("proteus-demo-{}", std::process::id()));
        std::fs::create_dir_all(&state)?;
        let instance = crate::service::instance(&state)?;
        let mut host = Self { client: Client::local(&state), server: spawn(&state)?, state, instance };
        host.wait_ready().await?;
        Ok(host)
    }

    /// Waits until Proteus answers; the log's end, if it does not.
    async fn wait_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            if self.client.get::<HostView>("/host").await.is_ok() {
                return Ok(());
            }
            if self.server.try_wait()?.is_some() || start.elapsed() > START_LIMIT {
                let log = std::fs::read_to_string(self.state.join("serve.log")).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(5).collect();
                bail!("Proteus did not start:\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) async fn description(&self) -> Result<String> {
        let host: HostView = self.client.get("/host").await?;
        Ok(format!("guests run on {} ({})", host.accelerator, host.accelerator_why))
    }

    pub(crate) async fn namespace(&self) -> Result<String> {
        let host: HostView = self.client.get("/host").await?;
        host.namespace.context("the guests have no network")
    }

    /// A disk for the data of a VM's service.
    pub(crate) async fn data_disk(&self, vm: &str, service: &str) -> Result<DiskIntent> {
        let path = self.state.join(format!("{vm}.ext4"));
        std::fs::File::create(&path)?.set_len(DATA_DISK_BYTES)?;
        let ended = Command::new("mkfs.ext4").arg("-q").arg(&path).status().await;
        ensure!(
            ended.context("run mkfs.ext4 (package e2fsprogs)")?.success(),
            "no file system at {}",
            path.display()
        );
        Ok(DiskIntent {
            name: format!("{service}-data").parse()?,
            path,
            format: DiskFormat::Raw,
            read_only: false,
            overlay: false,
        })
    }

    /// An empty qcow2 disk for a VM, of no service.
    pub(crate) async fn empty_disk(&self, vm: &str) -> Result<DiskIntent> {
        let path = self.state.join(format!("{vm}.qcow2"));
        let mut make = Command::new("qemu-img");
        make.args(["create", "-q", "-f", "qcow2"]).arg(&path).arg("1G");
        let ended = make.status().await.context("run qemu-img (package qemu-utils)")?;
        ensure!(ended.success(), "qemu-img made no disk at {}", path.display());
        Ok(DiskIntent {
            name: "data".parse()?,
            path,
            format: DiskFormat::Qcow2,
            read_only: false,
            overlay: false,
        })
    }

    pub(crate) async fn create_vm(&self, name: &str, image: &str, images: &Path) -> Result<VmView> {
        self.create_vm_with(name, &[image], images, Vec::new()).await
    }

    /// A full guest, with images that its agent attaches and does not run.
    pub(crate) async fn create_full_vm(
        &self,
        name: &str,
        attached: &[&str],
        images: &Path,
        guest: &Path,
    ) -> Result<VmView> {
        let (boot, disk) = guest_of(guest, "")?;
        let intent = VmIntent {
            vcpus_max: 2,
            memory_max: Bytes::mib(768),
            disks: disk.into_iter().collect(),
            images: attached.iter().map(|image| image_of(images, image)).collect::<Result<_>>()?,
            ..VmIntent::new(name.parse::<VmName>()?, boot, Bytes::mib(512))
        };
        self.create_and_start(&intent).await
    }

    /// The same with several services, and with disks.
    pub(crate) async fn create_vm_with(
        &self,
        name: &str,
        services: &[&str],
        images: &Path,
        disks: Vec<DiskIntent>,
    ) -> Result<VmView> {
        let intent = VmIntent {
            vcpus_max: 2,
            memory_max: Bytes::mib(768),
            disks,
            images: services.iter().map(|image| image_of(images, image)).collect::<Result<_>>()?,
            services: services.iter().map(|image| Ok(image.parse()?)).collect::<Result<_>>()?,
            ..VmIntent::new(
                name.parse::<VmName>()?,
                Boot::Kernel {
                    kernel: images.join("small/vmlinuz"),
                    initrd: images.join("small/initramfs.cpio"),
                    append: String::new(),
                },
                Bytes::mib(512),
            )
        };
        self.create_and_start(&intent).await
    }

    async fn create_and_start(&self, intent: &VmIntent) -> Result<VmView> {
        let _: VmView = self.client.post("/vms", intent).await?;
        let path = format!("/vms/{}/start", segment(intent.name.as_str()));
        Ok(self.client.post(&path, &serde_json::json!({})).await?)
    }

    /// What a Prometheus reads; it looks at every VM.
    pub(crate) async fn metrics(&self) -> Result<String> {
        let mut stream = UnixStream::connect(self.state.join("proteus.sock")).await?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        ensure!(answer.contains(" 200 OK\r\n"), "no metrics: {answer}");
        Ok(answer)
    }

    /// SIGKILL.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.server.kill().await.context("kill Proteus")
    }

    pub(crate) async fn start_again(&mut self) -> Result<()> {
        self.server = spawn(&self.state)?;
        self.wait_ready().await
    }

    pub(crate) fn how_to_go_on(&self) -> String {
        let (state, pid) = (self.state.display(), self.server.id().unwrap_or(0));
        format!(
            "Everything still runs (pid {pid}). Go on with:\n  export PROTEUS_STATE={state}\n  proteus vm list\n\
             Stop it with:\n  proteus vm stop web; proteus vm stop cache; proteus vm stop db; kill {pid}; rm -r {state}"
        )
    }

    /// Stops the VMs and Proteus, clears the state, and names what is still there.
    pub(crate) async fn end(&mut self, vms: &[&str]) -> Vec<String> {
        let mut pids = Vec::new();
        for vm in vms {
            let path = format!("/vms/{}", segment(vm));
            if let Ok(view) = self.client.get::<VmView>(&path).await {
                pids.extend(view.pid);
            }
            let request = StopRequest { grace_ms: Millis(15_000) };
            if let Err(error) = self.client.post::<StopView>(&format!("{path}/stop"), &request).await {
                terminal::say_aside(format_args!("{vm} was not stopped: {error}"));
            }
        }
        if let Some(pid) = self.server.id().and_then(|pid| i32::try_from(pid).ok()) {
            let pid = rustix::process::Pid::from_raw(pid);
            // It may have ended already.
            let _ = pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::TERM));
        }
        if tokio::time::timeout(END_LIMIT, self.server.wait()).await.is_err() {
            terminal::say_aside(format_args!("Proteus did not end within {} s", END_LIMIT.as_secs()));
        }
        let mut left = self.leftovers(&pids);
        let start = Instant::now();
        // init reaps what outlived the killed Proteus.
        while !left.is_empty() && start.elapsed() < REAP_LIMIT {
            tokio::time::sleep(Duration::from_millis(50)).await;
            left = self.leftovers(&pids);
        }
        if let Err(error) = std::fs::remove_dir_all(&self.state) {
            left.push(format!("{}: {error}", self.state.display()));
        }
        left
    }

    fn leftovers(&self, pids: &[u32]) -> Vec<String> {
        leftovers(&self.instance, pids)
    }
}

/// Processes, namespaces, control groups and memory files of an instance that should be gone.
pub(crate) fn leftovers(instance: &str, pids: &[u32]) -> Vec<String> {
    let name = format!("proteus-{instance}");
    let mut paths = vec![PathBuf::from("/run/netns").join(&name), PathBuf::from("/dev/shm").join(&name)];
    for hierarchy in ["/sys/fs/cgroup", "/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"] {
        paths.push(Path::new(hierarchy).join(&name));
    }
    paths.extend(pids.iter().map(|pid| PathBuf::from(format!("/proc/{pid}"))));
    paths.retain(|path| path.exists());
    paths.iter().map(|path| path.display().to_string()).collect()
}
