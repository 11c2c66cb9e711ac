use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use protocol::frame::Header;
use protocol::ids::{CoordinatorId, RequestId, SessionId, TargetId};
use protocol::limits::HEADER_LEN;
use protocol::message::cluster::{HelloReply, HelloRequest, SessionOpenReply, SessionOpenRequest};
use protocol::message::{self, Context, Kind, Message, MessageError};
use protocol::status::Status;
use protocol::tls::{Identity, server_name};
use rustls::ClientConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::CLUSTER;

/// Why a call did not get its reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CallError {
    Refused(Status, String),
    Closed,
}

impl CallError {
    pub(crate) fn status(&self) -> Option<Status> {
        match self {
            CallError::Refused(status, _) => Some(*status),
            CallError::Closed => None,
        }
    }
}

/// A TLS connection whose frames the test writes itself.
pub(crate) struct Raw {
    pub(crate) stream: TlsStream<TcpStream>,
}

impl Raw {
    pub(crate) async fn connect(address: SocketAddr, config: Arc<ClientConfig>) -> io::Result<Raw> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let name = server_name(CLUSTER, &Identity::Coordinator(CoordinatorId(1)));
        let stream = TlsConnector::from(config).connect(name, tcp).await?;
        Ok(Raw { stream })
    }

    pub(crate) async fn send(&mut self, header: &Header, body: &[u8]) -> io::Result<()> {
        self.stream.write_all(&header.encode()).await?;
        self.stream.write_all(body).await?;
        self.stream.flush().await
    }

    pub(crate) async fn receive(&mut self) -> io::Result<(Header, Vec<u8>)> {
        read_frame(&mut self.stream).await
    }

    /// Says hello as every peer does.
    pub(crate) async fn hello(&mut self) -> HelloReply {
        let (header, body) = request(1, &hello_request());
        self.send(&header, &body).await.unwrap();
        let (header, body) = self.receive().await.unwrap();
        message::open(&header, &body).unwrap()
    }

    /// True when the other side closes without a further frame.
    pub(crate) async fn is_closed(&mut self) -> bool {
        self.receive().await.is_err()
    }

    pub(crate) async fn into_peer(mut self) -> Peer {
        self.hello().await;
        Peer::start(self.stream)
    }
}

pub(crate) fn hello_request() -> HelloRequest {
    HelloRequest {
        version_min: 1,
        version_max: 1,
        features: 0,
        cluster: CLUSTER,
        target: TargetId(0),
    }
}

/// Header and body of a request.
pub(crate) fn request<M: Message>(id: u64, message: &M) -> (Header, Vec<u8>) {
    let context = Context { cluster_tag: CLUSTER.tag(), ..Context::default() };
    message::request_frame(RequestId(id), message, context, 0).unwrap()
}

async fn read_frame<R: AsyncReadExt + Unpin>(reader: &mut R) -> io::Result<(Header, Vec<u8>)> {
    let mut bytes = [0u8; HEADER_LEN];
    reader.read_exact(&mut bytes).await?;
    let header = Header::decode(&bytes).map_err(io::Error::other)?;
    let mut body = vec![0u8; header.body_len as usize];
    reader.read_exact(&mut body).await?;
    Ok((header, body))
}

type Frame = (Header, Vec<u8>);
/// Who waits for which answer; `None` once the connection has ended.
type Waiting = Arc<Mutex<Option<BTreeMap<u64, oneshot::Sender<Frame>>>>>;

/// A peer that has many requests in flight on one connection.
#[derive(Clone)]
pub(crate) struct Peer {
    outgoing: mpsc::Sender<Vec<u8>>,
    waiting: Waiting,
    next: Arc<AtomicU64>,
    notices: Arc<tokio::sync::Mutex<mpsc::Receiver<Frame>>>,
}

impl Peer {
    fn start(stream: TlsStream<TcpStream>) -> Peer {
        let (reader, mut writer) = tokio::io::split(stream);
        let (outgoing, mut queue) = mpsc::channel::<Vec<u8>>(1024);
        tokio::spawn(async move {
            while let Some(mut bytes) = queue.recv().await {
                while let Ok(more) = queue.try_recv() {
                    bytes.extend(more);
                }
                if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() {
                    return;
                }
            }
            // The last handle is gone.
            let _ = writer.shutdown().await;
        });
        let (notice, notices) = mpsc::channel(1024);
        let waiting: Waiting = Arc::new(Mutex::new(Some(BTreeMap::new())));
        tokio::spawn(dispatch(reader, Arc::clone(&waiting), notice));
        Peer {
            outgoing,
            waiting,
            next: Arc::new(AtomicU64::new(2)),
            notices: Arc::new(tokio::sync::Mutex::new(notices)),
        }
    }

    /// Asks and waits for the reply.
    pub(crate) async fn call<R: Message>(&self, ask: &impl Message) -> Result<R, CallError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (header, body) = request(id, ask);
        let (sender, receiver) = oneshot::channel();
        match &mut *self.waiting.lock().unwrap() {
            Some(waiting) => waiting.insert(id, sender),
            None => return Err(CallError::Closed),
        };
        let mut bytes = header.encode().to_vec();
        bytes.extend(body);
        self.outgoing.send(bytes).await.map_err(|_| CallError::Closed)?;
        let (header, body) = receiver.await.map_err(|_| CallError::Closed)?;
        match message::open::<R>(&header, &body) {
            Ok(reply) => Ok(reply),
            Err(MessageError::Refused { status, reply }) => {
                Err(CallError::Refused(status, reply.text))
            }
            Err(error) => panic!("bad reply: {error}"),
        }
    }

    /// The next notice of this kind; others are passed over.
    pub(crate) async fn notice<M: Message>(&self, kind: Kind) -> Option<M> {
        let mut notices = self.notices.lock().await;
        while let Some((header, body)) = notices.recv().await {
            if header.kind == kind {
                return Some(message::open(&header, &body).unwrap());
            }
        }
        None
    }

    pub(crate) async fn session(&self) -> SessionId {
        self.open_session().await.session
    }

    pub(crate) async fn open_session(&self) -> SessionOpenReply {
        self.call(&SessionOpenRequest { client: "test".into() }).await.unwrap()
    }
}

async fn dispatch(
    mut reader: ReadHalf<TlsStream<TcpStream>>,
    waiting: Waiting,
    notices: mpsc::Sender<Frame>,
) {
    while let Ok((header, body)) = read_frame(&mut reader).await {
        if header.response {
            let asker =
                waiting.lock().unwrap().as_mut().and_then(|map| map.remove(&header.request.0));
            // The asker may have given up.
            asker.map(|asker| asker.send((header, body)));
        } else if notices.try_send((header, body)).is_err() {
            panic!("a test that gets notices must read them");
        }
    }
    // Whoever waits learns that the connection is gone.
    waiting.lock().unwrap().take();
}
