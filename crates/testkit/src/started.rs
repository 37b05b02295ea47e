//! A supervisor that was started: as a child, or traced.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::trace::{Traced, Watch};

/// A process that a node's keeper started.
pub(crate) enum Started {
    Child(Child),
    Traced(Traced),
}

/// Its words go to `log`. A group of its own: what ends a test's or a demo's group leaves the node to its keeper.
fn redirect(command: &mut Command, log: File) {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
}

impl Started {
    pub(crate) fn spawn(mut command: Command, log: File, watch: Option<&Watch>) -> Self {
        match watch {
            None => {
                redirect(&mut command, log);
                Self::Child(command.spawn().unwrap())
            }
            Some(watch) => {
                let redirect = move |command: &mut Command| redirect(command, log);
                Self::Traced(Traced::spawn(&command, redirect, watch.clone()).unwrap())
            }
        }
    }

    pub(crate) fn id(&self) -> i32 {
        match self {
            Self::Child(child) => child.id().try_into().unwrap(),
            Self::Traced(traced) => traced.pid().as_raw(),
        }
    }

    pub(crate) fn try_wait(&mut self) -> Option<ExitStatus> {
        match self {
            Self::Child(child) => child.try_wait().unwrap(),
            Self::Traced(traced) => traced.try_wait(),
        }
    }

    pub(crate) fn kill(&mut self) {
        match self {
            // That it has ended already is as good.
            Self::Child(child) => drop(child.kill()),
            Self::Traced(traced) => traced.kill(),
        }
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        match self {
            Self::Child(child) => child.wait().unwrap(),
            Self::Traced(traced) => traced.wait(),
        }
    }
}
