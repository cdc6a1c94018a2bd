//! Sockets of either family, and the addresses that lead to them.
//!
//! TCP without delay: an epoch is a round of small messages. A Unix socket lies in a directory that only its owner
//! can enter, so nobody else can reach it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

/// Where a process listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Unix(PathBuf),
    Tcp { host: String, port: u16 },
}

impl Address {
    pub(super) fn parse(text: &str) -> Result<Address, String> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Address::Unix(path.into()));
        }
        let wrong = || format!("{text:?} is no address of a process: write it as host:port, [ipv6]:port or unix:PATH");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = bare.unwrap_or(host);
        if host.is_empty() || (bare.is_none() && host.contains(':')) {
            return Err(wrong());
        }
        Ok(Address::Tcp { host: host.to_owned(), port })
    }

    /// Whether only this machine can reach it. A name other than `localhost` may lead anywhere.
    pub(super) fn is_local(&self) -> bool {
        match self {
            Address::Unix(_) => true,
            Address::Tcp { host, .. } => {
                host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
            }
        }
    }

    pub(super) fn connect(&self, timeout: Duration) -> io::Result<Socket> {
        match self {
            Address::Unix(path) => UnixStream::connect(path).map(Socket::Unix),
            Address::Tcp { .. } => {
                let mut last = io::Error::new(ErrorKind::NotFound, "the name leads nowhere");
                for address in self.resolve()? {
                    match TcpStream::connect_timeout(&address, timeout) {
                        // A connection from a port to itself, where nobody listens, is no peer.
                        Ok(stream) if stream.local_addr()? != address => {
                            stream.set_nodelay(true)?;
                            return Ok(Socket::Tcp(stream));
                        }
                        Ok(_) => last = ErrorKind::ConnectionRefused.into(),
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
        }
    }

    pub(super) fn listen(&self) -> io::Result<Listener> {
        match self {
            Address::Unix(path) => {
                let listener = UnixListener::bind(path)?;
                listener.set_nonblocking(true)?;
                Ok(Listener::Unix(listener))
            }
            Address::Tcp { .. } => {
                let listener = TcpListener::bind(&*self.resolve()?)?;
                listener.set_nonblocking(true)?;
                Ok(Listener::Tcp(listener))
            }
        }
    }

    fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        match self {
            Address::Unix(_) => Ok(Vec::new()),
            Address::Tcp { host, port } => Ok((host.as_str(), *port).to_socket_addrs()?.collect()),
        }
    }
}

/// Where candidates come.
pub(super) enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    /// The next candidate, and where it comes from; `None` if nobody comes in this time.
    pub(super) fn accept(&self, within: Duration) -> io::Result<Option<(Socket, String)>> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let within = Timespec::try_from(within).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(self, PollFlags::IN)], Some(&within)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(None),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let accepted = match self {
            Listener::Unix(listener) => {
                listener.accept().map(|(stream, _)| (Socket::Unix(stream), "a local process".to_owned()))
            }
            Listener::Tcp(listener) => {
                listener.accept().map(|(stream, address)| (Socket::Tcp(stream), address.to_string()))
            }
        };
        match accepted {
            Ok((socket, from)) => {
                socket.set_nonblocking(false)?;
                if let Socket::Tcp(stream) = &socket {
                    stream.set_nodelay(true)?;
                }
                Ok(Some((socket, from)))
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
            // The candidate has gone again.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Unix(listener) => listener.as_fd(),
            Listener::Tcp(listener) => listener.as_fd(),
        }
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Socket {
    pub(super) fn try_clone(&self) -> io::Result<Socket> {
        Ok(match self {
            Socket::Unix(stream) => Socket::Unix(stream.try_clone()?),
            Socket::Tcp(stream) => Socket::Tcp(stream.try_clone()?),
        })
    }

    pub(super) fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        match self {
            Socket::Unix(stream) => stream.set_nonblocking(nonblocking),
            Socket::Tcp(stream) => stream.set_nonblocking(nonblocking),
        }
    }

    pub(super) fn set_timeouts(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Socket::Unix(stream) => {
                stream.set_read_timeout(timeout)?;
                stream.set_write_timeout(timeout)
            }
            Socket::Tcp(stream) => {
                stream.set_read_timeout(timeout)?;
                stream.set_write_timeout(timeout)
            }
        }
    }

    pub(super) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Socket::Unix(stream) => stream.shutdown(how),
            Socket::Tcp(stream) => stream.shutdown(how),
        }
    }

    /// Whether the other side has closed it, or is known to be gone. Takes nothing from it.
    pub(super) fn is_closed(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, poll};
        use rustix::net::{RecvFlags, recv};
        // Linux tells of the end though bytes are still to be read before it.
        #[cfg(target_os = "linux")]
        const END: PollFlags = PollFlags::RDHUP.union(PollFlags::HUP).union(PollFlags::ERR);
        #[cfg(not(target_os = "linux"))]
        const END: PollFlags = PollFlags::HUP.union(PollFlags::ERR);
        let mut fds = [PollFd::new(self, END)];
        let now = rustix::event::Timespec::default();
        if poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().intersects(END) {
            return true;
        }
        let mut byte = [0u8; 1];
        match recv(self.as_fd(), &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((bytes, _)) => bytes == 0,
            Err(error) => !matches!(error, rustix::io::Errno::AGAIN | rustix::io::Errno::INTR),
        }
    }

    /// Lets the system find out, within about `timeout`, that the machine at the other end is gone: nothing that was sent
    /// is acknowledged, or, while nothing is sent, nothing answers.
    pub(super) fn notice_loss_within(&self, timeout: Duration) -> io::Result<()> {
        use rustix::net::sockopt;
        let Socket::Tcp(stream) = self else { return Ok(()) };
        sockopt::set_socket_keepalive(stream, true)?;
        let probe = (timeout / 4).max(Duration::from_secs(1));
        #[cfg(not(target_os = "openbsd"))]
        {
            sockopt::set_tcp_keepidle(stream, probe)?;
            sockopt::set_tcp_keepintvl(stream, probe)?;
            sockopt::set_tcp_keepcnt(stream, 3)?;
        }
        #[cfg(target_os = "linux")]
        sockopt::set_tcp_user_timeout(stream, u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX))?;
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Unix(stream) => stream.as_fd(),
            Socket::Tcp(stream) => stream.as_fd(),
        }
    }
}

impl Read for Socket {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Unix(stream) => stream.read(bytes),
            Socket::Tcp(stream) => stream.read(bytes),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Unix(stream) => stream.write(bytes),
            Socket::Tcp(stream) => stream.write(bytes),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
