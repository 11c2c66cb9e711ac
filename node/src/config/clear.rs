//! Where payload may go unencrypted.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

use crate::limits::CLEAR_NETWORKS_MAX;

/// How payload goes over the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataTransport {
    /// Encrypted, as everything else.
    #[default]
    Tls,
    /// Authenticated and not encrypted, with addresses of [`ClearNetworks`]; encrypted with others.
    Clear,
}

/// Networks of a trusted fabric.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClearNetworks(Vec<IpNet>);

impl ClearNetworks {
    /// Reads networks such as `10.0.0.0/8`.
    ///
    /// # Errors
    /// One line that names what is not a network.
    pub fn parse(texts: &[String]) -> Result<ClearNetworks, String> {
        if texts.len() > CLEAR_NETWORKS_MAX {
            return Err(format!("clear_networks: expected {CLEAR_NETWORKS_MAX} at most"));
        }
        let network = |text: &String| {
            let wrong =
                || format!("clear_networks: expected networks like 10.0.0.0/8, got {text:?}");
            text.parse::<IpNet>().map_err(|_| wrong())
        };
        texts.iter().map(network).collect::<Result<_, _>>().map(ClearNetworks)
    }

    /// True when an address belongs to one of them, however it is written.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The networks as a configuration file has them.
    pub(super) fn texts(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Result<ClearNetworks, String> {
        ClearNetworks::parse(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn an_address_is_found_in_its_network_however_it_is_written() {
        let both = networks(&["10.1.0.0/16", "fd00::/8"]).unwrap();
        for inside in ["10.1.255.3", "::ffff:10.1.2.3", "fd00::7"] {
            assert!(both.contains(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["10.2.0.1", "127.0.0.1", "fe80::1", "::ffff:10.2.0.1"] {
            assert!(!both.contains(outside.parse().unwrap()), "{outside}");
        }
        assert!(!ClearNetworks::default().contains("127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn what_is_not_a_network_is_named() {
        for bad in ["10.0.0.0", "10.0.0.0/33", "fabric", ""] {
            let error = networks(&["10.0.0.0/8", bad]).unwrap_err();
            assert!(error.starts_with("clear_networks: expected networks like"), "{error}");
            assert!(error.contains(&format!("{bad:?}")), "{error}");
        }
        let many = vec!["10.0.0.0/8"; CLEAR_NETWORKS_MAX + 1];
        assert_eq!(networks(&many).unwrap_err(), "clear_networks: expected 64 at most");
        assert!(networks(&many[1..]).is_ok());
    }
}
