//! Images for `proteus bench` alone: other agents to put ours beside, and a compiler to give a VM work. Not for use: who
//! can reach the guest can ask them anything.

use super::{MANIFEST_VERSION, ROOT, Recipe, any_address, directory, texts};
use proteus_protocol::guest::v1::ServiceManifest;
use proteus_protocol::guest::v1::service::{Probe, ReadyCheck, Signal, SocketOwnership};
use std::collections::BTreeMap;

fn recipe(name: &str, packages: &[&str], argv: &[&str], port: u16) -> Recipe {
    Recipe {
        name: name.to_owned(),
        packages: texts(packages),
        exclude: Vec::new(),
        prune: Vec::new(),
        users: Vec::new(),
        files: Vec::new(),
        service: ServiceManifest {
            manifest: MANIFEST_VERSION,
            name: String::new(),
            version: String::new(),
            argv: texts(argv),
            environment: BTreeMap::new(),
            user: ROOT,
            listen: any_address(port),
            sockets: SocketOwnership::Service { why: "it takes no listening socket of this kind".to_owned() },
            ready: ReadyCheck { probe: Probe::Tcp { port }, workers_min: 0, timeout_ms: 60_000 },
            prepare: Vec::new(),
            data_dir: None,
            stop_signal: Signal::Term,
            reload_signal: None,
            stop_timeout_ms: 15_000,
            scratch_bytes: 16 << 20,
        },
    }
}

/// QEMU's own agent. It speaks on a socket file; socat carries that to a port, and is not counted.
pub(super) fn qemu_guest_agent() -> Recipe {
    let run = "/usr/sbin/qemu-ga --method=unix-listen --path=/run/qga.sock --statedir=/run & \
        exec /usr/bin/socat TCP-LISTEN:9101,fork,reuseaddr UNIX-CONNECT:/run/qga.sock,retry=50,interval=0.2";
    let packages = ["qemu-guest-agent", "socat", "dash"];
    recipe("qemu-guest-agent", &packages, &["/bin/sh", "-c", run], 9101)
}

/// Prometheus's exporter, as the package starts it.
pub(super) fn node_exporter() -> Recipe {
    let argv = ["/usr/bin/prometheus-node-exporter", "--web.listen-address=:9100"];
    recipe("node-exporter", &["prometheus-node-exporter"], &argv, 9100)
}

/// A C compiler and compressors. What is done with them is run inside, with `proteus vm exec --service compiler`; the
/// service itself only waits. Its folder `/data` is on its data disk where it has one.
pub(super) fn compiler() -> Recipe {
    let packages = ["gcc", "libc6-dev", "socat", "dash", "xz-utils", "bzip2", "gzip", "coreutils"];
    let argv = ["/usr/bin/socat", "TCP-LISTEN:9102,fork,reuseaddr", "OPEN:/dev/null"];
    let mut recipe = recipe("compiler", &packages, &argv, 9102);
    recipe.service.data_dir = Some("/data".to_owned());
    recipe.service.prepare = vec![directory("/data", ROOT, 0o755)];
    recipe
}
