//! Hosts by their tags, and a security group that is closed again. EC2 itself is not to be had here: its part is played
//! by a small server that speaks its protocol to the real `aws` command.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Done, script, wait_for};
use relmgr_testkit::s3::aws_directory;

/// The security group that it has.
pub const GROUP: &str = "sg-0123456789abcdef0";

/// One machine: address, state, tags.
type Instance = (String, &'static str, Vec<(&'static str, &'static str)>);

/// What stands in for EC2.
pub struct Ec2 {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    instances: Vec<Instance>,
    /// Addresses that port 22 is open to.
    open: BTreeSet<String>,
    /// Every rule that was ever opened.
    opened: Vec<String>,
    refuse: bool,
    /// While it is set, answers wait.
    hold: Arc<AtomicBool>,
}

impl Ec2 {
    pub fn start(instances: Vec<Instance>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { instances, ..State::default() }));
        let shared = state.clone();
        // Ends with the test's process.
        std::thread::spawn(move || listener.incoming().flatten().for_each(|stream| answer(stream, &shared)));
        Self { address, state }
    }

    /// `program args…` with the real `aws`, which asks this.
    pub fn aware(&self, command: &mut Command) {
        let directory = aws_directory();
        let path = command.get_envs().find(|(name, _)| *name == "PATH");
        let path = path.and_then(|(_, value)| value.map(|value| value.to_str().unwrap().to_owned()));
        let path = path.unwrap_or_else(|| std::env::var("PATH").unwrap());
        command.env("PATH", format!("{}/bin:{path}", directory.display())).env("PYTHONPATH", directory);
        command.env("AWS_ENDPOINT_URL_EC2", format!("http://{}", self.address));
        command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
        // The first version of the command reads the second name.
        command.env("AWS_REGION", "us-east-1").env("AWS_DEFAULT_REGION", "us-east-1");
        command.env("AWS_EC2_METADATA_DISABLED", "true");
    }

    fn command(&self, name: &str, args: &[&str]) -> Command {
        let mut command = Command::new(script(name));
        command.args(args).env("CI_ADDRESS", "192.0.2.7").stdin(Stdio::null());
        self.aware(&mut command);
        command
    }

    fn run(&self, name: &str, args: &[&str]) -> Done {
        self.command(name, args).output().unwrap().into()
    }

    /// Addresses that port 22 is open to.
    pub fn open(&self) -> BTreeSet<String> {
        self.state.lock().unwrap().open.clone()
    }

    /// Every rule that was ever opened.
    pub fn opened(&self) -> Vec<String> {
        self.state.lock().unwrap().opened.clone()
    }
}

fn answer(stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(&stream);
    let (mut line, mut length) = (String::new(), 0);
    while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        line.clear();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let text = String::from_utf8(body).unwrap().replace("%3A", ":").replace("%2F", "/");
    let form: BTreeMap<&str, &str> = text.split('&').filter_map(|pair| pair.split_once('=')).collect();
    let (status, body) = state.lock().unwrap().carry_out(&form);
    let hold = state.lock().unwrap().hold.clone();
    wait_for("answers are let go", || (!hold.load(Ordering::SeqCst)).then_some(()));
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    // A client that was killed meanwhile is the test's own doing.
    let _ = (&stream).write_all(format!("{head}{body}").as_bytes());
}

impl State {
    fn carry_out(&mut self, form: &BTreeMap<&str, &str>) -> (&'static str, String) {
        let action = form["Action"];
        if self.refuse {
            return ("403 Forbidden", fault("UnauthorizedOperation"));
        }
        let rule = || {
            assert_eq!(
                (form["GroupId"], form["IpPermissions.1.IpProtocol"], form["IpPermissions.1.FromPort"]),
                (GROUP, "tcp", "22"),
                "{form:?}"
            );
            form["IpPermissions.1.IpRanges.1.CidrIp"].to_owned()
        };
        let inner = match action {
            "DescribeInstances" => self.describe(form),
            "AuthorizeSecurityGroupIngress" if self.open.contains(&rule()) => {
                return ("400 Bad Request", fault("InvalidPermission.Duplicate"));
            }
            "AuthorizeSecurityGroupIngress" => {
                self.opened.push(rule());
                self.open.insert(rule());
                "<return>true</return>".into()
            }
            "RevokeSecurityGroupIngress" if self.open.remove(&rule()) => "<return>true</return>".into(),
            "RevokeSecurityGroupIngress" => {
                return ("400 Bad Request", fault("InvalidPermission.NotFound"));
            }
            other => panic!("{other} is not asked of it"),
        };
        ("200 OK", format!("<{action}Response><requestId>1</requestId>{inner}</{action}Response>"))
    }

    fn describe(&self, form: &BTreeMap<&str, &str>) -> String {
        let filters: Vec<(&str, &str)> = (1..)
            .map_while(|number| {
                let name = form.get(format!("Filter.{number}.Name").as_str())?;
                Some((*name, form[format!("Filter.{number}.Value.1").as_str()]))
            })
            .collect();
        let fits = |(_, state, tags): &&Instance| {
            filters.iter().all(|(name, value)| match name.strip_prefix("tag:") {
                Some(tag) => tags.contains(&(tag, value)),
                None => *name == "instance-state-name" && state == value,
            })
        };
        let item = |(address, state, _): &Instance| {
            format!(
                "<item><instancesSet><item><privateIpAddress>{address}</privateIpAddress><instanceState><code>16\
                 </code><name>{state}</name></instanceState></item></instancesSet></item>"
            )
        };
        let items: String = self.instances.iter().filter(fits).map(item).collect();
        format!("<reservationSet>{items}</reservationSet>")
    }
}

fn fault(code: &str) -> String {
    format!("<Response><Errors><Error><Code>{code}</Code><Message>no</Message></Error></Errors></Response>")
}

#[test]
fn hosts_are_found_by_all_of_their_tags_and_none_is_a_fault() {
    let web = ("Role", "web");
    let ec2 = Ec2::start(vec![
        ("10.0.0.2".into(), "running", vec![web, ("Environment", "staging")]),
        ("10.0.0.1".into(), "running", vec![web, ("Environment", "staging")]),
        ("10.0.0.3".into(), "stopped", vec![web, ("Environment", "staging")]),
        ("10.0.0.4".into(), "running", vec![web, ("Environment", "production")]),
    ]);
    let found = ec2.run("ec2-hosts.sh", &["Role=web", "Environment=staging"]).ok();
    assert_eq!(found.stdout, "10.0.0.1\n10.0.0.2\n");
    ec2.run("ec2-hosts.sh", &["Role=db"]).failed(1, &["no running instance has Role=db"]);
    ec2.run("ec2-hosts.sh", &["Role"]).failed(2, &["Usage: ec2-hosts.sh"]);
    // The same as an inventory of Ansible's.
    let inventory = script("ansible/inventory-ec2.sh").display().to_string();
    let listed = |tags: &str| -> Done {
        let mut command = Command::new("ansible-inventory");
        command.args(["-i", &inventory, "--list"]).current_dir(script("ansible")).env("LC_ALL", "C.UTF-8");
        command.env("RELMGR_TAGS", tags);
        ec2.aware(&mut command);
        let done = command.output();
        done.unwrap_or_else(|error| panic!("ansible is missing ({error}): `cargo xtask setup`")).into()
    };
    let hosts = listed("Role=web Environment=staging").ok().json();
    assert_eq!(hosts["relmgr"]["hosts"], serde_json::json!(["10.0.0.1", "10.0.0.2"]), "{hosts}");
    let nobody = listed("Role=db");
    assert_ne!(nobody.code, 0, "{nobody:?}");
    // Ansible breaks the lines where a terminal would.
    let words = nobody.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("no running instance has Role=db"), "{nobody:?}");
    ec2.state.lock().unwrap().refuse = true;
    let refused = ec2.run("ec2-hosts.sh", &["Role=web"]);
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(refused.stderr.contains("UnauthorizedOperation"), "{refused:?}");
}

#[test]
fn a_security_group_is_closed_again_however_the_command_ends() {
    let ec2 = Ec2::start(vec![]);
    let marks = tempfile::tempdir().unwrap();
    let mark = marks.path().join("running");
    let path = mark.to_str().unwrap();
    ec2.run("with-ssh-open.sh", &[GROUP, "sh", "-c", "echo done"]).ok();
    assert_eq!(ec2.opened(), ["192.0.2.7/32"]);
    assert!(ec2.open().is_empty());
    ec2.run("with-ssh-open.sh", &[GROUP, "sh", "-c", "exit 3"]).failed(3, &["is closed to 192.0.2.7 again"]);
    assert!(ec2.open().is_empty());

    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130), (Signal::SIGHUP, 129)] {
        let words = format!("touch {path}; exec sleep 600");
        let child = ec2.command("with-ssh-open.sh", &[GROUP, "sh", "-c", &words]).spawn().unwrap();
        wait_for("the command runs", || mark.exists().then_some(()));
        assert_eq!(ec2.open().len(), 1, "open while it runs");
        kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
        let done = child.wait_with_output().unwrap();
        assert_eq!(done.status.code(), Some(code), "{signal}");
        assert!(ec2.open().is_empty(), "{signal}");
        std::fs::remove_file(&mark).unwrap();
    }

    // A command that does not end when it is told to: closed while it still runs, and killed.
    let words = format!("trap '' TERM; echo $$ > {path}; exec sleep 600");
    let mut child = ec2.command("with-ssh-open.sh", &[GROUP, "sh", "-c", &words]).spawn().unwrap();
    let pid = wait_for("the command runs", || {
        std::fs::read_to_string(&mark).ok().and_then(|text| text.trim().parse::<i32>().ok())
    });
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    wait_for("it is closed", || ec2.open().is_empty().then_some(()));
    assert!(kill(Pid::from_raw(pid), None).is_ok() && child.try_wait().unwrap().is_none(), "it runs still");
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(kill(Pid::from_raw(pid), None).is_err(), "nothing is left of it");
    std::fs::remove_file(&mark).unwrap();

    // A signal while it is being opened: the command is not begun.
    let hold = ec2.state.lock().unwrap().hold.clone();
    hold.store(true, Ordering::SeqCst);
    let child = ec2.command("with-ssh-open.sh", &[GROUP, "touch", path]).spawn().unwrap();
    wait_for("it is open", || (ec2.open().len() == 1).then_some(()));
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    hold.store(false, Ordering::SeqCst);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(143));
    assert!(ec2.open().is_empty() && !mark.exists());

    // What a run that was killed has left does not keep the next one from its work; nor is it that one's to close, since
    // it may as well be that of a run beside it.
    let words = format!("touch {path}; exec sleep 600");
    let mut killed = ec2.command("with-ssh-open.sh", &[GROUP, "sh", "-c", &words]);
    let mut killed = killed.process_group(0).spawn().unwrap();
    wait_for("the command runs", || mark.exists().then_some(()));
    kill(Pid::from_raw(-i32::try_from(killed.id()).unwrap()), Signal::SIGKILL).unwrap();
    killed.wait().unwrap();
    let done = ec2.run("with-ssh-open.sh", &[GROUP, "sh", "-c", "echo done"]).ok();
    assert!(done.stdout == "done\n" && done.stderr.contains("was open to 192.0.2.7 before"), "{done:?}");
    assert_eq!(ec2.open().len(), 1);
    ec2.state.lock().unwrap().open.clear();
    std::fs::remove_file(&mark).unwrap();

    // What cannot be closed is said, and is no success.
    let gate = marks.path().join("gate");
    assert!(Command::new("mkfifo").arg(&gate).status().unwrap().success());
    let words = format!("touch {path}; read -r _ < {}", gate.display());
    let mut command = ec2.command("with-ssh-open.sh", &[GROUP, "sh", "-c", &words]);
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    wait_for("the command runs", || mark.exists().then_some(()));
    ec2.state.lock().unwrap().refuse = true;
    std::fs::write(&gate, "go\n").unwrap();
    let left = Done::from(child.wait_with_output().unwrap());
    left.failed(1, &["MAY STILL BE OPEN to 192.0.2.7", "UnauthorizedOperation"]);
    std::fs::remove_file(&mark).unwrap();

    // What cannot be opened is no reason to run the command.
    ec2.state.lock().unwrap().refuse = true;
    let refused = ec2.run("with-ssh-open.sh", &[GROUP, "touch", path]);
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(refused.stderr.contains("UnauthorizedOperation") && !mark.exists(), "{refused:?}");
    let nowhere = ec2.command("with-ssh-open.sh", &[GROUP, "true"]).env("CI_ADDRESS", "<html>").output();
    Done::from(nowhere.unwrap()).failed(1, &["'<html>' is no IPv4 address"]);
}
