//! Sockets: [`UdpSocket`] and, for `ping`, [`Ping`].
//!
//! A socket belongs to the CPU that bound it: its receive queue is in that CPU's stack, and neither
//! type is `Send`. Sending is not asynchronous: a packet that must wait (for ARP) waits in the network and
//! not in the sender, as with every UDP. Both close when dropped; `close` also waits until
//! every CPU has forgotten the binding.

use alloc::alloc::Layout;
use alloc::vec::Vec;
use core::fmt;
use core::future::poll_fn;
use core::marker::PhantomData;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::task::Poll;
use core::time::Duration;

use executor::slab::{has_room, may_fail};

use crate::counters::DropReason;
use crate::network::Network;
use crate::receive::{Datagram, DatagramKind};
use crate::tables::{Binding, BindingKind, Change, ConfigError};

/// Bytes that must be free for a socket to be opened.
const SOCKET_BYTES: usize = 2048;

/// A binding that is undone when dropped, and its receive queue.
struct Socket {
    network: Network,
    binding: Binding,
    is_open: bool,
    /// It stays on its CPU.
    _not_send: PhantomData<*const ()>,
}

impl Socket {
    async fn bind(
        network: &Network,
        kind: BindingKind,
        address: Ipv4Addr,
        port: u16,
    ) -> Result<Socket, ConfigError> {
        // For the change that goes to every CPU, and the receive queue.
        if !has_room(Layout::new::<[u8; SOCKET_BYTES]>()) {
            return Err(ConfigError::NoMemory);
        }
        let owner = executor::current_cpu().0;
        let change = network
            .change_with(move |stack| {
                stack
                    .allocate_binding(kind, address, port, owner)
                    .map(Change::Bind)
            })
            .await?;
        let Change::Bind(binding) = change else {
            return Err(ConfigError::PortInUse);
        };
        Ok(Socket {
            network: network.clone(),
            binding,
            is_open: true,
            _not_send: PhantomData,
        })
    }

    async fn receive(&self) -> Datagram {
        let socket = self.binding.socket;
        poll_fn(|context| {
            self.network
                .shared
                .with(|state| match state.stack.receive(socket) {
                    Some(datagram) => Poll::Ready(datagram),
                    None => {
                        state.stack.set_waker(socket, context.waker());
                        Poll::Pending
                    }
                })
        })
        .await
    }

    async fn close(mut self) {
        self.is_open = false;
        // It cannot be refused.
        let _ = self
            .network
            .change(Change::Unbind(self.binding.socket))
            .await;
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.is_open && executor::try_current().is_some() {
            let network = self.network.clone();
            let socket = self.binding.socket;
            let unbind = async move {
                let _ = network.change(Change::Unbind(socket)).await;
            };
            executor::spawn("net close", unbind).detach();
        }
    }
}

/// A UDP socket of the CPU that bound it.
pub struct UdpSocket {
    socket: Socket,
}

impl fmt::Debug for UdpSocket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "UdpSocket({})", self.local_address())
    }
}

impl UdpSocket {
    /// Opens a socket. Address 0.0.0.0 stands for all of ours, port 0 for any free one. A virtual address
    /// may be bound while backup; sending from it works while master.
    pub async fn bind(network: &Network, local: SocketAddrV4) -> Result<UdpSocket, ConfigError> {
        let socket = Socket::bind(network, BindingKind::Udp, *local.ip(), local.port()).await?;
        Ok(UdpSocket { socket })
    }

    /// What it is bound to.
    pub fn local_address(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.socket.binding.address, self.socket.binding.port)
    }

    /// The next datagram. One thread may wait at a time.
    pub async fn recv_from(&self) -> Datagram {
        self.socket.receive().await
    }

    /// Sends from the bound address, or from the one the route selects.
    pub fn send_to(&self, data: &[u8], remote: SocketAddrV4) -> Result<(), DropReason> {
        self.send(data, None, remote)
    }

    /// Sends from a given address of ours: answers leave from where the question was sent to.
    pub fn send_from(
        &self,
        data: &[u8],
        source: Ipv4Addr,
        remote: SocketAddrV4,
    ) -> Result<(), DropReason> {
        self.send(data, Some(source), remote)
    }

    /// Closes the socket and waits until every CPU knows.
    pub async fn close(self) {
        self.socket.close().await;
    }

    fn send(
        &self,
        data: &[u8],
        source: Option<Ipv4Addr>,
        remote: SocketAddrV4,
    ) -> Result<(), DropReason> {
        let socket = self.socket.binding.socket;
        let shared = &self.socket.network.shared;
        shared.drive(|stack, now_ns| stack.udp_send(now_ns, socket, source, remote, data))
    }
}

/// Serves the echo protocol (RFC 862) on a UDP port, for ever. A question from port 7 is not answered:
/// two echo servers would talk to each other without end.
pub async fn serve_udp_echo(network: &Network, port: u16) -> Result<(), ConfigError> {
    const ECHO_PORT: u16 = 7;
    let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
    let socket = UdpSocket::bind(network, any).await?;
    loop {
        let question = socket.recv_from().await;
        if question.remote.port() == ECHO_PORT || question.remote.port() == port {
            continue;
        }
        // A question to a group is answered from our own address. What cannot be sent is counted.
        let asked = *question.local.ip();
        let is_ours = network
            .shared
            .with(|state| state.stack.tables().check_source(asked).is_ok());
        let source = is_ours.then_some(asked);
        let _ = socket.send(question.payload(), source, question.remote);
    }
}

/// What came back for an echo request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EchoReply {
    /// Who answered.
    pub source: Ipv4Addr,
    /// Which request it answers.
    pub sequence: u16,
    /// Time to live as received.
    pub ttl: u8,
    /// Data bytes in it.
    pub length: usize,
    /// When it was received, nanoseconds since boot.
    pub received_ns: u64,
}

/// Something that came for a [`Ping`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EchoEvent {
    /// An answer.
    Reply(EchoReply),
    /// An ICMP error about a request.
    Error {
        /// Who reports it.
        source: Ipv4Addr,
        /// The request it is about.
        sequence: u16,
        /// ICMP type, for example 3: destination unreachable.
        icmp_type: u8,
        /// ICMP code.
        icmp_code: u8,
    },
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PingError {
    /// The request could not be sent.
    NotSent(DropReason),
    /// No answer in time.
    TimedOut,
    /// An ICMP error came instead.
    Unreachable {
        /// Who reports it.
        source: Ipv4Addr,
        /// ICMP type.
        icmp_type: u8,
        /// ICMP code.
        icmp_code: u8,
    },
}

impl fmt::Display for PingError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PingError::NotSent(reason) => write!(formatter, "sendto: {reason}"),
            PingError::TimedOut => formatter.write_str("request timed out"),
            PingError::Unreachable {
                source,
                icmp_type,
                icmp_code,
            } => {
                write!(
                    formatter,
                    "from {source}: ICMP type {icmp_type} code {icmp_code}"
                )
            }
        }
    }
}

impl core::error::Error for PingError {}

/// An answer and how long it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundTrip {
    /// The answer.
    pub reply: EchoReply,
    /// From the call that sent the request to the reception of the answer, nanoseconds.
    pub time_ns: u64,
}

/// An ICMP echo client with an identifier of its own.
pub struct Ping {
    socket: Socket,
}

impl fmt::Debug for Ping {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Ping({})", self.identifier())
    }
}

impl Ping {
    /// Opens an echo client.
    pub async fn open(network: &Network) -> Result<Ping, ConfigError> {
        let any = Ipv4Addr::UNSPECIFIED;
        let socket = Socket::bind(network, BindingKind::Echo, any, 0).await?;
        Ok(Ping { socket })
    }

    /// The identifier its requests carry.
    pub fn identifier(&self) -> u16 {
        self.socket.binding.port
    }

    /// Sends a request with `length` bytes of data.
    pub fn send(
        &self,
        destination: Ipv4Addr,
        sequence: u16,
        length: usize,
    ) -> Result<(), DropReason> {
        let mut data = Vec::new();
        may_fail(|| data.try_reserve_exact(length)).map_err(|_| DropReason::SendNoMemory)?;
        data.extend((0..length).map(|index| index as u8));
        let socket = self.socket.binding.socket;
        let shared = &self.socket.network.shared;
        shared.drive(|stack, now_ns| stack.echo_send(now_ns, socket, destination, sequence, &data))
    }

    /// The next answer or error, to whichever request.
    pub async fn recv(&self) -> EchoEvent {
        loop {
            let datagram = self.socket.receive().await;
            let source = *datagram.remote.ip();
            match datagram.kind {
                DatagramKind::EchoReply { sequence } => {
                    return EchoEvent::Reply(EchoReply {
                        source,
                        sequence,
                        ttl: datagram.ttl,
                        length: datagram.payload().len(),
                        received_ns: datagram.received_ns,
                    });
                }
                DatagramKind::EchoError {
                    sequence,
                    icmp_type,
                    icmp_code,
                } => {
                    return EchoEvent::Error {
                        source,
                        sequence,
                        icmp_type,
                        icmp_code,
                    };
                }
                DatagramKind::Udp => {}
            }
        }
    }

    /// Sends one request and waits for its answer. Late answers to earlier requests are skipped.
    pub async fn echo(
        &self,
        destination: Ipv4Addr,
        sequence: u16,
        length: usize,
        patience: Duration,
    ) -> Result<RoundTrip, PingError> {
        let sent_ns = executor::now_ns();
        self.send(destination, sequence, length)
            .map_err(PingError::NotSent)?;
        let answer = async {
            loop {
                match self.recv().await {
                    EchoEvent::Reply(reply) if reply.sequence == sequence => {
                        let time_ns = reply.received_ns.saturating_sub(sent_ns);
                        return Ok(RoundTrip { reply, time_ns });
                    }
                    EchoEvent::Error {
                        source,
                        sequence: about,
                        icmp_type,
                        icmp_code,
                    } if about == sequence => {
                        return Err(PingError::Unreachable {
                            source,
                            icmp_type,
                            icmp_code,
                        });
                    }
                    _ => {}
                }
            }
        };
        executor::timeout(patience, answer)
            .await
            .unwrap_or(Err(PingError::TimedOut))
    }

    /// Closes the client and waits until every CPU knows.
    pub async fn close(self) {
        self.socket.close().await;
    }
}
