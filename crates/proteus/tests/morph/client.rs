//! A client of the guest's web server on one connection that is never opened again: each request that is not
//! answered, or answered otherwise, is a lost one.

use crate::page::get_page;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io::{Error, Result};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub struct Client {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    thread: JoinHandle<(u64, Duration, Option<Error>)>,
}

fn run(namespace: &str, address: &str, stop: &AtomicBool, answered: &AtomicU64) -> Result<Duration> {
    let space = File::open(format!("/run/netns/{namespace}"))?;
    move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network))?;
    let mut stream = TcpStream::connect((address, 80))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut longest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        get_page(&mut stream)?;
        longest = longest.max(begun.elapsed());
        answered.fetch_add(1, Ordering::Relaxed);
        std::thread::park_timeout(Duration::from_millis(10));
    }
    Ok(longest)
}

impl Client {
    pub fn begin(namespace: &str, address: &str) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (stop.clone(), answered.clone());
        let (namespace, address) = (namespace.to_owned(), address.to_owned());
        let thread = std::thread::spawn(move || {
            let outcome = run(&namespace, &address, &stopped, &counted);
            let count = counted.load(Ordering::Relaxed);
            match outcome {
                Ok(longest) => (count, longest, None),
                Err(error) => (count, Duration::ZERO, Some(error)),
            }
        });
        Self { stop, answered, thread }
    }

    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Stops; not one request may be lost.
    pub fn end(self, what: &str) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let (count, longest, error) = self.thread.join().unwrap();
        println!("{what}: {count} requests on one connection, longest {} ms", longest.as_millis());
        assert!(error.is_none(), "{what}: a request was lost after {count}: {error:?}");
        assert!(count > 0, "{what}: the client did nothing");
        count
    }
}
