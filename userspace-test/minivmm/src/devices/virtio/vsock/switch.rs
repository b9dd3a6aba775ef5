// SPDX-License-Identifier: GPL-2.0

//! The thread that carries packets between the queues and the host's sockets.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use super::super::worker::{Watch, Work};
use super::super::{QueueError, WorkQueue};
use super::connection::{Connection, ROOM};
use super::packet::{self, Header, Ports, HEADER};
use super::Listener;

/// What the thread watches, besides sockets, whose tokens begin at the last.
const RECEIVE_DOORBELL: usize = 1;
const SEND_DOORBELL: usize = 2;
const ARRIVED: usize = 3;
const SOCKETS: usize = 4;
/// Connections at a time, those that have not said where to included.
const CONNECTIONS: usize = 1024;
/// Bytes of the line that says where to.
const LINE: usize = 32;
/// First port given to those who connect from the host.
const FIRST_PORT: u32 = 1 << 30;
/// Packets that wait for the guest to have room, at most: it makes them itself, by what it sends.
const WAITING: usize = 256;

/// A socket of the host's.
enum Socket {
    /// It has not said yet which port it wants; the beginning of that.
    Asking(UnixStream, Vec<u8>),
    /// It is connected.
    Connected(Connection),
}

/// Both directions.
pub struct Switch {
    cid: u32,
    listener: Listener,
    receive: WorkQueue,
    send: WorkQueue,
    sockets: BTreeMap<usize, Socket>,
    next_token: usize,
    next_port: u32,
    /// Packets without data for the guest.
    waiting: VecDeque<Header>,
    /// The guest has made no buffers available.
    full: bool,
}

impl Switch {
    /// Connects the guest `cid` with who connects to `listener`.
    pub fn new(cid: u32, listener: Listener, receive: WorkQueue, send: WorkQueue) -> Self {
        Self {
            cid,
            listener,
            receive,
            send,
            sockets: BTreeMap::new(),
            next_token: SOCKETS,
            next_port: FIRST_PORT,
            waiting: VecDeque::new(),
            full: false,
        }
    }

    /// Ends all connections.
    pub fn into_listener(self) -> Listener {
        self.listener
    }

    fn add(&mut self, socket: Socket) -> usize {
        let token = self.next_token;
        self.next_token += 1;
        self.sockets.insert(token, socket);
        token
    }

    fn find(&self, ports: Ports) -> Option<usize> {
        self.sockets
            .iter()
            .find_map(|(token, socket)| match socket {
                Socket::Connected(connection) if connection.ports == ports => Some(*token),
                _ => None,
            })
    }

    fn reset(&mut self, ports: Ports) {
        self.waiting.push_back(Header {
            ports,
            length: 0,
            operation: packet::RESET,
            flags: 0,
            room: 0,
            taken: 0,
        });
    }

    /// Takes those who connect.
    fn accept(&mut self) -> Result<(), QueueError> {
        while let Ok((stream, _)) = self.listener.socket.accept() {
            // One too many is turned away.
            if self.sockets.len() < CONNECTIONS && stream.set_nonblocking(true).is_ok() {
                self.add(Socket::Asking(stream, Vec::new()));
            }
        }
        Ok(())
    }

    /// Reads of a socket, byte by byte, where it wants to be connected to.
    fn ask(&mut self, token: usize) {
        let Some(Socket::Asking(stream, line)) = self.sockets.get_mut(&token) else {
            return;
        };
        let port = loop {
            let mut byte = [0];
            match stream.read(&mut byte) {
                Ok(1) if byte[0] == b'\n' => break parse(line),
                Ok(1) if line.len() < LINE => line.push(byte[0]),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) =>
                {
                    return
                }
                _ => break None,
            }
        };
        let Some(Socket::Asking(stream, _)) = self.sockets.remove(&token) else {
            return;
        };
        // Who makes no sense is turned away.
        let Some(guest) = port else { return };
        let host = self.next_port;
        self.next_port = FIRST_PORT | self.next_port.wrapping_add(1) & (FIRST_PORT - 1);
        let mut connection = Connection::new(Ports { host, guest }, stream);
        connection.greet = true;
        self.waiting.push_back(connection.header(packet::REQUEST));
        self.add(Socket::Connected(connection));
    }

    /// Connects the guest to who listens at a port of the host's, if somebody does.
    fn connect(&mut self, header: &Header) {
        let mut path = self.listener.path.clone().into_os_string();
        path.push(format!("_{}", header.ports.host));
        let stream = UnixStream::connect(PathBuf::from(path));
        let stream = stream.and_then(|stream| stream.set_nonblocking(true).map(|()| stream));
        match stream {
            Ok(stream) if self.sockets.len() < CONNECTIONS => {
                let mut connection = Connection::new(header.ports, stream);
                connection.open = true;
                connection.note_credit(header);
                self.waiting.push_back(connection.header(packet::RESPONSE));
                self.add(Socket::Connected(connection));
            }
            _ => self.reset(header.ports),
        }
    }

    /// A packet of the guest's.
    fn take(&mut self, header: &Header, data: &[u8]) {
        let Some(token) = self.find(header.ports) else {
            match header.operation {
                packet::REQUEST => self.connect(header),
                packet::RESET => {}
                _ => self.reset(header.ports),
            }
            return;
        };
        let Some(Socket::Connected(connection)) = self.sockets.get_mut(&token) else {
            return;
        };
        connection.note_credit(header);
        let goes_on = match header.operation {
            packet::RESPONSE if !connection.open => {
                connection.open = true;
                let port = connection.ports.host;
                !connection.greet || writeln!(connection.stream, "OK {port}").is_ok()
            }
            packet::DATA if connection.open => connection.take(data),
            packet::SHUTDOWN => {
                connection.guest_shuts_down(header.flags);
                true
            }
            packet::CREDIT_UPDATE => true,
            packet::CREDIT_REQUEST => {
                let update = connection.header(packet::CREDIT_UPDATE);
                self.waiting.push_back(update);
                true
            }
            packet::RESET => {
                // What it has sent before still reaches the host.
                connection.write();
                self.sockets.remove(&token);
                return;
            }
            _ => false,
        };
        if goes_on {
            self.write(token);
        } else {
            connection.write();
            self.end(token);
        }
    }

    /// Gives the host what there is for it.
    fn write(&mut self, token: usize) {
        let Some(Socket::Connected(connection)) = self.sockets.get_mut(&token) else {
            return;
        };
        let (listens, tell) = connection.write();
        if !listens || connection.is_over() {
            self.end(token);
        } else if tell {
            let update = connection.header(packet::CREDIT_UPDATE);
            self.waiting.push_back(update);
        }
    }

    fn end(&mut self, token: usize) {
        if let Some(Socket::Connected(connection)) = self.sockets.remove(&token) {
            self.reset(connection.ports);
        }
    }

    /// Carries what a socket has to the guest.
    fn read(&mut self, token: usize) -> Result<(), QueueError> {
        while let Some(Socket::Connected(connection)) = self.sockets.get_mut(&token) {
            if !connection.wants_input() {
                return Ok(());
            }
            let Some(chain) = self.receive.next()? else {
                self.full = !self.receive.want_doorbell(true)?;
                if self.full {
                    return Ok(());
                }
                continue;
            };
            let mut writer = chain.writer()?;
            let room = writer.available_bytes();
            if room <= HEADER {
                return Err(QueueError::Request("a buffer has no room for a packet"));
            }
            let Some(data) = connection.read(room - HEADER) else {
                self.receive.put_back();
                return Ok(());
            };
            let mut header = connection.header(packet::DATA);
            header.length = data.len() as u32;
            if data.is_empty() {
                header.operation = packet::SHUTDOWN;
                header.flags = packet::NO_MORE_SENT;
            }
            let over = connection.is_over();
            writer
                .write_all(&header.to_guest(self.cid))
                .and_then(|()| writer.write_all(&data))
                .map_err(|_| QueueError::Request("a buffer is not in memory"))?;
            self.receive
                .finish(chain.head(), (HEADER + data.len()) as u32)?;
            self.receive.notify()?;
            if over {
                self.end(token);
            }
        }
        Ok(())
    }

    /// Gives the guest the packets that wait.
    fn flush(&mut self) -> Result<(), QueueError> {
        let mut finished = false;
        while let Some(header) = self.waiting.front() {
            let Some(chain) = self.receive.next()? else {
                self.full = !self.receive.want_doorbell(true)?;
                if self.full {
                    break;
                }
                continue;
            };
            chain
                .writer()?
                .write_all(&header.to_guest(self.cid))
                .map_err(|_| QueueError::Request("a buffer has no room for a packet"))?;
            self.receive.finish(chain.head(), HEADER as u32)?;
            self.waiting.pop_front();
            finished = true;
        }
        if finished {
            self.receive.notify()?;
        }
        Ok(())
    }

    /// Takes what the guest sends, unless it does not take the answers.
    fn serve(&mut self) -> Result<(), QueueError> {
        self.send.clear_doorbell();
        let mut data = vec![0; ROOM as usize];
        let mut finished = false;
        while self.waiting.len() < WAITING {
            let Some(chain) = self.send.next()? else {
                if self.send.want_doorbell(true)? {
                    continue;
                }
                break;
            };
            let mut reader = chain.reader()?;
            let mut bytes = [0; HEADER];
            reader
                .read_exact(&mut bytes)
                .map_err(|_| QueueError::Request("a packet is shorter than its header"))?;
            if let Some(header) = Header::from_guest(&bytes, self.cid) {
                let data = data
                    .get_mut(..header.length as usize)
                    .ok_or(QueueError::Request("a packet is longer than its room"))?;
                reader
                    .read_exact(data)
                    .map_err(|_| QueueError::Request("a packet is shorter than it says"))?;
                self.take(&header, data);
            }
            self.send.finish(chain.head(), 0)?;
            finished = true;
        }
        if finished {
            self.send.notify()?;
        }
        Ok(())
    }
}

/// The port in `CONNECT PORT`.
fn parse(line: &[u8]) -> Option<u32> {
    let line = std::str::from_utf8(line).ok()?;
    let (word, port) = line.trim_end().split_once(' ')?;
    (word == "CONNECT").then(|| port.parse().ok())?
}

impl Work for Switch {
    fn watch(&self, watch: &mut Watch) {
        watch.readable(&self.listener.socket, ARRIVED);
        if self.full {
            watch.readable(self.receive.doorbell(), RECEIVE_DOORBELL);
        }
        if self.waiting.len() < WAITING {
            watch.readable(self.send.doorbell(), SEND_DOORBELL);
        }
        for (token, socket) in &self.sockets {
            match socket {
                Socket::Asking(stream, _) => watch.readable(stream, *token),
                Socket::Connected(connection) => {
                    if connection.wants_input() && !self.full {
                        watch.readable(&connection.stream, *token);
                    }
                    if connection.has_output() {
                        watch.writable(&connection.stream, *token);
                    }
                }
            }
        }
    }

    fn ready(&mut self, token: usize) -> Result<(), QueueError> {
        match token {
            RECEIVE_DOORBELL => {
                self.receive.clear_doorbell();
                self.full = false;
            }
            SEND_DOORBELL => {}
            ARRIVED => self.accept()?,
            token => {
                self.ask(token);
                self.write(token);
                self.read(token)?;
            }
        }
        self.flush()?;
        self.serve()?;
        self.flush()
    }
}
