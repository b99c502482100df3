//! The services of the work on a full guest: its own systemd runs each as a unit, from the image that a small guest
//! gets, with a folder of the guest's disk over it. Must never leave to the agent what systemd is to do.

use super::exec;
use crate::demo::host::Host;
use anyhow::{Context, Result, ensure};
use proteus_protocol::guest::v1::service::{MANIFEST_PATH, PrepareStep, ServiceManifest, User};

/// Where the roots of all of them are in the guest.
const ROOTS: &str = "/var/lib/bench";

/// A word that a shell leaves as it is.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

fn words(argv: &[String]) -> String {
    argv.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

/// The root of a service in the guest.
fn root(service: &str) -> String {
    format!("{ROOTS}/{service}/root")
}

/// Mounts a service's image, and says where.
fn attached(service: &str) -> (String, String) {
    let image = format!("{ROOTS}/{service}/image");
    // A disk's serial is cut to 20 characters (VIRTIO_BLK_ID_BYTES); names of these images are shorter.
    let mount = format!("mkdir -p {image} && mount -t erofs -o ro /dev/disk/by-id/virtio-{service} {image}");
    (image, mount)
}

/// A script as it is run inside a service's file system.
pub(super) fn within(service: &str, script: &str) -> String {
    format!("exec chroot {} /bin/sh -c {}", root(service), quoted(script))
}

fn prepared(root: &str, step: &PrepareStep) -> String {
    let owner = |user: &User| format!("{}:{}", user.uid, user.gid);
    match step {
        PrepareStep::Directory { path, user, mode } => {
            let path = quoted(&format!("{root}{path}"));
            format!("mkdir -p {path}; chown {} {path}; chmod {mode:o} {path}\n", owner(user))
        }
        PrepareStep::Run { argv, user, unless_exists, stdin, .. } => {
            let there = unless_exists.as_ref().map(|path| quoted(&format!("{root}{path}")));
            let unless = there.map_or_else(String::new, |path| format!("test -e {path} || "));
            let run = format!("chroot --userspec={} {root} {}", owner(user), words(argv));
            format!("{unless}printf %s {} | {run}\n", quoted(stdin))
        }
    }
}

/// What makes a service a unit that runs and has its port open.
fn script(manifest: &ServiceManifest) -> String {
    let name = &manifest.name;
    let (base, root) = (format!("{ROOTS}/{name}"), root(name));
    let mut script = format!(
        "set -e\nmkdir -p {base}/upper {base}/work {root}\n\
         mount -t overlay overlay -o lowerdir={base}/image,upperdir={base}/upper,workdir={base}/work {root}\n\
         mount -t proc proc {root}/proc\nmount --rbind /dev {root}/dev\n"
    );
    script.extend(manifest.prepare.iter().map(|step| prepared(&root, step)));
    let environment: String = manifest
        .environment
        .iter()
        .map(|(name, value)| format!(" -E {}", quoted(&format!("{name}={value}"))))
        .collect();
    let user = format!("{}:{}", manifest.user.uid, manifest.user.gid);
    script.push_str(&format!(
        "systemd-run --quiet --unit={name}{environment} chroot --userspec={user} {root} {}\n",
        words(&manifest.argv)
    ));
    for socket in &manifest.listen {
        script.push_str(&format!(
            "until bash -c '</dev/tcp/127.0.0.1/{}' 2>/dev/null; do systemctl is-active --quiet {name}; sleep 0.2; done\n",
            socket.port()
        ));
    }
    script
}

/// Waits until the guest's systemd is through with its start, then has it run the services.
pub(super) async fn start(host: &Host, vm: &str, services: &[&str]) -> Result<()> {
    // "degraded" is through, too.
    exec(host, vm, None, "systemctl is-system-running --wait >/dev/null; true").await?;
    for service in services {
        let (image, mount) = attached(service);
        let read = exec(host, vm, None, &format!("{mount} && cat {image}{MANIFEST_PATH}")).await?;
        ensure!(read.exit_code == Some(0), "attach {service} to {vm}: {}", read.stderr);
        let manifest: ServiceManifest =
            serde_json::from_str(&read.stdout).with_context(|| format!("the manifest of {service}"))?;
        let ended = exec(host, vm, None, &script(&manifest)).await?;
        ensure!(ended.exit_code == Some(0), "start {service} in {vm}: {}", ended.stderr);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_manifest_becomes_a_unit() {
        let manifest: ServiceManifest = serde_json::from_value(json!({
            "manifest": 1, "name": "web", "version": "1", "argv": ["/usr/sbin/web", "it's"],
            "environment": {"LANG": "C"}, "user": {"uid": 33, "gid": 33}, "listen": ["0.0.0.0:80"],
            "sockets": "agent_nginx", "ready": {"probe": {"tcp": {"port": 80}}, "timeout_ms": 1000},
            "prepare": [
                {"directory": {"path": "/data", "user": {"uid": 33, "gid": 33}, "mode": 488}},
                {"run": {"argv": ["/bin/init"], "user": {"uid": 33, "gid": 33}, "unless_exists": "/data/x",
                    "stdin": "a\n", "timeout_ms": 1000}}
            ],
            "stop_signal": "TERM", "stop_timeout_ms": 1000, "scratch_bytes": 1
        }))
        .unwrap();
        expect_test::expect![[r#"
            set -e
            mkdir -p /var/lib/bench/web/upper /var/lib/bench/web/work /var/lib/bench/web/root
            mount -t overlay overlay -o lowerdir=/var/lib/bench/web/image,upperdir=/var/lib/bench/web/upper,workdir=/var/lib/bench/web/work /var/lib/bench/web/root
            mount -t proc proc /var/lib/bench/web/root/proc
            mount --rbind /dev /var/lib/bench/web/root/dev
            mkdir -p '/var/lib/bench/web/root/data'; chown 33:33 '/var/lib/bench/web/root/data'; chmod 750 '/var/lib/bench/web/root/data'
            test -e '/var/lib/bench/web/root/data/x' || printf %s 'a
            ' | chroot --userspec=33:33 /var/lib/bench/web/root '/bin/init'
            systemd-run --quiet --unit=web -E 'LANG=C' chroot --userspec=33:33 /var/lib/bench/web/root '/usr/sbin/web' 'it'\''s'
            until bash -c '</dev/tcp/127.0.0.1/80' 2>/dev/null; do systemctl is-active --quiet web; sleep 0.2; done
        "#]]
        .assert_eq(&script(&manifest));
        assert_eq!(
            within("web", "echo '$x'"),
            r"exec chroot /var/lib/bench/web/root /bin/sh -c 'echo '\''$x'\'''"
        );
    }
}
