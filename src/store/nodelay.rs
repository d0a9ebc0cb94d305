//! Nagle's algorithm off for connections to Postgres over TCP, which sqlx 0.9 leaves on: a `COPY` ends in two small writes
//! before an answer, so each would wait 40 ms for a delayed acknowledgement.
//!
//! sqlx hands no socket out. It is found among the process's own descriptors, by the port of its other side, and set by way
//! of a duplicate. Where the kernel does not allow that, connections are as slow as they were.

use rustix::{
    net::{getpeername, sockopt::set_tcp_nodelay},
    process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open},
};

/// For all connections of this process to a port `port`.
pub(super) fn set(port: u16) {
    if let Err(error) = try_set(port) {
        tracing::debug!(%error, "Nagle's algorithm stays on for connections to Postgres");
    }
}

fn try_set(port: u16) -> std::io::Result<()> {
    let this = pidfd_open(getpid(), PidfdFlags::empty())?;
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let is_socket = std::fs::read_link(entry.path())
            .is_ok_and(|target| target.to_string_lossy().starts_with("socket:"));
        let number = entry.file_name().to_str().and_then(|n| n.parse().ok());
        let (true, Some(number)) = (is_socket, number) else {
            continue;
        };
        // It may have been closed meanwhile.
        let Ok(socket) = pidfd_getfd(&this, number, PidfdGetfdFlags::empty()) else {
            continue;
        };
        let peer = getpeername(&socket).ok().flatten();
        let there = peer.and_then(|peer| std::net::SocketAddr::try_from(peer).ok());
        if there.is_some_and(|there| there.port() == port) {
            set_tcp_nodelay(&socket, true)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_connection_to_the_port_and_no_other() {
        let (ours, other) = (
            TcpListener::bind("127.0.0.1:0").unwrap(),
            TcpListener::bind("127.0.0.1:0").unwrap(),
        );
        let connect =
            |listener: &TcpListener| TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (found, left) = (connect(&ours), connect(&other));
        super::try_set(ours.local_addr().unwrap().port()).unwrap();
        assert!(found.nodelay().unwrap());
        assert!(!left.nodelay().unwrap());
    }
}
