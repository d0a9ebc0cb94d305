//! Which addresses a request may reach: a guard against server-side request forgery (OWASP SSRF prevention cheat sheet).
//!
//! A name is checked by the addresses it resolves to, and the client connects to exactly these addresses. A name that resolves
//! differently the second time (DNS rebinding) cannot get around the check.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

/// What a client may reach.
#[derive(Clone, Debug)]
pub enum Reach {
    /// Any server that the configuration names, private ones included. Link-local addresses and others of metadata services of clouds
    /// are refused.
    Configured,
    /// Only the hosts of this list, in lower case: `api.example.com`, or `*.example.com` for all its subdomains. A host may have a
    /// private address only if the list names the host itself, not through a pattern.
    Listed(Arc<[String]>),
}

/// The address may not be reached.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Forbidden {
    /// The host is not on the list.
    #[error("the host `{0}` is not on the list of allowed hosts")]
    NotListed(String),
    /// The host resolves to an address that may not be reached.
    #[error("`{host}` is {address}, which may not be reached")]
    Address {
        /// The host of the URL.
        host: String,
        /// The address it resolves to.
        address: IpAddr,
    },
}

impl Reach {
    /// Checks a host name, in lower case, before it is resolved.
    pub(super) fn check_host(&self, host: &str) -> Result<(), Forbidden> {
        match self {
            Self::Configured => Ok(()),
            Self::Listed(hosts) if hosts.iter().any(|listed| matches(listed, host)) => Ok(()),
            Self::Listed(_) => Err(Forbidden::NotListed(host.to_owned())),
        }
    }

    /// Checks an address that a host resolves to.
    pub(super) fn check_address(&self, host: &str, address: IpAddr) -> Result<(), Forbidden> {
        // IPv4-mapped IPv6 addresses are checked as the IPv4 address.
        let address = address.to_canonical();
        let named = |hosts: &[String]| hosts.iter().any(|listed| *listed == *host);
        let allowed = match self {
            Self::Configured => !is_always_refused(address),
            Self::Listed(hosts) => {
                !is_always_refused(address) && (is_public(address) || named(hosts))
            }
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
            .is_some_and(|subdomain| subdomain.len() > 1 && subdomain.ends_with('.')),
        None => listed == host,
    }
}

/// Metadata services of clouds that do not have a link-local address: Alibaba Cloud, Azure, Oracle Cloud.
const METADATA_V4: [Ipv4Addr; 3] = [
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(192, 0, 0, 192),
];
/// The same over IPv6: EC2, Google Cloud.
const METADATA_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];

/// Addresses that no configuration can allow: link-local (instance metadata), other metadata services, multicast, unspecified, broadcast.
fn is_always_refused(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            v4.is_link_local()
                || v4.is_multicast()
                || v4.octets()[0] == 0
                || v4.is_broadcast()
                || METADATA_V4.contains(&v4)
        }
        IpAddr::V6(v6) => {
            v6.is_unicast_link_local()
                || v6.is_multicast()
                || v6.is_unspecified()
                || METADATA_V6.contains(&v6)
                || embedded_v4(v6).is_some_and(|v4| is_always_refused(IpAddr::V4(v4)))
        }
    }
}

/// The IPv4 address embedded in a NAT64 (64:ff9b::/96) or 6to4 (2002::/16) address.
fn embedded_v4(v6: Ipv6Addr) -> Option<Ipv4Addr> {
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

/// Whether an address is globally reachable (IANA's special-purpose address registries).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            !(v4.is_private()
                || v4.is_loopback()
                || v4.is_documentation()
                // Carrier-grade NAT, IETF protocol assignments, benchmarking, reserved.
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
                || embedded_v4(v6).is_some_and(|v4| !is_public(IpAddr::V4(v4))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may(reach: &Reach, host: &str, address: &str) -> bool {
        reach.check_host(host).is_ok()
            && reach.check_address(host, address.parse().unwrap()).is_ok()
    }

    #[test]
    fn metadata_services_cannot_be_reached() {
        let listed = Reach::Listed(Arc::from(["h".to_owned()]));
        // Exactly listed hosts included.
        for reach in [Reach::Configured, listed] {
            for address in [
                "169.254.169.254",
                "::ffff:169.254.169.254",
                "fe80::1",
                "fd00:ec2::254",
                "fd20:ce::254",
                "100.100.100.200",
                "168.63.129.16",
                "192.0.0.192",
                "::ffff:100.100.100.200",
                "64:ff9b::6464:64c8",
                "64:ff9b::a83f:8110",
                "64:ff9b::c000:c0",
                "2002:c000:c0::1",
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
    fn listed_hosts_are_allowed_and_private_ones_only_if_named_exactly() {
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
            "fd20:ce::253",
            "100.100.100.201",
            "8.8.8.8",
        ] {
            assert!(may(&Reach::Configured, "h", address), "{address}");
        }
    }
}
