//! Finds and reserves the ports of a cluster.

use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use super::DevError;
use super::settings::PORT_SPAN;

/// First base port that is tried; the next ones follow in steps of [`PORT_SPAN`].
const BASE_PORT_FIRST: u16 = 7400;

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

/// The first of the ports that another program listens on.
pub(crate) fn first_taken(ports: &[u16]) -> Option<u16> {
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

    #[test]
    fn a_reserved_range_is_not_given_twice() {
        let first = PortRange::reserve(2).unwrap();
        assert!(PortRange::reserve(2).is_none());
        drop(first);
        assert!(PortRange::reserve(2).is_some());
    }
}
