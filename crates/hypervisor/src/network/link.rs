//! A VM's tap and its rates. Towards the guest `tc` shapes (tbf); from the guest `nft` polices, because a tap has
//! no queue on that side and `ifb` and `police` are not everywhere.

use super::{Network, tap_name};
use crate::driver::DriverError;
use proteus_model::setting::NicRate;
use proteus_model::unit::BytesPerSec;
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// Longest queue that the shaper keeps, in milliseconds: longer only adds delay.
const SHAPER_LATENCY: &str = "50ms";

/// Opens the tap `name` in the network namespace of the calling thread, making it where it is not there.
pub(super) fn open_tap(name: &str) -> io::Result<OwnedFd> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    let bytes = name.as_bytes();
    if bytes.len() >= libc::IFNAMSIZ {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "interface name too long"));
    }
    // SAFETY: `ifreq` is plain old data, for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the descriptor is open for the whole call, and TUNSETIFF reads and writes one `ifreq`, which lives
    // on this stack frame and whose name is NUL-terminated (shorter than IFNAMSIZ, zeroed before).
    let outcome = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &mut request) };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(file.into()) }
}

/// Name of the table that polices what a VM sends.
pub(super) fn rate_table(slot: u16) -> String {
    format!("rate_{}", tap_name(slot))
}

/// Largest burst that passes at once: 20 ms at the rate, at least 32 KiB (two full GSO packets of 16 KiB).
fn burst(rate: BytesPerSec) -> u64 {
    (rate.0 / 50).max(32 << 10)
}

impl Network {
    /// Sets both rates of the VM in `slot`.
    pub async fn set_nic_rate(&self, slot: u16, rate: NicRate) -> Result<(), DriverError> {
        let tap = tap_name(slot);
        match rate.to_guest {
            Some(limit) => {
                let (bits, burst) = (format!("{}bit", limit.0.saturating_mul(8)), burst(limit).to_string());
                let shaper = ["tbf", "rate", &bits, "burst", &burst, "latency", SHAPER_LATENCY];
                let args: Vec<&str> =
                    ["qdisc", "replace", "dev", &tap, "root"].into_iter().chain(shaper).collect();
                self.tc(&args).await?;
            }
            // Deleting brings back the qdisc that the kernel gives every interface.
            None if self.read_nic_rate(slot).await?.to_guest.is_some() => {
                self.tc(&["qdisc", "delete", "dev", &tap, "root"]).await?;
            }
            None => {}
        }
        let table = rate_table(slot);
        let mut commands = vec![
            json!({"add": {"table": {"family": "netdev", "name": table}}}),
            json!({"delete": {"table": {"family": "netdev", "name": table}}}),
        ];
        if let Some(limit) = rate.from_guest {
            commands.extend(police(&table, &tap, limit));
        }
        let input = json!({ "nftables": commands }).to_string();
        self.nft(&["-j", "-f", "-"], Some(input.as_bytes())).await?;
        Ok(())
    }

    /// Reads both rates of the VM in `slot` from the kernel.
    pub async fn read_nic_rate(&self, slot: u16) -> Result<NicRate, DriverError> {
        let listing = self.tc(&["-j", "qdisc", "show", "dev", &tap_name(slot)]).await?;
        let listing: Value = serde_json::from_str(&listing).unwrap_or(Value::Null);
        let shaper = listing.as_array().and_then(|all| all.iter().find(|q| q["kind"] == "tbf"));
        let to_guest = shaper.and_then(|q| q["options"]["rate"].as_u64()).map(BytesPerSec);
        let table = rate_table(slot);
        let listing = self.nft(&["-j", "-t", "list", "ruleset", "netdev"], None).await?;
        let listing: Value = serde_json::from_str(&listing).unwrap_or(Value::Null);
        let rules = listing["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
        let ours = rules.iter().filter(|entry| entry["rule"]["table"] == table.as_str());
        let limits = ours.filter_map(|entry| entry["rule"]["expr"].as_array());
        let from_guest = limits.flatten().find_map(|expr| policed_rate(&expr["limit"])).map(BytesPerSec);
        Ok(NicRate { to_guest, from_guest })
    }
}

fn police(table: &str, tap: &str, limit: BytesPerSec) -> Vec<Value> {
    let chain = json!({"family": "netdev", "table": table, "name": "from_guest", "type": "filter",
        "hook": "ingress", "dev": tap, "prio": -10, "policy": "accept"});
    let over = json!({"limit": {"rate": limit.0, "rate_unit": "bytes", "per": "second", "inv": true,
        "burst": burst(limit), "burst_unit": "bytes"}});
    let rule = json!({"family": "netdev", "table": table, "chain": "from_guest",
        "expr": [over, {"drop": null}]});
    vec![
        json!({"add": {"table": {"family": "netdev", "name": table}}}),
        json!({"add": {"chain": chain}}),
        json!({"add": {"rule": rule}}),
    ]
}

/// Bytes per second of an nft `limit` expression, whatever unit nft chose to print it in.
fn policed_rate(limit: &Value) -> Option<u64> {
    let factor = match limit["rate_unit"].as_str()? {
        "bytes" => 1,
        "kbytes" => 1 << 10,
        "mbytes" => 1 << 20,
        _ => return None,
    };
    limit["rate"].as_u64().map(|rate| rate * factor)
}
