//! Another host for one that holds more libraries than it may: what pins a library lives in its process, and ends with
//! it.
//!
//! The walk is that of `relmgr restart`. It waits while another operation is under way, and one that failed is tried
//! again no sooner than after [`AGAIN`]: what keeps a release from starting a second time is nothing that another try
//! in the next second would mend.

use std::sync::Arc;
use std::time::{Duration, Instant};

use relmgr_model::control::{Kind, OperationRequest};

use super::handler::{self, Asker};
use super::host_process::HostProcess;
use super::node::Node;

/// After a try that failed. Long enough for a line in the history each time to be no flood.
const AGAIN: Duration = Duration::from_secs(600);

/// What was done about one host.
#[derive(Debug, Default)]
pub struct Unretired {
    tried: Option<Instant>,
}

impl Unretired {
    /// Has another host take over from `host`, which holds `pinned` libraries that cannot be unmapped, when that is
    /// too many.
    pub fn consider(&mut self, node: &Arc<Node>, host: &Arc<HostProcess>, pinned: u32) {
        let most = node.settings.loader.max_unretired;
        if pinned <= most || !self.may_try(Instant::now()) {
            return;
        }
        // A host that is making way already needs no successor.
        if !node.host().is_some_and(|serving| Arc::ptr_eq(&serving, host)) {
            return;
        }
        let releases = if pinned == 1 { "release" } else { "releases" };
        let why = format!("{pinned} {releases} could not be unmapped (loader.max_unretired = {most})");
        let request = OperationRequest::new(Kind::Restart);
        // Refused: another operation is under way, or the node stops. The next heartbeat asks again.
        if handler::begin_for(node, request, Asker::Node(why.clone())).is_ok() {
            tracing::warn!(pid = host.pid, "another host takes over: {why}");
            self.tried = Some(Instant::now());
        }
    }

    fn may_try(&self, now: Instant) -> bool {
        self.tried.is_none_or(|tried| now.duration_since(tried) >= AGAIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_try_that_failed_is_not_followed_by_another_at_once() {
        let now = Instant::now();
        let mut unretired = Unretired::default();
        assert!(unretired.may_try(now));
        unretired.tried = Some(now);
        assert!(!unretired.may_try(now + AGAIN / 2));
        assert!(unretired.may_try(now + AGAIN));
    }
}
