//! Which addresses a request may reach: a guard against server-side request forgery (OWASP SSRF prevention).
//!
//! Names are judged by the addresses that they resolve to, and exactly these are connected to: a name that resolves
//! to something else the second time gains nothing.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

/// What a client may reach.
#[derive(Clone, Debug)]
pub enum Reach {
    /// Any server that the configuration names, private ones too, but no link-local address: instance metadata
    /// services live there.
    Configured,
    /// Hosts of this list alone, lower-case: `api.example.com`, or `*.example.com` for all below it. Addresses that are not public
    /// only where the list names the host itself.
    Listed(Arc<[String]>),
}

/// The address may not be reached.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Forbidden {
    /// The host is not on the list.
    #[error("the host `{0}` is not on the list of allowed hosts")]
    NotListed(String),
    /// What the host resolves to.
    #[error("`{host}` is {address}, which may not be reached")]
    Address {
        /// The host that was asked for.
        host: String,
        /// Its address.
        address: IpAddr,
    },
}

impl Reach {
    /// Whether a host may be asked for at all, before it is resolved.
    pub(super) fn host(&self, host: &str) -> Result<(), Forbidden> {
        match self {
            Self::Configured => Ok(()),
            Self::Listed(hosts) if hosts.iter().any(|listed| matches(listed, host)) => Ok(()),
            Self::Listed(_) => Err(Forbidden::NotListed(host.to_owned())),
        }
    }

    /// Whether an address of a host may be connected to.
    pub(super) fn address(&self, host: &str, address: IpAddr) -> Result<(), Forbidden> {
        // An IPv4 address in IPv6 clothes is what it stands for.
        let address = address.to_canonical();
        let named = |hosts: &[String]| hosts.iter().any(|listed| *listed == *host);
        let allowed = match self {
            Self::Configured => !never(address),
            Self::Listed(hosts) => !never(address) && (is_public(address) || named(hosts)),
        };
        if allowed {
            return Ok(());
        }
        Err(Forbidden::Address {
            host: host.to_owned(),
            address,
        })
    }
}

fn matches(listed: &str, host: &str) -> bool {
    match listed.strip_prefix("*.") {
        Some(domain) => host
            .strip_suffix(domain)
            .is_some_and(|below| below.len() > 1 && below.ends_with('.')),
        None => listed == host,
    }
}

/// Addresses that no server of anyone's choice has: link-local (instance metadata), multicast, unspecified, broadcast.
fn never(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            v4.is_link_local() || v4.is_multicast() || v4.octets()[0] == 0 || v4.is_broadcast()
        }
        IpAddr::V6(v6) => {
            v6.is_unicast_link_local()
                || v6.is_multicast()
                || v6.is_unspecified()
                // The metadata service of EC2 over IPv6.
                || v6 == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)
                || embedded(v6).is_some_and(|v4| never(IpAddr::V4(v4)))
        }
    }
}

/// The IPv4 address that NAT64 (64:ff9b::/96) or 6to4 (2002::/16) lead to.
fn embedded(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let octets = v6.octets();
    let v4 = |from: usize| {
        Ipv4Addr::new(
            octets[from],
            octets[from + 1],
            octets[from + 2],
            octets[from + 3],
        )
    };
    match v6.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => Some(v4(12)),
        [0x2002, ..] => Some(v4(2)),
        _ => None,
    }
}

/// Whether an address is reached over the public internet (IANA's special-purpose registries).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            !(v4.is_private()
                || v4.is_loopback()
                || v4.is_documentation()
                // Carrier-grade NAT, protocol assignments, benchmarks, reserved.
                || (a == 100 && (64..128).contains(&b))
                || (a == 192 && b == 0 && c == 0)
                || (a == 198 && (18..20).contains(&b))
                || a >= 240)
        }
        IpAddr::V6(v6) => {
            let [first, second, ..] = v6.segments();
            !(v6.is_loopback()
                || v6.is_unique_local()
                || (first == 0x2001 && second == 0xdb8)
                || embedded(v6).is_some_and(|v4| !is_public(IpAddr::V4(v4))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may(reach: &Reach, host: &str, address: &str) -> bool {
        reach.host(host).is_ok() && reach.address(host, address.parse().unwrap()).is_ok()
    }

    #[test]
    fn metadata_services_are_out_of_reach() {
        let listed = Reach::Listed(Arc::from(["h".to_owned()]));
        for reach in [Reach::Configured, listed] {
            for address in [
                "169.254.169.254",
                "::ffff:169.254.169.254",
                "fe80::1",
                "fd00:ec2::254",
                "64:ff9b::a9fe:a9fe",
                "2002:a9fe:a9fe::1",
                "0.0.0.0",
                "::",
                "224.0.0.1",
                "255.255.255.255",
            ] {
                assert!(!may(&reach, "h", address), "{address}");
            }
        }
    }

    #[test]
    fn a_list_lets_hosts_through_and_private_ones_by_their_own_name() {
        let reach = Reach::Listed(Arc::from([
            "api.example.com".to_owned(),
            "*.shop.example".to_owned(),
            "10.1.2.3".to_owned(),
        ]));
        assert!(may(&reach, "api.example.com", "93.184.216.34"));
        assert!(may(&reach, "api.example.com", "10.0.0.1"));
        assert!(may(&reach, "eu.shop.example", "93.184.216.34"));
        assert!(may(&reach, "10.1.2.3", "10.1.2.3"));
        for (host, address) in [
            ("example.com", "93.184.216.34"),
            ("shop.example", "93.184.216.34"),
            ("evilshop.example", "93.184.216.34"),
            ("eu.shop.example", "10.0.0.1"),
            ("eu.shop.example", "127.0.0.1"),
            ("eu.shop.example", "::1"),
            ("eu.shop.example", "100.64.0.1"),
            ("eu.shop.example", "fc00::1"),
            ("eu.shop.example", "::ffff:192.168.0.1"),
        ] {
            assert!(!may(&reach, host, address), "{host} {address}");
        }
    }

    #[test]
    fn the_configuration_may_name_private_servers() {
        for address in [
            "127.0.0.1",
            "10.0.0.1",
            "192.168.1.1",
            "::1",
            "fc00::1",
            "8.8.8.8",
        ] {
            assert!(may(&Reach::Configured, "h", address), "{address}");
        }
    }
}
