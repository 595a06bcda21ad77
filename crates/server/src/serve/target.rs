//! What a name is of.

use object_store::path::Path;

use super::answer::{Answered, Refusal};
use super::grants::Client;
use crate::protocol::{Code, is_name};

/// Nothing else is put under a probe's name.
const PROBE_MAX: u64 = 1024;

/// An object that a client may have to do with.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) path: Path,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// The store's marker, which the server's owner begins.
    Marker,
    /// What conditions are tried on.
    Probe,
    /// An object of a machine.
    Of(String),
}

/// What is to be done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    Delete,
}

impl Target {
    /// The object called `name`, if `client` may do that with it.
    pub(crate) fn of(name: &str, client: &Client, access: Access) -> Answered<Self> {
        if !is_name(name) {
            return Err(Refusal::new(Code::Malformed, "no object has such a name"));
        }
        let kind = kind(name).filter(|kind| match kind {
            Kind::Marker => access == Access::Read,
            Kind::Probe => true,
            Kind::Of(machine) => {
                client.may_touch(machine) && (access != Access::Delete || !client.append_only)
            }
        });
        let Some(kind) = kind else {
            let reason = "the certificate does not give this right";
            return Err(Refusal::new(Code::Forbidden, reason));
        };
        let path = Path::from(name);
        Ok(Self { path, kind })
    }

    /// The machine that it is of.
    pub(crate) fn machine(&self) -> Option<&str> {
        match &self.kind {
            Kind::Of(machine) => Some(machine),
            Kind::Marker | Kind::Probe => None,
        }
    }

    /// How long an object may be that is put in one request.
    pub(crate) fn length_max(&self, of_objects: u64) -> u64 {
        match self.kind {
            Kind::Of(_) => of_objects,
            Kind::Marker | Kind::Probe => PROBE_MAX,
        }
    }
}

fn kind(name: &str) -> Option<Kind> {
    match name.split_once('/') {
        None if name == "afterimage.json" => Some(Kind::Marker),
        None if name.starts_with("probe-") => Some(Kind::Probe),
        Some(("machines", rest)) => {
            let (machine, _) = rest.split_once('/')?;
            Some(Kind::Of(machine.to_owned()))
        }
        _ => None,
    }
}
