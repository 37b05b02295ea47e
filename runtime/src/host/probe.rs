//! The manifest's probes: requests that a candidate answers before it gets traffic. They go straight into the
//! generation, by the same call as a client's, without a socket.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use relmgr_abi::abi_stable::std_types::{ROption, RSlice, RStr};
use relmgr_abi::body::Frame;
use relmgr_abi::head::{ConnectionFacts, FieldView, RequestHead, Response};
use relmgr_model::manifest::Probe;

use super::generation::{Generation, Held, RequestGuard};

/// Sends one probe and reads its answer to the end.
///
/// # Errors
/// What the answer was instead.
pub async fn ask(generation: &Arc<Generation>, probe: &Probe) -> Result<(), String> {
    let path = &probe.path;
    let mut held = begin(generation, path);
    let response =
        poll_fn(|cx| held.poll(cx)).await.map_err(|words| format!("probe {path} panicked: {words}"))?;
    let status = response.status;
    read_to_end(response).await.map_err(|words| format!("probe {path} broke off: {words}"))?;
    if status == probe.status {
        Ok(())
    } else {
        Err(format!("probe {path} answered {status}, expected {}", probe.status))
    }
}

fn begin(generation: &Arc<Generation>, path: &str) -> Held<Response> {
    let here = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let fields = [
        FieldView { name: "host".into(), value: RSlice::from_slice(b"localhost") },
        FieldView { name: "user-agent".into(), value: RSlice::from_slice(b"relmgr-probe") },
    ];
    let head = RequestHead {
        method: "GET".into(),
        scheme: "".into(),
        authority: "".into(),
        path_and_query: RStr::from_str(path),
        http_version: 11,
        fields: RSlice::from_slice(&fields),
        connection: ConnectionFacts { peer: here.into(), local: here.into(), tls: false },
        request_id: 0,
    };
    let guard = RequestGuard::of_probe(generation.clone());
    let future = guard.generation().call(head, ROption::RNone);
    Held::new(future, guard)
}

async fn read_to_end(response: Response) -> Result<(), String> {
    let Some(mut body) = response.body.into_option() else { return Ok(()) };
    poll_fn(|cx| {
        loop {
            match body.poll_frame(cx.waker()) {
                Frame::Pending => return Poll::Pending,
                Frame::Data(_) | Frame::Trailers(_) => {}
                Frame::End => return Poll::Ready(Ok(())),
                Frame::Failed(words) => return Poll::Ready(Err(words.as_str().to_owned())),
            }
        }
    })
    .await
}
