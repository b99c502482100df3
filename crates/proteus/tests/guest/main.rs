//! Real guests behind a real `proteus serve`, by its command line alone: what a VM is made of, and what is left when
//! it is gone. Must never believe Proteus where the guest or the host can be asked.
//!
//! Needs root, QEMU and the folder of `proteus image build small nginx redis` and `proteus image build debian --cloud-init`
//! (`PROTEUS_TEST_IMAGES`, else `build/images`); so it is `ignored` unless asked for.

#![allow(clippy::unwrap_used, reason = "tests: a failed step is a failed test")]

mod cgroup;

mod clone;

mod collect;

mod disk;

mod full;

mod inside;

mod personality;

mod program;

mod usage;

#[path = "../../../../tests/support/images.rs"]
mod images;

#[path = "../../../../tests/support/loader.rs"]
mod loader;

#[path = "../service/server.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod server;

mod wait;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use server::Server;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Folder of guests and images.
pub fn image_dir() -> PathBuf {
    images::image_dir(&[])
}

/// What a program in the guest prints; it must end well.
pub fn inside(server: &Server, vm: &str, argv: &[&str]) -> String {
    let words: Vec<&str> = ["vm", "exec", vm, "--"].into_iter().chain(argv.iter().copied()).collect();
    server.cli(&words).ok().stdout.trim().to_owned()
}

/// A connection from the guests' own network.
pub fn connect(server: &Server, address: &str, port: u16) -> std::io::Result<TcpStream> {
    let (space, address) = (server.instance.namespace(), address.to_owned());
    // A socket stays in the network in which it was made; a thread that went there does not come back.
    let connected = std::thread::spawn(move || {
        let space = std::fs::File::open(Path::new("/run/netns").join(space))?;
        move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network))?;
        TcpStream::connect((address.as_str(), port))
    });
    connected.join().unwrap()
}

/// Whether the guest at this address serves a page.
pub fn serves(server: &Server, address: &str) -> bool {
    let page = || -> std::io::Result<String> {
        let mut stream = connect(server, address, 80)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.write_all(b"GET / HTTP/1.0\r\nHost: x\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    page().unwrap().starts_with("HTTP/1.1 200")
}
