//! Which steps an operation takes: pure decisions from a snapshot of facts.
//!
//! The supervisor gathers [`Facts`], asks [`plan`] and carries the [`Plan`] out without choosing again. What a
//! fetched manifest allows is decided by [`admit`] in the same way.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Version;
use crate::control::{Kind, OperationRequest};
use crate::manifest::{AbiVersion, GlibcVersion, Manifest};
use crate::status::Status;

/// One step of an operation, in the order in which a whole upgrade takes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Which version is asked for.
    Resolve,
    /// Manifest, then the package.
    Fetch,
    /// Digests, target, glibc, ABI, upgrade-from range, order.
    Verify,
    /// Into a temporary directory, read back, renamed.
    Unpack,
    /// Schema defaults, `app.conf`, environment.
    Configure,
    /// The trial in a throw-away process.
    Preflight,
    /// Load in the host and the application's own start.
    Start,
    /// The application's health and the manifest's probes, before it gets traffic.
    Health,
    /// Requests wait, the state goes from one release to the other in the older one's schema, and the new release
    /// answers them: the swap is part of it.
    CodeChange,
    /// One atomic store, where there was no code change; from here on the new release answers.
    Swap,
    /// Durably: that the new release serves. Without a probation this is the commit as well, in one write.
    Record,
    /// The new release serves and is watched; the old one stays loaded.
    Probation,
    /// The new release is what the node boots, durably: the point of no return.
    Commit,
    /// Requests in flight on the old generation finish; it is retired.
    Drain,
}

impl Step {
    /// The step's word, as in journals, JSON and on the terminal.
    pub fn name(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Fetch => "fetch",
            Self::Verify => "verify",
            Self::Unpack => "unpack",
            Self::Configure => "configure",
            Self::Preflight => "preflight",
            Self::Start => "start",
            Self::Health => "health",
            Self::CodeChange => "code_change",
            Self::Swap => "swap",
            Self::Record => "record",
            Self::Probation => "probation",
            Self::Commit => "commit",
            Self::Drain => "drain",
        }
    }
}

/// What the plan is decided from.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The release that serves; `None` on a node that never had one.
    pub current: Option<Version>,
    /// The one that served before it.
    pub prev: Option<Version>,
    /// The release that the node boots.
    pub permanent: Option<Version>,
    /// What the channel points to, where the request names no version and the repository was asked.
    pub channel: Option<Version>,
    /// The installed releases.
    pub releases: BTreeMap<Version, Status>,
    /// Whether releases serve on probation first on this node.
    pub probation: bool,
    /// Whether the current release keeps in-memory state.
    pub state: bool,
}

/// What to do, decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Nothing: the release asked for serves already, or there is nothing to fetch.
    AlreadyDone {
        /// The release.
        version: Version,
    },
    /// These steps, in this order.
    Walk {
        /// The release to go to.
        to: Version,
        /// What to carry out after [`Step::Resolve`], which has been taken.
        steps: Vec<Step>,
    },
    /// Evaluate the configuration of the release that serves.
    Reload {
        /// That release.
        version: Version,
    },
    /// Remove these releases' directories.
    Remove {
        /// Oldest first.
        versions: Vec<Version>,
    },
    /// Let another relmgr take over.
    SelfUpgrade {
        /// Its executable.
        binary: PathBuf,
    },
}

/// A request that cannot be carried out, with the remedy in its words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it, the fields are the versions that they name")]
pub enum Refusal {
    #[error("{to} is older than the current release {current}: going back is `relmgr downgrade {to}`")]
    OlderThanCurrent { to: Version, current: Version },
    #[error("{to} is newer than the current release {current}: going forward is `relmgr upgrade {to}`")]
    NewerThanCurrent { to: Version, current: Version },
    #[error(
        "there is no previous release to go back to: name an installed one (`relmgr releases` lists them)"
    )]
    NoPrev,
    #[error("no release serves yet: install one with `relmgr upgrade`")]
    NoCurrent,
    #[error(
        "{version} is not installed on this node: `relmgr fetch {version}` brings it, `relmgr releases` lists what is there"
    )]
    NotInstalled { version: Version },
    #[error("{version} failed on this node ({reason}): name it with `--retry` to try it again")]
    FailedBefore { version: Version, reason: String },
    #[error("{version} is the {role} release and cannot be removed")]
    InUse { version: Version, role: &'static str },
    #[error(
        "no release is on probation: `relmgr downgrade` goes back to the release before, `relmgr status` shows which"
    )]
    NoProbation,
    #[error("`{kind}` needs a version", kind = kind.name())]
    NoVersion { kind: Kind },
    #[error("`self-upgrade` needs the absolute path of a relmgr")]
    NoBinary,
}

const INSTALL: [Step; 5] = [Step::Fetch, Step::Verify, Step::Unpack, Step::Configure, Step::Preflight];
const SWITCH: [Step; 5] = [Step::Start, Step::Health, Step::Swap, Step::Record, Step::Drain];
const WATCHED_SWITCH: [Step; 7] =
    [Step::Start, Step::Health, Step::Swap, Step::Record, Step::Probation, Step::Commit, Step::Drain];

/// Decides what `request` does on a node of which `facts` hold.
///
/// # Errors
/// A [`Refusal`] that says why not and what to do instead.
pub fn plan(request: &OperationRequest, facts: &Facts) -> Result<Plan, Refusal> {
    match request.kind {
        Kind::Upgrade => plan_upgrade(request, facts),
        Kind::Downgrade => plan_downgrade(request, facts),
        Kind::Check => {
            let to = wanted(request, facts)?;
            Ok(Plan::Walk { steps: install_steps(&to, facts), to })
        }
        Kind::Fetch => {
            let to = wanted(request, facts)?;
            if facts.releases.contains_key(&to) {
                return Ok(Plan::AlreadyDone { version: to });
            }
            Ok(Plan::Walk { to, steps: vec![Step::Fetch, Step::Verify, Step::Unpack] })
        }
        Kind::Restart => {
            // Where none serves, the permanent one did not start: this tries it again.
            let to = facts.current.clone().or_else(|| facts.permanent.clone()).ok_or(Refusal::NoCurrent)?;
            Ok(Plan::Walk { to, steps: vec![Step::Configure, Step::Start, Step::Health, Step::Swap] })
        }
        Kind::Reload => {
            facts.current.clone().map(|version| Plan::Reload { version }).ok_or(Refusal::NoCurrent)
        }
        // Where a probation is under way, it is ended by these and they never come here.
        Kind::Commit => match (&facts.current, &facts.permanent) {
            (Some(current), Some(permanent)) if current == permanent => {
                Ok(Plan::AlreadyDone { version: current.clone() })
            }
            (None, _) => Err(Refusal::NoCurrent),
            _ => Err(Refusal::NoProbation),
        },
        Kind::Rollback => Err(Refusal::NoProbation),
        Kind::SelfUpgrade => match &request.binary {
            Some(binary) if binary.is_absolute() => Ok(Plan::SelfUpgrade { binary: binary.clone() }),
            _ => Err(Refusal::NoBinary),
        },
        Kind::Remove => {
            let version = request.version.clone().ok_or(Refusal::NoVersion { kind: Kind::Remove })?;
            if let Some(role) = role_of(&version, facts) {
                return Err(Refusal::InUse { version, role });
            }
            if !facts.releases.contains_key(&version) {
                return Err(Refusal::NotInstalled { version });
            }
            Ok(Plan::Remove { versions: vec![version] })
        }
        Kind::Prune => {
            let keep = request.keep.unwrap_or(0);
            let removable = facts.releases.keys().filter(|version| role_of(version, facts).is_none());
            let in_use = facts.releases.len() - removable.clone().count();
            let surplus = facts.releases.len().saturating_sub(keep.max(in_use));
            Ok(Plan::Remove { versions: removable.take(surplus).cloned().collect() })
        }
    }
}

fn plan_upgrade(request: &OperationRequest, facts: &Facts) -> Result<Plan, Refusal> {
    let to = wanted(request, facts)?;
    if facts.current.as_ref() == Some(&to) {
        return Ok(Plan::AlreadyDone { version: to });
    }
    if let Some(current) = facts.current.clone().filter(|current| to < *current) {
        return Err(Refusal::OlderThanCurrent { to, current });
    }
    not_failed_before(&to, request, facts)?;
    let mut steps = install_steps(&to, facts);
    steps.extend(switch_steps(&to, request, facts));
    Ok(Plan::Walk { to, steps })
}

/// A release is watched where there is one to go back to, unless it has been permanent on this node before and
/// someone goes back to it.
fn switch_steps(to: &Version, request: &OperationRequest, facts: &Facts) -> Vec<Step> {
    let proven = matches!(facts.releases.get(to), Some(Status::Old | Status::Permanent));
    let goes_back = request.kind == Kind::Downgrade && proven;
    let watched = facts.probation && !request.no_probation && facts.current.is_some() && !goes_back;
    let mut steps = if watched { WATCHED_SWITCH.to_vec() } else { SWITCH.to_vec() };
    if facts.state && !request.lose_state {
        let swap = steps.iter().position(|step| *step == Step::Swap).unwrap_or(steps.len());
        steps.insert(swap, Step::CodeChange);
    }
    steps
}

fn plan_downgrade(request: &OperationRequest, facts: &Facts) -> Result<Plan, Refusal> {
    let current = facts.current.clone().ok_or(Refusal::NoCurrent)?;
    let to = request.version.clone().or_else(|| facts.prev.clone()).ok_or(Refusal::NoPrev)?;
    if to == current {
        return Ok(Plan::AlreadyDone { version: to });
    }
    if !facts.releases.contains_key(&to) {
        return Err(Refusal::NotInstalled { version: to });
    }
    // A bare `downgrade` goes to prev, and after one of those prev is the newer release: going there and back
    // is what people expect of it. A version that is named must be older.
    if request.version.is_some() && to > current {
        return Err(Refusal::NewerThanCurrent { to, current });
    }
    not_failed_before(&to, request, facts)?;
    let mut steps = vec![Step::Verify, Step::Configure, Step::Preflight];
    steps.extend(switch_steps(&to, request, facts));
    Ok(Plan::Walk { to, steps })
}

/// An installed release is verified where it lies; another one is fetched and unpacked first.
fn install_steps(to: &Version, facts: &Facts) -> Vec<Step> {
    let installed = facts.releases.contains_key(to);
    INSTALL.into_iter().filter(|step| !(installed && matches!(step, Step::Fetch | Step::Unpack))).collect()
}

fn wanted(request: &OperationRequest, facts: &Facts) -> Result<Version, Refusal> {
    let kind = request.kind;
    request.version.clone().or_else(|| facts.channel.clone()).ok_or(Refusal::NoVersion { kind })
}

fn not_failed_before(to: &Version, request: &OperationRequest, facts: &Facts) -> Result<(), Refusal> {
    match facts.releases.get(to) {
        Some(Status::Failed { reason, .. }) if !request.retry => {
            Err(Refusal::FailedBefore { version: to.clone(), reason: reason.clone() })
        }
        _ => Ok(()),
    }
}

fn role_of(version: &Version, facts: &Facts) -> Option<&'static str> {
    let roles = [("current", &facts.current), ("permanent", &facts.permanent), ("previous", &facts.prev)];
    roles.into_iter().find(|(_, holder)| holder.as_ref() == Some(version)).map(|(role, _)| role)
}

/// The machine and the node that a release is to run on.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The application that this node runs.
    pub app: String,
    /// Target triple of this relmgr.
    pub target: String,
    /// The running C library.
    pub glibc: GlibcVersion,
    /// The contract that this relmgr speaks.
    pub abi: AbiVersion,
}

/// A release that does not fit this node, with the fact and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it, the fields are the facts that they name")]
pub enum Misfit {
    #[error("it is a release of `{found}`, this node runs `{expected}`: check repository.url")]
    Application { found: String, expected: String },
    #[error(
        "its manifest is of version {found}, asked for was {expected}: the repository holds another release under this name; publish it again under a new version"
    )]
    Version { found: Version, expected: Version },
    #[error("it was built for {found}, this machine is {expected}: build it for this target")]
    Target { found: String, expected: String },
    #[error("it needs glibc {needs}, this machine has {has}: build it on a system with glibc {has} or older")]
    Glibc { needs: GlibcVersion, has: GlibcVersion },
    #[error("it was built against contract {needs}, this relmgr speaks {has}: {remedy}", remedy = if needs.major > has.major || needs.minor > has.minor { "update relmgr on this machine first" } else { "rebuild it with a current relmgr-app" })]
    Abi { needs: AbiVersion, has: AbiVersion },
    #[error(
        "it may be upgraded to from {allowed} only, the current release is {current}: go through a release in between"
    )]
    UpgradeFrom { allowed: semver::VersionReq, current: Version },
}

/// Whether the release of `manifest`, asked for as `version`, may run on `machine` after `current`.
///
/// # Errors
/// The first [`Misfit`], in the order of its variants.
pub fn admit(
    manifest: &Manifest,
    version: &Version,
    machine: &Machine,
    upgrade_from: Option<&Version>,
) -> Result<(), Misfit> {
    if manifest.name != machine.app {
        return Err(Misfit::Application { found: manifest.name.clone(), expected: machine.app.clone() });
    }
    if manifest.version != *version {
        return Err(Misfit::Version { found: manifest.version.clone(), expected: version.clone() });
    }
    if manifest.target != machine.target {
        return Err(Misfit::Target { found: manifest.target.clone(), expected: machine.target.clone() });
    }
    if let Some(needs) = manifest.needs.glibc.filter(|needs| *needs > machine.glibc) {
        return Err(Misfit::Glibc { needs, has: machine.glibc });
    }
    let abi = manifest.abi;
    if abi.major != machine.abi.major || abi.minor > machine.abi.minor {
        return Err(Misfit::Abi { needs: abi, has: machine.abi });
    }
    match (&manifest.upgrade_from, upgrade_from) {
        (Some(allowed), Some(current)) if !current.matches(allowed) => {
            Err(Misfit::UpgradeFrom { allowed: allowed.clone(), current: current.clone() })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v(text: &str) -> Version {
        text.parse().unwrap()
    }

    fn node() -> Facts {
        Facts {
            current: Some(v("3.0.0")),
            prev: Some(v("2.0.0")),
            permanent: Some(v("3.0.0")),
            channel: Some(v("4.0.0")),
            releases: BTreeMap::from([
                (v("1.0.0"), Status::Old),
                (v("1.5.0"), Status::Failed { reason: "start".into(), at: chrono::DateTime::UNIX_EPOCH }),
                (v("2.0.0"), Status::Old),
                (v("3.0.0"), Status::Permanent),
                (v("5.0.0"), Status::Unpacked),
            ]),
            probation: false,
            state: false,
        }
    }

    fn request(kind: Kind, version: Option<&str>) -> OperationRequest {
        OperationRequest { version: version.map(v), ..OperationRequest::new(kind) }
    }

    fn steps(plan: Plan) -> (String, Vec<&'static str>) {
        match plan {
            Plan::Walk { to, steps } => (to.to_string(), steps.into_iter().map(Step::name).collect()),
            other => panic!("no walk: {other:?}"),
        }
    }

    #[test]
    fn an_upgrade_takes_the_channel_and_every_step_in_order() {
        let (to, names) = steps(plan(&request(Kind::Upgrade, None), &node()).unwrap());
        assert_eq!(to, "4.0.0");
        let all = "fetch verify unpack configure preflight start health swap record drain";
        assert_eq!(names.join(" "), all);
    }

    #[test]
    fn an_installed_release_is_not_fetched_again() {
        let (_, names) = steps(plan(&request(Kind::Upgrade, Some("5.0.0")), &node()).unwrap());
        assert_eq!(names.join(" "), "verify configure preflight start health swap record drain");
    }

    #[test]
    fn state_is_handed_over_where_there_is_some_unless_it_may_be_lost() {
        let keeping = Facts { state: true, ..node() };
        for (kind, version) in [(Kind::Upgrade, None), (Kind::Downgrade, Some("2.0.0"))] {
            let kept = request(kind, version);
            let lost = OperationRequest { lose_state: true, ..kept.clone() };
            let (_, names) = steps(plan(&kept, &keeping).unwrap());
            assert!(names.join(" ").contains("health code_change swap record"), "{names:?}");
            for (request, facts) in [(&lost, &keeping), (&kept, &node())] {
                let (_, names) = steps(plan(request, facts).unwrap());
                assert!(!names.contains(&"code_change"), "{names:?}");
            }
        }
    }

    #[test]
    fn a_release_is_watched_where_there_is_one_to_go_back_to() {
        let facts = Facts { probation: true, ..node() };
        let watched = |request: &OperationRequest, facts: &Facts| {
            let (_, names) = steps(plan(request, facts).unwrap());
            let watched = names.contains(&"probation");
            assert_eq!(watched, names.join(" ").ends_with("swap record probation commit drain"), "{names:?}");
            watched
        };
        assert!(watched(&request(Kind::Upgrade, None), &facts));
        let at_once = OperationRequest { no_probation: true, ..request(Kind::Upgrade, None) };
        assert!(!watched(&at_once, &facts), "--no-probation");
        assert!(!watched(&request(Kind::Upgrade, None), &node()), "upgrade.probation = 0s");
        assert!(!watched(&request(Kind::Downgrade, None), &facts), "it has proven itself here");
        let first = Facts { current: None, ..facts.clone() };
        assert!(!watched(&request(Kind::Upgrade, None), &first), "there is nothing to go back to");
        let mut fetched = facts;
        fetched.releases.insert(v("2.5.0"), Status::Unpacked);
        assert!(watched(&request(Kind::Downgrade, Some("2.5.0")), &fetched), "it has never served here");
    }

    #[test]
    fn a_probation_that_is_not_cannot_be_ended() {
        let same = plan(&request(Kind::Commit, None), &node()).unwrap();
        assert_eq!(same, Plan::AlreadyDone { version: v("3.0.0") });
        assert_eq!(plan(&request(Kind::Rollback, None), &node()), Err(Refusal::NoProbation));
    }

    #[test]
    fn directions_are_told_apart() {
        let refusal = |kind, version| plan(&request(kind, Some(version)), &node()).unwrap_err().to_string();
        assert!(refusal(Kind::Upgrade, "2.0.0").contains("relmgr downgrade 2.0.0"));
        assert!(refusal(Kind::Downgrade, "5.0.0").contains("relmgr upgrade 5.0.0"));
        assert!(refusal(Kind::Downgrade, "2.5.0").contains("not installed"));
        let same = plan(&request(Kind::Upgrade, Some("3.0.0")), &node()).unwrap();
        assert_eq!(same, Plan::AlreadyDone { version: v("3.0.0") });
    }

    #[test]
    fn a_bare_downgrade_goes_to_prev_even_when_that_is_newer() {
        let mut facts = node();
        assert_eq!(steps(plan(&request(Kind::Downgrade, None), &facts).unwrap()).0, "2.0.0");
        facts.current = Some(v("2.0.0"));
        facts.prev = Some(v("3.0.0"));
        assert_eq!(steps(plan(&request(Kind::Downgrade, None), &facts).unwrap()).0, "3.0.0");
        facts.prev = None;
        assert_eq!(plan(&request(Kind::Downgrade, None), &facts), Err(Refusal::NoPrev));
    }

    #[test]
    fn a_failed_release_is_tried_again_only_when_told_so() {
        let mut request = request(Kind::Downgrade, Some("1.5.0"));
        assert!(plan(&request, &node()).unwrap_err().to_string().contains("--retry"));
        request.retry = true;
        assert_eq!(steps(plan(&request, &node()).unwrap()).0, "1.5.0");
    }

    #[test]
    fn a_restart_tries_the_permanent_release_again_where_none_serves() {
        let mut facts = Facts { current: None, ..node() };
        assert_eq!(steps(plan(&request(Kind::Restart, None), &facts).unwrap()).0, "3.0.0");
        facts.permanent = None;
        assert_eq!(plan(&request(Kind::Restart, None), &facts), Err(Refusal::NoCurrent));
    }

    #[test]
    fn pruning_keeps_what_is_in_use_and_the_newest() {
        let prune = |keep| match plan(
            &OperationRequest { keep: Some(keep), ..request(Kind::Prune, None) },
            &node(),
        ) {
            Ok(Plan::Remove { versions }) => {
                versions.iter().map(Version::to_string).collect::<Vec<_>>().join(" ")
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(prune(0), "1.0.0 1.5.0 5.0.0");
        assert_eq!(prune(3), "1.0.0 1.5.0");
        assert_eq!(prune(5), "");
    }

    #[test]
    fn what_is_in_use_is_not_removed() {
        for (version, role) in [("3.0.0", "current"), ("2.0.0", "previous")] {
            let refusal = plan(&request(Kind::Remove, Some(version)), &node()).unwrap_err().to_string();
            assert!(refusal.contains(role), "{refusal}");
        }
        assert!(plan(&request(Kind::Remove, Some("1.0.0")), &node()).is_ok());
        assert!(plan(&request(Kind::Remove, Some("9.0.0")), &node()).is_err());
    }
}
