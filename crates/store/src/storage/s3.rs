//! Objects in a bucket: `s3://bucket/prefix`, on Amazon's S3 or any server that speaks its protocol.

use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation};
use aws_sdk_s3::operation::head_object::HeadObjectError;
use aws_sdk_s3::primitives::{ByteStream, DateTime as SdkDateTime};
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use chrono::{DateTime, Utc};
use tokio::sync::OnceCell;

use super::s3_fault::{Fault, explain};
use super::{Condition, Entry, Meta, Object, Result, StorageError, Tag};
use crate::digest;

/// A server that does not take a connection in this time is not there; one far away takes a third of a second.
const CONNECT: Duration = Duration::from_secs(5);

/// The longest wait for the first byte of an answer. Assembling a large upload is the slowest thing that is asked.
const READ: Duration = Duration::from_secs(30);

/// Tries of one request. With the SDK's exponential backoff and jitter that is about ten seconds of patience.
const TRIES: u32 = 5;

/// Where the object's SHA-256 is kept beside it.
pub(super) const SHA256: &str = "relmgr-sha256";

/// An interrupted upload of this age is nobody's any more.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

/// How a bucket is reached; what is not said comes from the usual AWS variables and files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct S3Options {
    /// Another server than Amazon's: `http://127.0.0.1:3900`.
    pub endpoint_url: Option<String>,
    /// The bucket's region.
    pub region: Option<String>,
    /// Whether the bucket stands in the path instead of the host's name. Where nothing is said: for other servers
    /// than Amazon's.
    pub path_style: Option<bool>,
    /// Credentials of the caller's instead of the usual chain's.
    pub credentials: Option<S3Credentials>,
}

/// A key pair. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct S3Credentials {
    /// The access key's id.
    pub access_key: String,
    /// The secret.
    pub secret_key: String,
}

impl std::fmt::Debug for S3Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("S3Credentials(***)")
    }
}

/// Objects in a bucket.
pub(crate) struct S3 {
    options: S3Options,
    pub(super) url: String,
    pub(super) bucket: String,
    prefix: String,
    client: OnceCell<Client>,
}

impl std::fmt::Debug for S3 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the client: it knows credentials.
        f.debug_struct("S3").field("url", &self.url).finish_non_exhaustive()
    }
}

impl S3 {
    /// `url` is `s3://bucket/prefix`; the prefix may be empty.
    pub(super) fn new(options: S3Options, url: &str) -> Self {
        let path = url.strip_prefix("s3://").unwrap_or(url);
        let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
        let prefix = prefix.trim_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Self { options, url: url.into(), bucket: bucket.into(), prefix, client: OnceCell::new() }
    }

    /// The client, made at its first use: credentials may have to be asked for.
    pub(super) async fn client(&self) -> &Client {
        self.client.get_or_init(|| self.connect()).await
    }

    async fn connect(&self) -> Client {
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .build_https();
        let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT).read_timeout(READ).build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .timeout_config(timeouts)
            .retry_config(RetryConfig::standard().with_max_attempts(TRIES));
        if let Some(region) = &self.options.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(endpoint) = &self.options.endpoint_url {
            loader = loader.endpoint_url(endpoint);
        }
        if let Some(S3Credentials { access_key, secret_key }) = &self.options.credentials {
            loader =
                loader.credentials_provider(Credentials::new(access_key, secret_key, None, None, "given"));
        }
        let shared = loader.load().await;
        let elsewhere = self.options.endpoint_url.is_some() || shared.endpoint_url().is_some();
        let mut config = aws_sdk_s3::config::Builder::from(&shared)
            .force_path_style(self.options.path_style.unwrap_or(elsewhere))
            // Other servers do not know the checksums that newer SDKs add; ours stand in the manifest.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        if shared.region().is_none() {
            // Other servers mostly have no regions, and Amazon's tells where the bucket is.
            config = config.region(Region::new("us-east-1"));
        }
        Client::from_conf(config.build())
    }

    pub(super) fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    pub(super) fn fault(&self, key: &str, what: &'static str, fault: Fault) -> StorageError {
        let key = if fault.whole { "the bucket".to_owned() } else { key.to_owned() };
        StorageError::Service { key, url: self.url.clone(), what, reason: fault.reason, broken: fault.broken }
    }

    pub(super) fn conflict(&self, key: &str) -> StorageError {
        StorageError::Conflict { key: key.into(), url: self.url.clone() }
    }

    pub(super) async fn read(&self, key: &str, limit: u64) -> Result<Option<Object>> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.read_once(key, limit).await {
                Err(StorageError::Service { broken: true, .. }) if tries < TRIES => {
                    super::s3_transfer::pause(tries).await
                }
                result => return result,
            }
        }
    }

    async fn read_once(&self, key: &str, limit: u64) -> Result<Option<Object>> {
        let request = self.client().await.get_object().bucket(&self.bucket).key(self.key(key));
        let mut answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => {
                let fault = explain(&error);
                return if fault.absent { Ok(None) } else { Err(self.fault(key, "read", fault)) };
            }
        };
        let tag = Tag(answer.e_tag().unwrap_or_default().to_owned());
        let too_large = || StorageError::TooLarge { key: key.into(), url: self.url.clone(), limit };
        let announced = answer.content_length().and_then(|len| u64::try_from(len).ok());
        if announced.is_some_and(|len| len > limit) {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        let body = async {
            while let Some(chunk) = answer.body.try_next().await.map_err(|error| Fault::broken(&error))? {
                bytes.extend_from_slice(&chunk);
                if bytes.len() as u64 > limit {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        // An object that is small and comes in drips would hold up an upgrade for ever.
        match tokio::time::timeout(READ, body).await {
            Ok(Ok(true)) => Ok(Some(Object { bytes, tag })),
            Ok(Ok(false)) => Err(too_large()),
            Ok(Err(fault)) => Err(self.fault(key, "read", fault)),
            Err(_) => Err(self.fault(key, "read", Fault::slow(READ))),
        }
    }

    pub(super) async fn meta(&self, key: &str) -> Result<Option<Meta>> {
        let request = self.client().await.head_object().bucket(&self.bucket).key(self.key(key));
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) if error.as_service_error().is_some_and(HeadObjectError::is_not_found) => {
                return Ok(None);
            }
            Err(error) => {
                let fault = explain(&error);
                if fault.absent {
                    return Ok(None);
                }
                // An answer to HEAD has no room for words: the same question with GET is told why.
                return match self
                    .client()
                    .await
                    .get_object()
                    .bucket(&self.bucket)
                    .key(self.key(key))
                    .range("bytes=0-0")
                    .send()
                    .await
                {
                    Ok(_) => Err(self.fault(key, "read", fault)),
                    Err(error) => Err(self.fault(key, "read", explain(&error))),
                };
            }
        };
        Ok(Some(Meta {
            size: answer.content_length().and_then(|len| u64::try_from(len).ok()).unwrap_or(0),
            tag: Tag(answer.e_tag().unwrap_or_default().to_owned()),
            sha256: answer.metadata().and_then(|data| data.get(SHA256)).cloned(),
        }))
    }

    pub(super) async fn write(&self, key: &str, bytes: &[u8], condition: &Condition) -> Result<()> {
        let (absent, is) = headers(condition);
        let mut tries = 0;
        loop {
            tries += 1;
            let request = self.client().await.put_object().bucket(&self.bucket).key(self.key(key));
            let request = request
                .set_if_none_match(absent.clone())
                .set_if_match(is.clone())
                .metadata(SHA256, digest::of_bytes(bytes).sha256)
                .body(ByteStream::from(bytes.to_vec()));
            let Err(error) = request.send().await else { return Ok(()) };
            let fault = explain(&error);
            match fault.conditional {
                // 409: two at the same instant, none of which has won yet (RFC 9110 has no word for it; S3's
                // documentation says to try again).
                Some(409) if tries < TRIES => super::s3_transfer::pause(tries).await,
                // 412: somebody else's is there. 404 is the same for an object that was to be replaced.
                Some(_) => return Err(self.conflict(key)),
                None if fault.absent && is.is_some() => return Err(self.conflict(key)),
                None => return Err(self.fault(key, "written", fault)),
            }
        }
    }

    pub(super) async fn copy(&self, from: &str, to: &str) -> Result<()> {
        // The source stands in a header as part of an URL.
        let source: String = format!("{}/{}", self.bucket, self.key(from))
            .bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' | b'~' => {
                    (byte as char).to_string()
                }
                _ => format!("%{byte:02X}"),
            })
            .collect();
        let request =
            self.client().await.copy_object().bucket(&self.bucket).key(self.key(to)).copy_source(source);
        request.send().await.map(drop).map_err(|error| {
            let fault = explain(&error);
            if fault.absent {
                StorageError::Absent { key: from.into(), url: self.url.clone() }
            } else {
                self.fault(to, "written", fault)
            }
        })
    }

    pub(super) async fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        let base = self.key(prefix);
        let request = self.client().await.list_objects_v2().bucket(&self.bucket).prefix(&base).delimiter("/");
        let mut pages = request.into_paginator().send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| self.fault("the list", "read", explain(&error)))?;
            for object in page.contents() {
                let Some(name) = object.key().and_then(|key| key.strip_prefix(&base)) else { continue };
                found.push(Entry {
                    key: format!("{prefix}{name}"),
                    size: object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
                    modified: object.last_modified().and_then(time),
                });
            }
        }
        Ok(found)
    }

    pub(super) async fn remove(&self, key: &str) -> Result<()> {
        let request = self.client().await.delete_object().bucket(&self.bucket).key(self.key(key));
        match request.send().await {
            Ok(_) => Ok(()),
            Err(error) => {
                let fault = explain(&error);
                if fault.absent { Ok(()) } else { Err(self.fault(key, "removed", fault)) }
            }
        }
    }

    pub(super) async fn sweep(&self) -> Result<usize> {
        let client = self.client().await;
        let list = client.list_multipart_uploads().bucket(&self.bucket).prefix(&self.prefix).send().await;
        let list = match list {
            Ok(list) => list,
            // Not every server knows how; they have their own ways of clearing up.
            Err(error) => {
                tracing::debug!(reason = explain(&error).reason, "interrupted uploads are not listed");
                return Ok(0);
            }
        };
        let mut ended = 0;
        for upload in list.uploads() {
            let (Some(key), Some(id)) = (upload.key(), upload.upload_id()) else { continue };
            let begun = upload.initiated().and_then(time);
            if begun.is_none_or(|begun| {
                Utc::now() - begun < chrono::TimeDelta::from_std(ABANDONED).unwrap_or_default()
            }) {
                continue;
            }
            let abort = client.abort_multipart_upload().bucket(&self.bucket).key(key).upload_id(id);
            abort.send().await.map_err(|error| self.fault(key, "removed", explain(&error)))?;
            ended += 1;
        }
        Ok(ended)
    }
}

/// `If-None-Match` and `If-Match` of a condition.
pub(super) fn headers(condition: &Condition) -> (Option<String>, Option<String>) {
    match condition {
        Condition::Any => (None, None),
        Condition::Absent => (Some("*".into()), None),
        Condition::Is(tag) => (None, Some(tag.0.clone())),
    }
}

fn time(time: &SdkDateTime) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(time.secs(), time.subsec_nanos())
}
