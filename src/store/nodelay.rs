//! Sets `TCP_NODELAY` on connections to Postgres, which sqlx 0.9 does not: a `COPY` ends with two small writes before the server's
//! answer, so with Nagle's algorithm each `COPY` would wait 40 ms for a delayed acknowledgement.
//!
//! sqlx does not expose its socket. It is found among the process's file descriptors by the port of its peer, and set through a
//! duplicate. If the kernel does not allow that, connections work but stay slow.

use rustix::{
    net::{getpeername, sockopt::set_tcp_nodelay},
    process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open},
};

/// Sets `TCP_NODELAY` on all connections of this process to a peer on `port`.
pub(super) fn set(port: u16) {
    if let Err(error) = try_set(port) {
        tracing::debug!(%error, "cannot set TCP_NODELAY on connections to Postgres");
    }
}

fn try_set(port: u16) -> std::io::Result<()> {
    let own_process = pidfd_open(getpid(), PidfdFlags::empty())?;
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let is_socket = std::fs::read_link(entry.path())
            .is_ok_and(|target| target.to_string_lossy().starts_with("socket:"));
        let descriptor = entry.file_name().to_str().and_then(|n| n.parse().ok());
        let (true, Some(descriptor)) = (is_socket, descriptor) else {
            continue;
        };
        // The descriptor may have been closed meanwhile.
        let Ok(socket) = pidfd_getfd(&own_process, descriptor, PidfdGetfdFlags::empty()) else {
            continue;
        };
        let peer = getpeername(&socket).ok().flatten();
        let peer = peer.and_then(|peer| std::net::SocketAddr::try_from(peer).ok());
        if peer.is_some_and(|peer| peer.port() == port) {
            set_tcp_nodelay(&socket, true)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn only_connections_to_the_port_are_changed() {
        let (ours, other) = (
            TcpListener::bind("127.0.0.1:0").unwrap(),
            TcpListener::bind("127.0.0.1:0").unwrap(),
        );
        let connect =
            |listener: &TcpListener| TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (changed, unchanged) = (connect(&ours), connect(&other));
        super::try_set(ours.local_addr().unwrap().port()).unwrap();
        assert!(changed.nodelay().unwrap());
        assert!(!unchanged.nodelay().unwrap());
    }
}
