//! Counts what each client address holds (connections, handshakes), so that one address cannot take all of it.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use parking_lot::Mutex;

use super::auth::network;
use crate::config::Network;

/// Counts by address; an IPv6 network (/64) counts as one address.
pub(super) struct Addresses {
    held: Mutex<HashMap<IpAddr, usize>>,
    most: usize,
    /// Proxies speak for many clients, so they have no limit.
    exempt: Vec<Network>,
}

/// One unit that an address holds until this is dropped.
pub(super) struct Share(Option<(Arc<Addresses>, IpAddr)>);

impl Addresses {
    /// Each address may hold up to `most`; those in `exempt` have no limit.
    pub(super) fn new(most: usize, exempt: Vec<Network>) -> Arc<Self> {
        Arc::new(Self {
            held: Mutex::default(),
            most,
            exempt,
        })
    }

    /// Takes one unit for this address; `None` if the address is at its limit.
    pub(super) fn take(self: &Arc<Self>, address: IpAddr) -> Option<Share> {
        let address = address.to_canonical();
        if self.exempt.iter().any(|exempt| exempt.contains(address)) {
            return Some(Share(None));
        }
        let address = network(address);
        let mut held = self.held.lock();
        let count = held.entry(address).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        drop(held);
        Some(Share(Some((Arc::clone(self), address))))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let Some((addresses, address)) = self.0.take() else {
            return;
        };
        if let Entry::Occupied(mut held) = addresses.held.lock().entry(address) {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_own_share() {
        let proxy = Network::parse("10.0.0.0/8").unwrap();
        let addresses = Addresses::new(2, vec![proxy]);
        let take = |text: &str| addresses.take(text.parse().unwrap());
        let first = take("192.0.2.1").unwrap();
        let _second = take("::ffff:192.0.2.1").unwrap();
        assert!(take("192.0.2.1").is_none());
        assert!(take("192.0.2.2").is_some());
        drop(first);
        let _third = take("192.0.2.1").unwrap();
        let _one = take("2001:db8::1").unwrap();
        let _other = take("2001:db8::2").unwrap();
        assert!(take("2001:db8::3").is_none());
        assert!(take("2001:db8:0:1::3").is_some());
        let proxied: Vec<_> = (0..9).map(|_| take("10.1.2.3").unwrap()).collect();
        assert_eq!(addresses.held.lock().len(), 2);
        drop(proxied);
    }
}
