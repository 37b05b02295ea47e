//! A proxy that breaks connections in the ways that networks do.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What becomes of a connection's answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection is reset after so many bytes.
    Reset(usize),
    /// It is closed as if all had been said.
    Close(usize),
    /// Nothing more comes, and it stays open.
    Stall(usize),
    /// One bit of the byte at this place is another.
    Flip(usize),
    /// So many bytes a second.
    Drip(usize),
    /// After so many bytes comes something else, for ever.
    Endless(usize),
}

/// A proxy in front of a server.
pub struct FaultProxy {
    address: SocketAddr,
    faults: Arc<Mutex<Vec<Fault>>>,
    served: Arc<Mutex<usize>>,
}

impl FaultProxy {
    /// Passes on to `server` what it is sent.
    pub fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (faults, served) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(0)));
        let (waiting, counted) = (faults.clone(), served.clone());
        // Ends with the test's process: nobody connects any more when the test is over.
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (waiting, counted) = (waiting.clone(), counted.clone());
                let Ok(upstream) = TcpStream::connect(server) else { continue };
                let (mut from, mut to) = (client.try_clone().unwrap(), upstream.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
                std::thread::spawn(move || answers(&upstream, &client, &waiting, &counted));
            }
        });
        Self { address, faults, served }
    }

    /// Where it listens.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next answers larger than a page meet this, one connection after the other.
    pub fn next(&self, faults: impl IntoIterator<Item = Fault>) {
        *self.faults.lock().unwrap() = faults.into_iter().collect();
    }

    /// How many faults were met so far.
    pub fn met(&self) -> usize {
        *self.served.lock().unwrap()
    }
}

/// Passes the server's answers on until a fault ends it. Small answers (questions about objects, manifests) pass:
/// faults are for what takes long.
fn answers(mut upstream: &TcpStream, mut client: &TcpStream, faults: &Mutex<Vec<Fault>>, met: &Mutex<usize>) {
    let mut fault: Option<Fault> = None;
    let mut passed = 0;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let len = match upstream.read(&mut buffer) {
            Ok(0) | Err(_) => {
                let _ = client.shutdown(Shutdown::Write);
                return;
            }
            Ok(len) => len,
        };
        if fault.is_none() && len > 4096 {
            let mut waiting = faults.lock().unwrap();
            if !waiting.is_empty() {
                fault = Some(waiting.remove(0));
                passed = 0;
                *met.lock().unwrap() += 1;
            }
        }
        let mut bytes = &mut buffer[..len];
        let within = |at: usize| at.checked_sub(passed).filter(|at| *at < len);
        match fault {
            Some(Fault::Reset(at)) if within(at).is_some() => {
                // Unread data at the close makes it a reset.
                let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
                let _ = nix::sys::socket::setsockopt(client, nix::sys::socket::sockopt::Linger, &linger);
                let _ = client.shutdown(Shutdown::Both);
                return;
            }
            Some(Fault::Close(at)) if within(at).is_some() => {
                let _ = client.write_all(&bytes[..at - passed]);
                let _ = client.shutdown(Shutdown::Both);
                let _ = upstream.shutdown(Shutdown::Both);
                return;
            }
            Some(Fault::Stall(at)) if within(at).is_some() => {
                let _ = client.write_all(&bytes[..at - passed]);
                // Until the client gives up.
                let _ = upstream.set_read_timeout(Some(Duration::from_secs(120)));
                let mut nothing = [0; 1];
                while client.peek(&mut nothing).is_ok_and(|len| len > 0) {
                    std::thread::park_timeout(Duration::from_millis(20));
                }
                return;
            }
            Some(Fault::Flip(at)) => {
                if let Some(at) = within(at) {
                    bytes[at] ^= 1;
                }
            }
            Some(Fault::Drip(rate)) => {
                for piece in bytes.chunks((rate / 20).max(1)) {
                    if client.write_all(piece).is_err() {
                        return;
                    }
                    std::thread::park_timeout(Duration::from_millis(50));
                }
                bytes = &mut [];
            }
            Some(Fault::Endless(at)) if within(at).is_some() => {
                let _ = client.write_all(&bytes[..at - passed]);
                while client.write_all(&[b'x'; 4096]).is_ok() {}
                return;
            }
            _ => {}
        }
        passed += len;
        if client.write_all(bytes).is_err() {
            return;
        }
    }
}
