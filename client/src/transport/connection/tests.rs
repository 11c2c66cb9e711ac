//! A connection against a scripted peer on the other end of a pipe.

use super::*;
use crate::limits::NOTICES_MAX;
use protocol::ids::{Epoch, Fid, MapVersion};
use protocol::message::cluster::{ErrorReply, StatusRequest};
use protocol::message::namespace::GrowthClearedNotice;
use protocol::message::{Kind, Message};
use protocol::session::TAG_LEN;
use protocol::status::Status;
use tokio::io::DuplexStream;

const CLUSTER: ClusterId = ClusterId(7);
const SECOND: Duration = Duration::from_secs(1);

fn call() -> Call {
    Call {
        kind: Kind::Status,
        epoch: Epoch(0),
        map_version: MapVersion(0),
        timeout: SECOND,
        body: StatusRequest.encode(),
        payload: Bytes::new(),
    }
}

fn pair() -> (Arc<Connection>, DuplexStream) {
    let (near, far) = tokio::io::duplex(1 << 16);
    (Arc::new(Connection::start(near, CLUSTER, None, None)), far)
}

#[tokio::test]
async fn notices_go_to_their_queue_and_answers_to_who_asked() {
    let (near, mut far) = tokio::io::duplex(1 << 20);
    let (sender, mut notices) = mpsc::channel(NOTICES_MAX);
    let connection = Arc::new(Connection::start(near, CLUSTER, None, Some(sender)));
    let asked = start(&connection);
    let header = receive(&mut far).await;
    let body = GrowthClearedNotice { fids: vec![Fid(7)] }.encode();
    let notice = Header::new(Kind::GrowthCleared, RequestId(0));
    let notice = Header { cluster_tag: CLUSTER.tag(), ..notice }.seal(&body, 0);
    for _ in 0..=NOTICES_MAX {
        far.write_all(&notice.encode()).await.unwrap();
        far.write_all(&body).await.unwrap();
    }
    reply(&mut far, &header, CLUSTER).await;
    assert_eq!(asked.await.unwrap().unwrap().status, Status::Busy);
    let mut taken = 0;
    while let Ok(notice) = notices.try_recv() {
        assert_eq!((notice.kind, &notice.body), (Kind::GrowthCleared, &body));
        taken += 1;
    }
    assert_eq!(taken, NOTICES_MAX, "the one that found the queue full is dropped");
}

#[tokio::test]
async fn outside_of_tls_requests_carry_tags_and_answers_without_one_end_the_connection() {
    let macs = || FrameMacs::derive(|_, context| Ok::<_, ()>([context[0]; 16])).unwrap();
    let (near, mut far) = tokio::io::duplex(1 << 16);
    let connection = Arc::new(Connection::start(near, CLUSTER, Some(macs()), None));
    let FrameMacs { mut of_client, mut of_server } = macs();
    for right in [true, false] {
        let asked = start(&connection);
        let mut head = [0; HEADER_LEN];
        far.read_exact(&mut head).await.unwrap();
        let header = Header::decode(&head).unwrap();
        let mut rest = vec![0; header.body_len as usize + TAG_LEN];
        far.read_exact(&mut rest).await.unwrap();
        let (body, tag) = rest.split_at(header.body_len as usize);
        assert_eq!(of_client.check(&head, body, tag), Ok(()));
        let answer = Header { cluster_tag: CLUSTER.tag(), ..header.reply(Status::Ok) };
        let answer = answer.seal(b"", 0).encode();
        let mut tag = of_server.tag(&answer, b"");
        tag[3] ^= u8::from(!right);
        far.write_all(&[&answer[..], &tag].concat()).await.unwrap();
        match asked.await.unwrap() {
            Ok(answer) => assert!(right && answer.status == Status::Ok),
            Err(error) => assert!(!right && error.to_string().contains("wrong tag"), "{error}"),
        }
    }
    assert!(!connection.is_open());
}

async fn receive(far: &mut DuplexStream) -> Header {
    let mut head = [0u8; HEADER_LEN];
    far.read_exact(&mut head).await.unwrap();
    let header = Header::decode(&head).unwrap();
    let mut rest = vec![0; (header.body_len + header.payload_len) as usize];
    far.read_exact(&mut rest).await.unwrap();
    header
}

/// Answers with an error whose text is the request's number.
async fn reply(far: &mut DuplexStream, header: &Header, cluster: ClusterId) {
    let body = ErrorReply { text: header.request.to_string(), ..ErrorReply::default() }.encode();
    let head = Header { cluster_tag: cluster.tag(), ..header.reply(Status::Busy) };
    far.write_all(&head.seal(&body, 0).encode()).await.unwrap();
    far.write_all(&body).await.unwrap();
}

fn start(connection: &Arc<Connection>) -> JoinHandle<Result<Answer, CallError>> {
    let connection = Arc::clone(connection);
    tokio::spawn(async move { connection.call(call()).await })
}

fn text(answer: Result<Answer, CallError>) -> String {
    ErrorReply::decode(&answer.unwrap().body).unwrap().text
}

#[tokio::test(start_paused = true)]
async fn answers_find_their_requests_in_any_order() {
    let (connection, mut far) = pair();
    let calls: Vec<_> = (0..3).map(|_| start(&connection)).collect();
    let mut headers = Vec::new();
    for _ in 0..3 {
        headers.push(receive(&mut far).await);
    }
    assert!(headers.iter().all(|header| header.deadline_ms == 1_000), "the server is told");
    for header in headers.iter().rev() {
        reply(&mut far, header, CLUSTER).await;
    }
    for (call, number) in calls.into_iter().zip(FIRST_REQUEST..) {
        assert_eq!(text(call.await.unwrap()), format!("{number}"));
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_connection_is_told_to_all_who_wait_and_to_all_who_come() {
    let (connection, far) = pair();
    let calls: Vec<_> = (0..3).map(|_| start(&connection)).collect();
    tokio::task::yield_now().await;
    drop(far);
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        assert_eq!(error.failure(), LinkFailure::Broken);
    }
    assert!(!connection.is_open());
    assert!(connection.call(call()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_is_dropped_and_the_connection_goes_on() {
    let (connection, mut far) = pair();
    let first = start(&connection);
    let header = receive(&mut far).await;
    let error = first.await.unwrap().unwrap_err();
    assert_eq!(error.failure(), LinkFailure::TimedOut);
    reply(&mut far, &header, CLUSTER).await;
    let second = start(&connection);
    let header = receive(&mut far).await;
    reply(&mut far, &header, CLUSTER).await;
    assert_eq!(text(second.await.unwrap()), (FIRST_REQUEST + 1).to_string());
    assert!(connection.shared.waiting().calls.is_empty(), "nothing is left behind");
}

#[tokio::test(start_paused = true)]
async fn a_peer_of_another_cluster_is_not_listened_to() {
    let (connection, mut far) = pair();
    let waiting = start(&connection);
    let header = receive(&mut far).await;
    reply(&mut far, &header, ClusterId(8)).await;
    let error = waiting.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("another cluster"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_no_frame_end_the_connection() {
    let (connection, mut far) = pair();
    let waiting = start(&connection);
    far.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\nand so on and on until it is 64 long")
        .await
        .unwrap();
    let error = waiting.await.unwrap().unwrap_err();
    assert!(matches!(error, CallError::Rejected { .. }), "{error}");
    assert!(error.to_string().contains("not a lanefs frame"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn no_more_requests_are_in_flight_than_the_server_allows() {
    let (connection, mut far) = pair();
    connection.on_hello(&HelloReply { version: 1, features: 0, requests_in_flight: 2 });
    let calls: Vec<_> = (0..3).map(|_| start(&connection)).collect();
    let first = receive(&mut far).await;
    receive(&mut far).await;
    let third = tokio::time::timeout(SECOND / 2, receive(&mut far)).await;
    assert!(third.is_err(), "the third waits for an answer");
    reply(&mut far, &first, CLUSTER).await;
    receive(&mut far).await;
    drop(calls);
}

#[tokio::test(start_paused = true)]
async fn requests_beyond_the_queue_wait_with_their_callers_and_are_not_sent_when_those_give_up() {
    // A peer that takes the first frame's first bytes and then nothing.
    let (near, mut far) = tokio::io::duplex(16);
    let connection = Arc::new(Connection::start(near, CLUSTER, None, None));
    let mut calls: Vec<_> = (0..SEND_QUEUE_MAX).map(|_| start(&connection)).collect();
    tokio::time::sleep(SECOND / 4).await;
    assert_eq!(connection.queue.capacity(), 1, "one is being written, the others are queued");
    calls.extend((0..2).map(|_| start(&connection)));
    tokio::time::sleep(SECOND / 4).await;
    assert_eq!(connection.queue.capacity(), 0);
    assert_eq!(connection.shared.waiting().calls.len(), SEND_QUEUE_MAX + 2, "and one waits");
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap_err().failure(), LinkFailure::TimedOut);
    }
    assert!(connection.shared.waiting().calls.is_empty());
    let last = start(&connection);
    assert_eq!(receive(&mut far).await.request, RequestId(FIRST_REQUEST), "it was half sent");
    let header = receive(&mut far).await;
    assert_eq!(
        header.request.0,
        SEND_QUEUE_MAX as u64 + 2 + FIRST_REQUEST,
        "nobody wanted the others any more"
    );
    reply(&mut far, &header, CLUSTER).await;
    assert_eq!(text(last.await.unwrap()), header.request.to_string());
}
