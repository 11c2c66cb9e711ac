//! Executors and servers for tests.

use std::future::Future;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use node::io::NoDisk;
use node::io::glommio::executor::{Executor, ExecutorOptions};
use node::io::glommio::link::GlommioLink;
use node::io::glommio::mesh::{Port, Wakeup, pair};
use node::io::glommio::net::{GlommioNet, NetCounters, TlsConfigs};
use node::io::{Incoming, Link, Net, Outgoing, Payload};
use node::watchdog::Pulse;
use protocol::frame::{Header, VERSION};
use protocol::ids::{ClusterId, CoordinatorId, NodeId, RequestId, TargetId};
use protocol::limits::HEADER_LEN;
use protocol::message::cluster::HelloRequest;
use protocol::message::{Kind, Message};
use protocol::status::Status;
use protocol::tls::{Identity, server_name};
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::certificates::PATIENCE;

pub const CLUSTER: ClusterId = ClusterId(0xfeed);
pub const SERVER: Identity = Identity::Node(NodeId(1));
pub const COORDINATOR: Identity = Identity::Coordinator(CoordinatorId(1));

pub fn client() -> Identity {
    Identity::Client("alice".to_owned())
}

/// Starts an executor as a node does.
pub fn start<T: Send + 'static, F: Future<Output = T> + 'static>(
    main: impl FnOnce() -> F + Send + 'static,
) -> Executor<T> {
    let options = ExecutorOptions::without_disk("test");
    Executor::start(options, Pulse::new("test".to_owned()), main).unwrap()
}

/// Runs a future on an executor of its own, but not for ever.
pub fn run<T: Send + 'static, F: Future<Output = T> + 'static>(
    main: impl FnOnce() -> F + Send + 'static,
) -> T {
    let bounded = move || async move {
        let late = async {
            glommio::timer::sleep(RUN_TIME_MAX).await;
            None
        };
        futures_lite::future::or(async { Some(main().await) }, late).await
    };
    start(bounded).join().unwrap().expect("waited too long")
}

/// Longest time a test's own executor may take.
const RUN_TIME_MAX: Duration = Duration::from_secs(40);

/// A shard's network without a shard: answers each request with its own body and payload.
pub struct Server {
    pub address: SocketAddr,
    executor: Executor<NetCounters>,
    stop: Port<(), ()>,
}

impl Server {
    pub fn start(tls: TlsConfigs) -> Server {
        Server::with(tls, |link| async move { echo(&link).await })
    }

    /// Starts a server that does `serve` with each connection.
    pub fn with<F: Future<Output = ()> + 'static>(
        tls: TlsConfigs,
        serve: impl Fn(Rc<GlommioLink<NoDisk>>) -> F + Send + 'static,
    ) -> Server {
        let (stop, stopped) = pair((&Wakeup::default(), 1), (&Wakeup::default(), 1));
        let (tell, told) = mpsc::channel();
        let executor = start(move || async move {
            let net = Rc::new(GlommioNet::new(CLUSTER, tls, Rc::new(NoDisk)));
            tell.send(net.listen("127.0.0.1:0".parse().unwrap()).unwrap()).unwrap();
            let accepting = async {
                while let Ok(link) = net.accept().await {
                    glommio::spawn_local(serve(link)).detach();
                }
            };
            futures_lite::future::or(accepting, stopped.receive()).await;
            net.counters()
        });
        Server { address: told.recv_timeout(PATIENCE).unwrap(), executor, stop }
    }

    /// Ends it and says what it counted.
    pub fn stop(self) -> NetCounters {
        self.stop.send(()).unwrap();
        self.executor.join().unwrap()
    }
}

async fn echo(link: &GlommioLink<NoDisk>) {
    while let Ok(frame) = link.receive().await {
        if frame.header.request.0 != 0 {
            link.send(answer(frame)).unwrap();
        }
    }
}

/// The answer to a write: a read answer with the same body and payload.
pub fn answer(frame: Incoming<NoDisk>) -> Outgoing<NoDisk> {
    let len = frame.header.payload_len;
    let payload =
        frame.payload.map_or(Payload::empty(), |buffer| Payload::from_buffer(buffer, len as usize));
    let header = Header { kind: Kind::Read, ..frame.header.reply(Status::Ok) };
    Outgoing { header: header.seal(&frame.body, len), body: frame.body, payload }
}

/// Connects to a server as a node would. The network comes back too, because it cuts its
/// connections when it goes.
pub async fn connect(
    tls: TlsConfigs,
    address: SocketAddr,
) -> (GlommioNet<NoDisk>, Rc<GlommioLink<NoDisk>>) {
    let net = GlommioNet::new(CLUSTER, tls, Rc::new(NoDisk));
    let link = net.connect(NodeId(1), TargetId(101), address).await.unwrap();
    (net, link)
}

/// A request with a body of this text and no payload.
pub fn request(kind: Kind, id: u64, body: &[u8]) -> Outgoing<NoDisk> {
    let header = Header::new(kind, RequestId(id)).seal(body, 0);
    Outgoing { header, body: body.to_vec(), payload: Payload::empty() }
}

/// A peer that speaks TLS and then whatever the test wants.
pub struct RawPeer {
    pub stream: StreamOwned<ClientConnection, TcpStream>,
}

impl RawPeer {
    /// Connects and does the handshake, as far as the client sees it.
    pub fn connect(config: Arc<ClientConfig>, address: SocketAddr) -> RawPeer {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let tls = ClientConnection::new(config, server_name(CLUSTER, &SERVER)).unwrap();
        RawPeer { stream: StreamOwned::new(tls, socket) }
    }

    /// Says hello and returns the status of the answer.
    pub fn hello(&mut self, cluster: ClusterId, version: u16) -> Status {
        let hello = HelloRequest {
            version_min: version,
            version_max: version,
            features: 0,
            cluster,
            target: TargetId(0),
        };
        self.send(Header::new(Kind::Hello, RequestId(1)), &hello.encode());
        self.receive().unwrap().0.status
    }

    /// Says hello as every client does.
    pub fn introduced(config: Arc<ClientConfig>, address: SocketAddr) -> RawPeer {
        let mut peer = RawPeer::connect(config, address);
        assert_eq!(peer.hello(CLUSTER, VERSION), Status::Ok);
        peer
    }

    pub fn send(&mut self, mut header: Header, body: &[u8]) {
        header.cluster_tag = CLUSTER.tag();
        self.stream.write_all(&header.seal(body, 0).encode()).unwrap();
        self.stream.write_all(body).unwrap();
        self.stream.flush().unwrap();
    }

    /// The next frame; `None` when the peer closes or breaks the connection instead.
    pub fn receive(&mut self) -> Option<(Header, Vec<u8>)> {
        let mut header = [0; HEADER_LEN];
        self.stream.read_exact(&mut header).ok()?;
        let header = Header::decode(&header).unwrap();
        let mut body = vec![0; header.body_len as usize];
        self.stream.read_exact(&mut body).ok()?;
        Some((header, body))
    }

    /// Number of bytes that still come until the peer closes; `None` when it does not close.
    pub fn rest(&mut self) -> Option<usize> {
        let (mut sink, mut count) = ([0; 1024], 0);
        loop {
            match self.stream.read(&mut sink) {
                Ok(0) => return Some(count),
                Ok(taken) => count += taken,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(_) => return Some(count),
            }
        }
    }
}
