//! The rules of the guests' way out, as text for `nft` made from types alone. Each script puts the whole table there
//! in one transaction, whatever was there before.

use proteus_model::policy::Cidr;
use proteus_model::uplink::UplinkObserved;
use std::net::IpAddr;

/// What is no address of the internet (RFC 6890): private, shared, link-local, loopback, benchmarks, multicast and
/// reserved.
const PRIVATE: &str = "0.0.0.0/8, 10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, \
192.168.0.0/16, 198.18.0.0/15, 224.0.0.0-255.255.255.255";

/// The script that leaves no table.
pub(super) fn none(table: &str) -> String {
    format!("add table inet {table}\ndelete table inet {table}\n")
}

/// The host's side.
pub(super) fn host(table: &str, uplink: &UplinkObserved) -> String {
    let (link, out, guests) = (&uplink.link, &uplink.interface, uplink.guest_address);
    let mut allow = String::new();
    let v4 = |cidr: &&Cidr| matches!(cidr.address, IpAddr::V4(_));
    for cidr in uplink.allow.iter().filter(v4) {
        allow.push_str(&format!("iifname \"{link}\" ip daddr {cidr} accept\n"));
    }
    for server in &uplink.dns {
        allow.push_str(&format!(
            "iifname \"{link}\" ip daddr {server} meta l4proto {{ tcp, udp }} th dport 53 accept\n"
        ));
    }
    // An interface that forwards only because of us forwards for nobody else. Links of other instances have rules of
    // their own.
    let only = match uplink.made_forward {
        true => format!("iifname \"{out}\" oifname != \"pu*\" drop\n"),
        false => String::new(),
    };
    format!(
        "{}table inet {table} {{
chain input {{ type filter hook input priority 0; policy accept;
iifname \"{link}\" drop
}}
chain forward {{ type filter hook forward priority 0; policy accept;
oifname \"{link}\" ct state established,related accept
oifname \"{link}\" drop
{allow}iifname \"{link}\" ip daddr {{ {PRIVATE} }} drop
iifname \"{link}\" oifname \"{out}\" meta nfproto ipv4 accept
iifname \"{link}\" drop
{only}}}
chain postrouting {{ type nat hook postrouting priority 100; policy accept;
ip saddr {guests} oifname != \"{link}\" masquerade
}}
}}
",
        none(table)
    )
}

/// The guests' side.
pub(super) fn namespace(table: &str, bridge: &str, link: &str) -> String {
    format!(
        "{}table inet {table} {{
chain input {{ type filter hook input priority 0; policy accept;
iifname \"{link}\" ct state established,related accept
iifname \"{link}\" drop
}}
chain forward {{ type filter hook forward priority 0; policy accept;
iifname \"{bridge}\" oifname \"{link}\" accept
iifname \"{link}\" oifname \"{bridge}\" ct state established,related accept
iifname \"{link}\" drop
}}
chain postrouting {{ type nat hook postrouting priority 100; policy accept;
oifname \"{link}\" masquerade
}}
}}
",
        none(table)
    )
}
