//! Accepts connections, up to a limit in total and half of it per address; performs TLS handshakes; drains at the end.

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    DRAIN, Shared,
    addresses::{Addresses, Share},
    connection::Server,
    tls::Tls,
};

/// The number of open connections. Beyond it, connections wait in the operating system's queue.
const CONNECTIONS: usize = 8192;
/// The number of connections per address.
const PER_ADDRESS: usize = CONNECTIONS / 2;
/// The number of concurrent TLS handshakes; half of it per address.
const HANDSHAKES: usize = 512;
/// The time limit of a handshake, including the wait for a permit.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// If a client accepts no bytes of a response for this long, the connection is closed.
const UNREAD_DEADLINE: Duration = Duration::from_mins(1);
/// The pause after accepting failed because there were no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

pub(super) async fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    shutdown: impl Future<Output = ()>,
) {
    let abort = CancellationToken::new();
    let acceptor = Arc::new(Acceptor {
        server: Server::new(Arc::clone(&shared), abort.clone()),
        handshakes: Semaphore::new(HANDSHAKES),
        handshakes_of: Addresses::new(HANDSHAKES / 2, shared.trusted_proxies.clone()),
        shared: Arc::clone(&shared),
    });
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let addresses = Addresses::new(PER_ADDRESS, shared.trusted_proxies.clone());
    let connections = TaskTracker::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &permits) => accepted,
            () = &mut shutdown => break,
        };
        let Some((stream, peer, permit)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Some(share) = addresses.take(peer) else {
            shared.meters.refused_by_address.increment(1);
            continue;
        };
        connections.spawn(Arc::clone(&acceptor).connection(stream, peer, (permit, share)));
    }
    // From now on the operating system refuses connections.
    drop(listener);
    shared.stopping.cancel();
    connections.close();
    if tokio::time::timeout(DRAIN, connections.wait())
        .await
        .is_err()
    {
        tracing::warn!(
            "some requests did not end within {} s and are aborted",
            DRAIN.as_secs()
        );
        abort.cancel();
        connections.wait().await;
    }
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> Option<(TcpStream, IpAddr, OwnedSemaphorePermit)> {
    // The semaphore is never closed.
    let permit = Arc::clone(permits).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => {
            // If these options cannot be set, the socket is only slower, or is held for longer. Without `TCP_NODELAY`, a response waits
            // for the client to acknowledge the one before.
            let _ = stream.set_nodelay(true);
            let unread = UNREAD_DEADLINE.as_millis() as u32;
            let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, unread);
            Some((stream, peer.ip(), permit))
        }
        Err(error) => {
            tracing::warn!(%error, "a connection cannot be accepted");
            None
        }
    }
}

struct Acceptor {
    shared: Arc<Shared>,
    server: Arc<Server>,
    handshakes: Semaphore,
    handshakes_of: Arc<Addresses>,
}

impl Acceptor {
    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        peer: IpAddr,
        _held: (OwnedSemaphorePermit, Share),
    ) {
        self.shared.meters.connections.increment(1.0);
        match &self.shared.tls {
            None => self.server.http1(stream, peer).await,
            Some(tls) => self.encrypted(tls, stream, peer).await,
        }
        self.shared.meters.connections.decrement(1.0);
    }

    async fn encrypted(&self, tls: &Tls, stream: TcpStream, peer: IpAddr) {
        let handshake = async {
            let _share = self.handshakes_of.take(peer)?;
            let _permit = self.handshakes.acquire().await.ok()?;
            tls.accept(stream).await.ok()
        };
        let handshake = tokio::time::timeout(HANDSHAKE_DEADLINE, handshake);
        let done = tokio::select! {
            done = handshake => done.ok().flatten(),
            () = self.shared.stopping.cancelled() => return,
        };
        let Some(stream) = done else {
            self.shared.meters.failed_handshakes.increment(1);
            return;
        };
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            self.server.http2(stream, peer).await;
        } else {
            self.server.http1(stream, peer).await;
        }
    }
}
