//! What connections meet at a switch: HTTP/2, a full node, a version endpoint at another path.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::net::TcpStream;

use crate::client::{Connection, eventually, get};
use relmgr_testkit::kit::{Done, Node, release};

/// How a connection of HTTP/2 with prior knowledge ended, and what was answered on it.
struct Ended {
    answered: u64,
    failures: Vec<String>,
    /// Whether the server said goodbye and closed it: nothing was cut.
    gracefully: bool,
}

/// Whether the request crossed the server's goodbye on its way: its stream is beyond the last one that the server
/// says it has taken, so that it may be sent again (RFC 9113, 6.8). What was taken and then cut is told otherwise,
/// as a reset or as a broken pipe.
fn not_taken(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.is_some_and(|it| it.is_go_away() && it.is_remote() && it.reason() == Some(h2::Reason::NO_ERROR))
}

/// Asks `/` on one connection of HTTP/2, four requests at a time, until told to stop or the server says goodbye.
async fn ask_by_h2(address: std::net::SocketAddr, stop: Arc<AtomicBool>, count: Arc<AtomicU64>) -> Ended {
    let stream = TcpStream::connect(address).await.unwrap();
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, connection) = handshake.await.unwrap();
    let connection = tokio::spawn(connection);
    let asking = (0..4).map(|_| {
        let (mut sender, stop, count) = (sender.clone(), stop.clone(), count.clone());
        tokio::spawn(async move {
            let (mut answered, mut failures) = (0, vec![]);
            while !stop.load(Ordering::Relaxed) && sender.ready().await.is_ok() {
                let request =
                    Request::get(format!("http://{address}/")).body(Full::<Bytes>::default()).unwrap();
                match sender.send_request(request).await {
                    Ok(response) if response.status() == 200 => match response.into_body().collect().await {
                        Ok(_) => {
                            answered += 1;
                            count.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => failures.push(format!("in the body: {error}")),
                    },
                    Ok(response) => failures.push(response.status().to_string()),
                    // Not taken, since the server has said goodbye: asked again on the next connection.
                    Err(error) if error.is_canceled() || not_taken(&error) => break,
                    Err(error) => {
                        failures.push(format!("{error:?}"));
                        break;
                    }
                }
            }
            (answered, failures)
        })
    });
    let asking: Vec<_> = asking.collect();
    let mut ended = Ended { answered: 0, failures: vec![], gracefully: false };
    for asking in asking {
        let (answered, failures) = asking.await.unwrap();
        ended.answered += answered;
        ended.failures.extend(failures);
    }
    drop(sender);
    ended.gracefully = connection.await.unwrap().is_ok();
    ended
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_goes_on_over_upgrades_and_is_told_goodbye_by_a_restart() {
    let (one, two) = (release("faulty", "", "1.0.0"), release("faulty", "second", "1.0.1"));
    let node = Node::serving("relmgr-faulty", "[upgrade]\ndrain = \"5s\"\n", &[&one, &two]);
    let address = node.address();
    // One that has asked once and keeps quiet keeps no release in memory.
    let stream = TcpStream::connect(address).await.unwrap();
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut idle, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    let ask = || Request::get(format!("http://{address}/")).body(Full::<Bytes>::default()).unwrap();
    let answer = idle.send_request(ask()).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(answer.to_bytes(), "1.0.0");
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let first = tokio::spawn(ask_by_h2(address, stop.clone(), count.clone()));
    let more = async |count: &AtomicU64| {
        let before = count.load(Ordering::Relaxed);
        eventually("the load goes on", async || {
            (count.load(Ordering::Relaxed) > before + 100 || first.is_finished()).then_some(())
        })
        .await;
    };
    for _ in 0..3 {
        more(&count).await;
        node.relmgr(&["upgrade", "1.0.1"]).ok();
        assert_eq!(node.mapped().len(), 1, "{:?}", node.status().generations);
        more(&count).await;
        node.relmgr(&["downgrade"]).ok();
    }
    assert!(!first.is_finished(), "one connection for all of it");
    let answer = idle.send_request(ask()).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(answer.to_bytes(), "1.0.0", "it is open still");
    node.relmgr(&["restart"]).ok();
    // GOAWAY: what was asked is answered, what was not goes to the next host.
    let ended = first.await.unwrap();
    assert!(ended.failures.is_empty(), "{:?}", ended.failures);
    assert!(ended.gracefully && ended.answered > 600, "{} answered", ended.answered);
    let next = tokio::spawn(ask_by_h2(address, stop.clone(), count.clone()));
    let before = count.load(Ordering::Relaxed);
    eventually("the next host answers", async || (count.load(Ordering::Relaxed) > before + 10).then_some(()))
        .await;
    stop.store(true, Ordering::Relaxed);
    assert!(next.await.unwrap().failures.is_empty());
}

/// Whoever comes beyond the limit waits; the node's own question after a swap does not wait behind them.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_as_many_connections_as_it_may_have_is_upgraded_and_restarted() {
    let (one, two) = (release("faulty", "", "1.0.0"), release("faulty", "second", "1.0.1"));
    let settings = "[http.limits]\nconnections = 1\n[upgrade]\nprobation = \"0s\"\ndrain = \"1s\"\n";
    let node = Node::serving("relmgr-faulty", settings, &[&one, &two]);
    let mut only = Connection::open(node.address()).await;
    assert_eq!(only.get("/").await, Ok((200, "1.0.0".into())));
    let address = node.address();
    let second = tokio::spawn(async move { get(address, "/").await });
    let host = node.host_pid();
    node.relmgr(&["upgrade", "1.0.1"]).ok();
    assert!(!second.is_finished(), "it waits its turn");
    assert_eq!(only.get("/").await, Ok((200, "1.0.1".into())), "the connection stays");
    node.relmgr(&["downgrade"]).ok();
    assert!(!second.is_finished(), "it waits its turn still");
    assert_eq!(only.get("/").await, Ok((200, "1.0.0".into())));
    assert_eq!(node.host_pid(), host);
    // The next host has places of its own, and whoever waited takes the only one.
    let mut later = Connection::open(address).await;
    node.relmgr(&["restart"]).ok();
    assert_eq!(second.await.unwrap(), (200, "1.0.0".into()), "its turn has come");
    assert_eq!(later.get("/").await, Ok((200, "1.0.0".into())));
    node.relmgr(&["upgrade", "1.0.1"]).ok();
    assert_eq!(later.get("/").await, Ok((200, "1.0.1".into())));
}

/// The only interface goes down before the swap: nobody reaches the node, and neither does it reach itself.
#[test]
fn a_new_release_that_is_not_heard_is_swapped_back() {
    let (one, two) = (release("faulty", "", "1.0.0"), release("faulty", "second", "1.0.1"));
    // A network of its own, for this thread and what it starts.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("networks are made by root");
    let loopback = |state: &str| {
        let done = std::process::Command::new("ip").args(["link", "set", "lo", state]).status();
        assert!(done.expect("ip is missing: `cargo xtask setup`").success());
    };
    loopback("up");
    let node = Node::serving("relmgr-faulty", "", &[&one, &two]);
    let host = node.host_pid();
    let answers = || -> Done {
        let url = format!("http://{}/", node.address());
        std::process::Command::new("curl")
            .args(["--fail", "--silent", "--show-error", &url])
            .output()
            .unwrap()
            .into()
    };
    assert_eq!(answers().ok().stdout, "1.0.0");
    loopback("down");
    node.relmgr(&["upgrade", "1.0.1"]).failed(3, &["/api/public/version", "does not answer 1.0.1: "]);
    loopback("up");
    assert_eq!(answers().ok().stdout, "1.0.0", "what served before serves");
    let status = node.status();
    assert_eq!((status.permanent.unwrap().to_string(), node.host_pid()), ("1.0.0".into(), host));
    assert_eq!(status.host_restarts, 0);
    let last = node.relmgr(&["history", "--json"]).ok().json().as_array().unwrap().last().unwrap().clone();
    assert_eq!((&last["kind"], &last["outcome"]), (&"upgrade".into(), &"rolled_back".into()), "{last}");
    node.relmgr(&["upgrade", "1.0.1", "--retry"]).ok();
    assert_eq!(answers().ok().stdout, "1.0.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_version_is_told_at_the_path_that_the_operator_chose() {
    let (one, two) = (release("faulty", "", "1.0.0"), release("faulty", "second", "1.0.1"));
    let node = Node::serving("relmgr-faulty", "[http]\nversion_path = \"/wait\"\n", &[&one, &two]);
    // The application has this path, too, and never sees it: it would not answer in this test's life.
    assert_eq!(get(node.address(), "/wait").await, (200, "1.0.0".into()));
    assert_eq!(get(node.address(), "/api/public/version").await.0, 404, "the application's");
    node.relmgr(&["upgrade", "1.0.1"]).ok();
    assert_eq!(get(node.address(), "/wait").await, (200, "1.0.1".into()));
}
