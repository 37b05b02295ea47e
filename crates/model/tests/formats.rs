//! What is written by one relmgr and read by another: the forms as they are, in files. Each value is read and written
//! again, and has to be what it was: a field that is renamed, taken away, added or written in another form makes a
//! difference. What an older reader would misunderstand needs another number, and a file of that number beside these;
//! what is added with a default is added here, too.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::path::Path;

use relmgr_model::control::{Fault, NodeStatus, OperationRequest, Outcome, Pong, Progress, ReleaseList};
use relmgr_model::host::{self, Answer, Command, Envelope, Reply};
use relmgr_model::record::{self, HistoryEntry, NodeRecord};
use relmgr_model::takeover::{self, Accepted, Offer, Takeover};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

fn golden(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats").join(name);
    let text = std::fs::read_to_string(&path);
    let text =
        text.unwrap_or_else(|error| panic!("{}: {error}: write it for the new number", path.display()));
    serde_json::from_str(&text).unwrap()
}

/// The value is read and written as it stands there; what was read.
#[track_caller]
fn stays<T: Serialize + DeserializeOwned>(golden: &Value) -> T {
    let read: T = serde_json::from_value(golden.clone()).unwrap_or_else(|error| panic!("{error}: {golden}"));
    let written = serde_json::to_value(&read).unwrap();
    assert_eq!(written, *golden, "it is written in another form than it was");
    read
}

#[track_caller]
fn all_stay<T: Serialize + DeserializeOwned>(golden: &Value) -> Vec<T> {
    golden.as_array().unwrap().iter().map(stays).collect()
}

#[test]
fn state_json() {
    let golden = golden(&format!("state.{}.json", record::FORMAT));
    let record: NodeRecord = stays(&golden);
    assert_eq!(NodeRecord::parse(&golden.to_string()).unwrap(), record);
}

#[test]
fn a_line_of_history_jsonl() {
    let entry: HistoryEntry = stays(&golden("history.json"));
    assert_eq!(entry.steps.len(), 14, "every step's word");
}

/// `null` is written where an operation goes to no release, and where none served: whoever reads it need not know which
/// fields may be missing.
#[test]
fn what_goes_to_no_release_says_null() {
    let mut state = golden(&format!("state.{}.json", record::FORMAT));
    state["operation"]["kind"] = "prune".into();
    state["operation"]["to"] = Value::Null;
    let record: NodeRecord = stays(&state);
    let noted = record.operation.clone().unwrap();
    assert_eq!(noted.to, None);
    let (outcome, why) = noted.resolve(&record);
    assert_eq!(outcome, Outcome::Interrupted);
    assert!(why.is_some_and(|why| why.starts_with("the node ended in the middle of it")));
    let mut line = golden("history.json");
    (line["to"], line["from"]) = (Value::Null, Value::Null);
    let entry: HistoryEntry = stays(&line);
    assert_eq!((entry.to, entry.from), (None, None));
}

#[test]
fn what_one_image_of_the_supervisor_leaves_to_the_next() {
    let golden = golden(&format!("takeover.{}.json", takeover::FORMAT));
    stays::<Offer>(&golden["offer"]);
    stays::<Accepted>(&golden["accepted"]);
    let takeover: Takeover = stays(&golden["takeover"]);
    // An older one says nothing of what came with a later one.
    let mut older = golden["takeover"].clone();
    for field in ["answered", "commands", "untold"] {
        older.as_object_mut().unwrap().remove(field).unwrap();
    }
    let older: Takeover = serde_json::from_value(older).unwrap();
    let (answered, commands, untold) = (vec![], vec![], vec![]);
    assert_eq!(older, Takeover { answered, commands, untold, ..takeover });
}

/// The word of a command; one that is added does not compile until it stands here, and then not pass until the file
/// has it.
fn command(command: &Command) -> &'static str {
    match command {
        Command::Init(_) => "init",
        Command::Load(_) => "load",
        Command::Health { .. } => "health",
        Command::Swap { .. } => "swap",
        Command::SwapBack { .. } => "swap_back",
        Command::Suspend { .. } => "suspend",
        Command::Resume => "resume",
        Command::LendState { .. } => "lend_state",
        Command::TakeState { .. } => "take_state",
        Command::ForgetState => "forget_state",
        Command::LoadState { .. } => "load_state",
        Command::CopyTables { .. } => "copy_tables",
        Command::Accept => "accept",
        Command::Commit { .. } => "commit",
        Command::Certificates { .. } => "certificates",
        Command::ConfChange(_) => "conf_change",
        Command::Retire { .. } => "retire",
        Command::Generations => "generations",
        Command::Pulse => "pulse",
        Command::Tables => "tables",
        Command::Counts => "counts",
        Command::Hear => "hear",
        Command::Stop { .. } => "stop",
    }
}

/// As [`command`].
fn answer(answer: &Answer) -> &'static str {
    match answer {
        Answer::Done => "done",
        Answer::Loaded { .. } => "loaded",
        Answer::Swapped { .. } => "swapped",
        Answer::NotSwapped { .. } => "not_swapped",
        Answer::SwappedBack { .. } => "swapped_back",
        Answer::Lent { .. } => "lent",
        Answer::ConfChanged { .. } => "conf_changed",
        Answer::Retired { .. } => "retired",
        Answer::Generations { .. } => "generations",
        Answer::Counts { .. } => "counts",
        Answer::Heard { .. } => "heard",
        Answer::Tables { .. } => "tables",
        Answer::Stopped { .. } => "stopped",
        Answer::Pulse { .. } => "pulse",
    }
}

#[test]
fn the_hosts_protocol() {
    let golden = golden(&format!("host.{}.json", host::PROTOCOL));
    let commands = all_stay::<Envelope>(&golden["commands"]);
    let words: BTreeSet<_> = commands.iter().map(|envelope| command(&envelope.command)).collect();
    assert_eq!(words.len(), 23, "every command: {words:?}");
    let replies = all_stay::<Reply>(&golden["replies"]);
    let words: BTreeSet<_> =
        replies.iter().filter_map(|reply| reply.result.as_ref().ok().map(answer)).collect();
    assert_eq!(words.len(), 14, "every answer: {words:?}");
}

#[test]
fn the_control_sockets_json() {
    let golden = golden("control.v1.json");
    stays::<Pong>(&golden["ping"]);
    stays::<OperationRequest>(&golden["request"]);
    stays::<Fault>(&golden["fault"]);
    all_stay::<Progress>(&golden["progress"]);
    stays::<NodeStatus>(&golden["status"]);
    stays::<ReleaseList>(&golden["releases"]);
}
