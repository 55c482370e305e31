//! Which addresses may be connected to.
//!
//! The policy is asked about resolved addresses only, at connect time and again for every redirect, so that no spelling
//! of an address (decimal, hexadecimal, IPv4 in IPv6, a name that changes its mind) gets around it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// A block of addresses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Cidr {
    base: IpAddr,
    bits: u8,
}

impl Cidr {
    /// Reads `10.0.0.0/8`, `fe80::/10` or a single address.
    pub fn parse(text: &str) -> Option<Cidr> {
        let (base, bits) = match text.split_once('/') {
            Some((base, bits)) => (base.parse().ok()?, bits.parse().ok()?),
            None => {
                let base: IpAddr = text.parse().ok()?;
                (base, if base.is_ipv4() { 32 } else { 128 })
            }
        };
        let widest = if base.is_ipv4() { 32 } else { 128 };
        (bits <= widest).then_some(Cidr { base, bits })
    }

    /// Tells whether an address lies in the block; an IPv4 address in IPv6 clothes counts as IPv4.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.base, plain(ip)) {
            (IpAddr::V4(base), IpAddr::V4(ip)) => {
                same_prefix(base.to_bits().into(), ip.to_bits().into(), self.bits, 32)
            }
            (IpAddr::V6(base), IpAddr::V6(ip)) => same_prefix(base.to_bits(), ip.to_bits(), self.bits, 128),
            _ => false,
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}

fn same_prefix(a: u128, b: u128, bits: u8, width: u8) -> bool {
    let shift = u32::from(width - bits);
    (a ^ b).checked_shr(shift).unwrap_or(0) == 0
}

/// Takes the clothes off: `::ffff:a.b.c.d`, `64:ff9b::/96` and `64:ff9b:1::/48` (NAT64), `::ffff:0:a.b.c.d` (SIIT), `2002::/16`
/// (6to4), `2001::/32` (Teredo) and ISATAP reach an IPv4 address.
fn plain(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    if let Some(v4) = v6.to_ipv4_mapped() {
        return IpAddr::V4(v4);
    }
    let s = v6.segments();
    let v4 = |high: u16, low: u16| IpAddr::V4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    match s {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x64, 0xff9b, 1, _, _, _, high, low] => v4(high, low),
        [0, 0, 0, 0, 0xffff, 0, high, low] | [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => v4(high, low),
        [0x2001, 0, _, _, _, _, high, low] => v4(!high, !low),
        [0x2002, high, low, ..] => v4(high, low),
        // The deprecated "IPv4-compatible" form; `::` and `::1` are themselves.
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => v4(high, low),
        _ => ip,
    }
}

/// An address that may not be connected to.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("address {ip} is forbidden: {reason}")]
pub struct ForbiddenAddress {
    /// The address after resolution.
    pub ip: IpAddr,
    /// Which rule it breaks.
    pub reason: &'static str,
}

/// Which addresses may be connected to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AddressPolicy(Arc<Rules>);

#[derive(PartialEq, Eq, Debug, Default)]
struct Rules {
    nowhere: Option<&'static str>,
    strict: bool,
    loopback: bool,
    allow: Vec<Cidr>,
    deny: Vec<Cidr>,
    deny_sockets: Vec<SocketAddr>,
}

impl AddressPolicy {
    /// Allows everything: for targets that the operator wrote into the configuration.
    pub fn allow_all() -> AddressPolicy {
        AddressPolicy::default()
    }

    /// Forbids everything, for one reason: for targets of a job that is beyond a limit.
    pub fn nowhere(reason: &'static str) -> AddressPolicy {
        AddressPolicy(Arc::new(Rules { nowhere: Some(reason), ..Rules::default() }))
    }

    /// For targets that come over the API: no link-local, metadata, multicast or unspecified addresses; loopback by choice.
    pub fn strict(allow_loopback: bool) -> AddressPolicy {
        AddressPolicy(Arc::new(Rules { strict: true, loopback: allow_loopback, ..Rules::default() }))
    }

    /// Adds blocks: what `deny` names is forbidden, else what `allow` names is allowed, else the other rules decide.
    pub fn with_lists(self, allow: Vec<Cidr>, deny: Vec<Cidr>) -> AddressPolicy {
        AddressPolicy(Arc::new(Rules {
            nowhere: self.0.nowhere,
            strict: self.0.strict,
            loopback: self.0.loopback,
            allow,
            deny,
            deny_sockets: self.0.deny_sockets.clone(),
        }))
    }

    /// Forbids single sockets, such as an admin port of our own.
    pub fn with_denied_sockets(self, deny_sockets: Vec<SocketAddr>) -> AddressPolicy {
        AddressPolicy(Arc::new(Rules {
            nowhere: self.0.nowhere,
            strict: self.0.strict,
            loopback: self.0.loopback,
            allow: self.0.allow.clone(),
            deny: self.0.deny.clone(),
            deny_sockets,
        }))
    }

    /// Checks a resolved address.
    ///
    /// **Errors** when it is forbidden; the reason may be shown to who asked.
    pub fn check(&self, address: SocketAddr) -> Result<(), ForbiddenAddress> {
        let ip = plain(address.ip());
        let forbid = |reason| Err(ForbiddenAddress { ip: address.ip(), reason });
        if let Some(reason) = self.0.nowhere {
            return forbid(reason);
        }
        if self.0.deny_sockets.iter().any(|d| plain(d.ip()) == ip && d.port() == address.port()) {
            return forbid("this socket is reserved");
        }
        if self.0.deny.iter().any(|block| block.contains(ip)) {
            return forbid("it is on the deny list");
        }
        if !self.0.strict || self.0.allow.iter().any(|block| block.contains(ip)) {
            return Ok(());
        }
        match ip {
            IpAddr::V4(v4) => self.check_v4(v4).map_or(Ok(()), forbid),
            IpAddr::V6(v6) => self.check_v6(v6).map_or(Ok(()), forbid),
        }
    }

    fn check_v4(&self, ip: Ipv4Addr) -> Option<&'static str> {
        if ip.is_link_local() {
            return Some("link-local and cloud metadata addresses are not scraped");
        }
        // Metadata services outside 169.254.0.0/16: Alibaba, Oracle (classic), Azure's wire server.
        let metadata = [[100, 100, 100, 200], [192, 0, 0, 192], [168, 63, 129, 16]];
        if metadata.contains(&ip.octets()) {
            return Some("link-local and cloud metadata addresses are not scraped");
        }
        if ip.is_unspecified() || ip.octets()[0] == 0 {
            return Some("the unspecified address is not scraped");
        }
        if ip.is_multicast() || ip.is_broadcast() {
            return Some("multicast and broadcast addresses are not scraped");
        }
        (ip.is_loopback() && !self.0.loopback).then_some("loopback is not scraped from here")
    }

    fn check_v6(&self, ip: Ipv6Addr) -> Option<&'static str> {
        if ip.is_unicast_link_local() || ip.segments() == [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] {
            return Some("link-local and cloud metadata addresses are not scraped");
        }
        if ip.is_unspecified() {
            return Some("the unspecified address is not scraped");
        }
        if ip.is_multicast() {
            return Some("multicast and broadcast addresses are not scraped");
        }
        (ip.is_loopback() && !self.0.loopback).then_some("loopback is not scraped from here")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(policy: &AddressPolicy, ip: &str) -> bool {
        let ip: IpAddr = ip.parse().unwrap_or_else(|e| panic!("{ip}: {e}"));
        policy.check(SocketAddr::new(ip, 80)).is_ok()
    }

    #[test]
    fn link_local_and_metadata_are_forbidden_in_every_dress() {
        let policy = AddressPolicy::strict(true);
        for ip in [
            "169.254.169.254",
            "169.254.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "::169.254.169.254",
            "64:ff9b:1::a9fe:a9fe",
            "::ffff:0:169.254.169.254",
            "2001:db8::5efe:169.254.169.254",
            "2001:0:1:2:3:4:5601:5601",
            "fe80::1",
            "fd00:ec2::254",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
            "100.100.100.200",
        ] {
            assert!(!allowed(&policy, ip), "{ip}");
        }
        for ip in ["127.0.0.1", "::1", "10.1.2.3", "192.168.0.1", "8.8.8.8", "2001:db8::1", "::ffff:10.0.0.1"] {
            assert!(allowed(&policy, ip), "{ip}");
        }
        assert!(!allowed(&AddressPolicy::strict(false), "127.0.0.1"));
        assert!(!allowed(&AddressPolicy::strict(false), "::ffff:127.0.0.1"));
        assert!(allowed(&AddressPolicy::allow_all(), "169.254.169.254"));
    }

    #[test]
    fn lists_come_first() {
        let block = |text| Cidr::parse(text).unwrap_or_else(|| panic!("{text}"));
        let policy = AddressPolicy::strict(true)
            .with_lists(vec![block("169.254.1.0/24")], vec![block("10.0.0.0/8"), block("::1")]);
        assert!(allowed(&policy, "169.254.1.7"));
        assert!(!allowed(&policy, "169.254.2.7"));
        assert!(!allowed(&policy, "10.200.0.1"));
        assert!(!allowed(&policy, "::ffff:10.0.0.1"));
        assert!(!allowed(&policy, "::1"));
        assert!(allowed(&policy, "11.0.0.1"));
        assert_eq!(Cidr::parse("10.0.0.0/33"), None);
        assert!(block("0.0.0.0/0").contains(IpAddr::from([1, 2, 3, 4])));
    }

    #[test]
    fn single_sockets_can_be_reserved() {
        let socket: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 9090));
        let policy = AddressPolicy::allow_all().with_denied_sockets(vec![socket]);
        assert!(policy.check(socket).is_err());
        assert!(policy.check(SocketAddr::from(([127, 0, 0, 1], 9091))).is_ok());
    }
}
