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
use core::mem::ManuallyDrop;
use core::sync::atomic::{AtomicBool, Ordering};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use executor::{CpuId, CpuLocal, Event, Node};
use rustix::event::PollFlags;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{DupFlags, Errno, dup3, read, write};
use rustix::ioctl::{Opcode, Setter, ioctl, opcode};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::options::{Plug, is_interface};
use super::{Refused, attendant};
use crate::drivers::vke::{Cable, NotSent};

/// The most interfaces, as DragonFly's.
pub(super) const MAX_INTERFACES: usize = 16;
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
    /// What it is plugged into.
    pub(super) plug: Plug,
    mac: [u8; 6],
    /// Refers to whatever is connected now; its number never changes.
    descriptor: OwnedFd,
    link_up: AtomicBool,
    /// CPU 0 shall be told of frames.
    listening: AtomicBool,
    /// CPU 0 shall be told of room.
    output_waits: AtomicBool,
    event: Event,
    buffers: CpuLocal<RefCell<Buffers>>,
}

/// CPU 0's: what a card would have on board, and so not of the kernel's memory.
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
    pub(super) fn plug(plug: &Plug, number: usize, node: &Node) -> Result<Self, Refused> {
        let name = &plug.name;
        let descriptor = if number >= MAX_INTERFACES {
            let remedy = format!("give at most {MAX_INTERFACES}");
            return Err(Refused::new(name, "one interface too many", remedy));
        } else if plug.is_tap && !is_interface(name) {
            // Who may make devices would make one of a mistyped name.
            let remedy = format!("as root: ip tuntap add {name} mode tap user NAME");
            return Err(Refused::new(name, "no such interface", remedy));
        } else if plug.is_tap {
            open_tap(name).map_err(|error| {
                let remedy = "it must be a tap device (ip tuntap add NAME mode tap user USER) that is free and yours";
                Refused::new(format!("cannot open {name} as a tap device"), error, remedy)
            })?
        } else {
            connect_to(name).map_err(|error| {
                let remedy = "start a LAN with: ./run.sh lan DIRECTORY a b";
                Refused::new(format!("no LAN at {name}"), error, remedy)
            })?
        };
        let buffers = |cpu| match cpu {
            CpuId(0) => RefCell::new(Buffers {
                input: vec![0; INPUT_BYTES],
                output: Vec::with_capacity(OUTPUT_LIMIT),
                ..Buffers::default()
            }),
            _ => RefCell::default(),
        };
        Ok(Self {
            plug: plug.clone(),
            mac: plug.mac.unwrap_or_else(|| local_mac(number)),
            descriptor,
            link_up: AtomicBool::new(true),
            listening: AtomicBool::new(false),
            output_waits: AtomicBool::new(false),
            event: Event::new(),
            buffers: CpuLocal::new(node, buffers),
        })
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
        buffers.exhausted = false;
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
        if self.link_up.load(Ordering::Acquire) || self.plug.is_tap {
            return false;
        }
        // SAFETY: the number is ours for good and never closed; this second owner is not dropped.
        let place = unsafe { OwnedFd::from_raw_fd(self.descriptor.as_raw_fd()) };
        let mut place = ManuallyDrop::new(place);
        let connected = connect_to(&self.plug.name)
            .and_then(|stream| dup3(&stream, &mut place, DupFlags::CLOEXEC));
        if connected.is_err() {
            return true;
        }
        self.link_up.store(true, Ordering::Release);
        self.event.signal();
        false
    }

    /// Reads what there is. False: nothing, and the event tells when there is.
    fn fill(&self, buffers: &mut Buffers) -> bool {
        buffers.input.copy_within(buffers.begin..buffers.end, 0);
        (buffers.begin, buffers.end) = (0, buffers.end - buffers.begin);
        if !core::mem::take(&mut buffers.exhausted) {
            let room = &mut buffers.input[buffers.end..];
            let room_bytes = room.len();
            match read(&self.descriptor, room) {
                Ok(count @ 1..) => {
                    buffers.end += count;
                    buffers.exhausted = count < room_bytes && !self.plug.is_tap;
                    return true;
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Ok(_) | Err(_) => {
                    self.unplug(buffers);
                    return false;
                }
            }
        }
        self.listening.store(true, Ordering::Relaxed);
        false
    }

    /// The next frame in the buffer: where it begins and ends.
    fn next_frame(&self, buffers: &Buffers) -> Result<Option<(usize, usize)>, TooLong> {
        let (begin, end) = (buffers.begin, buffers.end);
        if self.plug.is_tap {
            return Ok((begin < end).then_some((begin, end)));
        }
        let frame = split_frame(&buffers.input[begin..end])?;
        let begin = begin + PREFIX_BYTES;
        Ok(frame.map(|frame| (begin, begin + frame.len())))
    }
}

impl Cable for HostCable {
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
        self.buffers.with(|buffers| {
            let buffers = &mut *buffers.borrow_mut();
            while self.link_up() {
                match self.next_frame(buffers) {
                    Ok(Some((begin, end))) => {
                        take(&buffers.input[begin..end]);
                        buffers.begin = end;
                        return true;
                    }
                    Ok(None) if self.fill(buffers) => {}
                    Ok(None) => break,
                    Err(TooLong) => self.unplug(buffers),
                }
            }
            false
        })
    }

    fn send(&self, frame: &[u8]) -> Result<(), NotSent> {
        if !self.link_up() {
            return Err(NotSent::Unplugged);
        }
        if self.plug.is_tap {
            return match write(&self.descriptor, frame) {
                Ok(_) => Ok(()),
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::INTR) => Err(NotSent::Full),
                // The host has taken the interface down.
                Err(_) => Err(NotSent::Unplugged),
            };
        }
        self.buffers.with(|buffers| {
            let output = &mut buffers.borrow_mut().output;
            if output.len() + PREFIX_BYTES + frame.len() > OUTPUT_LIMIT {
                return Err(NotSent::Full);
            }
            output.extend((frame.len() as u32).to_be_bytes());
            output.extend_from_slice(frame);
            Ok(())
        })
    }

    fn flush(&self) {
        self.buffers.with(|buffers| {
            let buffers = &mut *buffers.borrow_mut();
            while !buffers.output.is_empty() && !self.output_waits.load(Ordering::Relaxed) {
                match write(&self.descriptor, &buffers.output) {
                    Ok(count) => drop(buffers.output.drain(..count)),
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => self.output_waits.store(true, Ordering::Relaxed),
                    Err(_) => self.unplug(buffers),
                }
            }
        });
    }
}

impl AsFd for HostCable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// A frame longer than any that a LAN sends: this is no LAN.
#[derive(Debug, PartialEq, Eq)]
struct TooLong;

/// The first frame of a stream of them, if it is whole.
fn split_frame(stream: &[u8]) -> Result<Option<&[u8]>, TooLong> {
    let Some((length, rest)) = stream.split_first_chunk::<PREFIX_BYTES>() else {
        return Ok(None);
    };
    match u32::from_be_bytes(*length) as usize {
        length if length > FRAME_LIMIT => Err(TooLong),
        length => Ok(rest.get(..length)),
    }
}

fn connect_to(path: &str) -> Result<OwnedFd, Errno> {
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
    const TUNSETIFF: Opcode = opcode::write::<i32>(b'T', 202);
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
    unsafe { ioctl(&tap, Setter::<TUNSETIFF, InterfaceRequest>::new(request))? };
    Ok(tap)
}

/// A local address that no other interface of this or another node is likely to have: FNV-1a of the host's name and the
/// pid, then the interface's number. A reboot keeps it.
fn local_mac(number: usize) -> [u8; 6] {
    let (uname, pid) = (rustix::system::uname(), std::process::id().to_le_bytes());
    let bytes = uname.nodename().to_bytes().iter().chain(&pid);
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    let [a, b, c, d, ..] = (hash ^ hash >> 32).to_le_bytes();
    [0x02, a, b, c, d, number as u8]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_whole_or_not_there_or_nonsense() {
        let stream = [0, 0, 0, 3, 7, 8, 9, 0, 0];
        for length in 0..7 {
            assert_eq!(split_frame(&stream[..length]), Ok(None), "{length} bytes");
        }
        assert_eq!(split_frame(&stream[..7]), Ok(Some(&[7, 8, 9][..])));
        assert_eq!(split_frame(&stream), Ok(Some(&[7, 8, 9][..])));
        assert_eq!(split_frame(&[0, 0, 0, 0]), Ok(Some(&[][..])));
        assert_eq!(split_frame(&[0, 1, 0x10, 0, 1]), Ok(None), "the longest");
        assert_eq!(split_frame(&[0, 1, 0x10, 1]), Err(TooLong));
    }
}
