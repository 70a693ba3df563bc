//! A proxy between a client and its broker, that cuts their connections when a test says so.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// What a client sends to publish, in its protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Kafka,
    Nats,
}

/// Forwards connections from one loopback port to another, and cuts them on demand. It ends when it is dropped.
pub struct Proxy {
    shared: Arc<Shared>,
    accepts: Option<thread::JoinHandle<()>>,
}

struct Shared {
    port: u16,
    target: u16,
    protocol: Protocol,
    is_closed: AtomicBool,
    is_reachable: AtomicBool,
    /// What the broker sends goes nowhere.
    is_deaf: AtomicBool,
    /// Bytes that were passed on to clients.
    answered: AtomicU64,
    connections: Mutex<Vec<TcpStream>>,
    /// Topics whose next publishes fail, and how many of them.
    faults: Mutex<Vec<(String, usize)>>,
}

impl Proxy {
    /// Listens on `port`, 0 for any, and forwards to `target`.
    pub fn start(port: u16, target: u16, protocol: Protocol) -> Self {
        let listener = match port {
            0 => super::free_listener(),
            port => TcpListener::bind(("127.0.0.1", port)).expect("the port is free"),
        };
        let port = listener.local_addr().expect("it is bound").port();
        let shared = Arc::new(Shared {
            port,
            target,
            protocol,
            is_closed: AtomicBool::new(false),
            is_reachable: AtomicBool::new(true),
            is_deaf: AtomicBool::new(false),
            answered: AtomicU64::new(0),
            connections: Mutex::default(),
            faults: Mutex::default(),
        });
        let accepting = shared.clone();
        let accepts = thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if accepting.is_closed.load(Ordering::Acquire) {
                    return;
                }
                accepting.connect(client);
            }
        });
        Self { shared, accepts: Some(accepts) }
    }

    pub fn port(&self) -> u16 {
        self.shared.port
    }

    /// While it is not, connections are cut and new ones are closed at once.
    pub fn set_reachable(&self, is_reachable: bool) {
        self.shared.is_reachable.store(is_reachable, Ordering::Release);
        if !is_reachable {
            self.shared.cut();
        }
    }

    /// How many bytes have been passed on to clients.
    pub fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Acquire)
    }

    /// While it is, what the broker sends is lost, and what clients send comes to it.
    pub fn set_deaf(&self, is_deaf: bool) {
        self.shared.is_deaf.store(is_deaf, Ordering::Release);
    }

    /// Cuts all connections once.
    pub fn cut(&self) {
        self.shared.cut();
    }

    /// Cuts the connection at each of the next `n` publishes to the topic: in turn before the broker has it, and when
    /// it has it and has not answered. With `usize::MAX` they are swallowed instead, until this is called again: then
    /// connections are cut, so that clients learn that no answer comes.
    pub fn fail_next_publishes(&self, topic: &str, n: usize) {
        let mut faults = self.shared.faults.lock().unwrap();
        let swallowed = faults.iter().any(|(known, n)| known == topic && *n == usize::MAX);
        faults.retain(|(known, _)| known != topic);
        faults.push((topic.to_owned(), n));
        drop(faults);
        if swallowed {
            self.shared.cut();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.is_closed.store(true, Ordering::Release);
        self.shared.cut();
        // Wakes who accepts, and frees the port.
        let _ = TcpStream::connect(("127.0.0.1", self.shared.port));
        if let Some(accepts) = self.accepts.take() {
            let _ = accepts.join();
        }
    }
}

/// What becomes of a piece that a client sent.
enum Fate {
    Pass,
    CutBefore,
    CutBehind,
    Swallow,
}

impl Shared {
    fn cut(&self) {
        for connection in self.connections.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    fn connect(self: &Arc<Self>, client: TcpStream) {
        if !self.is_reachable.load(Ordering::Acquire) {
            return;
        }
        let Ok(server) = TcpStream::connect(("127.0.0.1", self.target)) else { return };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let copies = (client.try_clone(), server.try_clone(), client.try_clone(), server.try_clone());
        let (Ok(client_kept), Ok(server_kept), Ok(client_out), Ok(server_out)) = copies else { return };
        {
            let mut connections = self.connections.lock().unwrap();
            // What has ended meanwhile is of no use.
            connections.retain(|connection| connection.peer_addr().is_ok());
            connections.extend([client_kept, server_kept]);
        }
        // Unreachable since it was looked at.
        if !self.is_reachable.load(Ordering::Acquire) {
            self.cut();
        }
        let shared = self.clone();
        thread::spawn(move || {
            let _ = shared.forward_requests(&client, &server_out);
            let _ = (client.shutdown(Shutdown::Both), server_out.shutdown(Shutdown::Both));
        });
        let shared = self.clone();
        thread::spawn(move || {
            let _ = shared.forward_answers(&server, &client_out);
            let _ = (server.shutdown(Shutdown::Both), client_out.shutdown(Shutdown::Both));
        });
    }

    fn forward_answers(&self, mut server: &TcpStream, mut client: &TcpStream) -> io::Result<()> {
        let mut chunk = vec![0; 64 << 10];
        loop {
            let n = server.read(&mut chunk)?;
            if n == 0 {
                return Ok(());
            }
            if !self.is_deaf.load(Ordering::Acquire) {
                client.write_all(&chunk[..n])?;
                self.answered.fetch_add(n as u64, Ordering::AcqRel);
            }
        }
    }

    fn forward_requests(&self, mut client: &TcpStream, mut server: &TcpStream) -> io::Result<()> {
        let (mut buffer, mut chunk) = (Vec::new(), vec![0; 64 << 10]);
        loop {
            let n = client.read(&mut chunk)?;
            if n == 0 {
                return Ok(());
            }
            buffer.extend_from_slice(&chunk[..n]);
            let mut begin = 0;
            while let Some(length) = self.piece(&buffer[begin..]) {
                let piece = &buffer[begin..begin + length];
                match self.fate(piece) {
                    Fate::Pass => server.write_all(piece)?,
                    Fate::CutBefore => return Ok(()),
                    Fate::Swallow => {}
                    Fate::CutBehind => {
                        // The client's side first, so that no answer comes through.
                        let _ = client.shutdown(Shutdown::Both);
                        server.write_all(piece)?;
                        // The broker reads what is there before it sees the end.
                        let _ = server.shutdown(Shutdown::Write);
                        return Ok(());
                    }
                }
                begin += length;
            }
            buffer.drain(..begin);
        }
    }

    /// The length of the first whole request, or line with what belongs to it.
    fn piece(&self, bytes: &[u8]) -> Option<usize> {
        let length = match self.protocol {
            Protocol::Kafka => 4 + u32::from_be_bytes(bytes.get(..4)?.try_into().expect("four")) as usize,
            Protocol::Nats => {
                let line = bytes.iter().position(|byte| *byte == b'\n')? + 1;
                let text = std::str::from_utf8(&bytes[..line]).unwrap_or_default();
                let is_publish = text.starts_with("PUB ") || text.starts_with("HPUB ");
                let payload = || text.split_whitespace().last()?.parse::<usize>().ok();
                if is_publish { line + payload()? + 2 } else { line }
            }
        };
        (bytes.len() >= length).then_some(length)
    }

    fn fate(&self, piece: &[u8]) -> Fate {
        let mut faults = self.faults.lock().unwrap();
        let Some(fault) = faults.iter_mut().find(|(topic, n)| *n > 0 && self.publishes_to(piece, topic))
        else {
            return Fate::Pass;
        };
        if fault.1 == usize::MAX {
            return Fate::Swallow;
        }
        fault.1 -= 1;
        if fault.1.is_multiple_of(2) { Fate::CutBefore } else { Fate::CutBehind }
    }

    fn publishes_to(&self, piece: &[u8], topic: &str) -> bool {
        match self.protocol {
            // The key of the API is 0; the topic's name stands behind its length, one more in newer versions.
            Protocol::Kafka => {
                let name = topic.as_bytes();
                let lengths = [name.len() as u8, name.len() as u8 + 1];
                piece.get(4..6) == Some(&[0, 0])
                    && piece.windows(name.len() + 1).any(|w| lengths.contains(&w[0]) && &w[1..] == name)
            }
            // A topic's subjects have one token more.
            Protocol::Nats => {
                let line = piece.split(|byte| *byte == b'\r').next().unwrap_or_default();
                let text = std::str::from_utf8(line).unwrap_or_default();
                let mut words = text.split_whitespace();
                let is_publish = words.next().is_some_and(|word| matches!(word, "PUB" | "HPUB"));
                let token = words.next().and_then(|subject| subject.strip_prefix(topic)?.strip_prefix('.'));
                is_publish && token.is_some_and(|token| !token.contains('.'))
            }
        }
    }
}
