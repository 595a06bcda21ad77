//! Who may do what.

use std::collections::{BTreeSet, HashMap};
use std::str::FromStr;
use std::sync::Arc;

use afterimage_block::Length;
use serde::Deserialize;

use crate::identity::fingerprint;
use crate::pace::Pace;
use crate::protocol::is_name;
use crate::{Error, Result};

/// The clients that are served, each known by its certificate. A certificate of the authority that is
/// not among them is refused whatever it asks for, so that taking an entry away revokes it.
///
/// As text it is TOML:
///
/// | key of a `[[client]]` | meaning |
/// | --- | --- |
/// | `name` | shown in logs, once |
/// | `certificate` | the SHA-256 of the certificate (DER), 64 hexadecimal digits, once |
/// | `machines` | names of machines, or `["*"]` for all |
/// | `quota` | how much each of its machines may store, as `200GiB`; without it, without limit |
/// | `bandwidth` | bytes a second, both ways together, as `10MiB`; without it, without limit |
/// | `append_only` | whether nothing that was stored is ever lost by what it does; `false` by default |
#[derive(Clone, Debug, Default)]
pub struct Grants {
    clients: HashMap<String, Arc<Client>>,
}

/// What one client may do.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) name: String,
    machines: Machines,
    pub(crate) quota: Option<u64>,
    pub(crate) append_only: bool,
    pub(crate) pace: Pace,
}

#[derive(Debug)]
enum Machines {
    All,
    These(BTreeSet<String>),
}

impl Client {
    pub(crate) fn may_touch(&self, machine: &str) -> bool {
        match &self.machines {
            Machines::All => true,
            Machines::These(names) => names.contains(machine),
        }
    }

    pub(crate) fn may_touch_all(&self) -> bool {
        matches!(self.machines, Machines::All)
    }
}

impl Grants {
    /// What the client with this certificate may do; `None` if it is not served.
    pub(crate) fn of(&self, certificate: &[u8]) -> Option<Arc<Client>> {
        self.clients.get(&fingerprint(certificate)).cloned()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    client: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    certificate: String,
    machines: Vec<String>,
    quota: Option<String>,
    bandwidth: Option<String>,
    #[serde(default)]
    append_only: bool,
}

impl FromStr for Grants {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let listed: Listed =
            toml::from_str(text).map_err(|error| Error::Grants(error.to_string()))?;
        let mut grants = Self::default();
        let mut names = BTreeSet::new();
        for entry in listed.client {
            let name = entry.name.clone();
            let refused = |reason: &str| Err(Error::Grants(format!("client `{name}`: {reason}")));
            let certificate = entry.certificate.to_ascii_lowercase();
            let is_digest =
                certificate.len() == 64 && certificate.bytes().all(|byte| byte.is_ascii_hexdigit());
            if !is_digest {
                return refused("`certificate` is not 64 hexadecimal digits");
            }
            if !names.insert(name.clone()) {
                return refused("it is there twice");
            }
            let Some(client) = entry.client() else {
                return refused("`machines`, `quota` or `bandwidth` is not understood");
            };
            if grants
                .clients
                .insert(certificate, Arc::new(client))
                .is_some()
            {
                return refused("its certificate is another's, too");
            }
        }
        Ok(grants)
    }
}

impl Entry {
    fn client(self) -> Option<Client> {
        let machines = if self.machines == ["*"] {
            Machines::All
        } else if self
            .machines
            .iter()
            .all(|name| is_name(name) && !name.contains('/'))
        {
            Machines::These(self.machines.into_iter().collect())
        } else {
            return None;
        };
        let bytes = |text: Option<String>| -> Option<Option<u64>> {
            let Some(text) = text else { return Some(None) };
            Some(Some(text.parse::<Length>().ok()?.get()))
        };
        Some(Client {
            name: self.name,
            machines,
            quota: bytes(self.quota)?,
            append_only: self.append_only,
            pace: Pace::new(bytes(self.bandwidth)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_says_two_things_or_nothing_is_refused() {
        let digest = fingerprint(b"a");
        let entry = |name: &str, digest: &str, rest: &str| {
            format!("[[client]]\nname = '{name}'\ncertificate = '{digest}'\n{rest}\n")
        };
        let good = entry("a", &digest, "machines = ['web-01']\nquota = '1GiB'");
        let grants: Grants = good.parse().unwrap();
        let client = grants.of(b"a").unwrap();
        assert!(client.may_touch("web-01") && !client.may_touch("web-02"));
        assert_eq!((client.quota, client.append_only), (Some(1 << 30), false));
        assert!(grants.of(b"b").is_none());
        for bad in [
            entry("a", "12", "machines = []"),
            entry("a", &digest, ""),
            entry("a", &digest, "machines = ['a/b']"),
            entry("a", &digest, "machines = ['..']"),
            entry("a", &digest, "machines = ['*', 'a']"),
            entry("a", &digest, "machines = []\nquota = 'much'"),
            entry("a", &digest, "machines = []\nadmin = true"),
            good.clone() + &entry("b", &digest, "machines = []"),
            good.clone() + &entry("a", &fingerprint(b"b"), "machines = []"),
        ] {
            assert!(
                matches!(bad.parse::<Grants>(), Err(Error::Grants(_))),
                "{bad}"
            );
        }
    }
}
