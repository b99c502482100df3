//! A page over a connection that stays open. Shared by the tests of several crates, which name it by its path.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::TcpStream;

/// Asks for `/`; head, in small letters, and body of the answer. An error where it is not 200.
pub fn get_page(stream: &mut TcpStream) -> Result<String> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: guest\r\n\r\n")?;
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        text.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&text).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length = length.and_then(|n| n.trim().parse().ok()).ok_or(ErrorKind::InvalidData)?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    if head.starts_with("http/1.1 200") {
        Ok(format!("{head}{}", String::from_utf8_lossy(&body)))
    } else {
        Err(Error::other(head))
    }
}
