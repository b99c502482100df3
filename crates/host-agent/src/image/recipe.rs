//! What goes into a package image and how its service is run. A recipe is data: packages by name, files by content,
//! a typed manifest; nothing of it is ever run on this host.

mod beside;

use super::ImageError;
use proteus_protocol::guest::v1::ServiceManifest;
use proteus_protocol::guest::v1::service::{
    MANIFEST_VERSION, PrepareStep, Probe, ReadyCheck, Signal, SocketOwnership, User,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

const ROOT: User = User { uid: 0, gid: 0 };

/// What goes into an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the image and of its service.
    pub name: String,
    /// Debian packages; the first gives the version.
    pub packages: Vec<String>,
    /// Packages of the closure that the service does not need: exact names, or beginnings ended by `*`.
    pub exclude: Vec<String>,
    /// Paths to leave out.
    pub prune: Vec<String>,
    /// Users of the image beside root.
    pub users: Vec<ImageUser>,
    /// Files to add or replace.
    pub files: Vec<ImageFile>,
    /// How to run it; name and version are filled in.
    pub service: ServiceManifest,
}

/// A user of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageUser {
    /// Name of user and group.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Home directory.
    pub home: String,
}

/// A file of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageFile {
    /// Absolute path.
    pub path: String,
    /// Its content.
    pub content: String,
    /// Permission bits.
    pub mode: u32,
    /// Its owner.
    pub owner: User,
}

/// What maintainer scripts need, and nothing else here does: none of them is run.
const MAINTENANCE: [&str; 19] = [
    "adduser",
    "debconf",
    "dpkg",
    "init-system-helpers",
    "libpam-modules*",
    "libpam-runtime",
    "libsemanage*",
    "libsepol2",
    "lsb-base",
    "passwd",
    "perl*",
    "libperl*",
    "lib*-perl",
    "sensible-utils",
    "sysvinit-utils",
    "tar",
    "ucf",
    "usrmerge",
    "iproute2",
];

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, end)) => {
            name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
        }
    }
}

impl Recipe {
    /// Whether a package of the closure is left out.
    pub fn excludes(&self, package: &str) -> bool {
        let own = self.exclude.iter().map(String::as_str);
        own.chain(MAINTENANCE).any(|pattern| matches(pattern, package))
    }

    /// The manifest that goes into the image.
    pub fn manifest(&self, version: &str) -> ServiceManifest {
        let (name, version) = (self.name.clone(), version.to_owned());
        ServiceManifest { manifest: MANIFEST_VERSION, name, version, ..self.service.clone() }
    }
}

/// Names of all built-in recipes.
pub const BUILT_IN: [&str; 6] =
    ["nginx", "redis", "postgresql", "qemu-guest-agent", "node-exporter", "compiler"];

/// A built-in recipe.
pub fn built_in(name: &str) -> Result<Recipe, ImageError> {
    match name {
        "nginx" => Ok(nginx()),
        "redis" => Ok(redis()),
        "postgresql" => Ok(postgresql()),
        "qemu-guest-agent" => Ok(beside::qemu_guest_agent()),
        "node-exporter" => Ok(beside::node_exporter()),
        "compiler" => Ok(beside::compiler()),
        _ => Err(ImageError::NoRecipe { given: name.to_owned(), known: BUILT_IN.join(", ") }),
    }
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

fn any_address(port: u16) -> Vec<SocketAddr> {
    vec![(Ipv4Addr::UNSPECIFIED, port).into()]
}

fn file(path: &str, content: &str) -> ImageFile {
    ImageFile { path: path.to_owned(), content: content.to_owned(), mode: 0o644, owner: ROOT }
}

fn user(name: &str, id: u32, home: &str) -> ImageUser {
    ImageUser { name: name.to_owned(), uid: id, gid: id, home: home.to_owned() }
}

fn directory(path: &str, user: User, mode: u32) -> PrepareStep {
    PrepareStep::Directory { path: path.to_owned(), user, mode }
}

/// Serves a page and `/status`, on a socket that the agent owns. The page is about 1 KiB, as many an answer of an
/// interface is.
fn nginx() -> Recipe {
    let page = format!(
        "<!doctype html>\n<title>Proteus</title>\n<p>Served by nginx in a guest.</p>\n<!-- {} -->\n",
        "proteus ".repeat(116)
    );
    let www = User { uid: 33, gid: 33 };
    Recipe {
        name: "nginx".to_owned(),
        packages: texts(&["nginx"]),
        exclude: Vec::new(),
        prune: Vec::new(),
        users: vec![user("www-data", 33, "/var/www")],
        files: vec![file("/etc/nginx/nginx.conf", NGINX_CONF), file("/srv/www/index.html", &page)],
        service: ServiceManifest {
            manifest: MANIFEST_VERSION,
            name: String::new(),
            version: String::new(),
            argv: texts(&["/usr/sbin/nginx", "-c", "/etc/nginx/nginx.conf", "-g", "daemon off;"]),
            environment: BTreeMap::new(),
            user: ROOT,
            listen: any_address(80),
            sockets: SocketOwnership::AgentNginx,
            ready: ReadyCheck {
                probe: Probe::Http { port: 80, path: "/status".to_owned() },
                workers_min: 1,
                timeout_ms: 60_000,
            },
            prepare: vec![directory("/var/lib/nginx", www, 0o755), directory("/var/log/nginx", www, 0o755)],
            data_dir: None,
            stop_signal: Signal::Quit,
            reload_signal: Some(Signal::Hup),
            stop_timeout_ms: 15_000,
            // Only a pid file and bodies of uploads are written.
            scratch_bytes: 16 << 20,
        },
    }
}

const NGINX_CONF: &str = "\
user www-data;
worker_processes auto;
pid /run/nginx.pid;
error_log stderr warn;
worker_shutdown_timeout 10s;
events { worker_connections 4096; }
http {
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 100000;
  include /etc/nginx/mime.types;
  default_type application/octet-stream;
  server_tokens off;
  server {
    listen 80;
    root /srv/www;
    location = /status { stub_status; }
    location / { index index.html; }
  }
}
";

/// Keeps nothing on disk: it is a cache.
fn redis() -> Recipe {
    let redis = User { uid: 6379, gid: 6379 };
    Recipe {
        name: "redis".to_owned(),
        packages: texts(&["redis-server"]),
        exclude: Vec::new(),
        prune: Vec::new(),
        users: vec![user("redis", 6379, "/var/lib/redis")],
        files: vec![file("/etc/redis/redis.conf", REDIS_CONF)],
        service: ServiceManifest {
            manifest: MANIFEST_VERSION,
            name: String::new(),
            version: String::new(),
            argv: texts(&["/usr/bin/redis-server", "/etc/redis/redis.conf"]),
            environment: BTreeMap::new(),
            user: redis,
            listen: any_address(6379),
            sockets: SocketOwnership::Service {
                why: "redis takes no listening socket from its parent".to_owned(),
            },
            ready: ReadyCheck { probe: Probe::Redis { port: 6379 }, workers_min: 0, timeout_ms: 60_000 },
            prepare: vec![directory("/var/lib/redis", redis, 0o750)],
            data_dir: Some("/var/lib/redis".to_owned()),
            stop_signal: Signal::Term,
            reload_signal: None,
            stop_timeout_ms: 15_000,
            scratch_bytes: 64 << 20,
        },
    }
}

const REDIS_CONF: &str = "\
bind 0.0.0.0
port 6379
protected-mode no
daemonize no
supervised no
logfile \"\"
dir /var/lib/redis
save \"\"
appendonly no
tcp-backlog 4096
";

/// Folder of the programs; the major version is the release's (Debian 12).
const POSTGRES_BIN: &str = "/usr/lib/postgresql/15/bin";

fn postgres_program(name: &str) -> String {
    format!("{POSTGRES_BIN}/{name}")
}

/// Data, then user and database `bench`: each once per data folder.
fn postgresql_prepare(postgres: User) -> Vec<PrepareStep> {
    let bin = postgres_program;
    let data = "/var/lib/postgresql/data";
    let run = |argv: Vec<String>, unless_exists: &str, stdin: &str| PrepareStep::Run {
        argv,
        user: postgres,
        unless_exists: Some(unless_exists.to_owned()),
        stdin: stdin.to_owned(),
        timeout_ms: 300_000,
    };
    let initdb = [bin("initdb"), "-D".into(), data.into(), "--no-sync".into(), "--no-instructions".into()];
    let initdb_options =
        texts(&["--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--username=postgres"]);
    let single = [bin("postgres"), "--single".into(), "-D".into(), data.into(), "postgres".into()];
    vec![
        directory("/var/lib/postgresql", postgres, 0o750),
        directory("/run/postgresql", postgres, 0o775),
        run([initdb.to_vec(), initdb_options].concat(), "/var/lib/postgresql/data/PG_VERSION", ""),
        run(
            single.to_vec(),
            "/var/lib/postgresql/.bench",
            "create role bench login superuser\ncreate database bench owner bench\n",
        ),
        // Marks that both are there: the step above is not repeated on this data.
        directory("/var/lib/postgresql/.bench", postgres, 0o700),
    ]
}

/// Makes its data on the first start. User and database `bench`; who is in the guest's own network is trusted.
fn postgresql() -> Recipe {
    let postgres = User { uid: 5432, gid: 5432 };
    Recipe {
        name: "postgresql".to_owned(),
        // A shell: initdb asks the programs beside it for their versions through one.
        packages: texts(&["postgresql-15", "postgresql-client-15", "dash"]),
        exclude: texts(&[
            "libllvm*",
            "libz3*",
            "locales",
            "libc-l10n",
            "openssl",
            "ssl-cert",
            "postgresql-common",
        ]),
        prune: texts(&[
            "/usr/lib/postgresql/15/lib/bitcode",
            "/usr/lib/postgresql/15/lib/llvmjit.so",
            "/usr/share/postgresql/15/man",
        ]),
        users: vec![user("postgres", 5432, "/var/lib/postgresql")],
        files: vec![
            file("/etc/postgresql/postgresql.conf", POSTGRES_CONF),
            file("/etc/postgresql/pg_hba.conf", POSTGRES_HBA),
            file("/etc/postgresql/pg_ident.conf", ""),
        ],
        service: ServiceManifest {
            manifest: MANIFEST_VERSION,
            name: String::new(),
            version: String::new(),
            argv: vec![
                postgres_program("postgres"),
                "-c".into(),
                "config_file=/etc/postgresql/postgresql.conf".into(),
            ],
            environment: [("LANG", "C.UTF-8"), ("TZ", "UTC")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
            user: postgres,
            listen: any_address(5432),
            sockets: SocketOwnership::Service {
                why: "PostgreSQL takes no listening socket from its parent".to_owned(),
            },
            ready: ReadyCheck {
                probe: Probe::Postgres { port: 5432, user: "bench".to_owned(), database: "bench".to_owned() },
                workers_min: 1,
                timeout_ms: 120_000,
            },
            prepare: postgresql_prepare(postgres),
            data_dir: Some("/var/lib/postgresql".to_owned()),
            // Fast shutdown: open transactions are rolled back (PostgreSQL, "Shutting Down the Server").
            stop_signal: Signal::Int,
            reload_signal: Some(Signal::Hup),
            stop_timeout_ms: 60_000,
            scratch_bytes: 512 << 20,
        },
    }
}

const POSTGRES_CONF: &str = "\
data_directory = '/var/lib/postgresql/data'
hba_file = '/etc/postgresql/pg_hba.conf'
ident_file = '/etc/postgresql/pg_ident.conf'
listen_addresses = '*'
port = 5432
unix_socket_directories = '/run/postgresql'
max_connections = 100
shared_buffers = 32MB
dynamic_shared_memory_type = posix
jit = off
log_destination = 'stderr'
timezone = 'UTC'
log_timezone = 'UTC'
";

const POSTGRES_HBA: &str = "\
local all all trust
host all all 127.0.0.1/32 trust
host all all samenet trust
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_recipe_has_a_valid_manifest() {
        for name in BUILT_IN {
            let recipe = built_in(name).unwrap();
            recipe.manifest("1.0").validate().unwrap();
            let text = serde_json::to_string(&recipe).unwrap();
            assert_eq!(serde_json::from_str::<Recipe>(&text).unwrap(), recipe);
        }
        assert!(built_in("apache").unwrap_err().to_string().contains("nginx, redis, postgresql"));
    }

    #[test]
    fn patterns_of_packages() {
        assert!(
            matches("perl*", "perl-base") && matches("lib*-perl", "libjson-perl") && matches("tar", "tar")
        );
        assert!(!matches("tar", "tarx") && !matches("lib*-perl", "libperl") && !matches("aba*aba", "aba"));
    }
}
