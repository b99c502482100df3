//! CPUs online and offline. The lowest-numbered ones stay, so that the same count is always the same CPUs and
//! undo restores exactly what was. Must never take the last one offline.

use crate::failure::Failure;
use crate::procfs::{read_text, write_text};
use std::path::{Path, PathBuf};

const CPUS: &str = "/sys/devices/system/cpu";

/// Numbers in a list such as `0-3,5`.
fn parse_list(text: &str) -> Option<Vec<u32>> {
    let mut numbers = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (u32, u32) = (from.parse().ok()?, to.parse().ok()?);
        if from > to || to > 8191 {
            return None;
        }
        numbers.extend(from..=to);
    }
    Some(numbers)
}

fn list(name: &str) -> Result<Vec<u32>, Failure> {
    let text = read_text(Path::new(CPUS).join(name))
        .map_err(|e| Failure::system(format!("read CPUs {name}"), &e))?;
    parse_list(&text).ok_or_else(|| Failure::system("read a list of CPUs", &std::io::Error::other(text)))
}

fn switch(cpu: u32) -> PathBuf {
    Path::new(CPUS).join(format!("cpu{cpu}/online"))
}

/// How many are online.
pub fn online() -> Result<u32, Failure> {
    Ok(list("online")?.len() as u32)
}

/// Takes CPUs online or offline until `count` are online.
pub fn set_online(count: u32) -> Result<(), Failure> {
    // A plugged CPU is listed as a folder before `present` tells of it in one step; both come from the kernel.
    let present = list("present")?;
    if count as usize > present.len() {
        let message = format!("{count} CPUs cannot be online: {} are plugged", present.len());
        return Err(Failure::new(proteus_protocol::guest::v1::ErrorCode::Invalid, message));
    }
    let online = list("online")?;
    let (stay, leave) = present.split_at(count as usize);
    // First on, then off: never fewer than both before and after.
    for cpu in stay.iter().filter(|cpu| !online.contains(cpu)) {
        write_text(switch(*cpu), "1").map_err(|e| Failure::system(format!("take CPU {cpu} online"), &e))?;
    }
    for cpu in leave.iter().filter(|cpu| online.contains(cpu)) {
        write_text(switch(*cpu), "0").map_err(|e| Failure::system(format!("take CPU {cpu} offline"), &e))?;
    }
    let found = list("online")?;
    if found == stay { Ok(()) } else { Err(Failure::not_effective("online CPUs", count, found.len())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus() {
        assert_eq!(parse_list("0-2,5"), Some(vec![0, 1, 2, 5]));
        assert_eq!(parse_list(""), Some(vec![]));
        for bad in ["a", "2-1", "0-99999", "1-"] {
            assert_eq!(parse_list(bad), None, "{bad:?}");
        }
    }
}
