//! Which addresses the endpoints of rules may have.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Reads the URL of an endpoint. A name in it is looked at when it is resolved.
///
/// # Errors
/// Why it is none, or none that may be reached.
pub fn check_url(text: &str, allow_private: bool) -> Result<reqwest::Url, String> {
    let url = reqwest::Url::parse(text).map_err(|error| format!("is no URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("wants http:// or https://".into());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("has no place for a user and password: use a header".into());
    }
    let address: Option<IpAddr> = match url.host_str() {
        Some(host) => host.trim_start_matches('[').trim_end_matches(']').parse().ok(),
        None => return Err("names no host".into()),
    };
    match address {
        Some(address) if !allow_private && !is_public(address) => Err(format!(
            "{address} is not a public address; say `allow_private = true` if it is meant"
        )),
        _ => Ok(url),
    }
}

/// Resolves names to public addresses only, so that a name cannot lead to the host's own network.
pub struct PublicResolver;

impl Resolve for PublicResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|found| is_public(found.ip())).collect();
            if public.is_empty() {
                let text = "the name has no public address, and the rule says no `allow_private`";
                return Err(text.into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

/// Whether an address belongs to the public internet (IANA's registries of special-purpose addresses).
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => {
            let [a, b, ..] = v6.segments();
            let [.., w, x, y, z] = v6.octets();
            let last = Ipv4Addr::new(w, x, y, z);
            if let Some(mapped) = v6.to_ipv4_mapped() {
                return is_public_v4(mapped);
            }
            match (a, b) {
                // Translated to IPv4: what is at the end counts.
                (0x64, 0xff9b) => is_public_v4(last),
                (0x2002, _) => {
                    let [_, _, w, x, y, z, ..] = v6.octets();
                    is_public_v4(Ipv4Addr::new(w, x, y, z))
                }
                // Global unicast, without documentation, Teredo and benchmarks.
                (0x2001, 0xdb8) | (0x2001, 0..=0x1ff) => false,
                (0x2000..=0x3fff, _) => true,
                _ => false,
            }
        }
    }
}

fn is_public_v4(v4: Ipv4Addr) -> bool {
    let [a, b, c, _] = v4.octets();
    let special = v4.is_private()
        || v4.is_loopback()
        || v4.is_link_local()
        || v4.is_documentation()
        || (a, b & 0xc0) == (100, 64)
        || (a, b, c) == (192, 0, 0)
        || (a, b & 0xfe) == (198, 18)
        || a == 0
        || a >= 224;
    !special
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_reached_unless_others_are_allowed() {
        for (host, public) in [
            ("8.8.8.8", true),
            ("127.0.0.1", false),
            ("10.1.2.3", false),
            ("172.31.0.1", false),
            ("192.168.0.1", false),
            ("169.254.169.254", false),
            ("100.64.0.1", false),
            ("0.0.0.0", false),
            ("255.255.255.255", false),
            ("[::1]", false),
            ("[::ffff:127.0.0.1]", false),
            ("[fe80::1]", false),
            ("[fd00::1]", false),
            ("[64:ff9b::7f00:1]", false),
            ("[2002:7f00:1::]", false),
            ("[2606:4700::1111]", true),
            // Other spellings of 127.0.0.1, which URLs know.
            ("2130706433", false),
            ("0x7f.1", false),
            ("127.1", false),
        ] {
            let url = format!("http://{host}/path");
            assert_eq!(check_url(&url, false).is_ok(), public, "{host}");
            assert!(check_url(&url, true).is_ok(), "{host}");
        }
        for wrong in ["ftp://example.com/", "example.com", "http://", "http://u:p@example.com/"] {
            assert!(check_url(wrong, true).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_name_that_leads_home_is_not_followed() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let found = runtime.block_on(PublicResolver.resolve("localhost".parse().expect("a name")));
        assert!(found.is_err());
    }
}
