//! Who this guest is: name, address, and, for a clone, fresh randomness and a fresh instance. Must never keep what
//! a template had where two guests would then be one.

use crate::failure::Failure;
use crate::procfs::{read_text, write_text};
use crate::sys;
use proteus_protocol::guest::v1::request::GuestKind;
use proteus_protocol::guest::v1::{Blob, ErrorCode, LinkIdentity, NetworkSettings};
use rustix::fd::AsFd;
use rustix::fs::{Mode, OFlags, open};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};
use std::path::Path;

/// Least randomness that makes a clone another guest: 256 bits.
const ENTROPY_BYTES_MIN: usize = 32;
/// The kernel's own seed is no longer than this.
const ENTROPY_BYTES_MAX: usize = 512;

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(ErrorCode::Invalid, message)
}

/// Which kind of guest this is.
pub fn guest_kind() -> GuestKind {
    if std::process::id() == 1 {
        GuestKind::Pid1
    } else if Path::new("/run/systemd/system").is_dir() {
        GuestKind::Systemd
    } else {
        GuestKind::Other
    }
}

/// A fresh name for this run of the agent.
pub fn new_instance() -> String {
    let mut bits = [0u8; 16];
    // The only failure is an interruption before any byte came; the kernel's own id is as good then.
    match rustix::rand::getrandom(&mut bits, rustix::rand::GetRandomFlags::empty()) {
        Ok(16) => format!("{:032x}", u128::from_ne_bytes(bits)),
        _ => read_text("/proc/sys/kernel/random/uuid").unwrap_or_default().replace('-', ""),
    }
}

/// The guest's name.
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Names the guest.
pub fn set_hostname(name: &str) -> Result<(), Failure> {
    let ok = (1..=63).contains(&name.len())
        && !name.starts_with('-')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    if !ok {
        return Err(invalid(format!(
            "host name {name:?} is refused: expected 1 to 63 letters, digits and '-'"
        )));
    }
    rustix::system::sethostname(name.as_bytes()).map_err(|e| Failure::system("set the host name", &e))?;
    if hostname() == name { Ok(()) } else { Err(Failure::not_effective("host name", name, hostname())) }
}

/// The first interface that is not loopback.
fn first_interface() -> Result<String, Failure> {
    let entries = std::fs::read_dir("/sys/class/net").map_err(|e| Failure::system("list interfaces", &e))?;
    let mut names: Vec<String> = entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort();
    let is_device = |name: &String| Path::new("/sys/class/net").join(name).join("device").exists();
    names.into_iter().find(is_device).ok_or_else(|| Failure::not_found("a network interface"))
}

/// Gives the guest its address, and reads it back.
pub fn set_network(network: &NetworkSettings) -> Result<(), Failure> {
    if network.prefix > 32 {
        return Err(invalid(format!("prefix {} is refused: expected 0 to 32", network.prefix)));
    }
    let interface = match &network.interface {
        Some(name) => name.clone(),
        None => first_interface()?,
    };
    if interface.contains('/') || !Path::new("/sys/class/net").join(&interface).exists() {
        return Err(Failure::not_found(format!("interface {interface}")));
    }
    let failure = |what: &str| {
        let operation = format!("{what} of {interface}");
        move |e: std::io::Error| Failure::system(operation, &e)
    };
    sys::network::set_up(&interface).map_err(failure("switch on the link"))?;
    sys::network::set_address(&interface, network.address, network.prefix)
        .map_err(failure("set the address"))?;
    if let Some(gateway) = network.gateway {
        sys::network::set_gateway(gateway).map_err(failure("set the gateway"))?;
    }
    if let Some(name) = &network.hostname {
        set_hostname(name)?;
    }
    let found = sys::network::address(&interface).map_err(failure("read the address"))?;
    if found == (network.address, network.prefix) {
        return Ok(());
    }
    let text = |(address, prefix)| format!("{address}/{prefix}");
    let wanted = text((network.address, network.prefix));
    Err(Failure::not_effective(format!("address of {interface}"), wanted, text(found)))
}

/// Makes the kernel's random numbers differ from those of every other clone.
pub fn add_entropy(entropy: &Blob) -> Result<(), Failure> {
    let bytes = entropy.0.len();
    if !(ENTROPY_BYTES_MIN..=ENTROPY_BYTES_MAX).contains(&bytes) {
        return Err(invalid(format!("{bytes} bytes of entropy are refused: expected 32 to 512")));
    }
    let random = open("/dev/urandom", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Failure::system("open /dev/urandom", &e))?;
    sys::add_entropy(random.as_fd(), &entropy.0).map_err(|e| Failure::system("add entropy", &e))
}

/// Writes `/etc/machine-id` where there is one.
pub fn set_machine_id(id: &str) -> Result<(), Failure> {
    if id.len() != 32 || !id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(invalid(format!("machine id {id:?} is refused: expected 32 hex digits")));
    }
    let file = Path::new("/etc/machine-id");
    if !file.exists() {
        return Ok(());
    }
    write_text(file, &format!("{id}\n")).map_err(|e| Failure::system("write /etc/machine-id", &e))
}

/// Writes the guest's name where it keeps one over a restart.
pub fn keep_hostname(name: &str) -> Result<(), Failure> {
    let file = Path::new("/etc/hostname");
    if !file.exists() {
        return Ok(());
    }
    write_text(file, &format!("{name}\n")).map_err(|e| Failure::system("write /etc/hostname", &e))
}

/// Removes what a template would share with its clones: the keys by which ssh knows a host, the randomness that
/// systemd kept for the next start, what its people consented to, and the history of its configuration.
pub fn forget_secrets() -> Result<(), Failure> {
    crate::consent::forget()?;
    crate::telemetry::collector::forget_history()?;
    let mut secrets = vec![Path::new("/var/lib/systemd/random-seed").to_owned()];
    let entries = std::fs::read_dir("/etc/ssh").into_iter().flatten().flatten();
    secrets.extend(
        entries.filter(|e| e.file_name().to_string_lossy().starts_with("ssh_host_")).map(|e| e.path()),
    );
    for path in secrets {
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Failure::system(format!("remove {}", path.display()), &e));
            }
            _ => {}
        }
    }
    Ok(())
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Result<Vec<u8>, _> = text.split(':').map(|part| u8::from_str_radix(part, 16)).collect();
    let mac: [u8; 6] = bytes.ok()?.try_into().ok()?;
    // A group address (bit 0 of the first octet) is nobody's own.
    (mac[0] & 1 == 0 && text.len() == 17).then_some(mac)
}

/// Makes the link somebody else's: another link address, and where the agent is the guest's own system
/// (`addressed`) another address. Whoever else has an address of its own on the link asks for one anew when the host
/// gives the link its carrier back.
pub fn set_link(link: &LinkIdentity, addressed: bool) -> Result<(), Failure> {
    let mac = parse_mac(&link.mac)
        .ok_or_else(|| invalid(format!("link address {:?} is refused: expected six bytes", link.mac)))?;
    let interface = first_interface()?;
    let failure = |what: &str| {
        let operation = format!("{what} of {interface}");
        move |e: std::io::Error| Failure::system(operation, &e)
    };
    // Off and on, though virtio's driver takes another address while the link is on, and a clone is ready later for it:
    // what the kernel had queued meanwhile, with the template's link address, goes out once the host lets the clone onto
    // the network, and only going off throws it away. IPv6's own address is made anew by it too.
    sys::network::set_down(&interface).map_err(failure("switch off the link"))?;
    sys::network::set_mac(&interface, mac).map_err(failure("set the link address"))?;
    sys::network::set_up(&interface).map_err(failure("switch on the link"))?;
    if addressed {
        let interface = Some(interface.clone());
        let (address, prefix, gateway) = (link.address, link.prefix, link.gateway);
        set_network(&NetworkSettings { interface, address, prefix, gateway, hostname: None })?;
    }
    let file = Path::new("/sys/class/net").join(&interface).join("address");
    let found = read_text(&file).unwrap_or_default().trim().to_owned();
    if found == link.mac.to_ascii_lowercase() {
        return Ok(());
    }
    Err(Failure::not_effective(format!("link address of {interface}"), &link.mac, found))
}

/// Sets the clock when it is more than a second off: a clone wakes with its template's time.
pub fn set_clock(now_ms: u64) -> Result<(), Failure> {
    let now = clock_gettime(ClockId::Realtime);
    let own_ms = i128::from(now.tv_sec) * 1000 + i128::from(now.tv_nsec) / 1_000_000;
    if (own_ms - i128::from(now_ms)).abs() <= 1000 {
        return Ok(());
    }
    let seconds = i64::try_from(now_ms / 1000).map_err(|e| Failure::invalid(&e))?;
    // Below 1000 × 10^6: fits any integer here.
    let time = Timespec { tv_sec: seconds, tv_nsec: (now_ms % 1000) as i64 * 1_000_000 };
    clock_settime(ClockId::Realtime, time).map_err(|e| Failure::system("set the clock", &e))
}

#[cfg(test)]
mod tests {
    use super::parse_mac;

    #[test]
    fn link_addresses_are_read() {
        assert_eq!(parse_mac("52:50:52:00:0a:ff"), Some([0x52, 0x50, 0x52, 0, 10, 255]));
        for bad in
            ["", "52:50:52:00:0a", "52:50:52:00:0a:ff:00", "53:50:52:00:0a:ff", "+2:50:52:00:0a:0ff", "x:y"]
        {
            assert_eq!(parse_mac(bad), None, "{bad}");
        }
    }
}
