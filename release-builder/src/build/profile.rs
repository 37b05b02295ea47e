//! What a release's profile must not say.

use toml::Table;

use crate::build::cargo_config::{CargoConfig, get};

/// Longer chains of `inherits` are circles, which cargo refuses by itself.
const MAX_INHERITS: usize = 16;

/// Where the profile `name` asks for `panic = "abort"`, in words for the developer; `None`: it does not.
///
/// As in cargo, the environment wins over configuration files, these win over the workspace's `manifest`, and a
/// profile that does not say takes what it inherits.
pub(crate) fn aborts_on_panic(
    name: &str,
    manifest: &Table,
    config: &CargoConfig,
    environment: impl Fn(&str) -> Option<String>,
) -> Option<String> {
    let mut profile = name.to_owned();
    for _ in 0..MAX_INHERITS {
        let variable = format!("CARGO_PROFILE_{}_PANIC", profile.to_uppercase().replace('-', "_"));
        let in_manifest = |key| get(manifest, &["profile", &profile, key]).and_then(|value| value.as_str());
        let in_config = |key| config.text(&["profile", &profile, key]);
        let said = environment(&variable)
            .map(|value| (value, format!("the environment variable {variable}")))
            .or_else(|| {
                in_config("panic")
                    .map(|value| (value.into(), format!("[profile.{profile}] of cargo's configuration")))
            })
            .or_else(|| {
                in_manifest("panic")
                    .map(|value| (value.into(), format!("[profile.{profile}] of the workspace's Cargo.toml")))
            });
        if let Some((value, place)) = said {
            return (value == "abort").then_some(place);
        }
        match in_config("inherits").or_else(|| in_manifest("inherits")) {
            Some(parent) => profile = parent.into(),
            None => return None,
        }
    }
    None
}

/// Whether rustc flags ask for it.
pub(crate) fn flags_abort_on_panic(flags: &[String]) -> bool {
    flags.iter().any(|flag| flag.ends_with("panic=abort"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str, manifest: &str, environment: &[(&str, &str)]) -> Option<String> {
        let look =
            |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into());
        aborts_on_panic(name, &manifest.parse().unwrap(), &CargoConfig::default(), look)
    }

    #[test]
    fn abort_is_found_where_it_is_said() {
        let manifest = "[profile.release]\npanic = 'abort'\n[profile.dist]\ninherits = 'release'\n\
                        [profile.calm]\ninherits = 'release'\npanic = 'unwind'";
        assert_eq!(
            place("release", manifest, &[]).unwrap(),
            "[profile.release] of the workspace's Cargo.toml"
        );
        assert_eq!(place("dist", manifest, &[]).unwrap(), "[profile.release] of the workspace's Cargo.toml");
        assert_eq!(place("calm", manifest, &[]), None);
        assert_eq!(place("dev", manifest, &[]), None);
        let abort = [("CARGO_PROFILE_MY_DIST_PANIC", "abort")];
        assert!(
            place("my-dist", "[profile.my-dist]\ninherits = 'release'", &abort)
                .unwrap()
                .contains("CARGO_PROFILE_MY_DIST")
        );
        let unwind = [("CARGO_PROFILE_RELEASE_PANIC", "unwind")];
        assert_eq!(place("release", manifest, &unwind), None);
    }

    #[test]
    fn circles_end() {
        assert_eq!(place("a", "[profile.a]\ninherits = 'b'\n[profile.b]\ninherits = 'a'", &[]), None);
    }

    #[test]
    fn flags_are_read_in_both_forms() {
        assert!(flags_abort_on_panic(&["-Cpanic=abort".into()]));
        assert!(flags_abort_on_panic(&["-C".into(), "panic=abort".into()]));
        assert!(!flags_abort_on_panic(&["-Cpanic=unwind".into()]));
    }
}
