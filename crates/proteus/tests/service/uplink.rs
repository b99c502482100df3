//! The guests' way out, in network namespaces that stand for the host and for the world outside: a real `proteus
//! serve` runs in the one, a server in the other, and a process behind the guests' bridge plays a guest. Must never
//! touch this machine's own interfaces.

use crate::server::Server;
use expect_test::expect;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::json;
use std::fs::File;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::Duration;

/// Addresses of documentation (RFC 5737): the host's and one outside, and a private network outside.
const HOST: &str = "198.51.100.1";
const OUTSIDE: &str = "198.51.100.2";
const PRIVATE: &str = "192.168.77.1";
/// A spare address in the guests' network.
const GUEST: &str = "10.80.15.250";
/// For what must not be answered.
const SILENCE: Duration = Duration::from_millis(1500);

fn run(words: &str) -> String {
    let mut parts = words.split(' ');
    let output = Command::new(parts.next().unwrap()).args(parts).output().unwrap();
    assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Three namespaces, removed whatever happens.
struct World {
    host: String,
    outside: String,
    guest: String,
}

impl World {
    fn make() -> Self {
        let id = std::process::id();
        let [host, outside, guest] = ["h", "o", "g"].map(|kind| format!("pxt-{kind}{id}"));
        let world = Self { host, outside, guest };
        for space in [&world.host, &world.outside, &world.guest] {
            run(&format!("ip netns add {space}"));
            run(&format!("ip -n {space} link set lo up"));
        }
        let (host, outside) = (&world.host, &world.outside);
        run(&format!("ip -n {host} link add eth9 type veth peer name eth9 netns {outside}"));
        for (space, addresses) in [(host, [HOST].as_slice()), (outside, &[OUTSIDE, PRIVATE])] {
            for address in addresses {
                run(&format!("ip -n {space} address add {address}/24 dev eth9"));
            }
            run(&format!("ip -n {space} link set eth9 up"));
        }
        run(&format!("ip -n {host} route add default via {OUTSIDE}"));
        // The outside knows the way in: that nobody gets in must be the rules' doing.
        for network in ["10.80.0.0/20", "10.81.0.0/16"] {
            run(&format!("ip -n {outside} route add {network} via {HOST}"));
        }
        world
    }

    /// Puts the guest behind the bridge of this instance.
    fn plug_guest(&self, namespace: &str) {
        let guest = &self.guest;
        run(&format!("ip -n {namespace} link add play type veth peer name eth0 netns {guest}"));
        run(&format!("ip -n {namespace} link set play master pb0 up"));
        run(&format!("ip -n {guest} address add {GUEST}/20 dev eth0"));
        run(&format!("ip -n {guest} link set eth0 up"));
        run(&format!("ip -n {guest} route add default via 10.80.0.1"));
    }

    /// Everything about forwarding, links and rules on the host.
    fn state(&self) -> String {
        let host = &self.host;
        let ruleset = run(&format!("ip netns exec {host} nft list ruleset"));
        let links = run(&format!("ip -n {host} -br link show"));
        let names: Vec<&str> = links.lines().filter_map(|line| line.split_whitespace().next()).collect();
        let word = |name: &str| {
            let path = format!("/proc/sys/net/ipv4/conf/{name}/forwarding");
            run(&format!("ip netns exec {host} cat {path}")).trim().to_owned()
        };
        let forwarding = ["all", "default", "eth9"].map(word);
        format!("links {}, forwarding {}\n{ruleset}", names.join(" "), forwarding.join(" "))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for space in [&self.host, &self.outside, &self.guest] {
            let _ = Command::new("ip").args(["netns", "delete", space]).status();
        }
    }
}

/// Runs `work` in a namespace, on a thread of its own.
fn inside<T: Send>(space: &str, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let space = File::open(format!("/run/netns/{space}")).unwrap();
            move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

fn listen(space: &str, address: &str) -> (TcpListener, SocketAddr) {
    let listener = inside(space, || TcpListener::bind((address, 0)).unwrap());
    let at = listener.local_addr().unwrap();
    (listener, at)
}

fn reaches(from: &str, to: SocketAddr) -> bool {
    inside(from, || TcpStream::connect_timeout(&to, SILENCE).is_ok())
}

#[test]
fn guests_get_out_and_nobody_gets_in_and_nothing_stays() {
    let world = World::make();
    let mut server = inside(&world.host, Server::start);
    let before = world.state();
    let namespace = server.instance.namespace();
    world.plug_guest(&namespace);
    let (_outside, to_outside) = listen(&world.outside, OUTSIDE);
    let (_private, to_private) = listen(&world.outside, PRIVATE);
    let (_host, to_host) = listen(&world.host, HOST);
    let (_guest, to_guest) = listen(&world.guest, GUEST);
    assert!(!reaches(&world.guest, to_outside), "out before it was enabled");

    let hide = |text: String| text.replace(&server.instance.name, "ID");
    let planned = server.cli(&["host", "uplink", "enable", "--dns", "192.0.2.53", "--dry-run"]).ok().stdout;
    assert_eq!(world.state(), before, "a dry run changed something");
    assert!(planned.starts_with("guests would reach the outside over eth9"), "{planned}");
    let enabled = server.cli(&["host", "uplink", "enable", "--dns", "192.0.2.53"]).ok().stdout;
    println!("{}", hide(enabled));
    assert!(reaches(&world.guest, to_outside), "{}", world.state());
    assert!(!reaches(&world.guest, to_host), "a service of the host was reached");
    assert!(!reaches(&world.guest, to_private), "a private network was reached");
    assert!(!reaches(&world.outside, to_guest), "the guest was reached from outside");
    let link: serde_json::Value = server.ask(&["host", "uplink", "show"])["uplink"].clone();
    let inner: SocketAddr =
        format!("{}:{}", link["guest_address"].as_str().unwrap(), to_guest.port()).parse().unwrap();
    assert!(!reaches(&world.outside, inner), "the guests' end was reached from outside");
    // An interface that forwards only for guests forwards for nobody else.
    assert_eq!(link["made_forward"], json!(true));
    let options = std::fs::read_to_string(format!("/run/{namespace}-dhcp/options/uplink")).unwrap();
    assert_eq!(options, "option:dns-server,192.0.2.53\n");
    server.cli(&["host", "uplink", "enable", "--allow", "192.168.77.0/24"]).ok();
    assert!(reaches(&world.guest, to_private), "an allowed network was not reached");
    assert!(reaches(&world.guest, to_outside));

    // Proteus dies and comes back: the way out stands, and is made again where it was taken down.
    server.kill();
    assert!(reaches(&world.guest, to_outside), "while Proteus is away");
    run(&format!("ip -n {} link delete pu{}", world.host, server.instance.name));
    inside(&world.host, || server.start_again());
    assert!(reaches(&world.guest, to_outside), "after a restart");
    let standing = world.state();

    let told = server.cli(&["host", "uplink", "disable", "--dry-run"]).ok().stdout;
    assert!(told.starts_with("guests would reach nothing outside\n"), "{told}");
    assert_eq!(world.state(), standing, "after a dry run");
    assert!(reaches(&world.guest, to_outside), "after a dry run");
    server.cli(&["host", "uplink", "disable"]).ok();
    assert_eq!(world.state(), before, "after it was disabled; it was\n{standing}");
    let told = server.cli(&["host", "uplink", "disable", "--dry-run"]).ok().stdout;
    assert_eq!(told, "guests reach nothing outside; nothing to take away\n");
    assert!(!reaches(&world.guest, to_outside), "out after it was disabled");
    assert!(!std::path::Path::new(&format!("/run/{namespace}-dhcp/options/uplink")).exists());
    server.cli(&["host", "uplink", "disable"]).ok();
    let audit = server.ask(&["audit"]);
    let entries = audit["entries"].as_array().unwrap().iter().filter(|entry| entry["subject"] == "host");
    let actions: Vec<_> = entries.map(|entry| entry["action"].clone()).collect();
    assert_eq!(actions, ["uplink.enable", "uplink.enable", "uplink.disable"]);

    // Ending gives the host back; the wish stays, and is fulfilled by the next start.
    server.cli(&["host", "uplink", "enable"]).ok();
    assert_eq!(server.terminate(Duration::from_secs(30)), Some(0));
    assert_eq!(world.state(), before, "after Proteus ended");
    inside(&world.host, || server.start_again());
    assert_eq!(server.ask(&["host", "uplink", "show"])["uplink"]["interface"], json!("eth9"));
    server.cli(&["host", "uplink", "disable"]).ok();
    assert_eq!(server.terminate(Duration::from_secs(30)), Some(0));
    assert_eq!(world.state(), before);
    assert_eq!(server.instance.leftovers(), Vec::<String>::new());
    assert!(!std::path::Path::new(&format!("/run/{namespace}-uplink.json")).exists());
}

#[test]
#[ignore = "boots a guest: ./test runs it"]
fn a_real_guest_gets_out() {
    let guest = crate::images::image_dir(&[]).join("small");
    let world = World::make();
    let mut server = inside(&world.host, Server::start);
    let before = world.state();
    server.cli(&["vm", "create", "g", "--guest", guest.to_str().unwrap(), "--memory", "256MiB"]).ok();
    server.cli(&["vm", "start", "g", "--wait"]).ok();
    let (listener, to) = listen(&world.outside, OUTSIDE);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.unwrap().write_all(b"outside\n");
        }
    });
    let line = format!("nc -w 5 {} {} </dev/null", to.ip(), to.port());
    let fetch = || server.cli(&["vm", "exec", "g", "--", "/bin/sh", "-c", &line]);
    assert_ne!(fetch().code, 0, "out before it was enabled");
    server.cli(&["host", "uplink", "enable"]).ok();
    let fetched = fetch();
    assert_eq!((fetched.code, fetched.stdout.as_str()), (0, "outside\n"), "{}", fetched.stderr);
    server.cli(&["host", "uplink", "disable"]).ok();
    assert_ne!(fetch().code, 0, "out after it was disabled");
    assert_eq!(world.state(), before);
    server.cli(&["vm", "stop", "g"]).ok();
    assert_eq!(server.terminate(Duration::from_secs(30)), Some(0));
    assert_eq!(server.instance.leftovers(), Vec::<String>::new());
}

#[test]
fn what_cannot_be_a_way_out_is_refused_and_two_do_not_meet() {
    let world = World::make();
    let (mut one, mut two) = inside(&world.host, || (Server::start(), Server::start()));
    let before = world.state();
    let mut seen = String::new();
    for interface in ["eth7", "../eth9"] {
        seen.push_str(&one.cli(&["host", "uplink", "enable", "--interface", interface]).seen(one.dir.path()));
    }
    run(&format!("ip -n {} route delete default", world.host));
    seen.push_str(&one.cli(&["host", "uplink", "enable"]).seen(one.dir.path()));
    for route in ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"] {
        run(&format!("ip -n {} route add {route} via {OUTSIDE}", world.host));
    }
    let full = one.cli(&["host", "uplink", "enable", "--interface", "eth9"]);
    seen.push_str(&full.seen(one.dir.path()));
    run(&format!("ip -n {} route delete 10.0.0.0/8", world.host));
    expect![[r#"
        error: there is no interface eth7; `ip link` shows those of the host
        exit 4
        error: invalid value '../eth9' for '--interface <IFACE>': "../eth9" is no interface: expected 1 to 15 of letters, digits, '.', '_' and '-', as `ip link` shows

        For more information, try '--help'.
        exit 2
        error: the host has no default route, so no interface to take; name one: `proteus host uplink enable --interface IFACE`
        exit 4
        error: every address for a link overlaps a route of the host; free a /30 in 10.81.0.0/22, 172.29.0.0/22 or 192.168.0.0/22; `ip route` shows routes
        exit 4
    "#]].assert_eq(&seen);
    assert_eq!(world.state(), before, "a refusal changed something");
    let link = |server: &Server| {
        let made = server.ask(&["host", "uplink", "enable", "--interface", "eth9"]);
        (made["uplink"]["link"].clone(), made["uplink"]["host_address"].clone())
    };
    let (first, second) = (link(&one), link(&two));
    assert!(first.0 != second.0 && first.1 != second.1, "{first:?} {second:?}");
    world.plug_guest(&two.instance.namespace());
    let (_outside, to_outside) = listen(&world.outside, OUTSIDE);
    assert!(reaches(&world.guest, to_outside), "the rules of the one are in the way of the other");
    one.cli(&["host", "uplink", "disable"]).ok();
    assert!(reaches(&world.guest, to_outside), "the end of the one was the end of the other");
    two.cli(&["host", "uplink", "disable"]).ok();
    // Forwarding too, which the first to go had turned on.
    assert_eq!(world.state(), before);
    for server in [&mut one, &mut two] {
        assert_eq!(server.terminate(Duration::from_secs(30)), Some(0));
    }
}

/// Whoever comes last decides; what is written down and what is there are its wish.
#[test]
fn enabled_and_disabled_by_many_at_once_record_and_host_tell_the_same() {
    let world = World::make();
    let mut server = inside(&world.host, Server::start);
    let before = world.state();
    let link = format!("pu{}", server.instance.name);
    for round in 0..4 {
        std::thread::scope(|scope| {
            for number in 0..10 {
                let words: &[&str] = match (number + round) % 2 {
                    0 => &["host", "uplink", "enable", "--interface", "eth9", "--dns", "192.0.2.53"],
                    _ => &["host", "uplink", "disable"],
                };
                let server = &server;
                scope.spawn(move || server.cli(words).ok());
            }
        });
        let shown = server.ask(&["host", "uplink", "show"]);
        let there = run(&format!("ip -n {} -br link show", world.host)).contains(&link);
        let wanted = shown["wanted"] == json!(true);
        assert_eq!((shown["uplink"].is_object(), there), (wanted, wanted), "{shown} {}", world.state());
        // One that fails in between leaves what was.
        let was = world.state();
        assert_ne!(server.cli(&["host", "uplink", "enable", "--interface", "eth7"]).code, 0);
        assert_eq!((server.ask(&["host", "uplink", "show"]), world.state()), (shown, was));
    }
    server.cli(&["host", "uplink", "disable"]).ok();
    assert_eq!(world.state(), before);
    assert_eq!(server.terminate(Duration::from_secs(30)), Some(0));
}
