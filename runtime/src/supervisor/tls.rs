//! The certificates of `listen.https`: what is served, and what of the files cannot be.
//!
//! Each `[[tls]]` table is judged for itself: one whose new files are broken goes on with what it served before, and
//! says so in `status`. Only at the start there is nothing before.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use relmgr_model::conf::ConfError;
use relmgr_model::control::TlsStatus;
use relmgr_model::home::Home;
use relmgr_model::host::Command;
use relmgr_model::tls::{CertificateFiles, CertificatePair, CertificateStatus};

use super::conf::{Places, Watch};
use super::node::Node;
use crate::tls::{Facts, TlsError, examine};

/// A clock that is set is noticed after so long.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);

/// Files that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// One cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Something is wrong with what stands in them.
    #[error("{}: {error}", path.display())]
    Tls {
        /// The certificate's file.
        path: PathBuf,
        /// What is wrong.
        error: TlsError,
    },
}

/// No certificate of a node can be served.
#[derive(Debug, thiserror::Error)]
#[error("listen.https has no certificate that can be served:{0}")]
pub struct NoneError(String);

/// What stands in the files of one `[[tls]]` table.
#[derive(Debug, Clone)]
struct Loaded {
    pair: CertificatePair,
    facts: Facts,
    at: DateTime<Utc>,
    /// Whether it is what stands in the files now.
    in_files: bool,
}

/// One `[[tls]]` table.
#[derive(Debug, Clone)]
struct Entry {
    files: CertificateFiles,
    loaded: Option<Loaded>,
    /// What stands in the files where that is not served: it may come to be valid.
    waiting: Option<Facts>,
    error: Option<ConfError>,
}

impl Entry {
    /// Whether `facts` are to be served instead of what is. Of two that are not valid now the one that is valid longer
    /// is: it is the renewed one, and the clock may be wrong.
    fn gives_way_to(&self, facts: &Facts, now: DateTime<Utc>) -> bool {
        let Some(loaded) = &self.loaded else { return true };
        facts.at(now).is_ok() || (loaded.facts.at(now).is_err() && facts.not_after > loaded.facts.not_after)
    }

    /// What becomes of files in which something is wrong.
    fn outcome(&self) -> &'static str {
        match (&self.loaded, &self.waiting) {
            (None, _) => "left out",
            (Some(loaded), None) if loaded.in_files => "it is served all the same, for want of another",
            (Some(_), _) => "the certificate from before stays",
        }
    }
}

/// All certificates of a node.
#[derive(Debug, Clone, Default)]
pub struct Account {
    entries: Vec<Entry>,
    unwatched: Option<String>,
}

impl Account {
    /// Reads the certificates at a node's start. One that cannot be served is left out and told; one that is not valid
    /// now is served for want of a better.
    pub fn load(home: &Home, tables: &[CertificateFiles], now: DateTime<Utc>) -> Self {
        let entry = |files: &CertificateFiles| {
            let path = |path: &Path| home.path().join(path);
            let files = CertificateFiles { certificate: path(&files.certificate), key: path(&files.key) };
            Entry { files, loaded: None, waiting: None, error: None }
        };
        let mut account = Self { entries: tables.iter().map(entry).collect(), unwatched: None };
        account.update(account.read(), now);
        account
    }

    /// Whether clients can be served.
    ///
    /// # Errors
    /// [`NoneError`] when there are certificates and none of them can be.
    pub fn usable(&self) -> Result<(), NoneError> {
        if self.entries.is_empty() || self.entries.iter().any(|entry| entry.loaded.is_some()) {
            return Ok(());
        }
        let errors = self.entries.iter().filter_map(|entry| entry.error.as_ref());
        Err(NoneError(errors.map(|error| format!("\n  {}", error.text)).collect()))
    }

    /// What is served, in the order of the tables.
    pub fn pairs(&self) -> Vec<CertificatePair> {
        self.entries.iter().filter_map(|entry| Some(entry.loaded.as_ref()?.pair.clone())).collect()
    }

    /// The files as they are now.
    fn read(&self) -> Vec<Result<(CertificatePair, Facts), FilesError>> {
        self.entries.iter().map(|entry| read(&entry.files)).collect()
    }

    /// Takes over what can be served; whether that is anything else than before. A fault is told once.
    fn update(
        &mut self,
        read: Vec<Result<(CertificatePair, Facts), FilesError>>,
        now: DateTime<Utc>,
    ) -> bool {
        let mut changed = false;
        for (entry, read) in self.entries.iter_mut().zip(read) {
            entry.waiting = None;
            let error = match read {
                Ok((pair, facts)) => {
                    let same = entry.loaded.as_ref().is_some_and(|loaded| loaded.pair == pair);
                    let fault = facts.at(now).err();
                    let path = entry.files.certificate.clone();
                    if !same && entry.gives_way_to(&facts, now) {
                        let (names, until) = (facts.names.join(", "), facts.not_after);
                        tracing::info!(path = %path.display(), names, %until, "a certificate is served from now on");
                        entry.loaded = Some(Loaded { pair, facts, at: now, in_files: true });
                        changed = true;
                    } else if let Some(loaded) = &mut entry.loaded {
                        loaded.in_files = same;
                        entry.waiting = (!same).then_some(facts);
                    }
                    fault.map(|error| FilesError::Tls { path, error })
                }
                Err(error) => {
                    entry.loaded.iter_mut().for_each(|loaded| loaded.in_files = false);
                    Some(error)
                }
            };
            let text = error.map(|error| format!("{error}: {}", entry.outcome()));
            if text.as_ref() == entry.error.as_ref().map(|error| &error.text) {
                continue;
            }
            if let Some(text) = &text {
                tracing::error!("{text}");
            }
            entry.error = text.map(|text| ConfError { at: now, text });
        }
        changed
    }

    /// When to look again although no file has changed: one comes to be valid, or is valid no more.
    fn look_again(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let loaded =
            self.entries.iter().filter_map(|entry| entry.loaded.as_ref()).map(|loaded| &loaded.facts);
        let waiting = self.entries.iter().filter_map(|entry| entry.waiting.as_ref());
        loaded.chain(waiting).filter_map(|facts| facts.changes_after(now)).min()
    }

    /// What is wrong with the files, and what becomes of it.
    pub fn errors(&self) -> Vec<String> {
        self.entries.iter().filter_map(|entry| Some(entry.error.as_ref()?.text.clone())).collect()
    }

    /// What `status` says.
    pub fn status(&self, listeners: Vec<String>) -> Option<TlsStatus> {
        if self.entries.is_empty() {
            return None;
        }
        let certificate = |entry: &Entry| {
            let facts = entry.loaded.as_ref().map(|loaded| &loaded.facts);
            CertificateStatus {
                file: entry.files.certificate.clone(),
                names: facts.map(|facts| facts.names.clone()).unwrap_or_default(),
                not_after: facts.map(|facts| facts.not_after),
                loaded_at: entry.loaded.as_ref().map(|loaded| loaded.at),
                error: entry.error.clone(),
            }
        };
        let certificates = self.entries.iter().map(certificate).collect();
        Some(TlsStatus { listeners, certificates, unwatched: self.unwatched.clone() })
    }

    fn places(&self) -> Places {
        let files = self.entries.iter().flat_map(|entry| [&entry.files.certificate, &entry.files.key]);
        Places::of_files(files)
    }
}

fn read(files: &CertificateFiles) -> Result<(CertificatePair, Facts), FilesError> {
    let text = |path: &PathBuf| {
        std::fs::read_to_string(path).map_err(|source| FilesError::Read { path: path.clone(), source })
    };
    let pair = CertificatePair { certificate: text(&files.certificate)?, key: text(&files.key)? };
    match examine(&pair) {
        Ok(facts) => Ok((pair, facts)),
        Err(error) => Err(FilesError::Tls { path: files.certificate.clone(), error }),
    }
}

/// Reads the certificates anew and has the host serve them; what of them cannot be served. The caller holds
/// `Node::operations`.
pub async fn reload(node: &Arc<Node>) -> Vec<String> {
    // No host is started meanwhile: it would be given what is just being replaced.
    let _pointers = node.pointers.lock().await;
    let account = node.with(|state| state.tls.clone());
    let read = match tokio::task::spawn_blocking(move || account.read()).await {
        Ok(read) => read,
        Err(error) => return vec![format!("the certificates are not read: {error}")],
    };
    let (changed, certificates) = node.with(|state| {
        let changed = state.tls.update(read, Utc::now());
        (changed, state.tls.pairs())
    });
    let mut errors = node.with(|state| state.tls.errors());
    if changed
        && let Some(host) = node.host()
        && let Err(error) = host.call(Command::Certificates { certificates }).await
    {
        // A host that has died meanwhile makes way for one that is given them.
        tracing::error!(%error, "the host does not serve the new certificates");
        errors.push(format!("the host does not serve the new certificates: {error}"));
    }
    errors
}

/// Watches the certificates' files until the process ends.
pub async fn watch(node: Arc<Node>) {
    let mut watch = Watch::new();
    loop {
        let places = node.with(|state| state.tls.places());
        if watch.arm(places) {
            let unwatched = watch.unwatched();
            if let Some(reason) = &unwatched {
                tracing::warn!(
                    "changes of certificates are not all seen, `relmgr reload` applies them: {reason}"
                );
            }
            node.with(|state| state.tls.unwatched = unwatched);
        } else {
            tokio::select! {
                () = watch.changed() => {}
                () = time_passes(&node) => {}
            }
        }
        watch.begin();
        let _alone = node.operations.lock().await;
        reload(&node).await;
    }
}

/// Waits until a certificate comes to be valid, or is valid no more.
async fn time_passes(node: &Node) {
    let now = Utc::now();
    let at = node.with(|state| state.tls.look_again(now));
    let wait = at.map_or(LOOK_AGAIN, |at| (at - now).to_std().unwrap_or_default());
    tokio::time::sleep(wait.min(LOOK_AGAIN)).await;
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    /// A certificate that is valid from `from` to `until`, in hours from `now`.
    fn pair(now: DateTime<Utc>, from: i64, until: i64) -> CertificatePair {
        let mut params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        let at = |hours| std::time::SystemTime::from(now + TimeDelta::hours(hours)).into();
        (params.not_before, params.not_after) = (at(from), at(until));
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        CertificatePair { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    fn files() -> CertificateFiles {
        CertificateFiles { certificate: "a.pem".into(), key: "a.key".into() }
    }

    struct Scene {
        account: Account,
        now: DateTime<Utc>,
    }

    impl Scene {
        fn new() -> Self {
            let entry = Entry { files: files(), loaded: None, waiting: None, error: None };
            Self { account: Account { entries: vec![entry], unwatched: None }, now: Utc::now() }
        }

        /// Looks at files that hold `pair`, `hours` from the start; whether something else is served then, and the words.
        fn look(&mut self, hours: i64, pair: &CertificatePair) -> (bool, Vec<String>) {
            let read = Ok((pair.clone(), examine(pair).unwrap()));
            let changed = self.account.update(vec![read], self.now + TimeDelta::hours(hours));
            (changed, self.account.errors())
        }

        fn serves(&self, pair: &CertificatePair) -> bool {
            self.account.pairs() == [pair.clone()]
        }

        /// In how many hours it is to look again.
        fn again(&self, hours: i64) -> Option<i64> {
            let now = self.now + TimeDelta::hours(hours);
            let again = self.account.look_again(now)?;
            Some((again - now + TimeDelta::minutes(1)).num_hours())
        }
    }

    #[test]
    fn one_that_is_not_valid_now_is_served_at_the_start_and_makes_nobody_give_way_who_is() {
        for (from, until, words) in [(-48, -24, "expired at"), (24, 48, "is not valid before")] {
            let mut scene = Scene::new();
            let (bad, good) = (pair(scene.now, from, until), pair(scene.now, -1, 90));
            let (changed, errors) = scene.look(0, &bad);
            assert!(changed && scene.serves(&bad), "there is no better one");
            assert!(errors[0].contains(words), "{errors:?}");
            assert!(errors[0].ends_with(": it is served all the same, for want of another"), "{errors:?}");
            assert_eq!(scene.look(0, &good), (true, vec![]));
            let (changed, errors) = scene.look(0, &bad);
            assert!(!changed && scene.serves(&good));
            assert!(errors[0].contains(words), "{errors:?}");
            assert!(errors[0].ends_with(": the certificate from before stays"), "{errors:?}");
            assert_eq!(scene.look(0, &good), (false, vec![]));
        }
    }

    #[test]
    fn time_makes_one_valid_and_another_one_not() {
        let mut scene = Scene::new();
        let (first, second) = (pair(scene.now, -1, 5), pair(scene.now, 3, 9));
        scene.look(0, &first);
        assert_eq!(scene.again(0), Some(5), "its own end");
        assert!(!scene.look(0, &second).0);
        assert_eq!(scene.again(0), Some(3), "the beginning of the one that waits");
        assert_eq!(scene.look(4, &second), (true, vec![]));
        assert!(scene.serves(&second));
        assert_eq!(scene.again(4), Some(5));
        let (changed, errors) = scene.look(10, &second);
        assert!(!changed && errors[0].ends_with(": it is served all the same, for want of another"));
        assert_eq!(scene.again(10), None);
    }

    #[test]
    fn of_two_that_are_not_valid_the_renewed_one_is_served() {
        let mut scene = Scene::new();
        let (old, renewed) = (pair(scene.now, -48, -24), pair(scene.now, 24, 48));
        scene.look(0, &renewed);
        assert!(!scene.look(0, &old).0, "valid less long");
        let mut scene = Scene::new();
        scene.look(0, &old);
        let (changed, errors) = scene.look(0, &renewed);
        assert!(changed && scene.serves(&renewed), "the clock may be wrong");
        assert!(errors[0].ends_with(": it is served all the same, for want of another"), "{errors:?}");
    }

    #[test]
    fn files_that_cannot_be_read_leave_what_is_served() {
        let mut scene = Scene::new();
        let good = pair(scene.now, -1, 5);
        let unreadable = || {
            let source = std::io::ErrorKind::NotFound.into();
            vec![Err(FilesError::Read { path: "a.pem".into(), source })]
        };
        assert!(!scene.account.update(unreadable(), scene.now));
        assert!(scene.account.errors()[0].ends_with(": left out"));
        assert!(scene.account.usable().is_err());
        scene.look(0, &good);
        assert!(!scene.account.update(unreadable(), scene.now));
        assert!(scene.account.errors()[0].ends_with(": the certificate from before stays"));
        assert!(scene.serves(&good));
    }
}
