//! The application's background children, from the contract's words into those of `status`.

use chrono::{DateTime, Utc};
use relmgr_abi::children as abi;
use relmgr_model::children::{ChildState, ChildStatus, Kind, Restart, Strategy, SupervisorStatus};
use relmgr_model::control::GenerationStatus;

use super::{Host, lock};

impl Host {
    /// What is loaded, with the children of those that have some.
    pub(super) fn generations(&self) -> Vec<GenerationStatus> {
        let mut all: Vec<_> = lock(&self.known).loaded.values().map(|facts| facts.status()).collect();
        let live: Vec<_> = lock(&self.live).values().cloned().collect();
        for generation in live {
            let status = all.iter_mut().find(|status| status.id == generation.facts.id);
            // An application without background work has a supervisor too, of which there is nothing to say.
            let tree = generation
                .children()
                .filter(|tree| !tree.children.is_empty() || tree.state == abi::State::Failed);
            if let (Some(status), Some(tree)) = (status, tree) {
                status.supervisor = Some(supervisor(&tree));
                status.children = tree.children.into_iter().map(child).collect();
            }
        }
        all
    }
}

fn supervisor(top: &abi::Node) -> SupervisorStatus {
    SupervisorStatus {
        strategy: top.strategy.map_or(Strategy::OneForOne, strategy),
        state: state(top.state),
        last_exit: top.last_exit.clone(),
        since: since(top.since_ms),
    }
}

fn child(node: abi::Node) -> ChildStatus {
    let abi::Node { name, restart, strategy: of, state: is, restarts, last_exit, since_ms, children } = node;
    ChildStatus {
        name,
        kind: if of.is_some() { Kind::Supervisor } else { Kind::Worker },
        restart: match restart {
            abi::Restart::Permanent => Restart::Permanent,
            abi::Restart::Transient => Restart::Transient,
            abi::Restart::Temporary => Restart::Temporary,
        },
        strategy: of.map(strategy),
        state: state(is),
        restarts,
        last_exit,
        since: since(since_ms),
        children: children.into_iter().map(child).collect(),
    }
}

fn strategy(strategy: abi::Strategy) -> Strategy {
    match strategy {
        abi::Strategy::OneForOne => Strategy::OneForOne,
        abi::Strategy::OneForAll => Strategy::OneForAll,
        abi::Strategy::RestForOne => Strategy::RestForOne,
    }
}

fn state(state: abi::State) -> ChildState {
    match state {
        abi::State::Starting => ChildState::Starting,
        abi::State::Running => ChildState::Running,
        abi::State::Restarting => ChildState::Restarting,
        abi::State::Stopped => ChildState::Stopped,
        abi::State::Failed => ChildState::Failed,
    }
}

/// A time that lies beyond the calendar is the library's mistake, and said as the epoch.
fn since(ms: u64) -> DateTime<Utc> {
    i64::try_from(ms).ok().and_then(DateTime::from_timestamp_millis).unwrap_or_default()
}
