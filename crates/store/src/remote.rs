//! Stores that another host serves, by URL and the settings of the environment.

use std::path::PathBuf;
use std::sync::Arc;

use afterimage_block::Length;
use afterimage_server::{Client, Error as ServerError, Identity};
use object_store::ObjectStore;

use crate::store::Settings;
use crate::{Error, Result};

/// What the names of the settings begin with.
const PREFIX: &str = "AFTERIMAGE_SERVER_";

/// Opens the store that the server at `url` serves. Nothing is asked of it yet.
pub(crate) fn open(url: &str, settings: &Settings) -> Result<Arc<dyn ObjectStore>> {
    let refused = |reason: String| Error::Settings {
        url: url.into(),
        prefix: PREFIX,
        reason,
    };
    let setting = |end: &str| {
        let mut ours = settings.iter();
        let found = ours.find(|(name, _)| name.strip_prefix(PREFIX) == Some(end));
        found.map(|(_, value)| value.clone())
    };
    let file = |end: &str| {
        let missing = || refused(format!("{PREFIX}{end} is to name a file"));
        setting(end).map(PathBuf::from).ok_or_else(missing)
    };
    let identity = Identity {
        authority: file("AUTHORITY")?,
        certificate: file("CERTIFICATE")?,
        key: file("KEY")?,
    };
    let bandwidth = match setting("BANDWIDTH") {
        Some(text) => {
            let no_length = || refused(format!("{PREFIX}BANDWIDTH is no length, as 10MiB is"));
            Some(text.parse::<Length>().map_err(|_| no_length())?.get())
        }
        None => None,
    };
    match Client::with_bandwidth(url, &identity, bandwidth) {
        Ok(client) => Ok(Arc::new(client)),
        Err(ServerError::Url { url }) => Err(Error::Url { url }),
        Err(error) => Err(refused(error.to_string())),
    }
}
