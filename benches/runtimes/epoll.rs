//! The bare server on epoll: one thread, level-triggered, one send for each socket and turn.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;

use loadtest::bare::{Hub, Outbox, Session};

const EVENTS: usize = 1024;
const RECEIVE_BYTES: usize = 64 * 1024;

/// What stands in an event instead of a slot.
const LISTENER: u64 = u64::MAX;
const STOP: u64 = u64::MAX - 1;

struct Slot {
    stream: TcpStream,
    session: Session,
    outbox: Outbox,
    /// The kernel was asked to say when the socket takes bytes again.
    blocked: bool,
}

struct Server {
    epoll: OwnedFd,
    hub: Hub,
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    buffer: Vec<u8>,
}

/// Serves on `listener` until `stop` becomes readable.
pub(crate) fn serve(listener: &TcpListener, stop: &OwnedFd) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    // SAFETY: no pointer is passed; the answer is a new descriptor or -1.
    let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    if epoll < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut server = Server {
        // SAFETY: the descriptor was just created and nobody else has it.
        epoll: unsafe { OwnedFd::from_raw_fd(epoll) },
        hub: Hub::default(),
        slots: Vec::new(),
        free: Vec::new(),
        buffer: vec![0; RECEIVE_BYTES],
    };
    let readable = libc::EPOLLIN as u32;
    server.control(
        libc::EPOLL_CTL_ADD,
        listener.as_raw_fd(),
        readable,
        LISTENER,
    )?;
    server.control(libc::EPOLL_CTL_ADD, stop.as_raw_fd(), readable, STOP)?;
    let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS];
    loop {
        let count = server.wait(&mut events)?;
        for event in &events[..count] {
            match event.u64 {
                LISTENER => server.accept(listener)?,
                STOP => return Ok(()),
                slot => server.on_event(slot as u32, event.events),
            }
        }
        let mut hub = std::mem::take(&mut server.hub);
        hub.deliver(|slot, buffer| server.queue(slot, Rc::clone(buffer)));
        server.hub = hub;
    }
}

impl Server {
    fn control(&self, operation: i32, fd: i32, interest: u32, data: u64) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: interest,
            u64: data,
        };
        // SAFETY: both descriptors are open, and the event lives for the call.
        let answer =
            unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, fd, &raw mut event) };
        if answer == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    fn wait(&self, events: &mut [libc::epoll_event]) -> io::Result<usize> {
        // SAFETY: the array is writable and has the length given.
        let count = unsafe {
            libc::epoll_wait(
                self.epoll.as_raw_fd(),
                events.as_mut_ptr(),
                events.len() as i32,
                -1,
            )
        };
        match usize::try_from(count) {
            Ok(count) => Ok(count),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => Ok(0),
                error => Err(error),
            },
        }
    }

    fn accept(&mut self, listener: &TcpListener) -> io::Result<()> {
        loop {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let fd = stream.as_raw_fd();
            let connection = Slot {
                stream,
                session: Session::default(),
                outbox: Outbox::default(),
                blocked: false,
            };
            let slot = match self.free.pop() {
                Some(slot) => {
                    self.slots[slot as usize] = Some(connection);
                    slot
                }
                None => {
                    self.slots.push(Some(connection));
                    self.slots.len() as u32 - 1
                }
            };
            self.control(libc::EPOLL_CTL_ADD, fd, libc::EPOLLIN as u32, slot.into())?;
        }
    }

    fn on_event(&mut self, slot: u32, events: u32) {
        if events & libc::EPOLLOUT as u32 != 0 {
            self.send(slot);
        }
        if events & !(libc::EPOLLOUT as u32) == 0 {
            return;
        }
        let Some(Some(connection)) = self.slots.get_mut(slot as usize) else {
            return;
        };
        let mut reply = Vec::new();
        let over = match connection.stream.read(&mut self.buffer) {
            Ok(0) => true,
            Ok(count) => self
                .hub
                .on_bytes(
                    slot,
                    &mut connection.session,
                    &self.buffer[..count],
                    &mut reply,
                )
                .is_err(),
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        };
        if over {
            self.end(slot);
        } else if !reply.is_empty() {
            self.queue(slot, Rc::new(reply));
        }
    }

    fn queue(&mut self, slot: u32, buffer: Rc<Vec<u8>>) {
        if let Some(Some(connection)) = self.slots.get_mut(slot as usize)
            && connection.outbox.push(buffer)
        {
            self.send(slot);
        }
    }

    fn send(&mut self, slot: u32) {
        let Some(Some(connection)) = self.slots.get_mut(slot as usize) else {
            return;
        };
        let mut blocked = false;
        while let Some(bytes) = connection.outbox.sending() {
            match connection.stream.write(bytes) {
                Ok(count) => {
                    connection.outbox.on_sent(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    blocked = true;
                    break;
                }
                // The end is seen where the socket is read.
                Err(_) => break,
            }
        }
        if blocked != connection.blocked {
            connection.blocked = blocked;
            let fd = connection.stream.as_raw_fd();
            let writable = if blocked { libc::EPOLLOUT } else { 0 };
            let interest = (libc::EPOLLIN | writable) as u32;
            if self
                .control(libc::EPOLL_CTL_MOD, fd, interest, slot.into())
                .is_err()
            {
                self.end(slot);
            }
        }
    }

    fn end(&mut self, slot: u32) {
        if let Some(connection) = self.slots[slot as usize].take() {
            self.hub.on_end(slot, &connection.session);
            self.free.push(slot);
        }
    }
}
