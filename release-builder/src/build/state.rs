//! The form of a release's in-memory state, beside that of the release that nodes run now.

use relmgr_model::manifest::{Manifest, StateSchema};
use relmgr_model::state::{NoWay, way};

use crate::error::Error;

/// Compares `new` with what was shipped. What nodes would refuse, though nobody meant it, is an error; what they refuse
/// because there is no way, which may be meant, is a warning.
///
/// # Errors
/// A schema version that means different shapes in the two.
pub(crate) fn compare(shipped: &Manifest, new: Option<&StateSchema>) -> Result<Option<String>, Error> {
    let before = shipped.state.as_ref();
    let (version, mut told) = (&shipped.version, vec![]);
    for (direction, way) in [("an upgrade from", way(before, new)), ("a downgrade to", way(new, before))] {
        match way {
            Ok(_) => {}
            Err(no_way @ (NoWay::OtherShape { .. } | NoWay::Misunderstood { .. })) => {
                return Err(Error::StateShape { shipped: version.clone(), no_way });
            }
            // The other way round there is nothing to lose but what the new release began.
            Err(NoWay::NoState { .. }) if direction == "a downgrade to" => {}
            Err(no_way) => told.push(format!("{direction} {version} needs --lose-state: {no_way}")),
        }
    }
    Ok((!told.is_empty()).then(|| told.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use relmgr_model::manifest::OlderSchema;

    fn shipped(state: Option<StateSchema>) -> Manifest {
        let text = "format = 1\nname = \"a\"\nversion = \"1.0.0\"\ntarget = \"t\"\nbuilt_at = \"2026-11-20T19:27:33Z\"\n\
                    library = \"l\"\nrustc = \"r\"\nabi = { major = 1, minor = 3 }\nneeds = { libraries = [] }\n\
                    [files.l]\nsize = 1\nsha256 = \"0000000000000000000000000000000000000000000000000000000000000000\"\n";
        Manifest { state, ..Manifest::parse(text).unwrap() }
    }

    fn schema(version: u32, shape: &str, older: &[(u32, &str, bool)]) -> StateSchema {
        let older = older.iter().map(|(version, shape, hands_back)| OlderSchema {
            version: *version,
            shape: (*shape).into(),
            hands_back: *hands_back,
        });
        StateSchema { version, shape: shape.into(), older: older.collect() }
    }

    #[test]
    fn a_shape_that_changed_under_its_schema_version_is_refused() {
        let one = shipped(Some(schema(1, "aa", &[])));
        assert!(compare(&one, Some(&schema(1, "aa", &[]))).unwrap().is_none());
        let error = compare(&one, Some(&schema(1, "bb", &[]))).unwrap_err();
        assert!(error.to_string().contains("1.0.0"), "{error}");
        // The older form, as the new release knows it.
        assert!(compare(&one, Some(&schema(2, "cc", &[(1, "bb", true)]))).is_err());
        assert!(compare(&one, Some(&schema(2, "cc", &[(1, "aa", true)]))).unwrap().is_none());
    }

    #[test]
    fn what_has_no_way_is_told() {
        let one = shipped(Some(schema(1, "aa", &[])));
        let told = compare(&one, Some(&schema(2, "cc", &[(1, "aa", false)]))).unwrap().unwrap();
        assert!(told.starts_with("a downgrade to 1.0.0 needs --lose-state"), "{told}");
        let told = compare(&one, None).unwrap().unwrap();
        assert!(told.starts_with("an upgrade from 1.0.0 needs --lose-state"), "{told}");
        assert!(compare(&shipped(None), Some(&schema(1, "aa", &[]))).unwrap().is_none());
    }
}
