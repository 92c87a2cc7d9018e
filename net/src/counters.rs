//! What is counted: every reason to drop a packet, and every event `netstat -s` tells of.
//!
//! [`DropReason`] is also the error type of the packet path: a function that cannot go on with a
//! packet returns the reason, and one place per direction counts it ([`crate::CpuStack`]), so that a
//! drop without a counter cannot be written. The wire crate's own error is one opaque value, which is
//! why the checks are made here and its views only read fields. Each CPU has its own [`Counters`]
//! and only it writes them; [`crate::Snapshot`] is their sum.

/// The heading of `netstat -s` a counter stands under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Frames, before the protocol inside is known.
    Ethernet,
    /// Address resolution.
    Arp,
    /// IPv4, and raw protocols on it.
    Ip,
    /// ICMP for IPv4.
    Icmp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// All of them, in the order they are printed in.
    pub const ALL: [Protocol; 5] = [
        Protocol::Ethernet,
        Protocol::Arp,
        Protocol::Ip,
        Protocol::Icmp,
        Protocol::Udp,
    ];

    /// The heading as `netstat -s` prints it.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Ethernet => "ether",
            Protocol::Arp => "arp",
            Protocol::Ip => "ip",
            Protocol::Icmp => "icmp",
            Protocol::Udp => "udp",
        }
    }
}

/// Defines an enum whose variants each have a protocol and a text for `netstat -s`.
macro_rules! counted {
    ($(#[$meta:meta])* $name:ident { $($variant:ident: $protocol:ident, $text:literal;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name {
            $(#[doc = $text] $variant,)*
        }

        impl $name {
            /// All of them, in the order they are printed in.
            pub const ALL: &'static [$name] = &[$($name::$variant),*];

            /// The heading this is counted under.
            pub fn protocol(self) -> Protocol {
                match self { $($name::$variant => Protocol::$protocol,)* }
            }

            /// What `netstat -s` prints behind the number.
            pub fn text(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }
    };
}

counted! {
    /// Why a packet went no further.
    #[must_use = "count the drop: return it to the caller or hand it to Counters::drop"]
    DropReason {
        FrameTooShort: Ethernet, "dropped: frame too short";
        FrameTooLong: Ethernet, "dropped: frame longer than the MTU";
        FrameBadSource: Ethernet, "dropped: source is a group or zero address";
        FrameOwnSource: Ethernet, "dropped: our own frame came back";
        FrameNotForUs: Ethernet, "dropped: unicast to another station";
        FrameVirtualBackup: Ethernet, "dropped: to a virtual address while backup";
        FrameUnknownType: Ethernet, "dropped: unknown protocol";
        FrameQueueFull: Ethernet, "dropped: too many packets wait for the CPU of their flow";
        NoMemory: Ethernet, "dropped: no memory to pass it on";
        FrameInterfaceDown: Ethernet, "dropped: interface down";
        SendInterfaceDown: Ethernet, "output dropped: interface down";
        SendVirtualBackup: Ethernet, "output dropped: from a virtual address while backup";
        SendForeignSource: Ethernet, "output dropped: source is none of our addresses";
        SendNoMemory: Ethernet, "output dropped: no memory for a packet";

        ArpTooShort: Arp, "dropped: too short";
        ArpBadFormat: Arp, "dropped: not Ethernet and IPv4";
        ArpBadOperation: Arp, "dropped: neither request nor reply";
        ArpBadSender: Arp, "dropped: impossible sender address";
        ArpNotLocal: Arp, "dropped: sender not on this network";
        ArpConflict: Arp, "dropped: another station uses an address of ours";
        ArpNotForUs: Arp, "ignored: asked for an address not ours";
        ArpVirtualBackup: Arp, "ignored: asked for a virtual address while backup";
        ArpUnsolicited: Arp, "ignored: nothing to learn for us";
        ArpTableFull: Arp, "output dropped: table full of unresolved addresses";
        ArpQueueFull: Arp, "output dropped: too many packets wait for one address";
        ArpNoMemory: Arp, "output dropped: no memory to have it wait for an address";
        ArpTimeout: Arp, "output dropped: address did not answer";

        IpTooShort: Ip, "dropped: shorter than a header";
        IpBadVersion: Ip, "dropped: not version 4";
        IpBadHeaderLength: Ip, "dropped: bad header length";
        IpBadTotalLength: Ip, "dropped: bad total length";
        IpBadChecksum: Ip, "dropped: bad header checksum";
        IpMartianSource: Ip, "dropped: impossible source address";
        IpOwnSource: Ip, "dropped: source is an address of ours";
        IpSourceRoute: Ip, "dropped: source route option";
        IpBadOptions: Ip, "dropped: malformed options";
        IpFragment: Ip, "dropped: fragment (reassembly is not supported)";
        IpNotForUs: Ip, "dropped: not for us, and we do not forward";
        IpVirtualBackup: Ip, "dropped: to a virtual address while backup";
        IpUnicastInGroupFrame: Ip, "dropped: unicast packet in a group frame";
        IpUnknownProtocol: Ip, "dropped: unknown protocol";
        NoRoute: Ip, "output dropped: no route";
        NoSourceAddress: Ip, "output dropped: no source address";
        SourceNotOurs: Ip, "output dropped: source is none of our addresses";
        SourceVirtualBackup: Ip, "output dropped: source is a virtual address while backup";
        MessageTooLong: Ip, "output dropped: longer than the MTU";

        IcmpTooShort: Icmp, "dropped: shorter than a header";
        IcmpBadChecksum: Icmp, "dropped: bad checksum";
        IcmpGroupEcho: Icmp, "ignored: echo request to a group";
        IcmpUnknownType: Icmp, "ignored: unsupported type";
        IcmpUnexpected: Icmp, "ignored: answers nothing of ours";
        IcmpRateLimited: Icmp, "output dropped: rate limit of errors";

        UdpTooShort: Udp, "dropped: shorter than a header";
        UdpBadLength: Udp, "dropped: bad data length";
        UdpBadChecksum: Udp, "dropped: bad checksum";
        UdpNoPort: Udp, "dropped: no socket";
        UdpNoPortGroup: Udp, "dropped: broadcast or multicast, no socket";
        SocketFull: Udp, "dropped: full socket buffers";
        SocketNoMemory: Udp, "dropped: no memory for its place in the socket's queue";
        SocketClosed: Udp, "dropped: socket closed meanwhile";
    }
}

counted! {
    /// Something worth counting that is no drop.
    Event {
        FrameReceived: Ethernet, "frames received";
        FrameConsumed: Ethernet, "frames delivered to a protocol or a socket";
        FrameSent: Ethernet, "frames sent";
        FrameForwarded: Ethernet, "frames handed to the CPU of their flow";

        ArpReceived: Arp, "packets received";
        ArpRequestReceived: Arp, "requests received";
        ArpReplyReceived: Arp, "replies received";
        ArpRequestSent: Arp, "requests sent";
        ArpReplySent: Arp, "replies sent";
        ArpAnnouncementSent: Arp, "announcements sent";
        ArpMoved: Arp, "addresses moved to another MAC address";
        ArpEvicted: Arp, "entries evicted for others";

        IpReceived: Ip, "total packets received";
        IpDelivered: Ip, "packets for this host";
        IpSent: Ip, "packets sent from this host";
        IpLooped: Ip, "packets sent to this host itself";
        RawDelivered: Ip, "packets delivered to a raw protocol";

        IcmpReceived: Icmp, "messages received";
        IcmpEchoRequestReceived: Icmp, "echo requests received";
        IcmpEchoReplySent: Icmp, "echo replies sent";
        IcmpEchoRequestSent: Icmp, "echo requests sent";
        IcmpEchoReplyReceived: Icmp, "echo replies received";
        IcmpErrorReceived: Icmp, "errors received";
        IcmpUnreachableSent: Icmp, "destination unreachable sent";

        UdpReceived: Udp, "datagrams received";
        UdpNoChecksum: Udp, "with no checksum";
        UdpDelivered: Udp, "delivered";
        UdpSent: Udp, "datagrams output";
    }
}

impl DropReason {
    /// Whether it was a packet on its way out that was dropped. All other reasons end a received
    /// frame, so that frames received = frames consumed + drops that are not output drops.
    pub fn is_output(self) -> bool {
        self.text().starts_with("output")
    }
}

impl core::fmt::Display for DropReason {
    /// The reason alone, for messages: `no route`.
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str(
            self.text()
                .split_once(": ")
                .map_or(self.text(), |(_, reason)| reason),
        )
    }
}

impl core::error::Error for DropReason {}

/// The counters of one CPU.
#[derive(Clone, Debug)]
pub struct Counters {
    drops: [u64; DropReason::ALL.len()],
    events: [u64; Event::ALL.len()],
}

impl Default for Counters {
    fn default() -> Counters {
        Counters {
            drops: [0; DropReason::ALL.len()],
            events: [0; Event::ALL.len()],
        }
    }
}

impl Counters {
    /// Counts a dropped packet.
    pub fn drop(&mut self, reason: DropReason) {
        self.drops[reason as usize] += 1;
    }

    /// Counts an event.
    pub fn event(&mut self, event: Event) {
        self.events[event as usize] += 1;
    }

    /// How many packets were dropped for this reason.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }

    /// How often this happened.
    pub fn events(&self, event: Event) -> u64 {
        self.events[event as usize]
    }

    /// Packets dropped for any reason.
    pub fn dropped_total(&self) -> u64 {
        self.drops.iter().sum()
    }

    /// Received frames dropped for any reason.
    pub fn input_dropped_total(&self) -> u64 {
        let reasons = DropReason::ALL.iter().filter(|reason| !reason.is_output());
        reasons.map(|&reason| self.drops(reason)).sum()
    }

    /// Adds another CPU's counters to these.
    pub fn add(&mut self, other: &Counters) {
        let pairs = self.drops.iter_mut().chain(self.events.iter_mut());
        for (sum, value) in pairs.zip(other.drops.iter().chain(other.events.iter())) {
            *sum += value;
        }
    }
}
