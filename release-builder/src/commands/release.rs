//! `cargo relmgr release`

use std::path::{Path, PathBuf};

use relmgr_model::Version;
use relmgr_store::package::Packing;
use relmgr_store::repository::BuiltRelease;
use serde_json::json;

use super::{RepositoryArgs, block_on, previous};
use crate::build::compile::{CargoOptions, Purpose};
use crate::build::elf::{self, ElfError, Facts};
use crate::build::output::{self, Parts};
use crate::build::prepared::Prepared;
use crate::build::project::{Project, Selection};
use crate::build::{allocator, assets, git, schema, state};
use crate::error::Error;
use crate::key::KeyArgs;
use crate::ui;

/// Build a release of the package in this directory into `target/relmgr/`
///
/// Prints the release's version; what is going on goes to stderr. The output directory then holds VERSION,
/// <version>.tar.gz (the package) and <version>.toml (its manifest), which `cargo relmgr publish` puts into a
/// repository. The same source gives the same library, byte for byte, wherever it is checked out.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A release holds the library, the schema of its settings (which the library gives,
or conf/schema.toml beside Cargo.toml), and everything in its priv/ directory. Where it keeps state in memory and a
repository is named, a state whose shape changed under the schema version of the release that nodes run is refused.
More in Cargo.toml, all of it optional:

  [package.metadata.relmgr]
  name = \"hello\"                    # by default the package's name
  probes = [{ path = \"/health\" }]   # must answer 200 before it gets traffic
  upgrade_from = \">=2026.1100.0\"    # which versions may be upgraded to it
  assets = [\"migrations\"]           # travels as priv/migrations

Examples:
  cargo relmgr release
  cargo relmgr release --package api --features postgres --locked
  V=$(cargo relmgr release) && cargo relmgr publish && ssh www1 relmgr upgrade $V")]
pub(super) struct Args {
    /// The Cargo.toml of the package or workspace
    #[arg(long, value_name = "PATH")]
    manifest_path: Option<PathBuf>,
    /// The package to build, where the workspace has several
    #[arg(long, short, value_name = "NAME")]
    package: Option<String>,
    /// Where the release is written
    #[arg(long, value_name = "DIR", default_value = "target/relmgr")]
    out: PathBuf,
    /// The release's version, a SemVer (default: the UTC time, such as 2026.1120.192733)
    #[arg(long, value_name = "V")]
    version: Option<Version>,
    /// The secret key that signs the release (or RELMGR_KEY, RELMGR_KEY_PASSWORD); `publish --key` does it as well
    #[arg(long, value_name = "FILE", env = "RELMGR_KEY_FILE")]
    key: Option<PathBuf>,
    /// Do not load the library to ask for its schema: conf/schema.toml is all there is, and no state is handed over
    #[arg(long)]
    no_describe: bool,
    /// The channel whose release its state is compared with, where it keeps any (default: the default one)
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    channel: String,
    /// Remove what was built before from the output directory
    #[arg(long)]
    clean: bool,
    /// Print JSON instead of the version
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    repository: RepositoryArgs,
    #[command(flatten)]
    cargo: CargoOptions,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), Error> {
    // A password is asked for before the long part.
    let keys = KeyArgs { key: args.key.clone(), channel_key: None }.read()?;
    // 1. The package.
    let selection = Selection { manifest_path: args.manifest_path.clone(), package: args.package.clone() };
    let prepared = Prepared::new(&selection, &args.cargo)?;
    let Prepared { project, rustc, triple, .. } = &prepared;

    // 2. What would be packed is looked at before the long part.
    let files = assets::collect(&project.directory, &project.settings.assets)?;
    let compiler = prepared.compiler(&args.cargo, Purpose::Release);
    let library_path = compiler.compile()?;

    // 3. The library, in a copy of our own: cargo's stays as cargo made it.
    let mut library_bytes = read(&library_path)?;
    let mut facts =
        elf::read(&library_bytes, triple).map_err(|source| library_error(&library_path, source))?;
    let cleared = facts.clear_nodelete(&mut library_bytes);
    if cleared {
        ui::status("Cleared", "the library's NODELETE flag, with which it could never be unloaded");
    }
    let mut warnings = warnings(project, &facts);

    // 4. Its settings.
    let schema = match args.no_describe {
        true => schema::written(project)?,
        false => schema::find(project, &library_path, facts.abi, triple)?,
    };
    warnings.extend(schema.warning.clone());
    if let Some(state) = &schema.state {
        if args.repository.url.as_ref().is_some_and(|url| !url.is_empty()) {
            let repository = args.repository.open()?;
            if let Some(shipped) = block_on(previous::shipped(&repository, &args.channel))? {
                warnings.extend(state::compare(&shipped, Some(state))?);
            }
        } else if !args.json {
            ui::status(
                "Unchecked",
                "the shape of its state was not compared with what nodes run: name the repository (--repository)",
            );
        }
    }
    warnings.iter().for_each(ui::warning);

    // 5. The release.
    let target_directory = compiler.target_directory()?;
    let out =
        std::path::absolute(&args.out).map_err(|source| Error::Read { path: args.out.clone(), source })?;
    let file_name = library_path.file_name().unwrap_or_default().to_string_lossy();
    let parts = Parts {
        project,
        rustc,
        triple,
        git: git::read(&project.directory, &[&target_directory, &out]),
        facts: &facts,
        library: format!("lib/{file_name}"),
        library_bytes: &library_bytes,
        schema: schema.derived.as_deref(),
        state: schema.state.as_ref(),
        files: &files,
        packing: Packing::Shipped,
    };
    let mut built = output::write(&out, &parts, args.version.clone())?;
    if let Some(signer) = keys.release() {
        output::sign(&mut built, signer)?;
    }
    if args.clean {
        for version in output::clean(&out, &built.manifest.version)? {
            ui::status("Removed", format!("{version} from {}", args.out.display()));
        }
    }
    show(args, &built, cleared, &warnings)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::Read { path: path.into(), source })
}

fn library_error(path: &Path, source: ElfError) -> Error {
    Error::Library { path: path.into(), source }
}

/// What would keep the release in memory after it is retired, or surprise the operator.
fn warnings(project: &Project, facts: &Facts) -> Vec<String> {
    let mut warnings = Vec::new();
    if !facts.unique_symbols.is_empty() {
        warnings.push(format!(
            "the library defines symbols that exist once per process ({}); glibc will never unload it, and each \
             upgrade keeps its memory. They come from C++: compile it with -fno-gnu-unique",
            shortened(&facts.unique_symbols)
        ));
    }
    let allocators = allocator::find(&project.metadata, &project.package, &facts.needs.libraries);
    if !allocators.is_empty() {
        warnings.push(format!(
            "the library is linked with {}. As a #[global_allocator] it keeps threads or thread-local arenas that \
             outlive the release, so it could not be unmapped: leave the allocator to the system",
            allocators.join(", ")
        ));
    }
    if facts.text_relocations {
        warnings.push(
            "the library has text relocations: its code is written to when it is loaded, which hardened systems \
             refuse. Compile all of it with -fPIC"
                .into(),
        );
    }
    warnings
}

/// The first few of a list that may have thousands.
fn shortened(names: &[String]) -> String {
    const SHOWN: usize = 3;
    match names.len().checked_sub(SHOWN) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..SHOWN].join(", ")),
    }
}

fn show(args: &Args, built: &BuiltRelease, cleared: bool, warnings: &[String]) -> Result<(), Error> {
    let manifest = &built.manifest;
    let size = |digest: Option<&relmgr_model::manifest::Digest>| digest.map_or(0, |digest| digest.size);
    let library_size = size(manifest.files.get(&manifest.library));
    let glibc = manifest.needs.glibc.map_or("no glibc".into(), |version| format!("glibc {version}"));
    let commit = manifest.git.as_ref().map_or(String::new(), |git| {
        format!(
            ", commit {}{}",
            &git.commit[..git.commit.len().min(12)],
            if git.dirty { ", dirty" } else { "" }
        )
    });
    let (library, abi) = (&manifest.library, manifest.abi);
    ui::status("Library", format!("{library} ({}), {glibc}, contract {abi}{commit}", ui::size(library_size)));
    let packed = ui::size(size(manifest.package.as_ref()));
    ui::status(
        "Packaged",
        format!("{} {} ({packed}) into {}", manifest.name, manifest.version, args.out.display()),
    );
    if !args.json {
        return ui::print(&manifest.version);
    }
    ui::print_json(&json!({
        "name": manifest.name,
        "version": manifest.version,
        "package": built.package,
        "manifest": built.manifest_path,
        "signature": built.signature,
        "size": manifest.package.as_ref().map(|digest| digest.size),
        "sha256": manifest.package.as_ref().map(|digest| &digest.sha256),
        "target": manifest.target,
        "built_at": manifest.built_at,
        "rustc": manifest.rustc,
        "abi": manifest.abi,
        "git": manifest.git,
        "needs": manifest.needs,
        "library": manifest.library,
        "files": manifest.files,
        "nodelete_cleared": cleared,
        "warnings": warnings,
    }))
}
