//! Kernel parameters: sysctl, transparent huge pages, I/O schedulers. Keys and names arrive validated; here they
//! become paths, and nothing else does.

use crate::failure::Failure;
use crate::procfs::{read_text, write_text};
use proteus_protocol::guest::v1::setting::{DiskSelector, ThpMode};
use std::path::{Path, PathBuf};

const THP: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

fn sysctl_path(key: &str) -> PathBuf {
    Path::new("/proc/sys").join(key.replace('.', "/"))
}

/// Fields separated by one space, as `sysctl` and people write them.
fn normalised(text: &str) -> String {
    text.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

fn file_failure(what: &str, operation: &str, error: &std::io::Error) -> Failure {
    match error.kind() {
        std::io::ErrorKind::NotFound => Failure::not_found(what),
        _ => Failure::system(format!("{operation} {what}"), error),
    }
}

/// Value of a kernel parameter.
pub fn sysctl(key: &str) -> Result<String, Failure> {
    let text = read_text(sysctl_path(key)).map_err(|e| file_failure(key, "read", &e))?;
    Ok(normalised(&text))
}

/// Sets a kernel parameter.
pub fn set_sysctl(key: &str, value: &str) -> Result<(), Failure> {
    let wanted = normalised(value);
    write_text(sysctl_path(key), &wanted).map_err(|e| file_failure(key, "write", &e))?;
    let found = sysctl(key)?;
    if found == wanted { Ok(()) } else { Err(Failure::not_effective(key, wanted, found)) }
}

/// The word in brackets of `always [madvise] never`.
fn chosen(text: &str) -> Option<&str> {
    text.split_ascii_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'))
}

fn thp_word(mode: ThpMode) -> &'static str {
    match mode {
        ThpMode::Always => "always",
        ThpMode::Madvise => "madvise",
        ThpMode::Never => "never",
    }
}

/// Mode of transparent huge pages.
pub fn thp() -> Result<ThpMode, Failure> {
    let text = read_text(THP).map_err(|e| file_failure("transparent huge pages", "read", &e))?;
    [ThpMode::Always, ThpMode::Madvise, ThpMode::Never]
        .into_iter()
        .find(|mode| chosen(&text) == Some(thp_word(*mode)))
        .ok_or_else(|| Failure::unsupported(format!("transparent huge pages are in an unknown mode: {text}")))
}

/// Sets the mode of transparent huge pages.
pub fn set_thp(mode: ThpMode) -> Result<(), Failure> {
    let word = thp_word(mode);
    write_text(THP, word).map_err(|e| file_failure("transparent huge pages", "write", &e))?;
    let found = thp()?;
    if found == mode {
        Ok(())
    } else {
        Err(Failure::not_effective("transparent huge pages", word, thp_word(found)))
    }
}

/// The kernel's name of a disk.
pub fn disk_name(disk: &DiskSelector) -> Result<String, Failure> {
    match disk {
        DiskSelector::Name(name) if Path::new("/sys/block").join(name).is_dir() => Ok(name.clone()),
        DiskSelector::Name(name) => Err(Failure::not_found(format!("disk {name}"))),
        DiskSelector::Serial(serial) => {
            let entries = std::fs::read_dir("/sys/block").map_err(|e| Failure::system("list disks", &e))?;
            let matches = |name: &str| {
                // virtio-blk cuts a serial at 20 bytes (VIRTIO_BLK_ID_BYTES).
                let found = read_text(Path::new("/sys/block").join(name).join("serial")).unwrap_or_default();
                !found.is_empty() && (found == *serial || (found.len() == 20 && serial.starts_with(&found)))
            };
            entries
                .flatten()
                .filter_map(|entry| entry.file_name().into_string().ok())
                .find(|name| matches(name))
                .ok_or_else(|| Failure::not_found(format!("a disk with serial {serial}")))
        }
    }
}

fn scheduler_path(disk: &DiskSelector) -> Result<PathBuf, Failure> {
    Ok(Path::new("/sys/block").join(disk_name(disk)?).join("queue/scheduler"))
}

/// I/O scheduler of a disk.
pub fn io_scheduler(disk: &DiskSelector) -> Result<String, Failure> {
    let text = read_text(scheduler_path(disk)?).map_err(|e| file_failure("I/O scheduler", "read", &e))?;
    // A device without a choice says just `none`.
    Ok(chosen(&text).unwrap_or(&text).to_owned())
}

/// Sets the I/O scheduler of a disk.
pub fn set_io_scheduler(disk: &DiskSelector, scheduler: &str) -> Result<(), Failure> {
    write_text(scheduler_path(disk)?, scheduler)
        .map_err(|e| file_failure(&format!("I/O scheduler {scheduler}"), "write", &e))?;
    let found = io_scheduler(disk)?;
    if found == scheduler { Ok(()) } else { Err(Failure::not_effective("I/O scheduler", scheduler, found)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chosen_word_is_in_brackets() {
        assert_eq!(chosen("none mq-deadline [kyber] bfq"), Some("kyber"));
        assert_eq!(chosen("none"), None);
    }

    #[test]
    fn keys_become_paths_below_proc_sys() {
        assert_eq!(sysctl_path("net.ipv4.tcp_rmem"), Path::new("/proc/sys/net/ipv4/tcp_rmem"));
        assert_eq!(normalised("4096\t87380\t6291456\n"), "4096 87380 6291456");
    }
}
