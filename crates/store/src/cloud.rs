//! Stores in a cloud, by URL and the settings that the clouds' own tools read.

use std::sync::Arc;
use std::time::Duration;

use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreScheme, RetryConfig};
use url::Url;

use crate::guard::Guarded;
use crate::store::Settings;
use crate::{Error, Result};

/// Short failures are waited out here; the rest is for the caller's schedule, which also knows when
/// to tell somebody.
const RETRIES_MAX: usize = 3;
const RETRY_TIMEOUT: Duration = Duration::from_secs(30);

fn retries() -> RetryConfig {
    RetryConfig {
        max_retries: RETRIES_MAX,
        retry_timeout: RETRY_TIMEOUT,
        ..RetryConfig::default()
    }
}

/// A builder of `object_store` with the settings whose names begin with the cloud's prefix. Names
/// that it does not know are other tools'.
macro_rules! built {
    ($builder:ty, $url:expr, $settings:expr, $prefix:literal) => {{
        let ours = $settings
            .iter()
            .filter(|(name, _)| name.starts_with($prefix));
        let begun = <$builder>::new()
            .with_url($url.as_str())
            .with_retry(retries())
            .with_http_connector(Guarded);
        let builder = ours.fold(begun, |builder, (name, value)| {
            match name.to_ascii_lowercase().parse() {
                Ok(key) => builder.with_config(key, value),
                Err(_) => builder,
            }
        });
        match builder.build() {
            Ok(store) => Ok(Arc::new(store) as Arc<dyn ObjectStore>),
            Err(error) => Err(settings_error($url, $prefix, &error, $settings)),
        }
    }};
}

/// Opens the store that `text` names; `feature` is the one that its scheme needs.
pub(crate) fn open(
    text: &str,
    feature: &'static str,
    settings: &Settings,
) -> Result<Arc<dyn ObjectStore>> {
    let unknown = || Error::Url { url: text.into() };
    let url = Url::parse(text).map_err(|_| unknown())?;
    let (scheme, folder) = ObjectStoreScheme::parse(&url).map_err(|_| unknown())?;
    let store = match scheme {
        #[cfg(feature = "azure")]
        ObjectStoreScheme::MicrosoftAzure => {
            use object_store::azure::MicrosoftAzureBuilder;
            built!(MicrosoftAzureBuilder, &url, settings, "AZURE_")
        }
        #[cfg(feature = "aws")]
        ObjectStoreScheme::AmazonS3 => {
            use object_store::aws::AmazonS3Builder;
            built!(AmazonS3Builder, &url, settings, "AWS_")
        }
        #[cfg(feature = "gcp")]
        ObjectStoreScheme::GoogleCloudStorage => {
            use object_store::gcp::GoogleCloudStorageBuilder;
            built!(GoogleCloudStorageBuilder, &url, settings, "GOOGLE_")
        }
        _ => Err(Error::NotBuiltIn {
            url: text.into(),
            feature,
        }),
    }?;
    if folder == Path::default() {
        return Ok(store);
    }
    Ok(Arc::new(PrefixStore::new(store, folder)))
}

/// What is wrong with the settings, without their secrets.
fn settings_error(
    url: &Url,
    prefix: &'static str,
    error: &object_store::Error,
    settings: &Settings,
) -> Error {
    let reason = error.to_string();
    let ours = settings
        .iter()
        .filter(|(name, _)| name.starts_with(prefix) && is_secret(name));
    let reveals = ours.into_iter().any(|(_, secret)| quotes(&reason, secret));
    let reason = if reveals {
        "a secret among them is not in the form that it should have".into()
    } else {
        reason
    };
    Error::Settings {
        url: url.to_string(),
        prefix,
        reason,
    }
}

/// Whether a setting's value must not be shown.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    [
        "KEY",
        "SECRET",
        "TOKEN",
        "SAS",
        "PASSWORD",
        "CREDENTIAL",
        "ACCOUNT",
    ]
    .iter()
    .any(|part| name.contains(part))
        && !name.ends_with("ACCOUNT_NAME")
}

/// Whether `text` has a word of `secret` in it.
fn quotes(text: &str, secret: &str) -> bool {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric());
    let mut long = words.filter(|word| word.len() >= 4);
    long.any(|word| secret.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_secret_is_recognized() {
        assert!(quotes(
            "invalid type: string \"canary1\"",
            "{\"key\": \"canary1\"}"
        ));
        assert!(!quotes("the account is missing", "c2VjcmV0Cg=="));
        assert!(is_secret("AZURE_STORAGE_SAS_KEY") && is_secret("GOOGLE_SERVICE_ACCOUNT"));
        assert!(!is_secret("AZURE_STORAGE_ACCOUNT_NAME") && !is_secret("AWS_REGION"));
    }
}
