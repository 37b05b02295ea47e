//! The listening sockets: bound once, held by the supervisor for as long as it lives, lent to every host.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that wait while no host accepts: a restart under load is over before so many have come. The
/// kernel lowers it to `net.core.somaxconn`, 4096 by default.
const BACKLOG: i32 = 4096;

/// An address that cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error(
    "{address} cannot be listened on: is another program using it? (`ss -ltnp` shows; {setting} in relmgr.toml)"
)]
pub struct BindError {
    address: SocketAddr,
    setting: &'static str,
    #[source]
    source: std::io::Error,
}

impl BindError {
    /// Whether somebody else has the address.
    pub fn is_taken(&self) -> bool {
        self.source.kind() == std::io::ErrorKind::AddrInUse
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A bound listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    /// Where it is bound, with the port that the system chose for port 0.
    pub address: SocketAddr,
    /// Whether it speaks TLS.
    pub secure: bool,
}

/// The setting of addresses that speak TLS.
pub const HTTPS: &str = "listen.https";

impl Listener {
    /// Binds `address`, which `setting` names.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(address: SocketAddr, setting: &'static str) -> Result<Self, BindError> {
        let bind = || {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            if address.is_ipv6() {
                // So that 0.0.0.0 and [::] may stand beside each other, whatever the system's default.
                socket.set_only_v6(true)?;
            }
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            socket.set_nonblocking(true)?;
            let bound = socket.local_addr()?.as_socket().unwrap_or(address);
            Ok(Self { socket, address: bound, secure: setting == HTTPS })
        };
        bind().map_err(|source| BindError { address, setting, source })
    }

    /// One that another image of this process has bound.
    ///
    /// # Errors
    /// When it is no socket of this kind.
    pub fn inherited(socket: OwnedFd, secure: bool) -> std::io::Result<Self> {
        let socket = Socket::from(socket);
        let bound = socket.local_addr()?.as_socket();
        let address = bound.ok_or_else(|| std::io::Error::other("it is no internet socket"))?;
        Ok(Self { socket, address, secure })
    }

    /// A descriptor to pass down.
    ///
    /// # Errors
    /// When descriptors run out.
    pub fn lend(&self) -> std::io::Result<OwnedFd> {
        Ok(self.socket.try_clone()?.into())
    }
}
