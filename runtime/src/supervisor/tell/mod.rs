//! Those who are told what happened: the operator's commands and webhooks. They hold up nothing and undo nothing.

mod command;
mod deliver;
mod webhook;

use std::sync::Arc;

use chrono::Utc;
use relmgr_model::Version;
use relmgr_model::conf::ConfReport;
use relmgr_model::control::Kind;
use relmgr_model::notify::{Event, FORMAT, Notification};
use relmgr_model::record::HistoryEntry;

pub use command::{Running, go_on};
pub use webhook::{Delivered, Webhooks};

use super::handler::By;
use super::node::Node;

/// An upgrade, a downgrade or a restart goes off.
pub fn started(node: &Arc<Node>, kind: Kind, by: By, from: Option<&Version>, to: &Version) {
    tell(
        node,
        Notification {
            format: FORMAT,
            event: Event::Started,
            at: Utc::now(),
            app: String::new(),
            node: String::new(),
            home: String::new(),
            kind,
            uid: by.uid,
            by: by.agent,
            from: from.cloned(),
            to: Some(to.clone()),
            error: None,
            verdict: None,
            ms: None,
            conf: ConfReport::default(),
        },
    );
}

/// An operation is over, with what it had to do with the configuration.
pub fn ended(node: &Node, entry: &HistoryEntry, conf: &ConfReport) {
    use Kind::{Commit, Downgrade, Restart, Rollback, SelfUpgrade, Upgrade};
    if matches!(entry.kind, Upgrade | Downgrade | Restart | SelfUpgrade | Commit | Rollback) {
        command::outcome(node, entry);
    }
    if let Some(event) = Event::of(entry, conf) {
        // Advice on keys is for who asked.
        let conf = ConfReport { notices: vec![], ..conf.clone() };
        tell(node, Notification::ended(event, entry, &conf));
    }
}

fn tell(node: &Node, mut notification: Notification) {
    notification.app.clone_from(&node.settings.app);
    notification.node = machine();
    notification.home = std::path::absolute(node.home.path())
        .map_or_else(|_| node.home.path().display().to_string(), |home| home.display().to_string());
    command::event(node, &notification);
    node.webhooks.tell(&notification);
}

/// The machine's name.
fn machine() -> String {
    // Of the kernel's memory: no disk is waited for.
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}
