//! Three releases of one application: the same record in three schema versions.

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::tables::{Form, Older, Record};

/// Of the first release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct First {
    pub number: u64,
}

/// Of the second: a field more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Second {
    pub number: u64,
    pub label: String,
}

/// Of the third: another type, and one that the older ones cannot always have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Third {
    pub label: String,
    pub number: i128,
}

/// What the third release writes without a form for the others.
pub const ONLY_THIRD: i128 = -1;

/// What makes every migration panic.
pub const POISON: u64 = 6_660;

fn first_to_second(first: First) -> Second {
    assert!(first.number != POISON, "poison");
    Second { label: format!("up from {}", first.number), number: first.number }
}

impl Record for First {
    const NAME: &'static str = "item";
}

impl Record for Second {
    const NAME: &'static str = "item";
    const SCHEMA: u32 = 2;

    fn up(older: Older<'_>) -> Result<Self, Error> {
        match older.schema() {
            1 => Ok(first_to_second(older.decode()?)),
            _ => Err(older.unknown()),
        }
    }

    fn down(&self, schema: u32) -> Result<Form, Error> {
        match schema {
            1 => Form::of(&First { number: self.number }),
            other => Err(format!("no schema {other}").into()),
        }
    }
}

impl Record for Third {
    const NAME: &'static str = "item";
    const SCHEMA: u32 = 3;

    fn up(older: Older<'_>) -> Result<Self, Error> {
        let second = match older.schema() {
            1 => first_to_second(older.decode()?),
            2 => older.decode()?,
            _ => return Err(older.unknown()),
        };
        Ok(Self { label: second.label, number: second.number.into() })
    }

    fn down(&self, schema: u32) -> Result<Form, Error> {
        let number = u64::try_from(self.number)?;
        match schema {
            1 => Form::of(&First { number }),
            2 => Form::of(&Second { number, label: self.label.clone() }),
            other => Err(format!("no schema {other}").into()),
        }
    }
}

/// What all three have in common.
pub trait Item: Record + PartialEq + std::fmt::Debug {
    fn of(number: u64) -> Self;
    fn number(&self) -> i128;
}

impl Item for First {
    fn of(number: u64) -> Self {
        Self { number }
    }

    fn number(&self) -> i128 {
        self.number.into()
    }
}

impl Item for Second {
    fn of(number: u64) -> Self {
        Self { number, label: format!("second {number}") }
    }

    fn number(&self) -> i128 {
        self.number.into()
    }
}

impl Item for Third {
    fn of(number: u64) -> Self {
        Self { number: number.into(), label: format!("third {number}") }
    }

    fn number(&self) -> i128 {
        self.number
    }
}
