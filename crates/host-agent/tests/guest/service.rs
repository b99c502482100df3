//! Services from images: they answer, survive a crash and an upgrade without a lost request.

use crate::vm::{Options, Vm, wait_for};
use proteus_protocol::guest::v1::request::ReloadMode;
use proteus_protocol::guest::v1::service::ServiceState;
use proteus_protocol::guest::v1::{ErrorCode, Reply, Request, ServiceStatus};
use std::io::{Error, Read, Result, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn status(reply: Reply) -> ServiceStatus {
    match reply {
        Reply::Service { status } => status,
        other => panic!("{other:?}"),
    }
}

/// Mounts the image of a service and starts it.
pub fn start(vm: &mut Vm, name: &str, data_serial: Option<&str>) -> ServiceStatus {
    let mount = Request::MountImage { serial: name.into(), name: name.into() };
    match vm.ask(mount) {
        Reply::Image { image } => assert_eq!(image.service.as_deref(), Some(name)),
        other => panic!("{other:?}"),
    }
    let begun = Instant::now();
    let data_serial = data_serial.map(str::to_owned);
    let status = status(vm.ask(Request::StartService { name: name.into(), image: name.into(), data_serial }));
    assert_eq!(status.state, ServiceState::Ready);
    eprintln!("{name} {} ready after {:.1} s", status.version, begun.elapsed().as_secs_f64());
    status
}

fn ask_tcp(port: u16, question: &[u8], patience: Duration) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(question)?;
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let got = stream.read(&mut chunk)?;
        answer.extend_from_slice(&chunk[..got]);
        if got == 0 || answer.ends_with(b"\r\n") && answer.starts_with(b"+") {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn get_within(port: u16, patience: Duration) -> Result<String> {
    let answer = ask_tcp(port, b"GET / HTTP/1.0\r\n\r\n", patience)?;
    if answer.starts_with("HTTP/1.1 200") { Ok(answer) } else { Err(Error::other(answer)) }
}

/// A page of nginx.
pub fn get(port: u16) -> Result<String> {
    get_within(port, Duration::from_secs(5))
}

/// An answer of redis.
pub fn ping(port: u16) -> Result<()> {
    let answer = ask_tcp(port, b"PING\r\n", Duration::from_secs(10))?;
    if answer == "+PONG\r\n" { Ok(()) } else { Err(Error::other(answer)) }
}

/// Asks for pages, each on a new connection, until told to stop.
struct Client {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<(u32, Vec<String>, Duration)>,
}

impl Client {
    fn begin(port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut good, mut bad, mut longest) = (0, Vec::new(), Duration::ZERO);
            while !stopped.load(Ordering::Relaxed) {
                let begun = Instant::now();
                match get_within(port, Duration::from_secs(60)) {
                    Ok(_) => good += 1,
                    Err(error) => bad.push(error.to_string()),
                }
                longest = longest.max(begun.elapsed());
            }
            (good, bad, longest)
        });
        Self { stop, thread }
    }

    /// Stops. At most `lost_max` requests may have failed: those that a killed process had already taken.
    fn end(self, what: &str, lost_max: usize) {
        self.stop.store(true, Ordering::Relaxed);
        let (good, bad, longest) = self.thread.join().unwrap();
        eprintln!(
            "{what}: {good} pages, {} failed, longest {:.0} ms",
            bad.len(),
            longest.as_secs_f64() * 1000.0
        );
        assert!(good > 0);
        assert!(bad.len() <= lost_max, "{bad:?}");
        assert!(bad.iter().all(|error| !error.contains("refused")), "{bad:?}");
    }
}

fn service_status(vm: &mut Vm, name: &str) -> ServiceStatus {
    let reply = vm.ask(Request::ServiceStatus { name: name.into() });
    status(reply)
}

#[test]
#[ignore = "boots a guest: ./test runs it"]
fn nginx_refuses_nobody_in_a_crash_and_loses_no_request_in_an_upgrade() {
    let mut vm = Vm::boot(&Options { images: &["nginx"], ports: &[80], ..Options::default() });
    let first = start(&mut vm, "nginx", None);
    assert!(first.sockets_kept && first.notes.is_empty(), "{first:?}");
    let port = vm.host_port(80);
    assert!(get(port).unwrap().contains("Served by nginx in a guest"));
    assert!(
        ask_tcp(port, b"GET /status HTTP/1.0\r\n\r\n", Duration::from_secs(5))
            .unwrap()
            .contains("Active connections")
    );
    let processes = vm.exec(&["/bin/ps"], None).stdout.to_text_lossy();
    eprintln!("{processes}");

    let client = Client::begin(port);
    for round in 1..=3 {
        let master = service_status(&mut vm, "nginx").pid.unwrap().to_string();
        assert_eq!(vm.exec(&["/bin/kill", "-9", &master], None).exit_code, Some(0));
        wait_for("a new nginx", Duration::from_secs(60), || {
            let now = service_status(&mut vm, "nginx");
            (now.state == ServiceState::Ready && now.restarts == round).then_some(())
        });
    }
    client.end("three crashes", 3);

    let client = Client::begin(port);
    for _ in 0..3 {
        let before = service_status(&mut vm, "nginx");
        let begun = Instant::now();
        let mode = ReloadMode::HandOver { image: None };
        let after = status(vm.ask(Request::ReloadService { name: "nginx".into(), mode }));
        eprintln!("hand-over {:.0} ms", begun.elapsed().as_secs_f64() * 1000.0);
        assert_eq!(after.state, ServiceState::Ready);
        assert_ne!(after.pid, before.pid);
        assert_eq!(after.restarts, before.restarts);
        let old = format!("/proc/{}/stat", before.pid.unwrap());
        wait_for("the end of the old generation", Duration::from_secs(60), || {
            (vm.exec(&["/bin/cat", &old], None).exit_code != Some(0)).then_some(())
        });
    }
    let mode = ReloadMode::Signal;
    assert_eq!(
        status(vm.ask(Request::ReloadService { name: "nginx".into(), mode })).state,
        ServiceState::Ready
    );
    client.end("three hand-overs and a reload", 0);

    let busy = vm.ask(Request::UnmountImage { name: "nginx".into() });
    assert!(matches!(busy, Reply::Error { code: ErrorCode::Busy, .. }), "{busy:?}");
    let stopped = status(vm.ask(Request::StopService { name: "nginx".into() }));
    assert_eq!((stopped.state, stopped.pid), (ServiceState::Stopped, None));
    assert!(get(port).is_err());
    assert_eq!(vm.ask(Request::UnmountImage { name: "nginx".into() }), Reply::Done);
    let mounts = vm.cat("/proc/mounts");
    assert!(!mounts.contains("/run/proteus"), "{mounts}");
}

#[test]
#[ignore = "boots a guest: ./test runs it"]
fn redis_says_that_it_keeps_its_sockets_and_comes_back() {
    let mut vm = Vm::boot(&Options { images: &["redis"], ports: &[6379], ..Options::default() });
    let first = start(&mut vm, "redis", None);
    assert!(!first.sockets_kept);
    assert!(first.notes.iter().any(|note| note.contains("takes no listening socket")), "{:?}", first.notes);
    let port = vm.host_port(6379);
    ping(port).unwrap();
    let mode = ReloadMode::HandOver { image: None };
    let refused = vm.ask(Request::ReloadService { name: "redis".into(), mode });
    assert!(matches!(refused, Reply::Error { code: ErrorCode::Unsupported, .. }), "{refused:?}");
    let pid = first.pid.unwrap().to_string();
    vm.exec(&["/bin/kill", "-9", &pid], None);
    wait_for("a new redis", Duration::from_secs(60), || {
        let now = service_status(&mut vm, "redis");
        (now.state == ServiceState::Ready && now.restarts == 1).then_some(())
    });
    ping(port).unwrap();
    let mode = ReloadMode::Restart { image: None };
    let after = status(vm.ask(Request::ReloadService { name: "redis".into(), mode }));
    assert_eq!((after.state, after.restarts), (ServiceState::Ready, 1));
    ping(port).unwrap();
    let cli = vm.exec(&["/usr/bin/redis-cli", "set", "a", "1"], Some("redis"));
    assert_eq!(cli.stdout.to_text_lossy().trim(), "OK");
    let user = vm.cat(&format!("/proc/{}/status", after.pid.unwrap()));
    assert!(user.contains("Uid:\t6379\t6379"), "{user}");
    assert!(user.contains("NoNewPrivs:\t1"), "{user}");
    let descriptors = vm.exec(&["/bin/ls", "-l", &format!("/proc/{}/fd", after.pid.unwrap())], None);
    assert!(!descriptors.stdout.to_text_lossy().contains("vport"), "the agent's port leaked");
}

#[test]
#[ignore = "boots a guest: ./test runs it"]
fn postgresql_makes_its_data_once_and_keeps_it_on_its_disk() {
    let options =
        Options { images: &["postgresql"], ports: &[5432], data_mib: Some(256), ..Options::default() };
    let mut vm = Vm::boot(&options);
    let first = start(&mut vm, "postgresql", Some("data"));
    assert!(!first.notes.iter().any(|note| note.contains("no data disk")), "{:?}", first.notes);
    let psql = "/usr/lib/postgresql/15/bin/psql";
    let query = |vm: &mut Vm, sql: &str| {
        let argv = [psql, "-h", "127.0.0.1", "-U", "bench", "-d", "bench", "-Atc", sql];
        let outcome = vm.exec(&argv, Some("postgresql"));
        assert_eq!(outcome.exit_code, Some(0), "{}", outcome.stderr.to_text_lossy());
        outcome.stdout.to_text_lossy().trim().to_owned()
    };
    query(&mut vm, "create table t(x int); insert into t values (42)");
    let stopped = status(vm.ask(Request::StopService { name: "postgresql".into() }));
    assert_eq!(stopped.state, ServiceState::Stopped);
    let second = start(&mut vm, "postgresql", Some("data"));
    assert_eq!(query(&mut vm, "select x from t"), "42");
    vm.exec(&["/bin/kill", "-9", &second.pid.unwrap().to_string()], None);
    wait_for("a new postgres", Duration::from_secs(120), || {
        let now = service_status(&mut vm, "postgresql");
        (now.state == ServiceState::Ready && now.restarts == 1).then_some(())
    });
    assert_eq!(query(&mut vm, "select x from t"), "42");
}

#[test]
#[ignore = "boots a guest: ./test runs it"]
fn a_service_that_cannot_start_says_why() {
    let mut vm = Vm::boot(&Options { images: &["nginx", "redis"], ..Options::default() });
    let missing =
        vm.ask(Request::StartService { name: "nginx".into(), image: "nginx".into(), data_serial: None });
    assert!(matches!(missing, Reply::Error { code: ErrorCode::NotFound, .. }), "{missing:?}");
    start(&mut vm, "redis", None);
    let mount = Request::MountImage { serial: "nginx".into(), name: "nginx".into() };
    assert!(matches!(vm.ask(mount), Reply::Image { .. }));
    let wrong =
        vm.ask(Request::StartService { name: "redis".into(), image: "nginx".into(), data_serial: None });
    assert!(matches!(wrong, Reply::Error { code: ErrorCode::Invalid, .. }), "{wrong:?}");
    let data_serial = Some("nginx".to_owned());
    let no_data = vm.ask(Request::StartService { name: "nginx".into(), image: "nginx".into(), data_serial });
    assert!(matches!(no_data, Reply::Error { code: ErrorCode::Unsupported, .. }), "{no_data:?}");
    // Somebody else has the port: nobody but the user can mend that.
    vm.exec(&["/bin/sh", "-c", "nc -l -p 80 >/dev/null 2>&1 </dev/null &"], None);
    wait_for("a listener on the port", Duration::from_secs(20), || {
        let listens = ["/bin/grep", "-qsE", ":0050 0+:0000 0A", "/proc/net/tcp", "/proc/net/tcp6"];
        (vm.exec(&listens, None).exit_code == Some(0)).then_some(())
    });
    let taken =
        vm.ask(Request::StartService { name: "nginx".into(), image: "nginx".into(), data_serial: None });
    let Reply::Error { code: ErrorCode::System, message } = taken else { panic!("{taken:?}") };
    assert!(message.contains("listen on 0.0.0.0:80"), "{message}");
    let begun = Instant::now();
    let nowhere = vm.ask(Request::MountImage { serial: "nowhere".into(), name: "x".into() });
    assert!(matches!(nowhere, Reply::Error { code: ErrorCode::NotFound, .. }), "{nowhere:?}");
    assert!(begun.elapsed() >= Duration::from_secs(5));
}
