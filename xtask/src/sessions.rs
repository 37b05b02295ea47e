//! `cargo xtask bench sessions`: many open conversations across upgrades.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use relmgr_testkit::kit::{self, Node};

use crate::bench::median;

/// WebSockets that are open at an upgrade.
const WEBSOCKETS: usize = 10_000;

/// Connections of the line protocol that say nothing …
const LINES: usize = 1_000;

/// … across so many upgrades and downgrades.
const SWITCHES: usize = 100;

/// Upgrades with all WebSockets open.
const ROUNDS: usize = 6;

/// Nobody waits so long for an answer that comes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Both parts.
pub fn main() {
    let releases = [kit::release("sessions", "", "1.0.0"), kit::release("sessions", "", "1.0.1")];
    let extra = "[listen.tcp.line]\naddress = \"127.0.0.1:0\"\n[sessions]\nping = \"10m\"\n";
    let node = Node::serving("relmgr-sessions", extra, &[&releases[0], &releases[1]]);
    websockets(&node);
    lines(&node);
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the node listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket has a timeout");
    stream.set_nodelay(true).expect("a socket has no delay");
    stream
}

/// A WebSocket on `/echo`, without a library: every message is `hello`, every answer below 126 bytes.
fn websocket(address: SocketAddr) -> TcpStream {
    let mut stream = connect(address);
    let request = "GET /echo HTTP/1.1\r\nhost: bench\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("the node takes the request");
    let (mut head, mut byte) = (vec![], [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("the node answers the handshake");
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    stream
}

/// `hello`, masked with nothing.
const HELLO: &[u8] = b"\x81\x85\0\0\0\0hello";

fn answer(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut head = [0; 2];
    stream.read_exact(&mut head)?;
    let mut payload = vec![0; usize::from(head[1])];
    stream.read_exact(&mut payload)?;
    Ok(String::from_utf8_lossy(&payload).into_owned())
}

fn switch(node: &Node, to: &str) -> Duration {
    let begun = Instant::now();
    let command: &[&str] = if to == "1.0.1" { &["upgrade", "1.0.1"] } else { &["downgrade", "1.0.0"] };
    node.relmgr(command).ok();
    begun.elapsed()
}

fn websockets(node: &Node) {
    let memory = node.resident_kib();
    let begun = Instant::now();
    let mut sockets: Vec<_> = (0..WEBSOCKETS).map(|_| websocket(node.address())).collect();
    let opened = begun.elapsed();
    let each = (node.resident_kib().saturating_sub(memory)) as f64 / WEBSOCKETS as f64;
    let (mut commands, mut answered, mut lost, mut strangers) = (vec![], vec![], 0, 0);
    for round in 0..ROUNDS {
        let to = if round % 2 == 0 { "1.0.1" } else { "1.0.0" };
        // From the moment at which somebody asks for the upgrade.
        let begun = Instant::now();
        commands.push(switch(node, to).as_secs_f64() * 1e3);
        let asked = sockets.iter_mut().map(|socket| socket.write_all(HELLO));
        lost += asked.filter(Result::is_err).count();
        for socket in &mut sockets {
            match answer(socket) {
                Ok(text) if text.contains(&format!("\"version\":\"{to}\"")) => {}
                Ok(_) => strangers += 1,
                Err(_) => lost += 1,
            }
        }
        answered.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    println!("\n{WEBSOCKETS} WebSockets, open across {ROUNDS} upgrades and downgrades\n");
    println!("  opened within                    {:>10.2} s", opened.as_secs_f64());
    println!("  resident memory for each         {each:>10.1} KiB");
    println!("  the command, median              {:>10.2} ms", median(commands));
    println!("  the command, and all asked and answered by the new release {:>10.2} ms", median(answered));
    println!("  disconnects                      {lost:>10}");
    println!("  answers of the release before    {strangers:>10}");
    println!("  libraries mapped                 {:>10}", node.mapped().len());
    assert_eq!((lost, strangers), (0, 0), "a session was lost, or answered by a release that had made way");
}

fn lines(node: &Node) {
    let address = node.status().tcp[0].address.parse().expect("status has an address");
    let mut lines: Vec<_> = (0..LINES).map(|_| connect(address)).collect();
    let begun = Instant::now();
    for at in 0..SWITCHES {
        switch(node, if at % 2 == 0 { "1.0.1" } else { "1.0.0" });
    }
    let time = begun.elapsed();
    let mut lost = 0;
    for line in &mut lines {
        line.set_nonblocking(true).expect("a socket can be looked at");
        let silent = line.read(&mut [0; 1]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        line.set_nonblocking(false).expect("a socket can be waited for");
        let answered = silent
            && line.write_all(b"hello\n").is_ok()
            && line.read(&mut [0; 256]).is_ok_and(|read| read > 0);
        lost += usize::from(!answered);
    }
    println!("\n{LINES} idle TCP connections across {SWITCHES} upgrades and downgrades\n");
    println!("  time for all of them             {:>10.2} s", time.as_secs_f64());
    println!("  disconnects                      {lost:>10}");
    println!("  libraries mapped                 {:>10}", node.mapped().len());
    assert_eq!(lost, 0, "a connection was lost");
}
