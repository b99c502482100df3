//! Endpoints that answer as real ones do, and as they never should. Must never talk to another machine.

use super::*;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

fn listener(program: &str, address: &str) -> Listener {
    Listener { program: program.to_owned(), address: address.parse().unwrap() }
}

#[test]
fn each_application_is_asked_once_a_port_and_where_it_can_be_reached() {
    let listeners = [
        listener("nginx", "0.0.0.0:80"),
        listener("nginx", "[::]:80"),
        listener("nginx", "0.0.0.0:443"),
        listener("redis-server", "10.0.0.2:6379"),
        listener("postgres", "127.0.0.1:5432"),
        listener("sshd", "0.0.0.0:22"),
    ];
    let all = targets(&listeners, Vec::new(), &["http://127.0.0.1:9100/metrics".to_owned()]);
    let seen: Vec<(&str, String)> = all.iter().map(|target| (target.kind(), target.address())).collect();
    assert_eq!(
        seen,
        [
            ("openmetrics", "http://127.0.0.1:9100/metrics".to_owned()),
            ("nginx", "127.0.0.1:80".to_owned()),
            ("redis", "10.0.0.2:6379".to_owned()),
            ("postgresql", "127.0.0.1:5432".to_owned()),
        ]
    );
    let own = targets(&listeners, vec![PathBuf::from("/run/postgresql/.s.PGSQL.5432")], &[]);
    assert!(own.iter().filter(|target| target.kind() == "postgresql").count() == 1, "{own:?}");
}

#[test]
fn what_is_counted_is_a_rate_and_what_began_anew_has_none() {
    let now = Instant::now();
    let values = Values::from([
        ("a".to_owned(), Value::Count(30.0)),
        ("b".to_owned(), Value::Count(5.0)),
        ("new".to_owned(), Value::Count(1.0)),
        ("level".to_owned(), Value::Level(2.0)),
        ("nan".to_owned(), Value::Level(f64::NAN)),
    ]);
    let before = (now, BTreeMap::from([("a".to_owned(), 10.0), ("b".to_owned(), 9.0)]));
    let told = metrics(&values, Some(&before), now + Duration::from_secs(10));
    assert_eq!(told, BTreeMap::from([("a_per_second".to_owned(), 2.0), ("level".to_owned(), 2.0)]));
    assert_eq!(metrics(&values, None, now).len(), 1);
}

/// A server that gives one answer to whoever comes, and what of the question it read.
fn server(answer: Vec<u8>) -> SocketAddr {
    counting_server(answer).0
}

/// The same, and how many came.
fn counting_server(answer: Vec<u8>) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let callers = Arc::clone(&count);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            callers.fetch_add(1, Ordering::SeqCst);
            let mut stream = stream.unwrap();
            let mut question = [0u8; 1024];
            let _ = stream.read(&mut question);
            let _ = stream.write_all(&answer);
        }
    });
    (address, count)
}

fn round(endpoints: &mut Endpoints) -> Vec<Endpoint> {
    let mut findings = Findings::default();
    for _ in 0..100 {
        if endpoints.step(&mut findings) == Step::Done {
            return findings.endpoints.unwrap().value;
        }
    }
    panic!("a round without end");
}

#[test]
fn rates_come_with_the_second_round_and_a_confused_server_is_told_of() {
    let redis = server(b"$49\r\nredis_version:7\r\ntotal_commands_processed:10\r\n   \r\n".to_vec());
    let nonsense = server(b"SSH-2.0-OpenSSH\r\n".to_vec());
    let listeners = [listener("redis-server", &redis.to_string()), listener("nginx", &nonsense.to_string())];
    let mut endpoints = Endpoints::new(Rc::new(RefCell::new(Some(listeners.to_vec()))));
    let first = round(&mut endpoints);
    assert_eq!(
        (first[0].kind.as_str(), first[0].missing.as_deref()),
        ("nginx", Some("its answer is not understood: not HTTP"))
    );
    assert_eq!(first[1].metrics.keys().collect::<Vec<_>>(), ["keys"]);
    let second = round(&mut endpoints);
    assert_eq!(second[1].metrics["commands_per_second"], 0.0);
}

#[test]
fn one_that_shows_nothing_is_left_alone_for_an_hour() {
    let (redis, callers) = counting_server(b"-NOAUTH Authentication required.\r\n".to_vec());
    let (nginx, visitors) = counting_server(b"HTTP/1.0 404 Not Found\r\n\r\n".to_vec());
    let listeners = [listener("redis-server", &redis.to_string()), listener("nginx", &nginx.to_string())];
    let mut endpoints = Endpoints::new(Rc::new(RefCell::new(Some(listeners.to_vec()))));
    // Each place may take a second: one a step.
    let (mut findings, mut seen) = (Findings::default(), Vec::new());
    for _ in 0..4 {
        let before = visitors.load(Ordering::SeqCst);
        while visitors.load(Ordering::SeqCst) == before {
            assert_eq!(endpoints.step(&mut findings), Step::More);
        }
        seen.push(visitors.load(Ordering::SeqCst) - before);
    }
    assert_eq!(seen, [1; 4]);
    let first = round(&mut endpoints);
    assert!(first[0].missing.as_deref().unwrap().contains("stub_status"));
    assert!(first[1].missing.as_deref().unwrap().contains("password"));
    let count = || (callers.load(Ordering::SeqCst), visitors.load(Ordering::SeqCst));
    assert_eq!(count(), (1, 4));
    assert_eq!((round(&mut endpoints), count()), (first.clone(), (1, 4)), "the same is told unasked");
    endpoints.resting.values_mut().for_each(|(until, _)| *until = Instant::now());
    assert_eq!((round(&mut endpoints), count()), (first, (2, 8)));
    *endpoints.listeners.borrow_mut() = Some(Vec::new());
    round(&mut endpoints);
    assert!(endpoints.resting.is_empty(), "who comes back is asked");
}

#[test]
fn an_endless_answer_is_cut_and_a_closed_port_is_said() {
    let endless = server(vec![b'x'; exchange::ANSWER_BYTES_MAX + 4096]);
    let mut endpoints = Endpoints::new(Rc::new(RefCell::new(Some(Vec::new()))));
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let named = [format!("http://{endless}/"), format!("http://{closed}/"), "http://192.0.2.1/".to_owned()];
    endpoints.follow(&CollectPolicy { endpoints: named.to_vec(), ..CollectPolicy::default() });
    let told = round(&mut endpoints);
    let why: Vec<&str> = told.iter().map(|one| one.missing.as_deref().unwrap()).collect();
    assert_eq!(why.len(), 2, "one that leads out of the guest was asked");
    assert!(why.iter().any(|why| why.contains("more than 1024 KiB")), "{why:?}");
    assert!(why.iter().any(|why| why.starts_with("connect: ")), "{why:?}");
}

#[test]
fn a_round_waits_for_the_first_list_of_sockets_but_not_for_ever() {
    let mut endpoints = Endpoints::new(Rc::default());
    let mut findings = Findings::default();
    for _ in 0..WAITS {
        assert_eq!(endpoints.step(&mut findings), Step::Later(WAIT));
    }
    endpoints.named.clear();
    assert_eq!(endpoints.step(&mut findings), Step::More);
}
