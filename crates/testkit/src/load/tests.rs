//! Against small real servers, one defect each.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::AtomicUsize;

use super::*;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Calls `serve` with each connection and its number, on a thread for each.
fn server(serve: impl Fn(TcpStream, usize) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let (serve, stream) = (serve.clone(), stream.unwrap());
            std::thread::spawn(move || serve(stream, number));
        }
    });
    address
}

/// Waits for a request without a body; whether one came.
fn request(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 1024];
    matches!(stream.read(&mut buffer), Ok(1..))
}

/// Answers the requests of each connection with `answers` in turn, then closes it.
fn answers(answers: &'static [&'static str]) -> SocketAddr {
    server(move |mut stream, _| {
        for answer in answers {
            if !request(&mut stream) || stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    })
}

/// Answers everything.
fn good() -> SocketAddr {
    server(|mut stream, _| while request(&mut stream) && stream.write_all(OK.as_bytes()).is_ok() {})
}

/// Waits until the report is as wanted, and ends the load.
fn until(load: Load, what: &str, enough: impl Fn(&Report) -> bool) -> Report {
    crate::kit::wait_for(what, || enough(&load.snapshot()).then_some(()));
    load.stop()
}

#[test]
fn complete_answers_are_counted_with_their_versions() {
    let address = answers(&[
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n1.0.0",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nf\r\n{\"version\":\"1.0\r\n4\r\n.1\"}\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\n1.0.2",
    ]);
    let load = Load::start(address, &[Request::version("/v")], 3);
    let report = until(load, "300 answers", |report| report.answers >= 300);
    assert_eq!(report.failures_by_kind(), "none");
    assert!(report.versions.len() == 3, "{:?}", report.versions);
    assert_eq!(report.versions.values().sum::<u64>(), report.answers);
    assert_eq!(report.closed, [(Closed::Announced, report.versions["1.0.2"])].into());
    assert!((report.closed_connections()..=report.closed_connections() + 3).contains(&report.opened));
    assert_eq!(report.latency.len(), report.answers);
}

#[test]
fn connections_are_kept() {
    let load = Load::start(good(), &[Request::get("/a"), Request::get("/b")], 4);
    let report = until(load, "1000 answers", |report| report.answers >= 1000);
    assert_eq!((report.failures(), report.closed_connections(), report.opened), (0, 0, 4));
    assert!(report.rate() > 0.0 && report.quantile(0.5) <= report.quantile(0.99));
}

#[test]
fn each_defect_has_its_name() {
    let cases: [(&'static [&'static str], &str); 6] = [
        (&["HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n"], "status_503"),
        (&["HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\ncut"], "eof_in_response"),
        (&["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\ncut\r\n"], "eof_in_response"),
        (&["HTTP/1.1 200 O"], "eof_in_response"),
        (&["HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\ntoo much"], "extra_bytes"),
        (&["no such command\r\n"], "bad_response"),
    ];
    for (script, kind) in cases {
        let load = Load::start(answers(script), &[Request::get("/")], 1);
        let report = until(load, kind, |report| {
            report.failed.iter().any(|(failure, count)| failure.to_string() == kind && *count >= 3)
        });
        assert_eq!(report.answers, 0, "{kind}");
    }
}

#[test]
fn a_connection_that_ends_instead_of_an_answer_is_a_failure() {
    // The first request is answered; the second finds the connection closed.
    let load = Load::start(answers(&[OK]), &[Request::get("/")], 2);
    let report = until(load, "closed connections", |report| report.closed_connections() >= 10);
    // Closed before the request came: the end, or a reset when the request came afterwards.
    let ended = [Failure::EofBeforeResponse, Failure::Reset].map(|kind| report.failed.get(&kind));
    assert_eq!(ended.iter().filter_map(|count| count.copied()).sum::<u64>(), report.failures());
    assert_eq!(report.closed, [(Closed::InRequest, report.failures())].into());
}

#[test]
fn a_reset_is_a_failure() {
    let address = server(|mut stream, _| {
        request(&mut stream);
        // Without lingering, closing resets.
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    });
    let load = Load::start(address, &[Request::get("/")], 1);
    until(load, "resets", |report| report.failed.get(&Failure::Reset).is_some_and(|count| *count >= 3));
}

#[test]
fn nobody_there_is_a_failure_and_it_is_tried_again() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let load = Load::start(address, &[Request::get("/")], 2);
    crate::kit::wait_for("refused connections", || (load.snapshot().failures() >= 5).then_some(()));
    let refused = load.snapshot();
    assert_eq!((refused.longest_gap, refused.longest_gap_at), (refused.elapsed, Duration::ZERO));
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(
                move || while request(&mut stream) && stream.write_all(OK.as_bytes()).is_ok() {},
            );
        }
    });
    let report = until(load, "answers", |report| report.answers >= 10);
    assert_eq!(report.failed.keys().collect::<Vec<_>>(), [&Failure::Refused]);
}

#[test]
fn a_server_that_stalls_is_seen_as_a_gap_and_as_a_timeout() {
    // The first connection's second request is never answered.
    let address = server(|mut stream, number| {
        let mut left = if number == 0 { 1 } else { usize::MAX };
        while request(&mut stream) {
            if left == 0 {
                // Until the client gives up.
                request(&mut stream);
                return;
            }
            left -= 1;
            if stream.write_all(OK.as_bytes()).is_err() {
                return;
            }
        }
    });
    let timeout = Duration::from_millis(100);
    let requests = vec![Request::get("/")];
    let load = Load::run(Spec { address, requests, connections: 1, every: None, timeout });
    let report =
        until(load, "answers after a timeout", |report| report.failures() > 0 && report.answers > 100);
    assert_eq!(report.failed.keys().collect::<Vec<_>>(), [&Failure::Timeout]);
    assert_eq!(report.closed_connections(), 0, "the client closed it");
    assert!(report.longest_gap >= timeout, "{:?}", report.longest_gap);
}

#[test]
fn without_answers_the_gap_is_as_long_as_the_load() {
    let silent = server(|mut stream, _| while request(&mut stream) {});
    let requests = vec![Request::get("/")];
    let timeout = Duration::from_millis(50);
    let load = Load::run(Spec { address: silent, requests, connections: 1, every: None, timeout });
    let report = until(load, "timeouts", |report| report.failures() >= 2);
    assert_eq!((report.answers, report.longest_gap), (0, report.elapsed));
}

#[test]
fn uploads_are_sent_whole() {
    let received = Arc::new(AtomicUsize::new(0));
    let count = received.clone();
    let address = server(move |mut stream, _| {
        let mut buffer = vec![0; 64 * 1024];
        let mut got = 0;
        while let Ok(size @ 1..) = stream.read(&mut buffer) {
            got += size;
            // The head's size is known by the request's own.
            if got == Request::upload("/sink", 1 << 20).bytes.len() {
                count.fetch_add(1, Ordering::Relaxed);
                got = 0;
                if stream.write_all(OK.as_bytes()).is_err() {
                    return;
                }
            }
        }
    });
    let load = Load::start(address, &[Request::upload("/sink", 1 << 20)], 3);
    let report = until(load, "20 uploads", |report| report.answers >= 20);
    assert_eq!(report.failures_by_kind(), "none");
    assert_eq!(report.answers, received.load(Ordering::Relaxed) as u64);
}

#[test]
fn an_upload_that_is_refused_in_the_middle_says_with_what() {
    let address = server(|mut stream, _| {
        request(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        // Read on: closing with unread bytes would reset the connection under the answer.
        while request(&mut stream) {}
    });
    let load = Load::start(address, &[Request::upload("/sink", 64 << 20)], 1);
    let report = until(load, "refusals", |report| report.failures() >= 3);
    assert_eq!(report.failed.keys().collect::<Vec<_>>(), [&Failure::Status(413)]);
}

#[test]
fn paced_load_asks_at_its_rate_and_skips_what_it_cannot_ask_in_time() {
    // Every tenth answer takes as long as four requests of its connection.
    let address = server(|mut stream, _| {
        for number in 1.. {
            if !request(&mut stream) {
                return;
            }
            if number % 10 == 0 {
                std::thread::sleep(Duration::from_millis(40));
            }
            if stream.write_all(OK.as_bytes()).is_err() {
                return;
            }
        }
    });
    let load = Load::paced(address, &[Request::get("/")], 2, Duration::from_millis(5));
    let report = until(load, "40 answers", |report| report.answers >= 40);
    assert_eq!(report.failures_by_kind(), "none");
    assert!(report.skipped > 0 && report.wake_lag.len() == report.answers);
    let due = report.elapsed.as_nanos() / Duration::from_millis(5).as_nanos();
    let seen = u128::from(report.answers + report.skipped);
    assert!(seen <= due + 1, "{due} fell due, {seen} were sent or skipped");
}

#[test]
fn a_connection_closed_between_paced_requests_is_no_failure() {
    let load = Load::paced(answers(&[OK, OK]), &[Request::get("/")], 1, Duration::from_millis(10));
    let report = until(load, "closed connections", |report| report.closed_connections() >= 3);
    assert_eq!(report.failures_by_kind(), "none");
    assert_eq!(report.closed.keys().collect::<Vec<_>>(), [&Closed::Idle]);
}

#[test]
fn laps_add_up_to_the_whole() {
    let load = Load::start(good(), &[Request::get("/")], 2);
    let mut laps = vec![];
    for _ in 0..3 {
        crate::kit::wait_for("100 answers in a lap", || (load.answered() >= 100).then_some(()));
        laps.push(load.lap());
    }
    laps.push(load.stop());
    let mut whole = laps[0].clone();
    for lap in &laps[1..] {
        assert_eq!((lap.failures(), lap.latency.len(), lap.opened), (0, lap.answers, 0));
        whole.add(lap);
    }
    assert_eq!((whole.answers, whole.opened), (laps.iter().map(|lap| lap.answers).sum(), 2));
    assert_eq!(whole.latency.len(), whole.answers);
    assert_eq!(Some(whole.longest_gap), laps.iter().map(|lap| lap.longest_gap).max());
}
