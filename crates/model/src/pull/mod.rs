//! A node that follows its channel by itself: when it asks, and what it does with the answer.
//!
//! | module | what |
//! | --- | --- |
//! | [`schedule`] | how long to wait for the next check: interval, jitter, backoff |
//! | [`window`] | the times of a week at which releases may change |
//! | [`wave`] | a node's place in a rollout, and a channel's waves |
//! | [`decide`] | whether a node goes to what its channel names |
//! | [`report`] | what `status` and `relmgr pull` tell of it |

pub mod decide;
pub mod report;
pub mod schedule;
pub mod wave;
pub mod window;

pub use decide::{Decision, Facts, Held, Said, decide};
pub use report::{Checked, Left, Outcome, Paused, PullLine, PullRecord, PullStatus};
pub use schedule::{Ended, Schedule, Start};
pub use wave::{Rollout, Wave, place};
pub use window::Window;
