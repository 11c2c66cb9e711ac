//! Finds and reserves the ports of a cluster.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::DevError;
use super::settings::PORT_SPAN;

/// First base port that is tried; the next ones follow in steps of [`PORT_SPAN`].
const BASE_PORT_FIRST: u16 = 7400;
/// How long the ports of a process may stay taken after its end.
const RELEASE_WITHIN: Duration = Duration::from_secs(5);
/// Pause between two looks at a taken port.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a listener may take to accept a connection on this machine.
const ANSWER_WITHIN: Duration = Duration::from_millis(200);

/// A range of ports that no other `dev up` on this machine takes while this value lives.
///
/// Two `dev up` at the same moment would both find the same ports free, because the processes
/// that will listen are not started yet. An abstract socket name is the one lock that works
/// between users and leaves no file behind.
#[derive(Debug)]
pub struct PortRange {
    base: u16,
    _reservation: UnixListener,
}

impl PortRange {
    /// First port of the range.
    pub fn base(&self) -> u16 {
        self.base
    }

    /// Reserves the range that starts at `base`; `None` when another `dev up` holds it.
    pub fn reserve(base: u16) -> Option<PortRange> {
        let name = format!("lanefs-dev-ports-{base}");
        let address = SocketAddr::from_abstract_name(name.as_bytes()).ok()?;
        let reservation = UnixListener::bind_addr(&address).ok()?;
        Some(PortRange { base, _reservation: reservation })
    }
}

/// Takes the first of 7400, 7500, ... whose ports are all free.
///
/// `ports_of` names the ports that a cluster with the given base port needs.
///
/// # Errors
/// [`DevError::NoPorts`] when there is none.
pub fn choose_base_port(mut ports_of: impl FnMut(u16) -> Vec<u16>) -> Result<PortRange, DevError> {
    (BASE_PORT_FIRST..=u16::MAX - PORT_SPAN)
        .step_by(usize::from(PORT_SPAN))
        .filter_map(PortRange::reserve)
        .find(|range| first_taken(&ports_of(range.base)).is_none())
        .ok_or(DevError::NoPorts)
}

/// Waits until nobody listens on any of the ports.
///
/// A process that was killed may be gone before its ports are: the kernel closes sockets that
/// io_uring still holds a moment later. Connections that ended with it linger for a minute and
/// are in nobody's way, so the question is who listens, not whether a plain bind would succeed.
///
/// # Errors
/// [`DevError::PortInUse`] when one is still taken after [`RELEASE_WITHIN`].
pub(crate) async fn released(ports: &[u16]) -> Result<(), DevError> {
    let until = Instant::now() + RELEASE_WITHIN;
    while let Some(port) = first_listening(ports) {
        if Instant::now() >= until {
            return Err(DevError::PortInUse(port));
        }
        sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// The first of the ports that somebody listens on.
pub(crate) fn first_listening(ports: &[u16]) -> Option<u16> {
    // Refused means that nobody listens; no answer means a listener that is too busy to accept.
    let answers = |port| {
        let address = (Ipv4Addr::LOCALHOST, port).into();
        match TcpStream::connect_timeout(&address, ANSWER_WITHIN) {
            Ok(_) => true,
            Err(error) => error.kind() != ErrorKind::ConnectionRefused,
        }
    };
    ports.iter().copied().find(|&port| answers(port))
}

/// The first of the ports that cannot be taken with certainty, also for a moment only.
fn first_taken(ports: &[u16]) -> Option<u16> {
    ports.iter().copied().find(|&port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_with_a_taken_port_is_passed_over() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        assert_eq!(first_taken(&[port]), Some(port));
        let mut asked = 0;
        let free = choose_base_port(|base| {
            // The first range that is offered pretends to need the taken port.
            let first = std::mem::replace(&mut asked, base) == 0;
            if first { vec![port] } else { vec![] }
        });
        assert!(free.unwrap().base() > BASE_PORT_FIRST);
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_that_is_given_back_is_waited_for_and_no_longer_than_that() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        assert!(matches!(released(&[port]).await, Err(DevError::PortInUse(p)) if p == port));
        let later = async {
            sleep(RELEASE_WITHIN / 2).await;
            drop(taken);
        };
        let (waited, ()) = tokio::join!(released(std::slice::from_ref(&port)), later);
        waited.unwrap();
    }

    #[test]
    fn a_reserved_range_is_not_given_twice() {
        let first = PortRange::reserve(2).unwrap();
        assert!(PortRange::reserve(2).is_none());
        drop(first);
        assert!(PortRange::reserve(2).is_some());
    }
}
