//! The heartbeat of the host that serves, and what its current generation has answered lately.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use relmgr_model::host::{Answer, Command};
use relmgr_model::probation::Sample;

use super::host_process::HostProcess;
use super::node::Node;
use super::unretired::Unretired;

/// How often the host is asked. It costs two processes a wake-up each.
const EVERY: Duration = Duration::from_secs(1);

/// After a heartbeat that did not come in time: what the supervisor itself was kept from reading, by a disk that
/// stands still, is read now.
const GRACE: Duration = Duration::from_secs(1);

/// So many samples are kept, however long they reach back.
const SAMPLES: u32 = 60;

/// What a generation has answered lately, for the comparison with the next one.
#[derive(Debug, Default)]
pub struct Lately {
    generation: u64,
    samples: VecDeque<(Instant, Sample)>,
}

impl Lately {
    /// Adds a sample; `reach` is how far back they are wanted.
    pub fn note(&mut self, now: Instant, generation: u64, sample: Sample, reach: Duration) {
        if self.generation != generation {
            *self = Self { generation, ..Self::default() };
        }
        let due = |(at, _): &(Instant, Sample)| now.duration_since(*at) >= reach / SAMPLES;
        if self.samples.back().is_none_or(due) {
            self.samples.push_back((now, sample));
        }
        // One that is older stays: from it on, the samples reach back far enough.
        while self.samples.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= reach) {
            self.samples.pop_front();
        }
    }

    /// What `generation`, whose sample of now is `sample`, has answered lately.
    pub fn until(&self, generation: u64, sample: &Sample) -> Sample {
        match self.samples.front().filter(|_| self.generation == generation) {
            Some((_, first)) => sample.since(first),
            // It has not been asked before: all that it answered is recent.
            None => sample.clone(),
        }
    }
}

/// Asks `host` for its heartbeat for as long as it lives, and kills it when none comes: then all of its workers are
/// stuck, and nobody is answered.
pub fn watch(node: &Arc<Node>, host: Arc<HostProcess>) {
    let node = node.clone();
    let patience = node.settings.supervisor.heartbeat;
    tokio::spawn(async move {
        let mut unretired = Unretired::default();
        loop {
            tokio::time::sleep(EVERY).await;
            if host.ended().is_some() || host.is_stopping() {
                return;
            }
            host.thawed().await;
            let mut asked = std::pin::pin!(host.call(Command::Pulse));
            let answer = if patience.is_zero() {
                asked.await
            } else {
                match tokio::time::timeout(patience, &mut asked).await {
                    Ok(answer) => answer,
                    Err(_) => match tokio::time::timeout(GRACE, asked).await {
                        Ok(answer) => answer,
                        Err(_) if host.is_stopping() => return,
                        Err(_) => {
                            let patience = humantime::format_duration(patience);
                            return host.kill_for(format!(
                                "all of its workers were stuck for {patience} (supervisor.heartbeat)"
                            ));
                        }
                    },
                }
            };
            if let Ok(Answer::Pulse { generation: Some(generation), sample, pinned, .. }) = answer {
                unretired.consider(&node, &host, pinned);
                let reach = node.settings.upgrade.probation;
                node.with(|state| {
                    if state.host.as_ref().is_some_and(|serving| Arc::ptr_eq(serving, &host)) {
                        state.lately.note(Instant::now(), generation, sample, reach);
                    }
                });
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(requests: u64) -> Sample {
        Sample { requests, ..Sample::default() }
    }

    #[test]
    fn what_is_older_than_the_reach_does_not_count() {
        let (begun, reach) = (Instant::now(), Duration::from_secs(60));
        let mut lately = Lately::default();
        for second in 0..=600 {
            lately.note(begun + Duration::from_secs(second), 1, sample(second * 10), reach);
        }
        assert_eq!(lately.until(1, &sample(6005)).requests, 605);
        assert!(lately.samples.len() <= SAMPLES as usize + 2, "{}", lately.samples.len());
        assert_eq!(lately.until(2, &sample(7)).requests, 7, "another generation");
    }
}
