//! Tests of counters of threads: what of them the processor counts is only a number, so what the kernel counts by
//! itself goes the same way here. Must never wait for a time.

use super::*;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

/// `PERF_TYPE_SOFTWARE`: the task's clock, page faults, and a dummy that stays at nothing.
const SOFTWARE: Events = [(1, 1), (1, 2), (1, 9)];

/// A thread that works when told, until it is told to end.
struct Worker {
    id: u32,
    work: Sender<Sender<()>>,
    thread: JoinHandle<()>,
}

impl Worker {
    fn start() -> Self {
        let (work, told) = channel::<Sender<()>>();
        let (say, hear) = channel();
        let thread = std::thread::spawn(move || {
            say.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            for done in told {
                // Fresh pages: so much is mapped anew every time.
                let mut pages = vec![0u8; 64 << 20];
                pages.iter_mut().step_by(65_536).for_each(|byte| *byte = 1);
                std::hint::black_box(&pages);
                done.send(()).unwrap();
            }
        });
        Self { id: hear.recv().unwrap().try_into().unwrap(), work, thread }
    }

    fn work(&self) {
        let (done, wait) = channel();
        self.work.send(done).unwrap();
        wait.recv().unwrap();
    }

    fn end(self) {
        drop(self.work);
        self.thread.join().unwrap();
    }
}

fn software() -> Option<Counting> {
    let counting = Counting::probe(SOFTWARE);
    if let Err(why) = &counting {
        println!("not even what the kernel counts by itself can be counted here: {why}");
    }
    counting.ok()
}

#[test]
fn threads_are_counted_from_first_to_last_and_the_sum_only_rises() {
    let Some(counting) = software() else { return };
    let (mut threads, own) = (Threads::default(), std::process::id());
    let (first, second) = (Worker::start(), Worker::start());
    let mut sums = Vec::new();
    let mut look = |threads: &mut Threads, who: &[u32]| {
        let seen = threads.look(&counting, own, who).map(Option::unwrap);
        sums.push(seen);
        seen
    };
    assert_eq!(look(&mut threads, &[first.id])[1], 0, "it is counted from now on");
    first.work();
    let one = look(&mut threads, &[first.id]);
    assert!(one[0] > 0 && one[1] > 0, "{one:?}");
    assert_eq!(look(&mut threads, &[first.id])[1], one[1], "it did nothing");
    // One more is plugged in, and its past is not counted.
    second.work();
    assert_eq!(look(&mut threads, &[first.id, second.id])[1], one[1]);
    second.work();
    let both = look(&mut threads, &[first.id, second.id]);
    assert!(both[1] > one[1], "{both:?}");
    assert_eq!(counting.held.load(Ordering::Relaxed), 2 * EVENTS);
    // One ends: what it did stays, also what nobody looked at.
    first.work();
    first.end();
    let left = look(&mut threads, &[second.id]);
    assert!(left[1] > both[1], "{left:?}");
    assert_eq!(counting.held.load(Ordering::Relaxed), EVENTS);
    second.end();
    assert!(sums.windows(2).all(|pair| pair[0].iter().zip(pair[1]).all(|(a, b)| *a <= b)), "{sums:?}");
    // Nothing is told of nobody, and all is given back.
    assert_eq!(threads.look(&counting, own, &[]), [None; EVENTS]);
    assert_eq!(counting.held.load(Ordering::Relaxed), 0);
}

#[test]
fn a_thread_that_ended_before_it_was_opened_is_left_out() {
    let Some(counting) = software() else { return };
    let (worker, other) = (Worker::start(), Worker::start());
    let gone = worker.id;
    worker.end();
    let mut threads = Threads::default();
    let seen = threads.look(&counting, std::process::id(), &[gone, other.id]);
    assert!(seen[0].is_some() && threads.why().is_none(), "{:?}", threads.why());
    assert_eq!(counting.held.load(Ordering::Relaxed), EVENTS);
    other.end();
}

#[test]
fn no_more_descriptors_are_taken_than_may_be_and_that_is_said() {
    let Some(counting) = software() else { return };
    let counting = Counting { held_max: EVENTS + 1, ..counting };
    let workers = [Worker::start(), Worker::start()];
    let mut threads = Threads::default();
    let ids = [workers[0].id, workers[1].id];
    assert_eq!(threads.look(&counting, std::process::id(), &ids), [None; EVENTS], "a part is no sum");
    assert!(threads.why().unwrap().contains("4 files are open"), "{:?}", threads.why());
    assert_eq!(counting.held.load(Ordering::Relaxed), EVENTS, "what could not be opened whole is closed");
    assert!(threads.look(&counting, std::process::id(), &ids[..1])[0].is_some());
    workers.into_iter().for_each(Worker::end);
}

#[test]
fn what_cannot_be_counted_is_missing_and_what_can_is_told() {
    // A kind of event that there is none of, beside two that there are.
    match Counting::probe([(1, 1), (77, 1), (1, 2)]) {
        Err(why) => println!("not even what the kernel counts by itself can be counted here: {why}"),
        Ok(counting) => {
            assert_eq!(counting.present(), [true, false, true]);
            let own = u32::try_from(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            let seen = Threads::default().look(&counting, std::process::id(), &[own]);
            assert!(matches!(seen, [Some(_), None, Some(_)]), "{seen:?}");
        }
    }
    let why = Counting::probe([(77, 1); EVENTS]).unwrap_err();
    assert!(!why.is_empty());
    match Counting::probe(HARDWARE) {
        Ok(counting) => println!("hardware counters here: {:?}", counting.present()),
        Err(why) => println!("no hardware counters here: {why}"),
    }
}

#[test]
fn where_counters_take_turns_the_rest_is_scaled_and_too_little_is_not_told() {
    let seen = |enabled, running, value| Seen { enabled, running, values: [value, 2 * value, 0] };
    let mut sums = Sums::default();
    assert!(sums.take_in(seen(1000, 1000, 500)));
    assert_eq!(sums.total, [500, 1000, 0]);
    // Half of the time: twice as much.
    assert!(sums.take_in(seen(2000, 1500, 700)));
    assert_eq!(sums.total, [900, 1800, 0]);
    // Never on the processor's counters: not known, and not nothing.
    assert!(!sums.take_in(seen(3000, 1500, 700)));
    // From then on for all of that time.
    assert!(sums.take_in(seen(4000, 2500, 1700)));
    assert_eq!(sums.total, [900 + 2000, 1800 + 4000, 0]);
    // It slept: nothing was to be counted.
    assert!(sums.take_in(seen(4000, 2500, 1700)));
    assert_eq!(sums.total, [2900, 5800, 0]);
    // The largest of numbers.
    assert!(sums.take_in(Seen { enabled: u64::MAX, running: u64::MAX / 2, values: [u64::MAX; EVENTS] }));
    assert_eq!(sums.total[0], u64::MAX);
}

#[test]
fn a_read_of_another_form_is_none() {
    let bytes = |numbers: &[u64]| numbers.iter().flat_map(|number| number.to_ne_bytes()).collect::<Vec<u8>>();
    let two = [true, false, true];
    let whole = decode(&bytes(&[2, 10, 9, 7, 8]), two);
    assert_eq!(whole, Some(Seen { enabled: 10, running: 9, values: [7, 0, 8] }));
    for bad in [&[][..], &[2], &[2, 10, 9, 7], &[3, 10, 9, 7, 8, 1], &[1, 10, 9, 7]] {
        assert_eq!(decode(&bytes(bad), two), None, "{bad:?}");
    }
}
