//! Where a server listens, and how its exports are named from outside.

use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::str::FromStr;

use crate::{Error, Result};

/// The port that IANA assigned to NBD.
const DEFAULT_PORT: u16 = 10809;

/// Where a server listens: `unix:PATH` or `tcp:ADDRESS:PORT`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// A Unix socket, open to its owner only.
    Unix(PathBuf),
    /// TCP on a loopback address. Port 0 takes any free one.
    Tcp(SocketAddr),
}

impl ListenAddress {
    /// The NBD URI of an export at this address.
    pub fn uri(&self, export: &str) -> String {
        match self {
            Self::Unix(path) => {
                let path = percent_encoded(path.as_os_str().as_bytes());
                let export = percent_encoded(export.as_bytes());
                format!("nbd+unix:///{export}?socket={path}")
            }
            Self::Tcp(address) => {
                let export = percent_encoded(export.as_bytes());
                format!("nbd://{address}/{export}")
            }
        }
    }

    /// The address and the export's name in an NBD URI (`nbd://` or `nbd+unix://`).
    ///
    /// # Errors
    /// [`Error::Address`] if it is not one, or names a host by anything but its IP address.
    pub fn parse_uri(uri: &str) -> Result<(Self, String)> {
        parse_uri(uri).ok_or_else(|| Error::Address(uri.into()))
    }
}

fn parse_uri(uri: &str) -> Option<(ListenAddress, String)> {
    let export = |text| String::from_utf8(percent_decoded(text)?).ok();
    if let Some(rest) = uri.strip_prefix("nbd+unix:///") {
        let (name, path) = rest.split_once("?socket=")?;
        let path = OsString::from_vec(percent_decoded(path)?);
        return Some((ListenAddress::Unix(path.into()), export(name)?));
    }
    let rest = uri.strip_prefix("nbd://")?;
    let (host, name) = rest.split_once('/').unwrap_or((rest, ""));
    let on_default_port = |host: IpAddr| SocketAddr::new(host, DEFAULT_PORT);
    let address = host
        .parse()
        .or_else(|_| host.parse().map(on_default_port))
        .ok()?;
    Some((ListenAddress::Tcp(address), export(name)?))
}

impl FromStr for ListenAddress {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let address = match text.split_once(':') {
            Some(("unix", path)) if !path.is_empty() => Some(Self::Unix(path.into())),
            Some(("tcp", address)) => address.parse().ok().map(Self::Tcp),
            _ => None,
        };
        address.ok_or_else(|| Error::Address(text.into()))
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

fn percent_encoded(bytes: &[u8]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if plain(byte) {
            text.push(char::from(byte));
        } else {
            text.extend(['%', hex(byte >> 4), hex(byte & 15)]);
        }
    }
    text
}

fn hex(digit: u8) -> char {
    char::from_digit(digit.into(), 16).map_or('0', |digit| digit.to_ascii_uppercase())
}

fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let value = digit(rest.next())? * 16 + digit(rest.next())?;
        bytes.push(u8::try_from(value).ok()?);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_uris_round_trip() {
        for text in ["unix:/run/a b.sock", "tcp:127.0.0.1:10809", "tcp:[::1]:0"] {
            let address: ListenAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
            for export in ["", "disk", "a/b c%", "ä"] {
                let uri = address.uri(export);
                assert_eq!(
                    ListenAddress::parse_uri(&uri).unwrap(),
                    (address.clone(), export.into()),
                    "{uri}"
                );
            }
        }
    }

    #[test]
    fn the_port_of_a_uri_defaults_to_the_assigned_one() {
        let (address, export) = ListenAddress::parse_uri("nbd://127.0.0.1").unwrap();
        assert_eq!(address.to_string(), "tcp:127.0.0.1:10809");
        assert_eq!(export, "");
    }

    #[test]
    fn paths_that_are_not_utf_8_survive_a_uri() {
        let path = OsString::from_vec(vec![b'/', 0xff, b'?', b'%']);
        let address = ListenAddress::Unix(path.into());
        let (back, _) = ListenAddress::parse_uri(&address.uri("disk")).unwrap();
        assert_eq!(back, address);
    }

    #[test]
    fn rubbish_is_refused() {
        for text in [
            "",
            "unix:",
            "tcp:",
            "tcp:localhost:1",
            "udp:127.0.0.1:1",
            "/path",
        ] {
            assert!(text.parse::<ListenAddress>().is_err(), "{text}");
        }
        for uri in [
            "http://a",
            "nbd://",
            "nbd+unix:///x",
            "nbd+unix:///x?socket=%zz",
            "nbd://h/x",
        ] {
            assert!(ListenAddress::parse_uri(uri).is_err(), "{uri}");
        }
    }
}
