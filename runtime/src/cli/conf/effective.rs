//! `relmgr conf effective`

use relmgr_model::conf::EffectiveConf;
use relmgr_model::home::Home;

use super::target::{Target, refused, sources};
use crate::cli::client::Client;
use crate::cli::error::CommandError;
use crate::cli::output::{self, Format};
use crate::conf::shown;

/// Print the values that are in force
///
/// With --release those that the release would get now, in the node's environment. While the node is down: those
/// that it would get in the environment of this command. Secrets are shown as `***`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Say for each value where it comes from
    #[arg(long)]
    show_origin: bool,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    format: Format,
}

pub(super) async fn main(args: Args, home: &Home) -> Result<(), CommandError> {
    let conf = match Client::connect(home).await {
        Ok(mut client) => {
            let query = args.target.release.as_ref().map(|version| format!("?release={version}"));
            client.get(&format!("/v1/conf/effective{}", query.unwrap_or_default())).await?
        }
        Err(error) if error.is_not_running() => {
            output::note("the node is not running: these are the values in this command's environment");
            evaluate(&args.target, home)?
        }
        Err(error) => return Err(error),
    };
    if args.format.json {
        return output::print_json(&conf);
    }
    output::print(&text(&conf, args.show_origin))
}

fn evaluate(target: &Target, home: &Home) -> Result<EffectiveConf, CommandError> {
    let release = target.need(home)?;
    let effective = relmgr_conf::effective(&sources(home, &release)?);
    let effective = effective
        .map_err(|faults| refused(&format!("the configuration does not fit {release}:"), &faults))?;
    Ok(shown(&release, &effective, false))
}

fn text(conf: &EffectiveConf, show_origin: bool) -> String {
    if conf.values.is_empty() {
        return format!("{} has no settings\n", conf.release);
    }
    if show_origin {
        let row = |value: &relmgr_model::conf::ConfValue| {
            let restart = if value.restart { "on restart" } else { "at once" };
            vec![value.key.clone(), value.text.clone(), restart.to_owned(), value.origin.clone()]
        };
        let rows: Vec<_> = conf.values.iter().map(row).collect();
        return output::table(&["KEY", "VALUE", "APPLIES", "FROM"], &rows);
    }
    conf.values.iter().map(|value| format!("{} = {}\n", value.key, value.text)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use relmgr_conf::{Schema, Sources};

    #[test]
    fn values_with_and_without_their_origins() {
        let schema = "[keys.\"Repo.password\"]\ntype = \"string\"\nsecret = true\nrestart = true\n\
                      [keys.\"Repo.pool_size\"]\ntype = \"integer\"\ndefault = 10\n\
                      [keys.\"logger.level\"]\ntype = \"enum\"\nvalues = [\"debug\", \"info\"]\nenv = \"LEVEL\"\n";
        let home = tempfile::tempdir().unwrap();
        let app_conf = home.path().join("app.conf");
        std::fs::write(&app_conf, "Repo.password = ${SECRET}\n").unwrap();
        let mut sources = Sources::new(Schema::parse(schema).ok(), &app_conf, "/nonexistent");
        sources.env = [("SECRET", "hunter2"), ("LEVEL", "debug")].map(|(k, v)| (k.into(), v.into())).into();
        let effective = relmgr_conf::effective(&sources).unwrap();
        let conf = shown(&"1.2.3".parse().unwrap(), &effective, true);
        let seen = format!("{}\n{}", text(&conf, false), text(&conf, true));
        insta::assert_snapshot!(seen.replace(&home.path().display().to_string(), "HOME"));
        assert!(!serde_json::to_string(&conf).unwrap().contains("hunter2"));
    }
}
