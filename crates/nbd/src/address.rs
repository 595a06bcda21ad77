//! Where a server listens, and how its exports are named from outside.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use crate::{Error, Result};

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
                let path = percent_encoded(&path.to_string_lossy());
                format!("nbd+unix:///{}?socket={path}", percent_encoded(export))
            }
            Self::Tcp(address) => format!("nbd://{address}/{}", percent_encoded(export)),
        }
    }

    /// The address and the export's name in an NBD URI (`nbd://` or `nbd+unix://`).
    ///
    /// # Errors
    /// [`Error::Address`] if it is not one, or names a host by anything but its IP address.
    pub fn parse_uri(uri: &str) -> Result<(Self, String)> {
        let invalid = || Error::Address(uri.into());
        if let Some(rest) = uri.strip_prefix("nbd+unix:///") {
            let (export, path) = rest.split_once("?socket=").ok_or_else(invalid)?;
            let path = percent_decoded(path).ok_or_else(invalid)?;
            let export = percent_decoded(export).ok_or_else(invalid)?;
            return Ok((Self::Unix(path.into()), export));
        }
        let rest = uri.strip_prefix("nbd://").ok_or_else(invalid)?;
        let (address, export) = rest.split_once('/').unwrap_or((rest, ""));
        let address = address.parse().map_err(|_| invalid())?;
        let export = percent_decoded(export).ok_or_else(invalid)?;
        Ok((Self::Tcp(address), export))
    }
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

fn percent_encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    let encode = |byte: u8| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

fn percent_decoded(text: &str) -> Option<String> {
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
    String::from_utf8(bytes).ok()
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
