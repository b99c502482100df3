//! What is counted of this machine's own programs, where the kernel lets it be. Must never wait for time to go by.

use super::*;

/// What a round finds; `None`: the kernel of this machine counts nothing for whoever runs this.
fn round(libraries: &mut Libraries, busy: impl Fn()) -> Option<LibraryCalls> {
    let mut findings = Findings::default();
    loop {
        if libraries.missing().is_some() {
            return None;
        }
        match libraries.step(&mut findings) {
            Step::Done => break,
            // Others of this machine come and go.
            Step::More if libraries.phase == Phase::Looking => libraries.files.only_of(std::process::id()),
            Step::More => {}
            Step::Later(wait) => {
                assert!(libraries.is_open());
                let until = Instant::now() + wait;
                while Instant::now() < until {
                    busy();
                }
            }
        }
    }
    assert!(!libraries.is_open() && libraries.queue.is_empty());
    let told = findings.libraries.unwrap().value;
    libraries.refused.is_none().then_some(told)
}

fn threads(told: &LibraryCalls) -> Vec<&LibraryClass> {
    told.classes
        .iter()
        .filter(|row| (row.library.as_str(), row.class.as_str()) == ("libc", "threads"))
        .collect()
}

#[test]
fn calls_of_a_program_are_counted() {
    let mut libraries = Libraries::default();
    let start = || drop(std::thread::spawn(|| ()).join());
    let Some(told) = round(&mut libraries, start) else { return };
    let counted = threads(&told);
    assert!(counted.iter().any(|row| row.calls.is_some_and(|calls| calls > 0)), "{told:?}");
    assert!(counted.iter().all(|row| row.window_ms < 10_000), "{told:?}");
    // What nobody wants any more is taken away at once.
    let mut findings = Findings::default();
    while !libraries.is_open() {
        assert!(libraries.missing().is_none());
        libraries.step(&mut findings);
    }
    libraries.forget();
    assert!(!libraries.is_open() && libraries.phase == Phase::Before);
}

#[test]
fn what_is_called_too_often_is_left_out_and_said_to_be() {
    let mut libraries = Libraries::default();
    let Some(told) = round(&mut libraries, || ()) else { return };
    if threads(&told).is_empty() {
        return;
    }
    for (id, mapped) in libraries.files.known() {
        let dear = mapped.places.iter().map(|(function, _)| ((id, *function), libraries.round + 2));
        libraries.left_out.extend(dear);
    }
    let told = round(&mut libraries, || ()).unwrap();
    assert!(threads(&told).iter().any(|row| row.calls.is_none() && row.left_out == 1), "{told:?}");
    // And tried again.
    let told = round(&mut libraries, || ()).unwrap();
    assert!(threads(&told).iter().any(|row| row.calls.is_some()), "{told:?}");
}

#[test]
fn counts_are_summed_by_class() {
    let ssl = LIBRARIES.iter().position(|library| library.name == "libssl").unwrap();
    let rows = classes(ssl, Duration::from_millis(500), &[(1, 5), (3, u64::MAX)]);
    assert_eq!((rows.len(), rows[0].class.as_str(), rows[0].calls), (1, "tls", Some(u64::MAX)));
    assert_eq!(classes(ssl, Duration::ZERO, &[]), []);
}
