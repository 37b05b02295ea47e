//! The way from older forms of the state to the one of this release, and back.

use std::any::Any;
use std::sync::Arc;

use relmgr_abi::state::{Older as Described, Schema};

use super::codec::{Sink, Source};
use super::shared::{Share, share};
use super::{State, codec, shape_hash};
use crate::Error;

type Up<L, S> = Arc<dyn Fn(L) -> Result<S, Error> + Send + Sync>;
type Down<S, L> = Option<Arc<dyn Fn(S) -> Result<L, Error> + Send + Sync>>;
type Look<S, L> = Arc<dyn Fn(&S) -> Result<L, Error> + Send + Sync>;

/// The older forms of the state that a release knows.
pub struct CodeChange<S> {
    older: Vec<Older<S>>,
}

/// An older form.
struct Older<S> {
    version: u32,
    shape: u64,
    take: Take<S>,
    give: Option<Give<S>>,
}

type Take<S> = Box<dyn Fn(&mut Source<'_>) -> Result<S, Error> + Send + Sync>;

/// What has been written and is no longer needed. Dropping it takes a while.
pub(super) type Spent = Box<dyn Any + Send>;

type Changed<S> = Box<dyn Fn(S, &mut Sink<'_>) -> Result<Spent, Error> + Send + Sync>;
type LookedAt<S> = Box<dyn Fn(&S, &mut Sink<'_>) -> Result<Spent, Error> + Send + Sync>;

/// How a state is given in an older form.
pub(super) enum Give<S> {
    /// A copy of it is changed.
    Copy(Changed<S>),
    /// The step only looks at it.
    Look(Share<S>, LookedAt<S>),
}

/// The steps down from the newest form, one release's form after the other.
pub struct Steps<S, L = S> {
    older: Vec<Older<S>>,
    up: Up<L, S>,
    down: Down<S, L>,
    /// As `down`, without taking the state.
    look: Option<(Share<S>, Look<S, L>)>,
}

impl<S: State> CodeChange<S> {
    /// No older form is known.
    pub fn none() -> Self {
        Self { older: vec![] }
    }

    /// Begins at the newest form.
    pub fn steps() -> Steps<S> {
        Steps { older: vec![], up: Arc::new(Ok), down: Some(Arc::new(Ok)), look: None }
    }

    /// What is said of it.
    pub(crate) fn describe(&self) -> Schema {
        let older = self.older.iter().map(|older| Described {
            version: older.version,
            shape: codec::hex(older.shape),
            hands_back: older.give.is_some(),
        });
        Schema { version: S::SCHEMA, shape: codec::hex(shape_hash::<S>()), older: older.collect() }
    }

    fn find(&self, schema: u32) -> Result<&Older<S>, String> {
        let older = self.older.iter().find(|older| older.version == schema);
        older.ok_or_else(|| format!("schema {schema} is none that this release knows"))
    }

    /// The shape that is meant by a schema version.
    pub(crate) fn shape(&self, schema: u32) -> Result<u64, String> {
        if schema == S::SCHEMA { Ok(shape_hash::<S>()) } else { Ok(self.find(schema)?.shape) }
    }

    /// Whether the state can be given in the form of `schema`.
    pub(crate) fn gives(&self, schema: u32) -> Result<(), String> {
        match schema == S::SCHEMA || self.find(schema)?.give.is_some() {
            true => Ok(()),
            false => Err(format!("there is no way back from schema {} to {schema}", S::SCHEMA)),
        }
    }

    /// Reads a state of `schema` and brings it to the newest form.
    pub(crate) fn take(&self, schema: u32, from: &mut Source<'_>) -> Result<S, Error> {
        match schema == S::SCHEMA {
            true => codec::decode(from),
            false => (self.find(schema)?.take)(from),
        }
    }

    /// How the state is given in the form of `schema`, an older one.
    pub(super) fn giving(&self, schema: u32) -> Result<&Give<S>, String> {
        let give = self.find(schema)?.give.as_ref();
        give.ok_or_else(|| format!("there is no way back to schema {schema}"))
    }
}

impl<S> Give<S> {
    /// Writes a state that nobody else needs.
    pub(super) fn give(&self, state: S, into: &mut Sink<'_>) -> Result<Spent, Error>
    where
        S: State,
    {
        match self {
            Self::Copy(give) => give(state, into),
            Self::Look(_, give) => Ok(Box::new((give(&state, into)?, state))),
        }
    }
}

impl<S: State, L: 'static> Steps<S, L> {
    /// The form before: `up` makes the form so far of it, `down` the other way round.
    #[must_use]
    pub fn from<O: State>(
        self,
        up: impl Fn(O) -> Result<L, Error> + Send + Sync + 'static,
        down: impl Fn(L) -> Result<O, Error> + Send + Sync + 'static,
    ) -> Steps<S, O> {
        let Self { older, up: higher, down: lower, look } = self;
        let down = Arc::new(down);
        let look = look.map(|(share, higher)| {
            let down = down.clone();
            (share, Arc::new(move |state: &S| higher(state).and_then(&*down)) as Look<S, O>)
        });
        let down: Down<S, O> = lower.map(|lower| {
            let both = move |state| lower(state).and_then(&*down);
            Arc::new(both) as Arc<dyn Fn(S) -> Result<O, Error> + Send + Sync>
        });
        let up = Arc::new(move |state| up(state).and_then(|state| higher(state)));
        Steps { older, up, down, look }.noted()
    }

    /// The form before, without a way back to it and to what is older.
    #[must_use]
    pub fn from_only<O: State>(
        self,
        up: impl Fn(O) -> Result<L, Error> + Send + Sync + 'static,
    ) -> Steps<S, O> {
        let Self { older, up: higher, .. } = self;
        let up: Up<O, S> = Arc::new(move |state| up(state).and_then(|state| higher(state)));
        Steps { older, up, down: None, look: None }.noted()
    }

    /// That is all.
    pub fn done(self) -> CodeChange<S> {
        CodeChange { older: self.older }
    }
}

impl<S: State + Sync> Steps<S> {
    /// As [`Steps::from`], for the first step: `down` only looks at the state, and makes the older form beside it. So
    /// no copy of the state has to be made first, which takes longer than all the rest where it is large.
    #[must_use]
    pub fn from_ref<O: State>(
        self,
        up: impl Fn(O) -> Result<S, Error> + Send + Sync + 'static,
        down: impl Fn(&S) -> Result<O, Error> + Send + Sync + 'static,
    ) -> Steps<S, O> {
        let down = Arc::new(down);
        let look: Look<S, O> = down.clone();
        let down: Down<S, O> = Some(Arc::new(move |state: S| down(&state)));
        Steps { older: self.older, up: Arc::new(up), down, look: Some((share, look)) }.noted()
    }
}

impl<S: State, O: State> Steps<S, O> {
    /// Adds the form that was just reached.
    fn noted(mut self) -> Self {
        let up = self.up.clone();
        let give = match (self.look.clone(), self.down.clone()) {
            (Some((share, look)), _) => {
                Some(Give::Look(share, Box::new(move |state, into| written(look(state)?, into))))
            }
            (None, Some(down)) => Some(Give::Copy(Box::new(move |state, into| written(down(state)?, into)))),
            (None, None) => None,
        };
        self.older.push(Older {
            version: O::SCHEMA,
            shape: shape_hash::<O>(),
            take: Box::new(move |from| up(codec::decode(from)?)),
            give,
        });
        self
    }
}

fn written<O: State>(state: O, into: &mut Sink<'_>) -> Result<Spent, Error> {
    codec::encode(&state, into)?;
    Ok(Box::new(state))
}
