//! A real `proteus serve` as a child process, in a state folder of its own, with the command line and plain HTTP to
//! ask it. Ends and removes everything of its instance when dropped, also its VMs.

#[path = "../../../../tests/support/instance.rs"]
mod instance;

pub use instance::Instance;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fs::{File, Permissions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for Proteus to serve: it takes under a second; an emulated host under load ten times that.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// Waits until `ready` gives something.
pub fn wait_for<T>(what: &str, limit: Duration, mut ready: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(start.elapsed() < limit, "{what} did not come within {limit:?}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// How a command ended.
pub struct Ended {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// What a person sees, for goldens; `hide` is replaced.
    pub fn seen(&self, hide: &Path) -> String {
        let text = format!("{}{}exit {}\n", self.stdout, self.stderr, self.code);
        text.replace(&hide.display().to_string(), "DIR")
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}{}", self.stdout, self.stderr))
    }

    /// Must have ended well.
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}{}", self.stdout, self.stderr);
        self
    }
}

/// Runs `proteus` with these words.
pub fn proteus(args: &[&str]) -> Ended {
    let output = Command::new(env!("CARGO_BIN_EXE_proteus"))
        .args(args)
        .env_remove("PROTEUS_STATE")
        .env_remove("PROTEUS_TOKEN")
        .env_remove("PROTEUS_SERVER")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ended {
        code: output.status.code().unwrap_or(-1),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}

/// A folder that VMMs, which have users of their own, can reach.
pub fn open_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), Permissions::from_mode(0o711)).unwrap();
    dir
}

pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The instance of a state folder.
pub fn instance_of(state: &Path) -> Instance {
    let whole = state.canonicalize().unwrap();
    let digest = Sha256::digest(whole.as_os_str().as_encoded_bytes());
    Instance::new(digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect(), whole)
}

pub struct Server {
    child: Child,
    pub dir: tempfile::TempDir,
    pub instance: Instance,
    pub port: u16,
    words: Vec<String>,
}

impl Server {
    /// Serves in a fresh folder.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Serves with more words after `serve --listen …`.
    pub fn start_with(words: &[&str]) -> Self {
        let dir = open_dir();
        std::fs::create_dir(dir.path().join("state")).unwrap();
        std::fs::set_permissions(dir.path().join("state"), Permissions::from_mode(0o711)).unwrap();
        let instance = instance_of(&dir.path().join("state"));
        let port = free_port();
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let child = Self::spawn(dir.path(), &dir.path().join("state"), port, &words);
        let mut server = Self { child, dir, instance, port, words };
        server.wait_ready();
        server
    }

    fn spawn(dir: &Path, state: &Path, port: u16, words: &[String]) -> Child {
        let log = File::options().create(true).append(true).open(dir.join("log")).unwrap();
        Command::new(env!("CARGO_BIN_EXE_proteus"))
            .current_dir(dir)
            .arg("--state")
            .arg(state)
            .args(["serve", "--listen", &format!("127.0.0.1:{port}")])
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    fn wait_ready(&mut self) {
        let socket = self.state().join("proteus.sock");
        let start = Instant::now();
        let http = self.words.iter().all(|word| word != "--no-http");
        let listens = || TcpStream::connect(("127.0.0.1", self.port)).is_ok();
        // An answer, not a connection: the kernel closes the sockets of a killed Proteus a moment after its end.
        let answers = || {
            let asked = UnixStream::connect(&socket).and_then(|to| exchange(to, "GET", "/readyz", None, b""));
            asked.is_ok_and(|(status, _)| status == 200)
        };
        while !answers() || (http && !listens()) {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none() && start.elapsed() < READY_LIMIT, "{ended:?}: {}", self.log());
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Starts it again after it ended.
    pub fn start_again(&mut self) {
        self.start_again_at(&self.state());
    }

    /// The same, with its folder named like this.
    pub fn start_again_at(&mut self, state: &Path) {
        self.child = Self::spawn(self.dir.path(), state, self.port, &self.words);
        self.wait_ready();
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.pid().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Ends it in good order; its exit code.
    pub fn terminate(&mut self, limit: Duration) -> Option<i32> {
        self.signal("-TERM");
        wait_for("the end of Proteus", limit, || self.child.try_wait().unwrap()).code()
    }

    /// Kills it, at once.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The command line against this server, by its unix socket.
    pub fn cli(&self, args: &[&str]) -> Ended {
        let state = self.state();
        let all: Vec<&str> =
            ["--state", state.to_str().unwrap()].into_iter().chain(args.iter().copied()).collect();
        proteus(&all)
    }

    /// Its answer as JSON; the command must end well.
    pub fn ask(&self, args: &[&str]) -> Value {
        let all: Vec<&str> = ["--output", "json"].into_iter().chain(args.iter().copied()).collect();
        self.cli(&all).ok().json()
    }

    /// GET by the unix socket.
    pub fn get(&self, path: &str) -> Value {
        serde_json::from_str(&self.page(path)).unwrap()
    }

    /// GET by the unix socket of what is no JSON.
    pub fn page(&self, path: &str) -> String {
        let stream = UnixStream::connect(self.state().join("proteus.sock")).unwrap();
        let (status, body) = exchange(stream, "GET", path, None, b"").unwrap();
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// A request over TCP, with a token.
    pub fn tcp(&self, method: &str, path: &str, token: Option<&str>, body: &[u8]) -> (u16, String) {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        exchange(stream, method, path, token, body).unwrap()
    }
}

/// One HTTP exchange; status and body.
pub fn exchange(
    mut stream: impl Read + Write,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: &[u8],
) -> std::io::Result<(u16, String)> {
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{token}Content-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    // A server that refuses by the head alone hangs up while the rest is still sent.
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok());
    match status {
        Some(status) => {
            let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned();
            Ok((status, body))
        }
        None => Err(read.err().unwrap_or_else(|| std::io::Error::other("no answer"))),
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.instance.clear();
        if std::thread::panicking() {
            eprintln!("log of Proteus:\n{}", self.log());
        }
    }
}
