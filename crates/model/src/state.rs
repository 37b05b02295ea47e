//! Whether the in-memory state of one release can be handed over to another, and in which form: decided from their
//! manifests, before anything stops.

use crate::manifest::StateSchema;

/// There is no way for the state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it, the fields are the schema versions that they name")]
pub enum NoWay {
    #[error("it keeps no state, the release that serves does (schema {from})")]
    NoState { from: u32 },
    #[error(
        "its state has schema {version} as well, but another shape ({to}, the one that serves has {from}): one of \
         them was built without a new schema version"
    )]
    OtherShape { version: u32, from: String, to: String },
    #[error("its state has schema {to}, and it takes over from {}, not from schema {from}", list(takes))]
    NotTaken { from: u32, to: u32, takes: Vec<u32> },
    #[error(
        "its state has schema {to}, and the one that serves hands back to {}, not to schema {to}",
        list(gives)
    )]
    NotGiven { to: u32, gives: Vec<u32> },
    #[error(
        "what schema {version} is differs between the two ({older} and {newer}): its type was changed afterwards"
    )]
    Misunderstood { version: u32, older: String, newer: String },
}

fn list(schemas: &[u32]) -> String {
    match schemas {
        [] => "no other".into(),
        some => some.iter().map(u32::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// The schema version in which the state crosses from the release of `from` to that of `to`: the older of the two,
/// since the newer release knows both. `None`: there is nothing to hand over.
///
/// # Errors
/// [`NoWay`].
pub fn way(from: Option<&StateSchema>, to: Option<&StateSchema>) -> Result<Option<u32>, NoWay> {
    let Some(from) = from else { return Ok(None) };
    let to = to.ok_or(NoWay::NoState { from: from.version })?;
    if from.version == to.version {
        if from.shape != to.shape {
            let (version, from, to) = (from.version, from.shape.clone(), to.shape.clone());
            return Err(NoWay::OtherShape { version, from, to });
        }
        return Ok(Some(from.version));
    }
    let upwards = from.version < to.version;
    let (older, newer) = if upwards { (from, to) } else { (to, from) };
    let known = newer.older.iter().find(|known| known.version == older.version);
    let known = known.filter(|known| upwards || known.hands_back);
    match known {
        Some(known) if known.shape == older.shape => Ok(Some(older.version)),
        Some(known) => Err(NoWay::Misunderstood {
            version: older.version,
            older: older.shape.clone(),
            newer: known.shape.clone(),
        }),
        None if upwards => Err(NoWay::NotTaken {
            from: from.version,
            to: to.version,
            takes: newer.older.iter().map(|known| known.version).collect(),
        }),
        None => Err(NoWay::NotGiven {
            to: to.version,
            gives: newer.older.iter().filter(|known| known.hands_back).map(|known| known.version).collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::OlderSchema;

    fn schema(version: u32, older: &[(u32, bool)]) -> StateSchema {
        let shape = |version: u32| format!("{version:016x}");
        let older = older.iter().map(|(version, hands_back)| OlderSchema {
            version: *version,
            shape: shape(*version),
            hands_back: *hands_back,
        });
        StateSchema { version, shape: shape(version), older: older.collect() }
    }

    fn of(from: &StateSchema, to: &StateSchema) -> Result<Option<u32>, String> {
        way(Some(from), Some(to)).map_err(|no| no.to_string())
    }

    #[test]
    fn the_newer_release_knows_both_forms() {
        let (one, two, three) =
            (schema(1, &[]), schema(2, &[(1, false)]), schema(3, &[(2, true), (1, true)]));
        assert_eq!(of(&one, &one), Ok(Some(1)));
        assert_eq!(of(&one, &three), Ok(Some(1)), "a chain over two forms");
        assert_eq!(of(&three, &one), Ok(Some(1)));
        assert_eq!(of(&three, &two), Ok(Some(2)));
        assert_eq!(of(&one, &two), Ok(Some(1)));
        assert!(of(&two, &one).unwrap_err().contains("hands back to no other, not to schema 1"));
        assert!(of(&schema(4, &[]), &three).unwrap_err().contains("hands back to no other"));
        let error = of(&schema(9, &[]), &schema(10, &[(8, true)])).unwrap_err();
        assert_eq!(error, "its state has schema 10, and it takes over from 8, not from schema 9");
    }

    #[test]
    fn without_a_state_there_is_nothing_to_hand_over_and_nothing_is_lost_unseen() {
        let one = schema(1, &[]);
        assert_eq!(way(None, Some(&one)), Ok(None));
        assert_eq!(way(None, None), Ok(None));
        assert_eq!(way(Some(&one), None), Err(NoWay::NoState { from: 1 }));
    }

    #[test]
    fn one_schema_version_means_one_shape() {
        let (one, mut other) = (schema(1, &[]), schema(1, &[]));
        other.shape = "beef".into();
        assert!(of(&one, &other).unwrap_err().contains("without a new schema version"));
        let two = schema(2, &[(1, true)]);
        assert!(of(&other, &two).unwrap_err().contains("its type was changed afterwards"));
        assert!(of(&two, &other).unwrap_err().contains("its type was changed afterwards"));
    }
}
