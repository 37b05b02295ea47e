//! A package that is ready to be compiled.

use crate::build::cargo_config::CargoConfig;
use crate::build::compile::{CargoOptions, Compiler, Purpose};
use crate::build::project::{self, Project, Selection};
use crate::build::toolchain::{Rustc, Toolchain};
use crate::error::Error;

/// A package with all that decides on how it is compiled.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) project: Project,
    toolchain: Toolchain,
    config: CargoConfig,
    pub(crate) rustc: Rustc,
    pub(crate) triple: String,
}

impl Prepared {
    /// Finds the package. Its own directory decides on the toolchain, wherever the developer stands.
    ///
    /// # Errors
    /// As of [`Project::find`], and a toolchain that does not answer.
    pub(crate) fn new(selection: &Selection, options: &CargoOptions) -> Result<Self, Error> {
        let start = Toolchain::new(project::directory_of(selection.manifest_path.as_deref())?);
        let triple = options.triple(&CargoConfig::read(start.directory())?, &start.rustc()?)?;
        let project = Project::find(selection, options, &triple)?;
        let toolchain = Toolchain::new(&project.directory);
        let (config, rustc) = (CargoConfig::read(toolchain.directory())?, toolchain.rustc()?);
        Ok(Self { project, toolchain, config, rustc, triple })
    }

    /// What compiles it for `purpose`.
    pub(crate) fn compiler<'a>(&'a self, options: &'a CargoOptions, purpose: Purpose) -> Compiler<'a> {
        let Self { project, toolchain, config, rustc, triple } = self;
        Compiler { purpose, project, options, toolchain, config, rustc, triple, group: None }
    }
}
