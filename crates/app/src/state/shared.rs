//! A state that is looked at while it is kept.

use std::sync::Arc;

/// A share of a state. Whoever has the last one has the state.
pub(super) trait Shared<S>: Send {
    fn state(&self) -> &S;

    fn another(&self) -> Box<dyn Shared<S>>;

    /// The state, unless there are other shares.
    fn into_state(self: Box<Self>) -> Result<S, Box<dyn Shared<S>>>;
}

/// Makes the first share of a state.
pub(super) type Share<S> = fn(S) -> Box<dyn Shared<S>>;

/// A function is named where the type is known to be `Sync`, since the trait of all states does not ask for that.
pub(super) fn share<S: Send + Sync + 'static>(state: S) -> Box<dyn Shared<S>> {
    Box::new(Arc::new(state))
}

impl<S: Send + Sync + 'static> Shared<S> for Arc<S> {
    fn state(&self) -> &S {
        self
    }

    fn another(&self) -> Box<dyn Shared<S>> {
        Box::new(self.clone())
    }

    fn into_state(self: Box<Self>) -> Result<S, Box<dyn Shared<S>>> {
        Self::try_unwrap(*self).map_err(|shared| Box::new(shared) as Box<dyn Shared<S>>)
    }
}
