//! From a URL and options to a store. Credentials come from the environment, unless an option gives them.

use super::ArchiveError;
use crate::config::{ArchiveFile, ArchiveLimits};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, ObjectStoreScheme, RetryConfig};
use reqwest::Url;
use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::{Arc, Once};
use std::time::Duration;

/// The first pause before a request is sent again; each next one is twice as long, up to the other.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// As for a ledger: an archive on this machine is for its owner's eyes.
const DIR_MODE: u32 = 0o700;

/// Check that a URL names an archive and that its store knows the options. Reaches for nothing.
///
/// # Errors
/// [`ArchiveError::Url`] or [`ArchiveError::Option`].
pub fn check_url(url: &str, options: &BTreeMap<String, String>) -> Result<(), ArchiveError> {
    let place = Place::of(url)?;
    let known = |key: &str| match &place {
        Place::Folder(_) => false,
        Place::S3(..) => key.parse::<AmazonS3ConfigKey>().is_ok(),
        Place::Google(..) => key.parse::<GoogleConfigKey>().is_ok(),
        Place::Azure(..) => key.parse::<AzureConfigKey>().is_ok(),
    };
    match options.keys().find(|key| !known(&key.to_ascii_lowercase())) {
        Some(option) => Err(ArchiveError::Option { option: option.clone(), store: place.name() }),
        None => Ok(()),
    }
}

/// The store of an archive, and where in it the archive begins.
pub(super) fn connect(file: &ArchiveFile) -> Result<(Arc<dyn ObjectStore>, ObjectPath), ArchiveError> {
    check_url(&file.url, &file.options)?;
    provide_tls();
    let refused = |why: object_store::Error| ArchiveError::Url { url: file.url.clone(), why: why.to_string() };
    let (client, retry) = (client_options(&file.limits), retries(&file.limits));
    Ok(match Place::of(&file.url)? {
        Place::Folder(folder) => {
            let made = DirBuilder::new().recursive(true).mode(DIR_MODE).create(&folder);
            made.map_err(ArchiveError::io("create", &folder))?;
            let store = LocalFileSystem::new_with_prefix(&folder).map_err(refused)?.with_fsync(true);
            (Arc::new(store), ObjectPath::default())
        }
        Place::S3(url, path) => {
            let builder = AmazonS3Builder::new().with_url(url).with_client_options(client).with_retry(retry);
            let given = given::<AmazonS3ConfigKey>("AWS_", file);
            let builder = given.into_iter().fold(builder, |builder, (key, value)| builder.with_config(key, value));
            (Arc::new(builder.build().map_err(refused)?), path)
        }
        Place::Google(url, path) => {
            let builder = GoogleCloudStorageBuilder::new().with_url(url).with_client_options(client).with_retry(retry);
            let given = given::<GoogleConfigKey>("GOOGLE_", file);
            let builder = given.into_iter().fold(builder, |builder, (key, value)| builder.with_config(key, value));
            (Arc::new(builder.build().map_err(refused)?), path)
        }
        Place::Azure(url, path) => {
            let builder = MicrosoftAzureBuilder::new().with_url(url).with_client_options(client).with_retry(retry);
            let given = given::<AzureConfigKey>("AZURE_", file);
            let builder = given.into_iter().fold(builder, |builder, (key, value)| builder.with_config(key, value));
            (Arc::new(builder.build().map_err(refused)?), path)
        }
    })
}

/// What a URL means.
enum Place {
    Folder(PathBuf),
    S3(String, ObjectPath),
    Google(String, ObjectPath),
    Azure(String, ObjectPath),
}

impl Place {
    fn of(text: &str) -> Result<Self, ArchiveError> {
        let refused = |why: String| ArchiveError::Url { url: text.to_owned(), why };
        let url = Url::parse(text).map_err(|why| refused(why.to_string()))?;
        let (scheme, path) = ObjectStoreScheme::parse(&url).map_err(|why| refused(why.to_string()))?;
        match scheme {
            ObjectStoreScheme::Local => {
                let folder = url.to_file_path().map_err(|()| refused("it is no absolute path".to_owned()))?;
                Ok(Self::Folder(folder))
            }
            ObjectStoreScheme::AmazonS3 => Ok(Self::S3(text.to_owned(), path)),
            ObjectStoreScheme::GoogleCloudStorage => Ok(Self::Google(text.to_owned(), path)),
            ObjectStoreScheme::MicrosoftAzure => Ok(Self::Azure(text.to_owned(), path)),
            other => Err(refused(format!("{other:?} is no store that archives go to"))),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Folder(_) => "a folder",
            Self::S3(..) => "S3",
            Self::Google(..) => "Google Cloud Storage",
            Self::Azure(..) => "Azure",
        }
    }
}

/// What the environment and the configuration give, the latter last, so that it wins. Of the environment, what the
/// store does not know is not meant for it.
fn given<Key: std::str::FromStr>(prefix: &str, file: &ArchiveFile) -> Vec<(Key, String)> {
    let environment = std::env::vars().filter(|(name, _)| name.starts_with(prefix));
    let options = file.options.iter().map(|(name, value)| (name.clone(), value.clone()));
    let all = environment.chain(options);
    all.filter_map(|(name, value)| Some((name.to_ascii_lowercase().parse().ok()?, value))).collect()
}

fn client_options(limits: &ArchiveLimits) -> ClientOptions {
    ClientOptions::new()
        .with_connect_timeout(Duration::from_millis(limits.connect_timeout_ms))
        .with_timeout(Duration::from_millis(limits.request_timeout_ms))
}

fn retries(limits: &ArchiveLimits) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig { init_backoff: PAUSE_FIRST, max_backoff: PAUSE_MAX, base: 2.0 },
        max_retries: limits.max_retries,
        retry_timeout: Duration::from_millis(limits.retry_timeout_ms),
    }
}

/// The client of the stores takes the process's provider of TLS, and it is ring's, as everywhere here.
fn provide_tls() {
    static PROVIDED: Once = Once::new();
    PROVIDED.call_once(|| {
        // A host application may have chosen another one: then it is that.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(url: &str, options: &[(&str, &str)]) -> String {
        let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        check_url(url, &options).map_or_else(|why| why.to_string(), |()| "accepted".to_owned())
    }

    #[test]
    fn a_url_names_a_store_and_its_options() {
        for url in ["file:///var/archive", "s3://bucket", "s3://bucket/a/b", "gs://bucket/a", "az://container/a"] {
            assert_eq!(told(url, &[]), "accepted", "{url}");
        }
        assert_eq!(told("s3://b/p", &[("aws_endpoint", "http://x"), ("AWS_REGION", "eu")]), "accepted");
    }

    #[test]
    fn what_names_no_archive_says_what_does() {
        for url in ["", "archive", "/var/archive", "ftp://x/y", "http://x/y", "memory:///", "file://host/x"] {
            let told = told(url, &[]);
            assert!(told.contains("names no archive") && told.contains("s3://BUCKET/PREFIX"), "{url}: {told}");
        }
        assert_eq!(
            told("s3://b", &[("aws_endpont", "x")]),
            "option `aws_endpont` is none of S3: see `archive.options` in docs/configuration.md"
        );
        assert!(told("file:///x", &[("aws_region", "x")]).contains("none of a folder"));
    }
}
