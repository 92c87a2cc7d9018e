//! Cables: a socket of the virtual LAN, or a tap device, as what a network card is plugged into.
//!
//! A [`HostCable`] belongs to CPU 0, which sleeps on its descriptor: readable ends the interest and signals the card's
//! event, the card reads until there is no more, and that renews the interest, as NAPI does with a ring's interrupt.
//! On the socket each frame follows its length (u32, big-endian; tools/src/lan/server.rs), so frames are read and written
//! many at a time; a tap takes one a call.
//!
//! Decision: a LAN that goes away is a cable pulled out. The attendant tries to connect again, and puts the new
//! connection under the old descriptor's number, so that nobody who holds it must be told.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;
use core::mem::ManuallyDrop;
use core::sync::atomic::{AtomicBool, Ordering};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;

use executor::{CpuLocal, Event, Node};
use rustix::event::PollFlags;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{DupFlags, Errno, dup3, read, write};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::options::{End, Plug};
use super::{Refused, arena, attendant};
use crate::drivers::vke::{Cable, NotSent};

/// Bytes that may wait for a socket that takes no more.
const OUTPUT_LIMIT: usize = 256 << 10;
/// Bytes read at once.
const INPUT_BYTES: usize = 256 << 10;
/// The LAN never sends more in one frame.
const FRAME_LIMIT: usize = 4096 + 65536;
/// Before a frame on a socket: its length.
const PREFIX_BYTES: usize = 4;

/// A cable, and the host's descriptor at its end.
pub struct HostCable {
    end: End,
    mac: [u8; 6],
    /// Refers to whatever is connected now; its number never changes.
    descriptor: OwnedFd,
    link_up: AtomicBool,
    /// CPU 0 shall be told of frames.
    listening: AtomicBool,
    /// CPU 0 shall be told of room.
    output_waits: AtomicBool,
    event: Event,
    buffers: OnceLock<CpuLocal<RefCell<Buffers>>>,
}

#[derive(Default)]
struct Buffers {
    input: Vec<u8>,
    /// What is in `input` and not handed out: `input[begin..end]`.
    begin: usize,
    end: usize,
    /// The last reading took all there was.
    exhausted: bool,
    output: Vec<u8>,
}

impl HostCable {
    /// Connects interface `number`.
    pub(super) fn plug(plug: &Plug, number: usize) -> Result<Self, Refused> {
        let descriptor = match &plug.end {
            End::Socket(path) => connect_to(path).map_err(|error| {
                let remedy = "start a LAN with: ./run.sh lan DIRECTORY a b";
                Refused::new(format!("no LAN at {}", path.display()), error, remedy)
            })?,
            End::Tap(name) => open_tap(name).map_err(|error| {
                let remedy = format!(
                    "make it yours with: ip tuntap add {name} mode tap user $USER (as root)"
                );
                Refused::new(format!("no tap device {name}"), error, remedy)
            })?,
        };
        Ok(Self {
            end: plug.end.clone(),
            mac: plug.mac.unwrap_or_else(|| local_mac(number)),
            descriptor,
            link_up: AtomicBool::new(true),
            listening: AtomicBool::new(false),
            output_waits: AtomicBool::new(false),
            event: Event::new(),
            buffers: OnceLock::new(),
        })
    }

    /// Gets ready to be driven by the current CPU.
    pub(super) fn open(&self, node: &Node) {
        // Not the kernel's memory: what a card would have on board.
        arena::abroad(|| {
            let _ = self
                .buffers
                .set(CpuLocal::new(node, |_| RefCell::default()));
            self.with(|it| {
                it.input = vec![0; INPUT_BYTES];
                it.output = Vec::with_capacity(OUTPUT_LIMIT);
            });
        });
    }

    fn with<R>(&self, f: impl FnOnce(&mut Buffers) -> R) -> Option<R> {
        self.buffers.get()?.with(|it| Some(f(&mut it.borrow_mut())))
    }

    /// What CPU 0 shall wait for.
    pub(super) fn wanted(&self) -> Option<PollFlags> {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, self.listening.load(Ordering::Acquire));
        flags.set(PollFlags::OUT, self.output_waits.load(Ordering::Relaxed));
        (!flags.is_empty()).then_some(flags)
    }

    /// What CPU 0 has waited for is there.
    pub(super) fn interrupt(&self, what: PollFlags) {
        if what.contains(PollFlags::OUT) {
            self.output_waits.store(false, Ordering::Relaxed);
            self.flush();
        }
        if what.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            self.listening.store(false, Ordering::Relaxed);
            self.event.signal();
        }
    }

    /// The other end is gone. On CPU 0.
    fn unplug(&self, buffers: &mut Buffers) {
        (buffers.begin, buffers.end) = (0, 0);
        buffers.output.clear();
        self.output_waits.store(false, Ordering::Relaxed);
        self.listening.store(false, Ordering::Relaxed);
        // From here on the descriptor is the attendant's.
        self.link_up.store(false, Ordering::Release);
        self.event.signal();
        attendant::call();
    }

    /// Tries to connect again, if that is needed. True: it is, and did not work. For the attendant.
    pub(super) fn reconnect(&self) -> bool {
        if self.link_up.load(Ordering::Acquire) {
            return false;
        }
        let End::Socket(path) = &self.end else {
            return false;
        };
        let Ok(stream) = connect_to(path) else {
            return true;
        };
        // SAFETY: the number is ours for good and never closed; this second owner is not dropped.
        let mut place =
            ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(self.descriptor.as_raw_fd()) });
        if dup3(&stream, &mut place, DupFlags::CLOEXEC).is_err() {
            return true;
        }
        self.listening.store(true, Ordering::Relaxed);
        self.link_up.store(true, Ordering::Release);
        self.event.signal();
        false
    }

    /// Reads what there is into the free part of the buffer. False: nothing came, and the event tells when it does.
    fn fill(&self, buffers: &mut Buffers) -> bool {
        if buffers.exhausted {
            buffers.exhausted = false;
            self.listening.store(true, Ordering::Relaxed);
            return false;
        }
        if buffers.begin > 0 {
            buffers.input.copy_within(buffers.begin..buffers.end, 0);
            (buffers.begin, buffers.end) = (0, buffers.end - buffers.begin);
        }
        let room = &mut buffers.input[buffers.end..];
        let room_bytes = room.len();
        match read(&self.descriptor, room) {
            Ok(1..) | Err(Errno::INTR) if room_bytes == 0 => false,
            Ok(count @ 1..) => {
                buffers.end += count;
                buffers.exhausted = count < room_bytes && matches!(self.end, End::Socket(_));
                true
            }
            Err(Errno::INTR) => true,
            Err(Errno::AGAIN) => {
                self.listening.store(true, Ordering::Relaxed);
                false
            }
            Ok(0) | Err(_) => {
                self.unplug(buffers);
                false
            }
        }
    }

    fn take_from(&self, buffers: &mut Buffers, take: &mut dyn FnMut(&[u8])) -> bool {
        if !self.link_up.load(Ordering::Acquire) {
            return false;
        }
        loop {
            let rest = &buffers.input[buffers.begin..buffers.end];
            let frame = match &self.end {
                End::Tap(_) => (!rest.is_empty()).then_some((0, rest)),
                End::Socket(_) => match split_frame(rest) {
                    Ok(frame) => frame.map(|frame| (PREFIX_BYTES, frame)),
                    Err(TooLong) => {
                        self.unplug(buffers);
                        return false;
                    }
                },
            };
            if let Some((prefix, frame)) = frame {
                take(frame);
                buffers.begin += prefix + frame.len();
                return true;
            }
            if !self.fill(buffers) {
                return false;
            }
        }
    }
}

impl Cable for &'static HostCable {
    fn mac(&self) -> [u8; 6] {
        self.mac
    }

    fn link_up(&self) -> bool {
        self.link_up.load(Ordering::Acquire)
    }

    fn event(&self) -> &Event {
        &self.event
    }

    fn receive(&self, take: &mut dyn FnMut(&[u8])) -> bool {
        self.with(|buffers| self.take_from(buffers, take))
            .unwrap_or(false)
    }

    fn send(&self, frame: &[u8]) -> Result<(), NotSent> {
        if !self.link_up.load(Ordering::Acquire) {
            return Err(NotSent::Unplugged);
        }
        if let End::Tap(_) = &self.end {
            return match write(&self.descriptor, frame) {
                Ok(_) => Ok(()),
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::INTR) => Err(NotSent::Full),
                // The host has taken the interface down.
                Err(_) => Err(NotSent::Unplugged),
            };
        }
        self.with(|buffers| {
            if buffers.output.len() + PREFIX_BYTES + frame.len() > OUTPUT_LIMIT {
                return Err(NotSent::Full);
            }
            buffers.output.extend((frame.len() as u32).to_be_bytes());
            buffers.output.extend_from_slice(frame);
            Ok(())
        })
        .unwrap_or(Err(NotSent::Unplugged))
    }

    fn flush(&self) {
        (**self).flush();
    }
}

impl HostCable {
    fn flush(&self) {
        if self.output_waits.load(Ordering::Relaxed) {
            return;
        }
        let flush = |buffers: &mut Buffers| {
            let mut written = 0;
            while written < buffers.output.len() {
                match write(&self.descriptor, &buffers.output[written..]) {
                    Ok(count) => written += count,
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => {
                        self.output_waits.store(true, Ordering::Relaxed);
                        break;
                    }
                    Err(_) => return self.unplug(buffers),
                }
            }
            buffers.output.drain(..written);
        };
        self.with(flush);
    }
}

impl AsFd for HostCable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl fmt::Display for HostCable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.end {
            End::Socket(path) => write!(f, "a port of a LAN, {}", path.display()),
            End::Tap(name) => write!(f, "the tap device {name}"),
        }
    }
}

/// A frame longer than any that a LAN sends: this is no LAN.
struct TooLong;

/// The first frame of a stream of them, if it is whole.
fn split_frame(stream: &[u8]) -> Result<Option<&[u8]>, TooLong> {
    let Some((length, rest)) = stream.split_first_chunk::<PREFIX_BYTES>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*length) as usize;
    if length > FRAME_LIMIT {
        return Err(TooLong);
    }
    Ok(rest.get(..length))
}

fn connect_to(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&stream, &SocketAddrUnix::new(path)?)?;
    Ok(stream)
}

/// `struct ifreq` of if_tun.h, as TUNSETIFF reads it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    unused: [u8; 22],
}

fn open_tap(name: &str) -> Result<OwnedFd, Errno> {
    /// if_tun.h: `_IOW('T', 202, int)`, though it reads an `ifreq`.
    const TUNSETIFF: rustix::ioctl::Opcode = rustix::ioctl::opcode::write::<i32>(b'T', 202);
    const IFF_TAP: u16 = 2;
    const IFF_NO_PI: u16 = 0x1000;
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let tap = open("/dev/net/tun", flags, Mode::empty())?;
    let mut request = InterfaceRequest {
        name: [0; 16],
        flags: IFF_TAP | IFF_NO_PI,
        unused: [0; 22],
    };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: the call reads and writes one `ifreq`, which `request` is, and nothing else.
    unsafe {
        rustix::ioctl::ioctl(
            &tap,
            rustix::ioctl::Setter::<TUNSETIFF, InterfaceRequest>::new(request),
        )?;
    }
    Ok(tap)
}

/// A local address that no other interface of this or another node is likely to have: FNV-1a of the host's name, the pid
/// and the interface's number. A reboot keeps it.
fn local_mac(number: usize) -> [u8; 6] {
    let uname = rustix::system::uname();
    let pid = std::process::id().to_le_bytes();
    let bytes = uname.nodename().to_bytes().iter().chain(&pid);
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    let [a, b, c, d, ..] = (hash ^ hash >> 32).to_le_bytes();
    [0x02, a, b, c, d, number as u8]
}
