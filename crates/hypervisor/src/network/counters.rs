//! What the links of the guests' network have carried, as the kernel counts it.

use super::Network;
use std::collections::HashMap;
use std::io;

/// What a link has carried since it was made, seen from the host's end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Bytes received.
    pub received: u64,
    /// Packets received.
    pub received_packets: u64,
    /// Bytes sent.
    pub sent: u64,
    /// Packets sent.
    pub sent_packets: u64,
}

/// `/proc/net/dev`: two lines of heading, then a line for each link: name, eight columns received, eight sent.
fn parse(text: &str) -> HashMap<String, LinkCounters> {
    let link = |line: &str| {
        let (name, columns) = line.split_once(':')?;
        let columns: Vec<u64> = columns.split_whitespace().map_while(|word| word.parse().ok()).collect();
        let counters = LinkCounters {
            received: *columns.first()?,
            received_packets: *columns.get(1)?,
            sent: *columns.get(8)?,
            sent_packets: *columns.get(9)?,
        };
        Some((name.trim().to_owned(), counters))
    };
    text.lines().skip(2).filter_map(link).collect()
}

impl Network {
    /// The counters of all links, by name. Blocks for some tens of microseconds.
    pub fn link_counters(&self) -> io::Result<HashMap<String, LinkCounters>> {
        self.inside(|| std::fs::read_to_string("/proc/thread-self/net/dev")).map(|text| parse(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_is_read() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
             face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n\
             \x20   lo: 10 1 0 0 0 0 0 0 10 1 0 0 0 0 0 0\n\
             tap12:1234567 89    0    0    0     0          0         0 7654321      98    0    0    0     0       0          0\n\
             torn: 12 1 0\n";
        let links = parse(text);
        let expected =
            LinkCounters { received: 1_234_567, received_packets: 89, sent: 7_654_321, sent_packets: 98 };
        assert_eq!(links["tap12"], expected);
        assert_eq!(links.len(), 2, "what is cut off is left out");
    }
}
