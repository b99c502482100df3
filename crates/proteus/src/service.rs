//! The parts of a running Proteus, wired: driver, node, store, control plane. Used by `serve` and by whatever
//! measures it.

use anyhow::{Context, Result};
use proteus_control_plane::audit::Entropy;
use proteus_control_plane::backup::BackupFuture;
use proteus_control_plane::control::{Clock, Control};
use proteus_control_plane::store::embedded::Embedded;
use proteus_host_agent::node::{HostAgent, HostFacts, Reach};
use proteus_hypervisor::qemu::QemuDriver;
use proteus_model::unit::UnixMillis;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A wired Proteus.
pub struct Service {
    /// The control plane.
    pub control: Arc<Control>,
    /// Its store.
    pub store: Arc<Embedded>,
    driver: Arc<QemuDriver>,
    watching: Watching,
}

/// The task that looks at every VM.
struct Watching {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Watching {
    fn begin(node: Arc<HostAgent>) -> Self {
        let stop = CancellationToken::new();
        Self { task: tokio::spawn(node.watch(stop.clone())), stop }
    }

    /// What was measured is on disk when this returns.
    async fn end(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the task that looks at VMs failed");
        }
    }
}

/// Name of the instance whose state is in `dir`: every namespace, control group and tap of it is named by this,
/// so that two instances on a host never meet.
pub fn instance(dir: &Path) -> Result<String> {
    let whole = std::fs::canonicalize(dir).with_context(|| format!("find {}", dir.display()))?;
    let digest = Sha256::digest(whole.as_os_str().as_encoded_bytes());
    Ok(digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect())
}

/// The host's clock.
pub fn clock() -> Clock {
    Arc::new(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    })
}

/// The kernel's entropy.
pub fn entropy() -> Entropy {
    Arc::new(|| {
        let mut bytes = [0u8; 16];
        let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
        // getrandom(2): once the pool is ready, up to 256 bytes are given whole and without error.
        assert!(filled == Ok(bytes.len()), "the kernel gave no entropy");
        u128::from_ne_bytes(bytes)
    })
}

/// A state folder that is this process's own.
pub struct Taken {
    /// Where it is, in full.
    pub state: PathBuf,
    store: Arc<Embedded>,
}

impl Taken {
    /// Takes the state folder, or says who has it. Does nothing else to the host.
    pub fn take(state: &Path) -> Result<Self> {
        std::fs::create_dir_all(state).with_context(|| format!("make {}", state.display()))?;
        // Whole from here on: VMMs, the table of users and clients have other working folders.
        let state = std::fs::canonicalize(state).with_context(|| format!("find {}", state.display()))?;
        let store = Arc::new(Embedded::open(&state, None).context("open the state")?);
        Ok(Self { state, store })
    }
}

impl Service {
    /// Opens the host, finds its VMs, and begins to end what a crash cut short. Where that fails, what was opened is
    /// closed, unless a VM uses it.
    pub async fn open(taken: Taken) -> Result<Self> {
        let Taken { state, store } = taken;
        let driver = Arc::new(QemuDriver::open(&instance(&state)?, &state).await.context("open the host")?);
        match Self::wire(&state, &store, &driver).await {
            Ok((control, node)) => Ok(Self { control, store, driver, watching: Watching::begin(node) }),
            Err(error) => {
                if let Err(left) = driver.close_if_idle().await {
                    tracing::warn!(error = %left, "the host is not given back as it was");
                }
                Err(error)
            }
        }
    }

    async fn wire(
        state: &Path,
        store: &Arc<Embedded>,
        driver: &Arc<QemuDriver>,
    ) -> Result<(Arc<Control>, Arc<HostAgent>)> {
        let probe = driver.probe_report().clone();
        tracing::info!(accelerator = probe.accelerator.word(), why = %probe.why, "guests run on");
        let reach = Reach::Network(driver.network().clone());
        let facts = HostFacts {
            accelerator: probe.accelerator.word().to_owned(),
            accelerator_why: probe.why,
            hypervisor: probe.version,
        };
        let node = Arc::new(HostAgent::open(driver.clone(), reach, facts, state).await?);
        let control = Control::new(store.clone(), node.clone(), clock(), entropy());
        control.share_files(state.join("images"));
        let copied = store.clone();
        let write = move |to: PathBuf| -> BackupFuture {
            let store = copied.clone();
            Box::pin(async move { store.backup(&to).await })
        };
        control.keep_backups(state.join("backups"), Box::new(write));
        if let Err(error) = control.ensure_shipped_profiles().await {
            tracing::error!(%error, "the shipped profiles are not all there");
        }
        if let Err(error) = control.restore_uplink().await {
            tracing::error!(%error, "guests reach nothing outside, though that is wanted");
        }
        control.resume().await.context("take up what a crash cut short")?;
        control.watch_vms();
        control.keep_history_short();
        control.watch_personalities();
        Ok((control, node))
    }

    /// Ends: running morphs first. Guests keep running; where none does, the host is given back as it was.
    pub async fn close(self) -> Result<()> {
        self.control.stop().await;
        self.watching.end().await;
        let mut running = false;
        for record in self.control.vms().await? {
            running |= self.control.runs(record.id).await;
        }
        if !running {
            self.driver.close().await?;
        }
        self.store.close().await;
        Ok(())
    }
}
