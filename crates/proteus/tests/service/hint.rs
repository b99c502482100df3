//! What a hint names is not refused in its turn: every command on a VM that is stopped, ended by itself, hangs or is
//! unknown, and then the commands that the hints named.

use crate::inside::{create_loader, end_loader, start_loader, wait_ready};
use crate::server::{Server, wait_for};
use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

/// Everything that leaves a stopped VM as it is.
const LOOKS: [&str; 14] = [
    "vm show web",
    "vm console web",
    "vm console web --dump",
    "vm exec web -- /bin/true",
    "vm template web",
    "vm template web --dry-run",
    "vm clone web new",
    "vm snapshot list web",
    "vm snapshot create web",
    "vm snapshot restore web none --yes",
    "vm snapshot delete web none",
    "morph plan web --profile batch",
    "morph apply web --fresh-vmm",
    "morph rollback web --to 0",
];

fn run(server: &Server, command: &str) -> (i32, String) {
    let ended = server.cli(&command.split(' ').collect::<Vec<_>>());
    (ended.code, ended.stderr)
}

/// The commands of a hint, one after the other, as they can be typed here.
fn commands(hint: &str) -> Vec<String> {
    let quoted = hint.split('`').skip(1).step_by(2).filter_map(|text| text.strip_prefix("proteus "));
    // A boot sector has no agent to be waited for.
    let typed = quoted.map(|text| text.replace(" --wait", "").replace("VM", "web").replace("NAME", "new"));
    typed.collect()
}

/// The hints of these commands: each is a way, and the refusal that it came with.
fn hints(server: &Server, asked: &[&str]) -> BTreeSet<(Vec<String>, String)> {
    let mut ways = BTreeSet::new();
    for command in asked {
        let (code, said) = run(server, command);
        assert_ne!(code, 2, "{command}: {said}");
        assert!(code == 0 || said.contains("error: "), "{command}: {said}");
        let hint = said.lines().filter_map(|line| line.trim().strip_prefix("hint: "));
        let way: Vec<String> = hint.flat_map(commands).collect();
        if !way.is_empty() {
            ways.insert((way, format!("{command}: {said}")));
        }
    }
    ways
}

/// Goes each way; `back` brings the VM back to where the hints were given.
fn follow(server: &Server, ways: BTreeSet<(Vec<String>, String)>, back: impl Fn(&Server)) {
    for (way, because) in ways {
        for command in way {
            let (code, said) = run(server, &command);
            // Wrong words, not found, refused as things are. That there is no agent is another matter.
            assert!(![2, 3, 4].contains(&code), "{because}then `{command}` is refused: {said}");
        }
        back(server);
    }
}

fn stop(server: &Server) {
    server.cli(&["vm", "stop", "web", "--grace", "0ms"]).ok();
}

#[test]
fn hints_for_a_vm_that_is_stopped_or_ended_are_no_dead_ends() {
    let server = Server::start();
    create_loader(&server, "web");
    let stopped = hints(&server, &LOOKS);
    assert!(stopped.len() >= 8, "{stopped:?}");
    follow(&server, stopped, stop);

    start_loader(&server, "web");
    end_loader(&server, "web");
    // At once, and when Proteus has noticed it.
    let at_once = hints(&server, &LOOKS);
    wait_for("the end to be noticed", Duration::from_secs(30), || {
        server.ask(&["audit"]).to_string().contains("vm.ended").then_some(())
    });
    let noticed = hints(&server, &LOOKS);
    assert!(at_once.len() >= 8 && noticed.len() >= 8, "{at_once:?}{noticed:?}");
    follow(&server, at_once, stop);
    follow(&server, noticed, stop);

    // What is said where a start was waited for in vain.
    let waiting = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| run(&server, "vm start web --wait"));
        wait_ready(&server, "web");
        end_loader(&server, "web");
        waiting.join().unwrap()
    });
    assert!(waiting.0 == 1 && waiting.1.contains("web has ended"), "{waiting:?}");
    for command in commands(&waiting.1) {
        let (code, said) = run(&server, &command);
        assert_eq!(code, 0, "`{command}`: {said}");
    }
}

#[test]
fn hints_for_a_vm_that_hangs_or_is_unknown_are_no_dead_ends() {
    let mut server = Server::start();
    create_loader(&server, "web");
    start_loader(&server, "web");
    let view = server.ask(&["vm", "show", "web"])["vm"].clone();
    server.kill();
    let pid = view["pid"].to_string();
    assert!(Command::new("kill").args(["-STOP", &pid]).status().unwrap().success());
    server.start_again();
    assert_eq!(server.ask(&["vm", "show", "web"])["vm"]["power"], "hung");
    let all: Vec<&str> = LOOKS.into_iter().chain(["vm start web", "vm delete web"]).collect();
    let hung = hints(&server, &all);
    assert!(hung.len() >= 6, "{hung:?}");
    let names_stop =
        |(way, _): &(Vec<String>, String)| way.iter().any(|command| command.starts_with("vm stop"));
    assert!(hung.iter().any(names_stop), "{hung:?}");
    // To end it is the one way that changes it, and comes last: by then it is stopped, and may be started.
    let (ends, looks): (BTreeSet<_>, BTreeSet<_>) = hung.into_iter().partition(names_stop);
    follow(&server, looks, |_| ());
    follow(&server, ends, |_| ());
    stop(&server);

    assert_eq!(server.terminate(Duration::from_secs(30)), Some(0));
    let seat = server.state().join("vms").join(view["id"].as_str().unwrap()).join("seat.json");
    let whole = std::fs::read(&seat).unwrap();
    std::fs::write(&seat, b"{").unwrap();
    server.start_again();
    let all: Vec<&str> = all.into_iter().chain(["vm stop web"]).collect();
    follow(&server, hints(&server, &all), |_| ());
    for command in all.iter().filter(|command| **command != "vm show web") {
        let (code, said) = run(&server, command);
        assert!(code != 0 && (said.contains("mend the file") || code == 3), "{command}: {code} {said}");
    }
    assert_eq!(server.terminate(Duration::from_secs(30)), Some(0));
    std::fs::write(&seat, whole).unwrap();
}
