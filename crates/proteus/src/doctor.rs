//! `proteus doctor`: what this machine can do, what is missing, and the command that mends it.

use anyhow::Result;
use proteus_cli::argument::{Cli, OutputForm};
use proteus_cli::terminal;
use proteus_hypervisor::network::Network;
use proteus_hypervisor::qemu::probe;
use serde_json::json;
use std::path::Path;

struct Finding {
    what: &'static str,
    /// `None`: well. Else what is wrong.
    wrong: Option<String>,
    /// The command that mends it.
    mend: &'static str,
    /// Whether nothing works without it.
    needed: bool,
    seen: String,
}

fn program(what: &'static str, name: &str, mend: &'static str, needed: bool) -> Finding {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Tools of the system administrator are not on everybody's path.
    let more = ["/usr/sbin", "/sbin"].map(std::path::PathBuf::from);
    let found =
        std::env::split_paths(&path).chain(more).map(|dir| dir.join(name)).find(|path| path.is_file());
    Finding {
        what,
        wrong: found.is_none().then(|| format!("{name} is not installed")),
        mend,
        needed,
        seen: found.map(|path| path.display().to_string()).unwrap_or_default(),
    }
}

fn file(what: &'static str, path: &str, mend: &'static str, needed: bool) -> Finding {
    let there = Path::new(path).exists();
    let wrong = (!there).then(|| format!("{path} is not there"));
    Finding { what, wrong, mend, needed, seen: path.to_owned() }
}

/// Whether guests reach the outside, by what is on the host.
fn uplink(state: &Path) -> Finding {
    let instance = crate::service::instance(state).ok();
    let uplink = instance.and_then(|instance| Network::new(&instance).uplink());
    let seen = match &uplink {
        None => "off: guests reach nothing outside (`proteus host uplink enable`)".to_owned(),
        Some(up) => format!("guests reach the outside over {} by {}", up.interface, up.link),
    };
    let broken = uplink.filter(|up| !Path::new("/proc/sys/net/ipv4/conf").join(&up.link).exists());
    Finding {
        what: "uplink",
        wrong: broken.map(|up| format!("the link {} is gone", up.link)),
        mend: "proteus host uplink enable",
        needed: false,
        seen,
    }
}

async fn findings(state: &Path) -> Vec<Finding> {
    let root = rustix::process::geteuid().is_root();
    let mut all = vec![
        Finding {
            what: "root",
            wrong: (!root).then(|| "Proteus makes namespaces, taps and control groups: root only".to_owned()),
            mend: "sudo proteus doctor",
            needed: true,
            seen: "yes".to_owned(),
        },
        program("QEMU", "qemu-system-x86_64", "apt-get install qemu-system-x86", true),
        program("disk images", "qemu-img", "apt-get install qemu-utils", false),
        program("network", "ip", "apt-get install iproute2", true),
        program("link rates", "tc", "apt-get install iproute2", true),
        program("packet filter", "nft", "apt-get install nftables", true),
        program("guests' addresses", "dnsmasq", "apt-get install dnsmasq-base", true),
        program("image building", "mkfs.erofs", "apt-get install erofs-utils", false),
        program("full guests", "debootstrap", "apt-get install debootstrap", false),
        program("kernel modules", "depmod", "apt-get install kmod", false),
        program("cloud-init seeds", "xorriso", "apt-get install xorriso", false),
        file("taps", "/dev/net/tun", "modprobe tun", true),
        file("guest memory", "/dev/shm", "mount -t tmpfs tmpfs /dev/shm", true),
        file("pressure", "/proc/pressure/cpu", "boot the host with psi=1", false),
        file("control groups", "/sys/fs/cgroup", "mount the control groups", true),
        uplink(state),
    ];
    // A folder of its own: root must not write under a name that others can foresee.
    let probed = match tempfile::tempdir() {
        Ok(scratch) => probe::probe(scratch.path()).await.map_err(|error| error.to_string()),
        Err(error) => Err(format!("make a folder for temporary files: {error}")),
    };
    all.push(match probed {
        Ok(report) => Finding {
            what: "accelerator",
            wrong: None,
            mend: "",
            needed: false,
            seen: format!("{}: {} (QEMU {})", report.accelerator.word(), report.why, report.version),
        },
        Err(error) => Finding {
            what: "accelerator",
            wrong: Some(error),
            mend: "apt-get install qemu-system-x86",
            needed: true,
            seen: String::new(),
        },
    });
    all
}

/// Looks, tells, and fails where something needed is missing.
pub async fn doctor(cli: &Cli) -> Result<u8> {
    let all = findings(&cli.state).await;
    let lacking = all.iter().any(|finding| finding.needed && finding.wrong.is_some());
    if cli.output == OutputForm::Json {
        let rows: Vec<_> = all
            .iter()
            .map(|f| json!({"what": f.what, "ok": f.wrong.is_none(), "seen": f.seen, "wrong": f.wrong, "mend": f.mend}))
            .collect();
        terminal::say(format_args!(
            "{}",
            serde_json::to_string_pretty(&json!({ "ready": !lacking, "findings": rows }))?
        ));
        return Ok(u8::from(lacking));
    }
    for finding in &all {
        match &finding.wrong {
            None => terminal::say(format_args!("  ok       {:<16} {}", finding.what, finding.seen)),
            Some(wrong) => {
                let word = if finding.needed { "MISSING" } else { "lacking" };
                terminal::say(format_args!(
                    "  {word:<8} {:<16} {wrong}; mend: {}",
                    finding.what, finding.mend
                ));
            }
        }
    }
    terminal::say(format_args!("{}", if lacking { "not ready" } else { "ready" }));
    Ok(u8::from(lacking))
}
