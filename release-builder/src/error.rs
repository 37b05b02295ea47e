//! What can fail, and what to do about it. An error's text says what failed; its sources say why; its hint says
//! what next.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

use relmgr_model::Version;
use relmgr_model::settings::SettingsError;
use relmgr_model::state::NoWay;
use relmgr_store::package::PackageError;
use relmgr_store::repository::RepositoryError;

use crate::build::elf::ElfError;
use crate::rehearse::Failure;
use crate::ui;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{} cannot be read", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} cannot be written", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("stdout cannot be written")]
    Stdout {
        #[source]
        source: io::Error,
    },
    #[error("{} is not valid TOML", path.display())]
    Toml {
        path: PathBuf,
        #[source]
        source: Box<toml::de::Error>,
    },
    #[error("{program} cannot be run")]
    Run {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("rustc does not say who it is: {answer}")]
    RustcAnswer { answer: String },

    #[error("cargo cannot read the workspace")]
    Metadata {
        #[source]
        source: Box<cargo_metadata::Error>,
    },
    #[error("the workspace has no package `{name}`; it has {}", members.join(", "))]
    NoPackage { name: String, members: Vec<String> },
    #[error("no package of the workspace {} is a cdylib", workspace.display())]
    NoPackages { workspace: PathBuf },
    #[error("the workspace has several packages that could be released: {}", packages.join(", "))]
    SeveralPackages { packages: Vec<String> },
    #[error("{} has no library", manifest.display())]
    NoLibrary { manifest: PathBuf },
    #[error("the library of {} cannot be loaded: its crate-type lacks \"cdylib\"", manifest.display())]
    NoCdylib { manifest: PathBuf },
    #[error("[package.metadata.relmgr] in {} is not as it should be", manifest.display())]
    Settings {
        manifest: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("`{name}` in {} cannot be an application's name", manifest.display())]
    Name { name: String, manifest: PathBuf },

    #[error("profile `{profile}` aborts on a panic: {place} says panic = \"abort\"")]
    PanicAbort { profile: String, place: String },
    #[error("releases cannot be built for {triple}")]
    Target { triple: String },
    #[error("cargo could not build {package} ({status})")]
    Build { package: String, status: ExitStatus },
    #[error("cargo built no shared library `{library}`")]
    NoArtifact { library: String },
    #[error("{} cannot be released", path.display())]
    Library {
        path: PathBuf,
        #[source]
        source: ElfError,
    },
    #[error("{} cannot be part of the release: {reason}", path.display())]
    Asset { path: PathBuf, reason: &'static str },
    #[error("the schema {} cannot be used", path.display())]
    Schema {
        path: PathBuf,
        #[source]
        source: relmgr_conf::Faults,
    },
    #[error("the schema that the settings type gives cannot be used")]
    DerivedSchema {
        #[source]
        source: relmgr_conf::Faults,
    },
    #[error("{} does not say what its settings are:\n{reason}", library.display())]
    Describe { library: PathBuf, reason: String },
    #[error("{} and the settings type disagree:\n  {}", path.display(), differences.join("\n  "))]
    SchemasDisagree { path: PathBuf, differences: Vec<String> },
    #[error("its state cannot be told from that of {shipped}, which nodes run now: {no_way}")]
    StateShape { shipped: Version, no_way: NoWay },
    #[error("`{name}` is no release: {reason}")]
    NoRelease { name: String, reason: &'static str },
    #[error("{} does not fit {release}", file.display())]
    Configuration {
        file: PathBuf,
        release: String,
        #[source]
        source: relmgr_conf::Faults,
    },
    #[error("the package cannot be made")]
    Pack {
        #[source]
        source: Box<PackageError>,
    },
    #[error("{} holds {version} with other content, and a version is never overwritten", directory.display())]
    VersionTaken { version: Version, directory: PathBuf },
    #[error("SOURCE_DATE_EPOCH is `{text}`, which is no number of seconds")]
    SourceDate { text: String },

    #[error("the key {place} cannot be used: {reason}")]
    Key { place: String, reason: String },
    #[error("no key was given")]
    NoKey,
    #[error("the new key needs a password, and there is no terminal to ask for it")]
    NoPassword,
    #[error("the two passwords differ, or are empty")]
    PasswordsDiffer,
    #[error("--expires is longer than a calendar is")]
    Lifetime,
    #[error("{url} is not as it should be ({faults} found)")]
    NotVerified { faults: usize, url: String },
    #[error("there is no channel {name} in {url}")]
    NoChannel { name: String, url: String },

    #[error("no repository was named")]
    NoRepository,
    #[error(transparent)]
    Repository(Box<RepositoryError>),
    #[error("{version} has no manifest in {url}: it was not published by `cargo relmgr publish`")]
    NoManifest { version: Version, url: String },
    #[error("{version} in {} cannot be used", directory.display())]
    Fetched {
        version: Version,
        directory: PathBuf,
        #[source]
        source: Box<PackageError>,
    },

    #[error(transparent)]
    Rehearsal(Box<Failure>),
    #[error("the rehearsal was interrupted")]
    Interrupted,
    #[error("changes of the sources cannot be watched")]
    Watch {
        #[source]
        source: notify::Error,
    },
    #[error("{} is the home of a node that `cargo relmgr dev` has not made", path.display())]
    ForeignHome { path: PathBuf },
    #[error("{} is too long a path for the node's control socket", path.display())]
    LongHome { path: PathBuf },
    #[error("another `cargo relmgr dev` runs in {}", home.display())]
    DevRuns { home: PathBuf },
    #[error("{} cannot be used", path.display())]
    NodeSettings {
        path: PathBuf,
        #[source]
        source: Box<SettingsError>,
    },
    #[error("{} cannot be run, which runs the node", program.display())]
    NoRelmgr {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the node in {} does not answer", home.display())]
    NodeSilent { home: PathBuf },
    #[error("the node has ended ({status})")]
    NodeEnded { status: ExitStatus, home: PathBuf },
    #[error("{version} does not serve: {reason}")]
    NotServed { version: Version, reason: String, hint: Option<String> },
    #[error("what the running code keeps in memory cannot be handed over: {no_way}")]
    StateLeftBehind { no_way: NoWay },

    #[error("`{name}` cannot be a package's name: {reason}")]
    NewName { name: String, reason: &'static str },
    #[error("{} exists already", path.display())]
    Exists { path: PathBuf },
    #[error("{} is no checkout of relmgr: it has no crates/app", path.display())]
    NoCheckout { path: PathBuf },
}

impl From<RepositoryError> for Error {
    fn from(error: RepositoryError) -> Self {
        Self::Repository(Box::new(error))
    }
}

impl Error {
    /// What to do about it, where the text does not say.
    pub(crate) fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Metadata { .. } => {
                "run it in the directory of a Cargo.toml, or name one with --manifest-path".into()
            }
            Self::RustcAnswer { .. } | Self::Run { .. } => {
                "is the Rust toolchain installed and in PATH?".into()
            }
            Self::SeveralPackages { .. } => "name one with --package".into(),
            Self::NoLibrary { .. } => {
                "an application is a library: start one with `cargo relmgr new NAME` and compare".into()
            }
            Self::NoPackages { .. } | Self::NoCdylib { .. } => {
                "add to the package's Cargo.toml:\n\n    [lib]\n    crate-type = [\"cdylib\", \"rlib\"]\n"
                    .into()
            }
            Self::Settings { .. } => "it may have `name`, `probes`, `upgrade_from` and `assets`".into(),
            Self::Name { .. } => "letters, digits, `-` and `_`, at most 64 of them; set `name` in \
                 [package.metadata.relmgr]"
                .into(),
            Self::PanicAbort { .. } => {
                "remove it: relmgr catches a panic in the library and answers 500, but an \
                 abort would end the host process and every request in it"
                    .into()
            }
            Self::Target { .. } => {
                "hosts load libraries through glibc on Linux: choose a *-linux-gnu target with --target"
                    .into()
            }
            Self::Build { .. } => "cargo's own words above say why".into(),
            Self::Library { source: ElfError::NoEntry | ElfError::ForeignEntry, .. } => {
                "add `relmgr_app::export!(YourApp);` to the library, once, with the type that implements \
                 `relmgr_app::Application`"
                    .into()
            }
            Self::DerivedSchema { .. } => {
                "the lines are those of the schema that would travel; correct the attributes of the field".into()
            }
            Self::Describe { .. } => {
                "the library is loaded and its settings' defaults are made in a process of their own: what they do \
                 at that time must need nothing but themselves"
                    .into()
            }
            Self::SchemasDisagree { .. } => {
                "remove the file: the settings type gives the schema (`cargo relmgr conf schema` shows it)".into()
            }
            Self::StateShape { .. } => {
                "a state that changed its form needs another #[state(version = …)]; keep the form that was shipped as \
                 a type of its own, and say in `code_change` how one becomes the other"
                    .into()
            }
            Self::NoRelease { .. } => {
                "name a crate's directory, an output directory of `cargo relmgr release`, a release's own directory, \
                 a schema.toml, or a version in --repository URL"
                    .into()
            }
            Self::VersionTaken { .. } => "build without --version, or choose another one".into(),
            Self::NoKey => "give --key or --channel-key, or set RELMGR_KEY or RELMGR_CHANNEL_KEY".into(),
            Self::NoPassword => {
                "set RELMGR_KEY_PASSWORD, or leave the protection to where the file is kept with --no-password".into()
            }
            Self::NoChannel { .. } => "`cargo relmgr channel show` lists them".into(),
            Self::NoRepository => "give --repository file:///directory or s3://bucket/prefix, or set RELMGR_REPOSITORY".into(),
            Self::Watch { .. } => "fs.inotify.max_user_instances says how many may be watched (sysctl)".into(),
            Self::ForeignHome { .. } | Self::LongHome { .. } => {
                "choose another directory with --home; it is made where there is none".into()
            }
            Self::DevRuns { .. } => "end that one, or choose another --home and --listen".into(),
            Self::NoRelmgr { .. } => {
                "install it beside this program (`cargo install --path runtime` in relmgr's checkout), or name one with \
                 --relmgr"
                    .into()
            }
            Self::NodeEnded { home, .. } => format!(
                "its own words above say why; to begin anew, without the state tables, remove {}",
                home.display()
            ),
            Self::NotServed { hint, .. } => return hint.clone(),
            Self::StateLeftBehind { .. } => {
                "give a state that changed its form another #[state(version = …)], and say in `code_change` how one \
                 becomes the other; or go on without it: cargo relmgr dev --lose-state"
                    .into()
            }
            Self::NoCheckout { .. } => "--relmgr takes the directory of relmgr's own Cargo.toml".into(),
            Self::Rehearsal(failure) => return failure.hint.clone(),
            Self::Exists { .. } => "choose another name, or another --path".into(),
            _ => return None,
        })
    }
}

/// An error's words, and those of its causes.
pub(crate) fn chain(error: &Error) -> Vec<String> {
    let mut words = vec![error.to_string()];
    let mut source = error.source();
    while let Some(cause) = source {
        words.push(cause.to_string());
        source = cause.source();
    }
    words
}

/// Prints an error: what failed, why, one hint.
pub(crate) fn report(error: &Error) {
    let chain = chain(error);
    ui::fault("error", &chain[0]);
    chain[1..].iter().for_each(ui::cause);
    if let Some(hint) = error.hint() {
        ui::fault("hint", hint);
    }
}
