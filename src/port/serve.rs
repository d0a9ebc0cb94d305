//! Accepts connections, up to a number and for each address up to half of it; does the handshake of TLS; drains at the end.

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

/// Connections at once. Beyond it they wait in the system's queue.
const CONNECTIONS: usize = 8192;
/// Connections of one address.
const PER_ADDRESS: usize = CONNECTIONS / 2;
/// Handshakes of TLS at once; of one address half of them.
const HANDSHAKES: usize = 512;
/// A handshake ends within this time, the wait for its turn included.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// A client that takes nothing of a response for this long is gone.
const UNREAD_DEADLINE: Duration = Duration::from_mins(1);
/// Pause after the system refused to accept: it has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

pub(super) async fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    shutdown: impl Future<Output = ()>,
) {
    let cut = CancellationToken::new();
    let acceptor = Arc::new(Acceptor {
        server: Server::new(Arc::clone(&shared), cut.clone()),
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
    // From here on a connection is refused by the system.
    drop(listener);
    shared.stopping.cancel();
    connections.close();
    if tokio::time::timeout(DRAIN, connections.wait())
        .await
        .is_err()
    {
        tracing::warn!(
            "some requests did not end within {} s and are cut off",
            DRAIN.as_secs()
        );
        cut.cancel();
        connections.wait().await;
    }
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> Option<(TcpStream, IpAddr, OwnedSemaphorePermit)> {
    // Never closed.
    let permit = Arc::clone(permits).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => {
            // A socket that cannot have these is only slower, or is held for longer. Without the first, a response waits for the
            // client's acknowledgement of the one before.
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
