//! Large objects: multipart uploads, and downloads in ranges that go on where they were broken off.
//!
//! A download writes its ranges where they belong in the file and notes beside it (`<file>.ranges`) which are done.
//! After an interruption, also of the process, the next one asks for the missing ranges only, provided that the
//! object's tag and size are still the same. Nothing of that is believed: the whole is hashed in the end.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_sdk_s3::primitives::{ByteStream, Length};
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::BytesMut;
use futures_util::StreamExt;
use relmgr_model::manifest::Digest;
use serde::{Deserialize, Serialize};

use super::s3::{S3, SHA256, headers};
use super::s3_fault::{Fault, explain};
use super::{Condition, Download, Meta, Progress, Result, StorageError, Tag, blocking};
use crate::{atomic, digest};

/// One range of a download or part of an upload. S3 wants parts of 5 MiB at least; larger ones are begun anew for
/// longer after a fault.
const RANGE: u64 = 8 * 1024 * 1024;

/// S3 allows 10,000 parts; objects of more than 80 GB have larger ones.
const PARTS: u64 = 10_000;

/// Ranges under way at once: enough to fill a link over which one connection does not.
const AT_ONCE: usize = 4;

/// What is gathered before it is written to the file: a write for each packet would cost a thread's change each.
const GATHER: usize = 256 * 1024;

/// Tries of a range in a row that bring not one byte.
const TRIES: u32 = 5;

/// A connection that gives nothing for so long is given up.
const STALL: Duration = Duration::from_secs(20);

/// Waits before the next try: about 0.1, 0.2, 0.4 … seconds, spread so that those who failed together do not come
/// back together.
pub(super) async fn pause(tries: u32) {
    let base = Duration::from_millis(50) * 2u32.saturating_pow(tries.min(8));
    // The low bits of the clock are spread enough, and need no generator.
    let nanos = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |now| now.subsec_nanos());
    tokio::time::sleep(base.mul_f64(0.5 + f64::from(nanos % 1000) / 1000.0)).await;
}

/// What is known of an interrupted download.
#[derive(Debug, Serialize, Deserialize)]
struct Ranges {
    tag: Tag,
    size: u64,
    done: BTreeSet<u64>,
}

impl Ranges {
    fn path(into: &Path) -> PathBuf {
        let mut name = into.as_os_str().to_owned();
        name.push(".ranges");
        name.into()
    }

    /// What was noted beside `into`, if it is of this object and the file is there.
    fn read(into: &Path, meta: &Meta) -> Self {
        let noted = std::fs::read(Self::path(into)).ok();
        let noted: Option<Self> = noted.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let same = |noted: &Self| {
            let file = std::fs::metadata(into).is_ok_and(|data| data.len() == meta.size);
            file && noted.tag == meta.tag && noted.size == meta.size && !meta.tag.0.is_empty()
        };
        noted.filter(same).unwrap_or_else(|| Self {
            tag: meta.tag.clone(),
            size: meta.size,
            done: BTreeSet::new(),
        })
    }

    fn note(&self, into: &Path) -> std::io::Result<()> {
        atomic::write(&Self::path(into), &serde_json::to_vec(self)?, 0o600)
    }

    /// First byte and length of every range that is missing.
    fn missing(&self) -> Vec<(u64, u64)> {
        let starts = (0..self.size).step_by(RANGE as usize).filter(|start| !self.done.contains(start));
        starts.map(|start| (start, RANGE.min(self.size - start))).collect()
    }
}

/// Removes what an interrupted download has left.
pub(crate) fn forget(into: &Path) {
    for path in [into.to_owned(), Ranges::path(into)] {
        // What cannot be removed is written over.
        let _ = std::fs::remove_file(path);
    }
}

impl S3 {
    pub(super) async fn download(&self, download: Download<'_>) -> Result<Digest> {
        let Download { key, size, limit, into, progress } = download;
        let meta = self.meta(key).await?;
        let meta = meta.ok_or_else(|| StorageError::Absent { key: key.into(), url: self.url.clone() })?;
        let (url, name) = (self.url.clone(), key.to_owned());
        match size {
            _ if meta.size > size.unwrap_or(limit) => {
                return Err(StorageError::TooLarge { key: name, url, limit: size.unwrap_or(limit) });
            }
            Some(expected) if meta.size < expected => {
                return Err(StorageError::Short { key: name, url, found: meta.size, expected });
            }
            _ => {}
        }
        let local = |source| StorageError::Local { path: into.to_owned(), what: "written", source };
        let mut ranges = Ranges::read(into, &meta);
        let file = Arc::new(reserve(into, &ranges).await.map_err(local)?);
        let missing = ranges.missing();
        let done = Arc::new(AtomicU64::new(meta.size - missing.iter().map(|(_, len)| len).sum::<u64>()));
        let mut running = futures_util::stream::iter(missing)
            .map(|(start, len)| {
                let range =
                    Range { s3: self, key, tag: &meta.tag, file: &file, into, start, end: start + len };
                let (done, progress) = (done.clone(), progress.clone());
                async move {
                    let tell =
                        |len: u64| progress(done.fetch_add(len, Ordering::Relaxed) + len, Some(meta.size));
                    range.fetch(tell).await.map(|()| start)
                }
            })
            .buffer_unordered(AT_ONCE);
        while let Some(finished) = running.next().await {
            ranges.done.insert(finished?);
            ranges.note(into).map_err(local)?;
        }
        drop(running);
        let path = into.to_owned();
        let digest = blocking(move || {
            // Of no use any more, whatever the hash says.
            let _ = std::fs::remove_file(Ranges::path(&path));
            digest::of_file(&path)
        });
        digest.await.map_err(local)
    }

    pub(super) async fn upload(
        &self,
        key: &str,
        from: &Path,
        digest: &Digest,
        condition: &Condition,
        progress: Progress,
    ) -> Result<()> {
        if digest.size <= RANGE {
            let source = from.to_owned();
            let bytes = blocking(move || std::fs::read(source)).await;
            let local = |source| StorageError::Local { path: from.to_owned(), what: "read", source };
            self.write(key, &bytes.map_err(local)?, condition).await?;
            progress(digest.size, Some(digest.size));
            return Ok(());
        }
        let client = self.client().await;
        let begin = client.create_multipart_upload().bucket(&self.bucket).key(self.key(key));
        let begun = begin.metadata(SHA256, &digest.sha256).send().await;
        let begun = begun.map_err(|error| self.fault(key, "written", explain(&error)))?;
        let id = begun.upload_id().unwrap_or_default().to_owned();
        let result = self.upload_parts(key, &id, from, digest.size, condition, &progress).await;
        if result.is_err() {
            let abort = client.abort_multipart_upload().bucket(&self.bucket).key(self.key(key)).upload_id(id);
            // What stays is swept up by a later `gc`.
            let _ = abort.send().await;
        }
        result
    }

    async fn upload_parts(
        &self,
        key: &str,
        id: &str,
        from: &Path,
        size: u64,
        condition: &Condition,
        progress: &Progress,
    ) -> Result<()> {
        let part_size = RANGE.max(size.div_ceil(PARTS));
        let done = AtomicU64::new(0);
        let starts = (0..size).step_by(part_size as usize).zip(1i32..);
        let mut running = futures_util::stream::iter(starts)
            .map(|(start, number)| {
                let len = part_size.min(size - start);
                let done = &done;
                async move {
                    let tag = self.upload_part(key, id, from, number, start, len).await?;
                    progress(done.fetch_add(len, Ordering::Relaxed) + len, Some(size));
                    Ok::<_, StorageError>(CompletedPart::builder().part_number(number).set_e_tag(tag).build())
                }
            })
            .buffer_unordered(AT_ONCE);
        let mut parts = Vec::new();
        while let Some(part) = running.next().await {
            parts.push(part?);
        }
        drop(running);
        parts.sort_by_key(|part| part.part_number());
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let (absent, is) = headers(condition);
        let complete =
            self.client().await.complete_multipart_upload().bucket(&self.bucket).key(self.key(key));
        let complete = complete
            .upload_id(id)
            .multipart_upload(parts)
            .set_if_none_match(absent)
            .set_if_match(is)
            .send()
            .await;
        complete.map(drop).map_err(|error| {
            let fault = explain(&error);
            if fault.conditional.is_some() { self.conflict(key) } else { self.fault(key, "written", fault) }
        })
    }

    async fn upload_part(
        &self,
        key: &str,
        id: &str,
        from: &Path,
        number: i32,
        start: u64,
        len: u64,
    ) -> Result<Option<String>> {
        let part = ByteStream::read_from().path(from).offset(start).length(Length::Exact(len)).build().await;
        let part = part.map_err(|error| StorageError::Local {
            path: from.to_owned(),
            what: "read",
            source: std::io::Error::other(error),
        })?;
        let request = self.client().await.upload_part().bucket(&self.bucket).key(self.key(key));
        let sent = request.upload_id(id).part_number(number).body(part).send().await;
        sent.map(|sent| sent.e_tag().map(str::to_owned))
            .map_err(|error| self.fault(key, "written", explain(&error)))
    }
}

/// The file for the ranges, with room for all of them: a full disk is found before the download.
async fn reserve(into: &Path, ranges: &Ranges) -> std::io::Result<File> {
    let (path, size, fresh) = (into.to_owned(), ranges.size, ranges.done.is_empty());
    blocking(move || {
        let file = File::options().create(true).read(true).write(true).truncate(fresh).open(path)?;
        let len = i64::try_from(size).map_err(std::io::Error::other)?;
        if len > 0 {
            match nix::fcntl::posix_fallocate(&file, 0, len) {
                // Some file systems know no reservations.
                Ok(()) | Err(nix::errno::Errno::EOPNOTSUPP | nix::errno::Errno::EINVAL) => {}
                Err(error) => return Err(error.into()),
            }
        }
        file.set_len(size)?;
        Ok(file)
    })
    .await
}

/// One range of a download.
struct Range<'a> {
    s3: &'a S3,
    key: &'a str,
    tag: &'a Tag,
    file: &'a Arc<File>,
    into: &'a Path,
    start: u64,
    end: u64,
}

impl Range<'_> {
    /// Fetches the range, going on where a connection broke off.
    async fn fetch(mut self, tell: impl Fn(u64)) -> Result<()> {
        let mut tries = 0;
        loop {
            let before = self.start;
            match self.fetch_some(&tell).await {
                Ok(()) if self.start == self.end => return Ok(()),
                Err(error) if !matches!(error, StorageError::Service { broken: true, .. }) => {
                    return Err(error);
                }
                _ if self.start > before => tries = 0,
                Err(error) if tries + 1 == TRIES => return Err(error),
                Ok(()) if tries + 1 == TRIES => {
                    return Err(self.s3.fault(
                        self.key,
                        "read",
                        Fault::broken(&std::io::Error::other("no data")),
                    ));
                }
                _ => tries += 1,
            }
            pause(tries).await;
        }
    }

    /// One request: as much of the range as it brings.
    async fn fetch_some(&mut self, tell: &impl Fn(u64)) -> Result<()> {
        let s3 = self.s3;
        let request = s3.client().await.get_object().bucket(&s3.bucket).key(s3.key(self.key));
        let request = request.range(format!("bytes={}-{}", self.start, self.end - 1));
        let tag = Some(self.tag.0.clone()).filter(|tag| !tag.is_empty());
        let mut answer = request.set_if_match(tag).send().await.map_err(|error| {
            let fault = explain(&error);
            match fault.conditional {
                Some(_) => StorageError::Changed { key: self.key.into(), url: s3.url.clone() },
                None => s3.fault(self.key, "read", fault),
            }
        })?;
        let wanted = format!("bytes {}-{}/", self.start, self.end - 1);
        if !answer.content_range().is_some_and(|range| range.starts_with(&wanted)) {
            let reason = "the server does not give ranges, which relmgr reads packages in";
            let fault = StorageError::Service {
                key: self.key.into(),
                url: s3.url.clone(),
                what: "read",
                reason: reason.into(),
                broken: false,
            };
            return Err(fault);
        }
        let mut gathered = BytesMut::new();
        loop {
            let next = tokio::time::timeout(STALL, answer.body.try_next()).await;
            let (chunk, end) = match next {
                Ok(Ok(Some(chunk))) => (chunk, None),
                Ok(Ok(None)) => (bytes::Bytes::new(), Some(Ok(()))),
                Ok(Err(error)) => (bytes::Bytes::new(), Some(Err(Fault::broken(&error)))),
                Err(_) => (bytes::Bytes::new(), Some(Err(Fault::slow(STALL)))),
            };
            gathered.extend_from_slice(&chunk);
            if gathered.len() as u64 > self.end - self.start {
                let (key, url) = (self.key.into(), s3.url.clone());
                return Err(StorageError::TooLarge { key, url, limit: self.end });
            }
            if gathered.len() >= GATHER || end.is_some() {
                self.write(gathered.split(), tell).await?;
            }
            match end {
                Some(Ok(())) => return Ok(()),
                Some(Err(fault)) => return Err(s3.fault(self.key, "read", fault)),
                None => {}
            }
        }
    }

    async fn write(&mut self, bytes: BytesMut, tell: &impl Fn(u64)) -> Result<()> {
        let (file, at, len) = (self.file.clone(), self.start, bytes.len() as u64);
        let written = blocking(move || file.write_all_at(&bytes, at)).await;
        written.map_err(|source| StorageError::Local {
            path: self.into.to_owned(),
            what: "written",
            source,
        })?;
        self.start += len;
        tell(len);
        Ok(())
    }
}
