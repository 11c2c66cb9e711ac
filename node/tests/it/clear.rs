//! Connections that leave TLS after the hello.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;

use node::config::ClearNetworks;
use node::io::NoDisk;
use node::io::glommio::net::TlsConfigs;
use node::io::{Buffer, Disk, Link, NetError, Outgoing, Payload};
use protocol::frame::{FrameError, Header};
use protocol::ids::RequestId;
use protocol::message::Kind;

use crate::certificates::{Authority, PATIENCE};
use crate::fixture::{CLUSTER, SERVER, Server, answer, client, connect, run};
use crate::link::carries_whole_chunks;

fn here(configs: TlsConfigs) -> TlsConfigs {
    of(configs, "127.0.0.0/8")
}

fn of(configs: TlsConfigs, network: &str) -> TlsConfigs {
    TlsConfigs { clear: ClearNetworks::parse(&[network.to_owned()]).unwrap(), ..configs }
}

#[test]
fn both_sides_that_allow_it_leave_tls_and_carry_whole_chunks_unchanged() {
    let authority = Authority::new(CLUSTER);
    let (server, tls) = (authority.configs(&SERVER), authority.configs(&client()));
    carries_whole_chunks(here(server), here(tls), true);
}

#[test]
fn one_side_alone_does_not_take_a_connection_out_of_tls() {
    let authority = Authority::new(CLUSTER);
    let (server, tls) = (authority.configs(&SERVER), authority.configs(&client()));
    carries_whole_chunks(here(server.clone()), tls.clone(), false);
    carries_whole_chunks(server.clone(), here(tls.clone()), false);
    carries_whole_chunks(of(server, "10.0.0.0/8"), here(tls), false);
}

/// Body of the frame that goes past the listener, and its payload.
const BODY: &[u8] = b"body-of-the-frame";
const PAYLOAD: &[u8] = b"payload-of-the-frame";

/// What the listener does with the frame.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Meddle {
    Nothing,
    ChangeBody,
}

/// Passes bytes on to a server and says what it saw; changes a frame on its way in if asked to.
fn listener(server: SocketAddr, meddle: Meddle) -> (SocketAddr, mpsc::Receiver<Vec<u8>>) {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let (mut near, _) = socket.accept().unwrap();
        let mut far = TcpStream::connect(server).unwrap();
        let (mut back_in, mut back_out) = (far.try_clone().unwrap(), near.try_clone().unwrap());
        thread::spawn(move || {
            // Either side may be the first to end it.
            let _ = std::io::copy(&mut back_in, &mut back_out);
            let _ = back_out.shutdown(Shutdown::Both);
        });
        let (mut seen, mut piece) = (Vec::new(), [0; 65_536]);
        while let Ok(len @ 1..) = near.read(&mut piece) {
            let bytes = &mut piece[..len];
            if let Some(at) = find(bytes, BODY).filter(|_| meddle == Meddle::ChangeBody) {
                bytes[at] ^= 1;
            }
            seen.extend_from_slice(bytes);
            if far.write_all(bytes).is_err() {
                break;
            }
        }
        let _ = far.shutdown(Shutdown::Both);
        tell.send(seen).unwrap();
    });
    (address, told)
}

fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    bytes.windows(text.len()).position(|window| window == text)
}

/// Sends one frame past a listener: what it saw, and how the server's side of the link ended.
fn past_a_listener(clear: bool, meddle: Meddle) -> (Vec<u8>, NetError) {
    let authority = Authority::new(CLUSTER);
    let (server, tls) = (authority.configs(&SERVER), authority.configs(&client()));
    let (server, tls) = if clear { (here(server), here(tls)) } else { (server, tls) };
    let (tell, told) = mpsc::channel();
    let server = Server::with(server, move |link| {
        let tell = tell.clone();
        async move {
            let ended = loop {
                match link.receive().await {
                    Ok(frame) => link.send(answer(frame)).unwrap(),
                    Err(error) => break error,
                }
            };
            tell.send(ended).unwrap();
        }
    });
    let (address, seen) = listener(server.address, meddle);
    run(move || async move {
        let (_net, link) = connect(tls, address).await;
        let mut buffer = NoDisk.allocate(PAYLOAD.len());
        buffer.bytes_mut()[..PAYLOAD.len()].copy_from_slice(PAYLOAD);
        let header = Header::new(Kind::Write, RequestId(10));
        let header = header.seal(BODY, u32::try_from(PAYLOAD.len()).unwrap());
        let payload = Payload::from_buffer(Rc::new(buffer), PAYLOAD.len());
        link.send(Outgoing { header, body: BODY.to_vec(), payload }).unwrap();
        let answered = link.receive().await;
        assert_eq!(answered.is_ok(), meddle == Meddle::Nothing);
    });
    let ended = told.recv_timeout(PATIENCE).unwrap();
    let seen = seen.recv_timeout(PATIENCE).unwrap();
    server.stop();
    (seen, ended)
}

#[test]
fn who_listens_sees_the_payload_of_a_clear_connection_and_of_no_other() {
    let (seen, ended) = past_a_listener(true, Meddle::Nothing);
    assert!(find(&seen, PAYLOAD).is_some() && ended == NetError::Closed, "{ended}");
    let (seen, _) = past_a_listener(false, Meddle::Nothing);
    assert!(find(&seen, PAYLOAD).is_none() && find(&seen, BODY).is_none());
}

#[test]
fn a_frame_that_was_changed_on_its_way_ends_a_clear_connection() {
    let (_, ended) = past_a_listener(true, Meddle::ChangeBody);
    assert_eq!(ended, NetError::Frame(FrameError::Tag));
}
