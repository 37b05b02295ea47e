//! Every point at which code may change: one script of steps with the example application (polls, votes, streams,
//! uploads, a background child), run once for each gap between two steps with an upgrade forced exactly there, and
//! once with a downgrade. What clients see is what they see without a switch; polls and votes stand in state tables.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};

use relmgr_testkit::kit::{Done, Node, PATIENCE, build, wait_for, workspace};

/// A step of the script.
struct Step {
    name: &'static str,
    /// What it does; what it saw.
    takes: fn(&mut World) -> String,
    /// What is under way from here on.
    opens: &'static [&'static str],
    /// What is over.
    closes: &'static [&'static str],
}

const fn step(name: &'static str, takes: fn(&mut World) -> String) -> Step {
    Step { name, takes, opens: &[], closes: &[] }
}

const SCRIPT: &[Step] = &[
    Step {
        opens: &["an idle connection"],
        ..step("ask, and stay connected", |world| world.ask("idle", "/debug/json"))
    },
    Step {
        opens: &["a stream"],
        ..step("begin a stream", |world| {
            let wire = world
                .send("stream", "GET /debug/stream?chunks=20&interval_ms=20 HTTP/1.1\r\nhost: x\r\n\r\n");
            format!("{} {:?}", wire.head().0, wire.chunk())
        })
    },
    Step {
        opens: &["an upload"],
        ..step("send half an upload", |world| {
            let head = "POST /debug/sink HTTP/1.1\r\nhost: x\r\ncontent-length: 200000\r\n\r\n";
            world.send("upload", head).put(&"x".repeat(100_000));
            String::new()
        })
    },
    Step {
        closes: &["an upload"],
        ..step("send the other half", |world| {
            let wire = world.wire("upload");
            wire.put(&"x".repeat(100_000));
            wire.answer()
        })
    },
    Step {
        opens: &["an echo"],
        ..step("begin an echo", |world| {
            let head =
                "POST /debug/echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n";
            let wire = world.send("echo", head);
            format!("{} {:?}", wire.head().0, wire.chunk())
        })
    },
    Step {
        closes: &["an echo"],
        ..step("end the echo", |world| {
            let wire = world.wire("echo");
            wire.put("4\r\nlast\r\n0\r\n\r\n");
            format!("{:?} {:?}", wire.chunk(), wire.chunk())
        })
    },
    Step {
        opens: &["half a head"],
        ..step("send half a head", |world| {
            world.send("half", "GET /debug/json HTTP/1.1\r\nhost: x\r\nx-ha");
            String::new()
        })
    },
    Step {
        closes: &["half a head"],
        ..step("send the other half of it", |world| {
            let wire = world.wire("half");
            wire.put("lf: 1\r\n\r\n");
            wire.answer()
        })
    },
    Step {
        opens: &["pipelined requests"],
        ..step("send two requests at once", |world| {
            let slow = "GET /debug/sleep?ms=200 HTTP/1.1\r\nhost: x\r\n\r\n";
            let fast = "GET /debug/json HTTP/1.1\r\nhost: x\r\n\r\n";
            world.send("pipeline", &format!("{slow}{fast}{fast}"));
            String::new()
        })
    },
    Step {
        opens: &["a pipelined request"],
        closes: &["pipelined requests"],
        ..step("read the first answer", |world| world.wire("pipeline").answer())
    },
    Step {
        closes: &["a pipelined request"],
        ..step("read the other answers", |world| {
            let wire = world.wire("pipeline");
            format!("{} {}", wire.answer(), wire.answer())
        })
    },
    Step {
        opens: &["an answer without a client"],
        ..step("leave in the middle of an answer", |world| {
            let head = "GET /debug/stream?chunks=1000000&interval_ms=1 HTTP/1.1\r\nhost: x\r\n\r\n";
            let wire = world.send("left", head);
            let seen = format!("{} {:?}", wire.head().0, wire.chunk());
            world.wires.remove("left");
            seen
        })
    },
    Step {
        closes: &["a stream", "an answer without a client"],
        ..step("read the stream to its end", |world| {
            let wire = world.wire("stream");
            std::iter::from_fn(|| wire.chunk()).collect()
        })
    },
    Step {
        opens: &["a poll"],
        ..step("make a poll", |world| {
            let made = world.post("/polls", r#"{"question": "Tea?", "options": ["yes", "no"]}"#);
            world.poll = made.chars().skip(3).filter(char::is_ascii_digit).collect();
            made[..3].to_owned()
        })
    },
    Step {
        opens: &["votes"],
        ..step("vote", |world| {
            let path = format!("/polls/{}/votes", world.poll);
            world.post(&path, r#"{"option": 0}"#)
        })
    },
    Step {
        closes: &["a poll", "votes"],
        ..step("read the poll", |world| {
            let path = format!("/polls/{}", world.poll);
            world.ask("idle", &path)
        })
    },
    Step {
        opens: &["work for the child"],
        ..step("make a poll that is over", |world| {
            world.closed = world.closed_so_far();
            world.post("/polls", OVER)[..3].to_owned()
        })
    },
    Step {
        closes: &["work for the child"],
        ..step("see the child close a poll", |world| {
            wait_for("the child closes it", || (world.closed_so_far() > world.closed).then_some(()));
            assert_eq!(world.closed_so_far(), world.closed + 1, "no child works twice");
            "closed".to_owned()
        })
    },
    Step {
        closes: &["an idle connection"],
        ..step("ask again on the first connection", |world| world.ask("idle", "/debug/json"))
    },
];

/// Gaps between two steps.
const GAPS: usize = SCRIPT.len() - 1;

const OVER: &str = r#"{"question": "Over?", "options": ["yes", "no"], "closes_at": "2020-01-01T00:00:00Z"}"#;

/// The node, and what is open to it.
struct World<'a> {
    node: &'a Node,
    wires: BTreeMap<&'static str, Wire>,
    poll: String,
    /// How many polls the child had closed before the script gave it one.
    closed: usize,
}

impl World<'_> {
    /// The connection of that name; opened when it is not there.
    fn wire(&mut self, name: &'static str) -> &mut Wire {
        let address = self.node.address();
        self.wires.entry(name).or_insert_with(|| Wire::open(address))
    }

    fn send(&mut self, name: &'static str, text: &str) -> &mut Wire {
        let wire = self.wire(name);
        wire.put(text);
        wire
    }

    fn ask(&mut self, name: &'static str, path: &str) -> String {
        self.send(name, &format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).answer()
    }

    fn post(&mut self, path: &str, json: &str) -> String {
        let length = json.len();
        let fields = format!("host: x\r\ncontent-type: application/json\r\ncontent-length: {length}");
        self.send("idle", &format!("POST {path} HTTP/1.1\r\n{fields}\r\n\r\n{json}")).answer()
    }

    fn closed_so_far(&self) -> usize {
        self.node.log().matches("poll closed").count()
    }
}

/// A connection, read as it comes.
struct Wire(BufReader<TcpStream>);

impl Wire {
    fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    fn put(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.0.read_line(&mut line).unwrap() > 0, "the connection was closed");
        line.trim_end().to_owned()
    }

    fn exactly(&mut self, length: usize) -> String {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    /// The status, and the length of a body that says it.
    fn head(&mut self) -> (String, Option<usize>) {
        let status = self.line().split(' ').nth(1).unwrap().to_owned();
        let mut length = None;
        loop {
            let line = self.line().to_ascii_lowercase();
            if line.is_empty() {
                return (status, length);
            }
            assert_ne!(line, "connection: close", "no switch ends a connection");
            length = line.strip_prefix("content-length: ").map(|text| text.parse().unwrap()).or(length);
        }
    }

    /// The next chunk of a body; `None`: its end.
    fn chunk(&mut self) -> Option<String> {
        let length = usize::from_str_radix(&self.line(), 16).unwrap();
        let chunk = self.exactly(length);
        self.line();
        (length > 0).then_some(chunk)
    }

    /// Status and body.
    fn answer(&mut self) -> String {
        let (status, length) = self.head();
        let body = match length {
            Some(length) => self.exactly(length),
            None => std::iter::from_fn(|| self.chunk()).collect(),
        };
        format!("{status} {body}")
    }
}

/// An upgrade or a downgrade under way: what is in flight on the old release holds up its drain.
struct Switch(Child);

impl Switch {
    /// Begins it, and waits until the other release serves.
    fn to(node: &Node, command: &str, version: &str) -> Self {
        let mut command = node.command(&[command, version]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut wire = Wire::open(node.address());
        wait_for("the other release serves", || {
            wire.put("GET /api/public/version HTTP/1.1\r\nhost: x\r\n\r\n");
            (wire.answer() == format!("200 {version}")).then_some(())
        });
        Self(child)
    }

    fn end(self) {
        let done = Done::from(self.0.wait_with_output().unwrap()).ok();
        assert!(!done.stderr.contains("warning"), "{done:?}");
    }
}

/// Runs the script, with `switch` after the step at `gap`; what each step saw.
fn run(node: &Node, gap: Option<usize>, command: &str, version: &str) -> Vec<String> {
    let mut world = World { node, wires: BTreeMap::new(), poll: String::new(), closed: 0 };
    let mut switch = None;
    let seen = SCRIPT.iter().enumerate().map(|(at, step)| {
        let seen = (step.takes)(&mut world);
        if gap == Some(at) {
            switch = Some(Switch::to(node, command, version));
        }
        seen
    });
    let seen = seen.collect();
    drop(world);
    if let Some(switch) = switch {
        switch.end();
    }
    seen
}

/// The steps after which the code may change, each state of what is under way once. Nothing follows the last one.
fn points() -> Vec<(usize, String)> {
    let (mut open, mut known, mut points) = (BTreeSet::new(), BTreeSet::new(), vec![]);
    for (at, step) in SCRIPT[..GAPS].iter().enumerate() {
        open.extend(step.opens.iter().copied());
        open.retain(|thing| !step.closes.contains(thing));
        if known.insert(open.clone()) {
            points.push((at, open.iter().copied().collect::<Vec<_>>().join(", ")));
        }
    }
    points
}

#[test]
fn a_switch_at_any_point_of_the_example_changes_nothing_that_clients_see() {
    let manifest = workspace().join("example-app/Cargo.toml");
    let (one, two) = (build(&manifest, "", "1.0.0"), build(&manifest, "", "1.0.1"));
    let node = Node::serving("live-poll", "", &[&one, &two]);
    let without = run(&node, None, "", "");
    let points = points();
    println!("{} points of {} gaps, each with an upgrade and a downgrade", points.len(), GAPS);
    for (gap, open) in points {
        for (command, version) in [("upgrade", "1.0.1"), ("downgrade", "1.0.0")] {
            println!("{command} after `{}`: {open}", SCRIPT[gap].name);
            let seen = run(&node, Some(gap), command, version);
            for (step, (seen, expected)) in SCRIPT.iter().zip(seen.iter().zip(&without)) {
                assert_eq!(seen, expected, "`{}`, {command} after `{}`", step.name, SCRIPT[gap].name);
            }
            assert_eq!(node.mapped().len(), 1, "{:?}", node.status());
        }
    }
    assert_eq!(node.status().host_restarts, 0);
}
