//! Background work that is supervised, and that runs only while its generation is current.
//!
//! ```text
//! spec        what the author says: children, restart types, strategies
//! decide      what an end leads to, as pure code
//! supervise   tasks, deadlines, order: carries out
//! status      what is told of it
//! ```

mod context;
mod decide;
mod spec;
mod status;
mod supervise;

use std::sync::Arc;
use std::time::Duration;

use relmgr_abi::children::{Node, State};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use context::ChildContext;
pub use relmgr_abi::children::{Restart, Strategy};
pub use spec::{Child, Shutdown, Supervisor};

use crate::log;
use context::Order;
use status::Status;

/// The children while they run.
pub(crate) struct Running {
    order: watch::Sender<Order>,
    status: Arc<Status>,
    top: Option<JoinHandle<()>>,
}

impl Running {
    /// Starts the supervisor at the top.
    pub(crate) fn start(supervisor: Supervisor, handle: &Handle) -> Self {
        let (order, told) = watch::channel(Order::Run);
        let status = Status::top(&supervisor);
        // Nobody waits for the one at the top, though it may wait for its children.
        status.started(true);
        let seen = status.clone();
        let top = handle.spawn(async move {
            let context = ChildContext { order: told, ready: None };
            match supervise::supervise(supervisor, seen.clone(), context).await {
                Ok(()) => seen.ended("ended", State::Stopped),
                Err(fault) => {
                    log::send(1, "relmgr_app", &format!("background children: {}", fault.what));
                    seen.ended(&fault.to_string(), State::Failed);
                }
            }
        });
        Self { order, status, top: Some(top) }
    }

    /// There are no children, for this `reason`.
    pub(crate) fn failed(reason: &str) -> Self {
        let status = Status::top(&Supervisor::new(Strategy::OneForOne));
        status.ended(reason, State::Failed);
        Self { order: watch::channel(Order::Run).0, status, top: None }
    }

    /// Why there are no children any more.
    pub(crate) fn failure(&self) -> Option<String> {
        self.status.failure()
    }

    /// The children as they are.
    pub(crate) fn tree(&self) -> Node {
        self.status.node()
    }

    /// Tells the children to end, the last one first, and waits until they have. What is left after `patience` is
    /// dropped where it stands.
    pub(crate) async fn stop(self, patience: Option<Duration>) {
        let by = patience.and_then(|patience| Instant::now().checked_add(patience));
        self.order.send_replace(Order::Stop { by });
        if let Some(top) = self.top {
            // A panic of it would be a fault of this module.
            let _ = top.await;
        }
    }
}

#[cfg(test)]
mod tests;
