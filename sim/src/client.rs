//! A client on the LAN that pings one address, and knows when an answer came and from where.
//!
//! It is the simplest host there is: it asks by ARP, believes the newest answer, sends an ICMP echo request at each tick
//! and takes in the replies. It is nobody's kernel, so it has no faults of its own.

use std::net::Ipv4Addr;

use net::MacAddress;

const BROADCAST: [u8; 6] = [0xff; 6];
const IPV4: [u8; 2] = [0x08, 0x00];
const ARP: [u8; 2] = [0x08, 0x06];
/// Pings remembered: an answer to an older one is nobody's.
const REMEMBERED: usize = 1024;

/// The client.
#[derive(Debug)]
pub struct Client {
    mac: [u8; 6],
    address: Ipv4Addr,
    target: Ipv4Addr,
    /// Where the target was last heard to be.
    target_mac: Option<[u8; 6]>,
    sequence: u16,
    /// When each of the newest pings was sent, by its number.
    sent_ns: Vec<u64>,
    /// Pings sent.
    pub pings: u64,
    /// Replies that came, each ping's first.
    pub replies: u64,
    /// When the newest reply came.
    pub last_reply_ns: Option<u64>,
    /// Its ping was sent then.
    pub last_answered_ns: Option<u64>,
}

impl Client {
    /// A client of this address that pings `target`.
    #[must_use]
    pub fn new(mac: [u8; 6], address: Ipv4Addr, target: Ipv4Addr) -> Self {
        Self {
            mac,
            address,
            target,
            target_mac: None,
            sequence: 0,
            sent_ns: vec![0; REMEMBERED],
            pings: 0,
            replies: 0,
            last_reply_ns: None,
            last_answered_ns: None,
        }
    }

    /// Its own Ethernet address.
    #[must_use]
    pub fn mac(&self) -> MacAddress {
        MacAddress(self.mac)
    }

    /// The next frame it sends: a ping, or a question for the target's Ethernet address.
    pub fn tick(&mut self, now_ns: u64) -> Vec<u8> {
        self.pings += 1;
        let Some(target_mac) = self.target_mac else {
            return self.arp(1, BROADCAST, [0; 6], self.target);
        };
        self.sequence = self.sequence.wrapping_add(1);
        self.sent_ns[usize::from(self.sequence) % REMEMBERED] = now_ns;
        self.echo(8, target_mac, self.target, self.sequence.to_be_bytes())
    }

    /// A frame came; what it answers, if anything.
    pub fn receive(&mut self, now_ns: u64, frame: &[u8]) -> Option<Vec<u8>> {
        let (header, body) = frame.split_first_chunk::<14>()?;
        let (to, kind) = (&header[..6], &header[12..]);
        if to != self.mac && to != BROADCAST {
            return None;
        }
        if kind == ARP {
            return self.receive_arp(body);
        }
        if kind == IPV4
            && body.len() >= 28
            && body[0] == 0x45
            && body[9] == 1
            && checksum(&body[..20]) == 0
        {
            let length = usize::from(u16::from_be_bytes([body[2], body[3]]));
            let icmp = body.get(20..length)?;
            if icmp.len() < 8 || checksum(icmp) != 0 || body[16..20] != self.address.octets() {
                return None;
            }
            self.receive_echo(now_ns, &body[12..16], icmp);
        }
        None
    }

    fn receive_arp(&mut self, body: &[u8]) -> Option<Vec<u8>> {
        let body = body.first_chunk::<28>()?;
        let sender: [u8; 6] = body[8..14].try_into().ok()?;
        if body[14..18] == self.target.octets() {
            self.target_mac = Some(sender);
        }
        let asked = body[6..8] == [0, 1] && body[24..28] == self.address.octets();
        let asker = Ipv4Addr::new(body[14], body[15], body[16], body[17]);
        asked.then(|| self.arp(2, sender, sender, asker))
    }

    fn receive_echo(&mut self, now_ns: u64, source: &[u8], icmp: &[u8]) {
        if icmp[0] != 0 || source != self.target.octets() {
            return;
        }
        let sequence = usize::from(u16::from_be_bytes([icmp[6], icmp[7]])) % REMEMBERED;
        let sent_ns = std::mem::take(&mut self.sent_ns[sequence]);
        if sent_ns != 0 {
            self.replies += 1;
            self.last_reply_ns = Some(now_ns);
            self.last_answered_ns = self.last_answered_ns.max(Some(sent_ns));
        }
    }

    fn arp(&self, operation: u8, to: [u8; 6], target_mac: [u8; 6], target: Ipv4Addr) -> Vec<u8> {
        let mut frame = Vec::with_capacity(60);
        frame.extend_from_slice(&to);
        frame.extend_from_slice(&self.mac);
        frame.extend_from_slice(&ARP);
        frame.extend_from_slice(&[0, 1, 8, 0, 6, 4, 0, operation]);
        frame.extend_from_slice(&self.mac);
        frame.extend_from_slice(&self.address.octets());
        frame.extend_from_slice(&target_mac);
        frame.extend_from_slice(&target.octets());
        frame.resize(60, 0);
        frame
    }

    fn echo(&self, kind: u8, to: [u8; 6], target: Ipv4Addr, sequence: [u8; 2]) -> Vec<u8> {
        let mut icmp = [0_u8; 16];
        icmp[0] = kind;
        icmp[4..6].copy_from_slice(b"ax");
        icmp[6..8].copy_from_slice(&sequence);
        icmp[8..].copy_from_slice(b"anax sim");
        let sum = checksum(&icmp).to_be_bytes();
        icmp[2..4].copy_from_slice(&sum);
        let mut ip = [
            0x45, 0, 0, 36, 0, 0, 0, 0, 64, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        ip[12..16].copy_from_slice(&self.address.octets());
        ip[16..20].copy_from_slice(&target.octets());
        let sum = checksum(&ip).to_be_bytes();
        ip[10..12].copy_from_slice(&sum);
        [&to[..], &self.mac, &IPV4, &ip, &icmp].concat()
    }
}

/// RFC 1071; 0 over what holds its own sum.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_asks_then_pings_and_counts_each_reply_once() {
        let (me, target) = (Ipv4Addr::new(192, 0, 2, 100), Ipv4Addr::new(192, 0, 2, 10));
        let mut client = Client::new([2, 0, 0, 0, 0, 9], me, target);
        let ask = client.tick(1);
        assert_eq!(ask[12..14], ARP);
        // The target's answer, made by a client that plays it.
        let mut other = Client::new([2, 0, 0, 0, 0, 7], target, me);
        let answer = other.receive(2, &ask).expect("it is asked for its address");
        assert_eq!(client.receive(3, &answer), None);
        let ping = client.tick(4);
        let mut reply = ping.clone();
        reply.splice(0..6, client.mac);
        reply[26..30].copy_from_slice(&target.octets());
        reply[30..34].copy_from_slice(&me.octets());
        (reply[34], reply[36], reply[37]) = (0, 0, 0);
        let sum = checksum(&reply[34..]).to_be_bytes();
        reply[36..38].copy_from_slice(&sum);
        client.receive(5, &reply);
        client.receive(6, &reply);
        assert_eq!((client.replies, client.last_reply_ns), (1, Some(5)));
        assert_eq!(client.last_answered_ns, Some(4));
        reply[40] ^= 1;
        client.receive(7, &reply);
        assert_eq!(client.replies, 1, "a damaged reply is none");
    }
}
