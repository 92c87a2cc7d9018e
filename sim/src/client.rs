//! A client on the LAN that asks one address for echoes, and knows when an answer came and whether it was right.
//!
//! It is the simplest host there is: it asks by ARP, believes the newest answer, sends an echo request (ICMP's, or a UDP
//! datagram) at each tick and takes in what comes back. It is nobody's kernel, so it has no faults of its own. What a
//! request holds follows from its number, so that a reply can be seen to be what was sent.

use std::net::Ipv4Addr;

const BROADCAST: [u8; 6] = [0xff; 6];
const IPV4: [u8; 2] = [0x08, 0x00];
const ARP: [u8; 2] = [0x08, 0x06];
const ETHERNET_BYTES: usize = 14;
const IP_BYTES: usize = 20;
/// Of ICMP's echo as of UDP.
const ECHO_BYTES: usize = 8;
const ICMP: u8 = 1;
const UDP: u8 = 17;
/// The client's own UDP port, from which it asks a port that echoes.
const OWN_PORT: u16 = 4007;
/// The lowest port from which it asks a closed one: the others follow by the request's number.
const LOWEST_PORT: u16 = 10_000;
const PORTS: u16 = 50_000;
/// One of this many ticks asks for the target's address again, as hosts do whose answers grow old.
const ASK_EVERY: u64 = 50;
/// Requests remembered: an answer to an older one is nobody's.
const REMEMBERED: usize = 1024;

/// How it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// ICMP echo requests of a fixed size.
    Ping,
    /// ICMP echo requests of all sizes.
    PingAllSizes,
    /// UDP datagrams of all sizes to this port.
    Udp(u16),
    /// UDP datagrams to a port that nobody listens on: ICMP says so, on the CPU of the flow, from the address asked.
    ClosedPort(u16),
}

/// What it has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Ticks: requests sent, and questions for the address.
    pub ticks: u64,
    /// Replies that came, each request's first.
    pub replies: u64,
    /// Replies that came again.
    pub again: u64,
    /// Replies whose sums were right and whose content was not.
    pub wrong: u64,
}

/// The client.
#[derive(Debug)]
pub struct Client {
    mac: [u8; 6],
    address: Ipv4Addr,
    target: Ipv4Addr,
    question: Question,
    /// Where the target was last heard to be.
    target_mac: Option<[u8; 6]>,
    sequence: u16,
    /// When each of the newest requests was sent, by its number; 0 once it is answered.
    sent_ns: Vec<u64>,
    /// What it has counted.
    pub counts: Counts,
    /// When the newest reply came.
    pub last_reply_ns: Option<u64>,
    /// When the newest request that was answered was sent.
    pub last_answered_ns: Option<u64>,
}

impl Client {
    /// A client of this address that asks `target`.
    #[must_use]
    pub fn new(mac: [u8; 6], address: Ipv4Addr, target: Ipv4Addr, question: Question) -> Self {
        Self {
            mac,
            address,
            target,
            question,
            target_mac: None,
            sequence: 0,
            sent_ns: vec![0; REMEMBERED],
            counts: Counts::default(),
            last_reply_ns: None,
            last_answered_ns: None,
        }
    }

    /// The next frame it sends: a request, or a question for the target's Ethernet address.
    pub fn tick(&mut self, now_ns: u64) -> Vec<u8> {
        self.counts.ticks += 1;
        let Some(target_mac) = self
            .target_mac
            .filter(|_| !self.counts.ticks.is_multiple_of(ASK_EVERY))
        else {
            return self.arp(1, BROADCAST, [0; 6], self.target);
        };
        self.sequence = self.sequence.wrapping_add(1);
        self.sent_ns[usize::from(self.sequence) % REMEMBERED] = now_ns;
        self.request(target_mac)
    }

    /// A frame came; what it answers, if anything.
    pub fn receive(&mut self, now_ns: u64, frame: &[u8]) -> Option<Vec<u8>> {
        let (header, body) = frame.split_first_chunk::<ETHERNET_BYTES>()?;
        let (to, kind) = (&header[..6], &header[12..]);
        if to != self.mac && to != BROADCAST {
            return None;
        }
        if kind == ARP {
            return self.receive_arp(body);
        }
        if kind == IPV4
            && body.len() >= IP_BYTES
            && body[0] == 0x45
            && checksum(&body[..IP_BYTES]) == 0
        {
            self.receive_ip(now_ns, body);
        }
        None
    }

    fn receive_ip(&mut self, now_ns: u64, packet: &[u8]) -> Option<()> {
        let length = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
        let (header, body) = packet.get(..length)?.split_at_checked(IP_BYTES)?;
        if header[12..16] != self.target.octets()
            || header[16..20] != self.address.octets()
            || body.len() < ECHO_BYTES + 2
        {
            return None;
        }
        let payload = match self.question {
            Question::ClosedPort(port) => {
                return self.receive_unreachable(now_ns, header, body, port);
            }
            Question::Udp(port) => {
                let whole = udp_sum(header, body) == 0
                    && body[..2] == port.to_be_bytes()
                    && body[2..4] == OWN_PORT.to_be_bytes();
                (header[9] == UDP && whole).then(|| &body[ECHO_BYTES..])?
            }
            _ => (header[9] == ICMP && body[0] == 0 && checksum(body) == 0)
                .then(|| &body[ECHO_BYTES..])?,
        };
        let sequence = u16::from_be_bytes([payload[0], payload[1]]);
        if payload != self.payload(sequence) {
            self.counts.wrong += 1;
            return None;
        }
        self.answered(now_ns, sequence);
        Some(())
    }

    /// "Port unreachable" (RFC 792), which quotes the header and eight bytes of what it answers.
    fn receive_unreachable(
        &mut self,
        now_ns: u64,
        header: &[u8],
        body: &[u8],
        port: u16,
    ) -> Option<()> {
        let quoted = body.get(ECHO_BYTES..)?;
        let datagram = quoted.get(IP_BYTES..IP_BYTES + 4)?;
        let ours =
            quoted[12..16] == self.address.octets() && quoted[16..20] == self.target.octets();
        if header[9] != ICMP
            || body[..2] != [3, 3]
            || checksum(body) != 0
            || !ours
            || datagram[2..4] != port.to_be_bytes()
        {
            return None;
        }
        let from = u16::from_be_bytes([datagram[0], datagram[1]]);
        let behind = self.port().wrapping_add(PORTS - from) % PORTS;
        self.answered(now_ns, self.sequence.wrapping_sub(behind));
        Some(())
    }

    /// A right answer to request `sequence` came.
    fn answered(&mut self, now_ns: u64, sequence: u16) {
        match std::mem::take(&mut self.sent_ns[usize::from(sequence) % REMEMBERED]) {
            0 => self.counts.again += 1,
            sent_ns => {
                self.counts.replies += 1;
                self.last_reply_ns = Some(now_ns);
                self.last_answered_ns = self.last_answered_ns.max(Some(sent_ns));
            }
        }
    }

    /// The port from which the newest request to a closed port was sent.
    fn port(&self) -> u16 {
        LOWEST_PORT + self.sequence % PORTS
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

    /// What request `sequence` holds: its number, then bytes that follow from it.
    fn payload(&self, sequence: u16) -> Vec<u8> {
        let length = match self.question {
            Question::Ping | Question::ClosedPort(_) => 8,
            // A prime, so that all sizes come.
            Question::PingAllSizes | Question::Udp(_) => 2 + usize::from(sequence) * 211 % 1400,
        };
        let number = sequence.to_be_bytes();
        let bytes = (2..length).map(|at| (at as u16).wrapping_mul(31).wrapping_add(sequence) as u8);
        number.into_iter().chain(bytes).collect()
    }

    fn request(&self, to: [u8; 6]) -> Vec<u8> {
        let payload = self.payload(self.sequence);
        let length = (ECHO_BYTES + payload.len()) as u16;
        let mut ip = [
            0x45, 0, 0, 0, 0, 0, 0, 0, 64, ICMP, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        ip[2..4].copy_from_slice(&(IP_BYTES as u16 + length).to_be_bytes());
        ip[12..16].copy_from_slice(&self.address.octets());
        ip[16..20].copy_from_slice(&self.target.octets());
        let mut echo = vec![0; ECHO_BYTES];
        echo.extend_from_slice(&payload);
        let ports = match self.question {
            Question::Udp(port) => Some((OWN_PORT, port)),
            Question::ClosedPort(port) => Some((self.port(), port)),
            _ => None,
        };
        if let Some((from, port)) = ports {
            ip[9] = UDP;
            echo[..2].copy_from_slice(&from.to_be_bytes());
            echo[2..4].copy_from_slice(&port.to_be_bytes());
            echo[4..6].copy_from_slice(&length.to_be_bytes());
            // RFC 768: a sum of 0 is sent as its other form.
            let sum = match udp_sum(&ip, &echo) {
                0 => u16::MAX,
                sum => sum,
            };
            echo[6..8].copy_from_slice(&sum.to_be_bytes());
        } else {
            echo[0] = 8;
            echo[4..6].copy_from_slice(b"ax");
            echo[6..8].copy_from_slice(&self.sequence.to_be_bytes());
            let sum = checksum(&echo).to_be_bytes();
            echo[2..4].copy_from_slice(&sum);
        }
        let sum = checksum(&ip).to_be_bytes();
        ip[10..12].copy_from_slice(&sum);
        [&to[..], &self.mac, &IPV4, &ip, &echo].concat()
    }
}

/// The sum over a UDP datagram and its pseudo header (RFC 768); 0 over one that holds its own.
fn udp_sum(ip: &[u8], datagram: &[u8]) -> u16 {
    let length = (datagram.len() as u16).to_be_bytes();
    let pseudo = [&ip[12..20], &[0, UDP], &length, datagram].concat();
    checksum(&pseudo)
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
        let mut client = Client::new([2, 0, 0, 0, 0, 9], me, target, Question::Ping);
        let ask = client.tick(1);
        assert_eq!(ask[12..14], ARP);
        // The target's answer, made by a client that plays it.
        let mut other = Client::new([2, 0, 0, 0, 0, 7], target, me, Question::Ping);
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
        assert_eq!(
            (
                client.counts.replies,
                client.counts.again,
                client.last_reply_ns
            ),
            (1, 1, Some(5))
        );
        assert_eq!(client.last_answered_ns, Some(4));
        reply[40] ^= 1;
        client.receive(7, &reply);
        assert_eq!(client.counts.replies, 1, "a damaged reply is none");
    }
}
