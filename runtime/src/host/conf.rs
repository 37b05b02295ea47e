//! Settings that change while a release serves.

use std::time::Duration;

use relmgr_model::host::{Answer, ConfChange, HostError};

use super::{Host, app};

impl Host {
    /// Tells the release that serves of changed settings, within their deadline. The supervisor sends the next
    /// change when this one is answered.
    ///
    /// # Errors
    /// The application's own words, its panic, or that it took too long; its account of the configuration is then
    /// what it was.
    pub(super) async fn conf_change(&self, change: ConfChange) -> Result<Answer, HostError> {
        let ConfChange { version, settings, conf_hash, changed, new, removed, deadline_ms } = change;
        let refuse = |message: String| HostError { message };
        let current = self.front.current.load_full().filter(|current| current.facts.version == version);
        let current = current.ok_or_else(|| refuse(format!("{version} does not serve any more")))?;
        let change = relmgr_abi::conf::ConfChange { settings, changed, new, removed };
        let change = serde_json::to_vec(&change).map_err(|error| refuse(error.to_string()))?;
        let Some(told) = current.conf_change(&change) else {
            return Ok(Answer::ConfChanged { heard: false });
        };
        let deadline = Duration::from_millis(deadline_ms);
        match tokio::time::timeout(deadline, app::told(told)).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => return Ok(Answer::ConfChanged { heard: false }),
            Ok(Err(fault)) => return Err(refuse(format!("its conf_change failed: {fault}"))),
            Err(_) => {
                let limit = humantime::format_duration(deadline);
                return Err(refuse(format!("its conf_change took longer than {limit} (conf.change)")));
            }
        }
        current.facts.set_conf_hash(conf_hash);
        Ok(Answer::ConfChanged { heard: true })
    }
}
